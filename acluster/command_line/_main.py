"""`acluster`: stores and models from the command line. Thin: every command is a call or two."""

from __future__ import annotations

import argparse
import csv
import inspect
import json
import os
import sys
import textwrap
import warnings
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import GroupShuffleSplit, train_test_split

import acluster
from acluster._utils._progress import progress
from acluster.command_line._convert import convert
from acluster.inspection import AttentionDisplay
from acluster.sets import info, validate

__all__ = ["main"]

_ITEMS_PER_STEP = 256
_PLACES = {
    "store": "a store, as acluster convert or FeatureSetsWriter writes it",
    "model": "a model file, as acluster fit or save() writes it",
}
# Where they differ from those of the classifiers.
_OWN_DEFAULTS = {"standardize": True, "random_state": 0}

_DESCRIPTION = """\
Classify items from their sets of local features: stores of features, and models of them.

A first run, from a folder with one .npy file per item, of shape (local features, width), and a
table of labels with the columns id and label (ids are the names of the files without .npy):

  acluster convert features/ videos.zarr --labels labels.csv
  acluster info videos.zarr
  acluster fit videos.zarr --out videos.model --hold-out 0.2
  acluster predict videos.model new.zarr > predictions.csv
  acluster attention videos.model videos.zarr item7 --png item7.png
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 1 after an error, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            options.command(options)
        sys.stdout.flush()
    except BrokenPipeError:  # what read the output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, TypeError, LookupError, OSError, ImportError, RuntimeError) as error:
        print(f"acluster {options.name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"acluster {options.name}: interrupted", file=sys.stderr)
        return 130
    return 0


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "acluster", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"acluster {acluster.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")

    for function, text, places, add_options in (
        (_info, "what a store holds", ["store"], None),
        (_validate, "read all of a store and check it", ["store"], None),
        (_convert, "make a store of arrays", [], _convert_options),
        (_fit, "train a classifier on a store", ["store"], _fit_options),
        (_predict, "labels of the items of a store", ["model", "store"], _predict_options),
        (_transform, "global features as a zarr array", ["model", "store"], _transform_options),
        (_attention, "what units look at in an item", ["model", "store"], _attention_options),
    ):
        name = function.__name__.strip("_")
        command = commands.add_parser(
            name,
            help=text,
            description=inspect.getdoc(function),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(command=function, name=name)
        for place in places:
            command.add_argument(place, help=_PLACES[place])
        if add_options is not None:
            add_options(command)
    return parser


def _convert_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", type=Path, help="a folder, an .npz file or a store")
    command.add_argument("store", help="what to write; a conversion that was stopped goes on")
    command.add_argument("--labels", metavar="CSV", help="columns: id, label, group, weight")
    command.add_argument("--dtype", choices=("float16", "float32"))


def _fit_options(command: argparse.ArgumentParser) -> None:
    command.epilog = _parameters()
    command.add_argument("--out", required=True, metavar="MODEL", help="the model file to write")
    command.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="parameters of the classifier; write them after STORE",
    )
    command.add_argument(
        "--hold-out",
        type=float,
        metavar="SHARE",
        help="the share of the items that is not trained on and scored at the end, as 0.2",
    )
    command.add_argument(
        "--checkpoint",
        metavar="FOLDER",
        help="where the last epoch is kept; after a kill the same command goes on from it",
    )


def _predict_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--proba", action="store_true", help="the probability of every class too")
    command.add_argument("--out", metavar="CSV", help="by default the terminal")


def _transform_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--out", required=True, metavar="ZARR", help="the array to write")


def _attention_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("item", help="its id in the store, or its number")
    command.add_argument(
        "--png", metavar="FILE", help="the picture to write; by default a table is printed"
    )


def _parameters() -> str:
    """What --set may name, with the defaults."""
    one = acluster.AttentionClusterClassifier().get_params()
    several = acluster.MultimodalAttentionClusterClassifier().get_params()
    more = {name: value for name, value in several.items() if name not in one}
    return (
        f"parameters for --set, with their defaults:\n{_listed({**one, **_OWN_DEFAULTS})}\n\n"
        f"and, where the store has several modalities:\n{_listed(more)}"
    )


def _listed(parameters: dict[str, Any]) -> str:
    shown = " ".join(
        f"{name}={_as_given(value)}"
        for name, value in parameters.items()
        if name != "verbose"  # it depends on the terminal
    )
    return textwrap.fill(shown, 76, initial_indent="  ", subsequent_indent="  ")


def _as_given(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _info(options: argparse.Namespace) -> None:
    """Show what a store holds: items, modalities, columns, what was noted about it.

    Example:

      acluster info videos.zarr
    """
    _describe(info(options.store))


def _validate(options: argparse.Namespace) -> None:
    """Read a store from end to end, check all that its format says, and show what it holds.

    Example:

      acluster validate videos.zarr
    """
    _describe(validate(options.store))
    print("valid")


def _describe(found: Any) -> None:
    print(f"{found.n_items} items, {'complete' if found.complete else 'NOT COMPLETE'}")
    for name, modality in found.modalities.items():
        print(
            f"  {name}: {modality['n_local_features']} local features, {modality['n_features']} "
            f"wide, {modality['dtype']}, {modality['bytes'] / 1e6:.1f} MB"
        )
    print(f"columns: {', '.join(found.columns) or 'none'}")
    for name, value in found.attributes.items():
        print(f"{name}: {json.dumps(value)}")


def _convert(options: argparse.Namespace) -> None:
    """Make a store of features that lie around in another form.

    SOURCE is one of these:

      a folder of .npy files, an item each, of shape (local features, width); for several
      modalities, a folder of such folders, where an item that lacks a modality has no file;
      an .npz file with an array per item;
      a store, to change its type or its columns.

    A conversion that was stopped goes on where it was.

      acluster convert features/ videos.zarr --labels labels.csv --dtype float16
    """
    n_items = convert(options.source, options.store, table=options.labels, dtype=options.dtype)
    print(f"{n_items} items are in {options.store}.")


def _fit(options: argparse.Namespace) -> None:
    """Train an attention cluster classifier on the items of a store and their labels.

    Weights that the store has are used; where it has groups, those held out are whole groups. A
    store with several modalities gets an attention cluster for each. Parameters are those of the
    Python class: numbers and names as they are, and true, false and null (for None). Local features
    are standardised unless --set standardize=false says otherwise. Ctrl-C ends the training and
    keeps what was learnt.

      acluster fit videos.zarr --out videos.model --set cluster_size=16 weighting=fc2 tol=null
    """
    _check_folder(options.out)
    if options.hold_out is not None and not 0 < options.hold_out < 1:
        raise ValueError(f"--hold-out is a share between 0 and 1, as 0.2; got {options.hold_out}.")
    X, y = _labelled(options.store)
    is_multimodal = isinstance(X, acluster.MultimodalFeatureSets)
    kind = (
        acluster.MultimodalAttentionClusterClassifier
        if is_multimodal
        else acluster.AttentionClusterClassifier
    )
    given: dict[str, Any] = {**_OWN_DEFAULTS, "verbose": sys.stdout.isatty()}
    classifier = kind(**given).set_params(**dict(map(_parameter, options.set)))
    train, held = _split(X, y, options.hold_out)
    weight = None if X.weight is None else X.weight[train]
    classifier.fit(X[train], y[train], weight, checkpoint_dir=options.checkpoint)
    classifier.set_params(verbose=False).save(options.out)  # whoever predicts is not asked for it
    print(f"{options.out}: {len(train)} items, {classifier.n_iter_} epochs")
    if len(held):
        print(
            f"accuracy on the {len(held)} items held out: {classifier.score(X[held], y[held]):.4f}"
        )


def _split(X: Any, y: Any, share: float | None) -> tuple[Any, Any]:
    """The items to train on and those held out: whole groups, or by class."""
    items = np.arange(len(y))
    if share is None:
        return items, items[:0]
    if X.group is not None:
        splitter = GroupShuffleSplit(1, test_size=share, random_state=0)
        return next(splitter.split(items, groups=X.group))
    stratify = y if y.ndim == 1 else None
    train, held = train_test_split(items, test_size=share, stratify=stratify, random_state=0)
    return np.sort(train), np.sort(held)


def _check_folder(path: str | None) -> None:
    """Before the work, not after it."""
    if path is None:
        return
    if not Path(path).resolve().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(Path(path).resolve().parent)!r}")
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file")


def _labelled(store: str) -> tuple[Any, Any]:
    X = acluster.open_feature_sets(store)
    if X.label is None:
        raise ValueError(
            f"{store} has no labels. Convert it with a table: acluster convert {store} "
            "labelled.zarr --labels labels.csv"
        )
    return X, X.label


def _parameter(text: str) -> tuple[str, Any]:
    name, is_given, value = text.partition("=")
    if not is_given:
        raise ValueError(f"--set takes NAME=VALUE, as cluster_size=16; got {text!r}.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, {"None": None, "True": True, "False": False}.get(value, value)


def _predict(options: argparse.Namespace) -> None:
    """Predict the labels of a store's items, as a table with the columns id and prediction.

    Where the store has labels, the accuracy is shown too; on items that the model has learnt from
    it says little.

      acluster predict videos.model new.zarr --proba --out predictions.csv
    """
    _check_folder(options.out)
    classifier, X = acluster.load(options.model), acluster.open_feature_sets(options.store)
    classifier.set_params(verbose=False)  # the parts are shown, not the batches of each
    parts = [X[i : i + _ITEMS_PER_STEP] for i in range(0, len(X), _ITEMS_PER_STEP)]
    header, right = ["id", "prediction"], []
    rows: list[list[Any]] = []
    if options.proba:
        header += [f"probability of {label}" for label in classifier.classes_]
    for part in progress(parts, f"parts of {_ITEMS_PER_STEP} items", len(parts)):
        labels = classifier.predict(part)
        proba = classifier.predict_proba(part) if options.proba else [()] * len(part)
        ids = range(len(rows), len(rows) + len(part)) if part.id is None else part.id
        rows += [
            [name, _shown(label), *map("{:.6g}".format, own)]
            for name, label, own in zip(ids, labels, proba, strict=True)
        ]
        if part.label is not None and _are_comparable(part.label, labels):
            right.append(np.asarray(part.label == labels).reshape(len(part), -1).all(axis=1))
    _write_table(options.out, header, rows)
    if right:
        print(f"accuracy: {np.concatenate(right).mean():.4f}", file=sys.stderr)


def _are_comparable(labels: Any, predicted: Any) -> bool:
    """Both text or both numbers, and as many for an item."""
    are_text = [array.dtype.kind in "UO" for array in (labels, predicted)]
    return are_text[0] == are_text[1] and labels.shape == predicted.shape


def _shown(label: Any) -> Any:
    return " ".join(map(str, np.flatnonzero(label))) if np.ndim(label) else label


def _write_table(path: str | None, header: list[str], rows: Iterable[Any]) -> None:
    if path is None:
        csv.writer(sys.stdout, lineterminator="\n").writerows(chain([header], rows))
        return
    with open(path, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(chain([header], rows))


def _transform(options: argparse.Namespace) -> None:
    """Write the global feature of every item, a row each, to a zarr array.

    Example:

      acluster transform videos.model videos.zarr --out global.zarr
    """
    made = acluster.load(options.model).transform(options.store, out=options.out)
    print(f"{options.out}: {made.shape[0]} items, {made.shape[1]} wide")


def _attention(options: argparse.Namespace) -> None:
    """Show how much each attention unit weighs each local feature of an item.

    Example:

      acluster attention videos.model videos.zarr item7 --png item7.png
    """
    _check_folder(options.png)
    if options.png and Path(options.png).suffix not in ("", ".png"):
        raise ValueError(f"--png writes a PNG file; name it {Path(options.png).stem}.png.")
    classifier, X = acluster.load(options.model), acluster.open_feature_sets(options.store)
    number = _number(X, options.item)
    if not hasattr(classifier, "attention_weights"):
        raise TypeError(f"{options.model} holds a {type(classifier).__name__}, without attention.")
    if options.png:
        display = AttentionDisplay.from_estimator(classifier, X[number])
        display.figure_.savefig(options.png, dpi=150, format="png")
        print(options.png)
        return
    attention = classifier.attention_weights(X[number : number + 1])[0]
    for modality, a in (attention if isinstance(attention, dict) else {"": attention}).items():
        columns = [f"unit {unit}" for unit in range(a.shape[1])]
        rows = [[place, *map("{:.6g}".format, own)] for place, own in enumerate(a)]
        _write_table(None, [f"{modality} local feature".strip(), *columns], rows)


def _number(X: Any, item: str) -> int:
    ids = [] if X.id is None else [str(name) for name in X.id]
    if item in ids:
        return ids.index(item)
    if item.isdecimal() and int(item) < len(X):
        return int(item)
    raise LookupError(
        f"there is no item {item!r}; the store has {len(X)} items, by number from 0"
        + (f", or by id, as {ids[0]!r}." if ids else ".")
    )
