"""The commands: each makes one or two calls of the Python package."""

import argparse
import json
import textwrap
import warnings
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

import acluster.sets
from acluster._utils._files import replaced_file
from acluster._utils._progress import progress
from acluster.command_line import _convert
from acluster.command_line._output import check_path, is_terminal, show, write_table

_ITEMS_PER_BATCH = 256
# Defaults of the command that differ from those of the classifiers.
_DEFAULTS: dict[str, Any] = {"random_state": 0}


def describe_parameters() -> str:
    """List the parameters that --set takes, with their defaults."""
    one = acluster.AttentionClusterClassifier().get_params()
    several = acluster.MultimodalAttentionClusterClassifier().get_params()
    more = {name: value for name, value in several.items() if name not in one}
    return (
        f"parameters for --set and their defaults:\n{_list_parameters({**one, **_DEFAULTS})}\n\n"
        f"for stores with several modalities also:\n{_list_parameters(more)}"
    )


def _list_parameters(parameters: dict[str, Any]) -> str:
    shown = " ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in parameters.items()
        if name != "verbose"  # set by whether stdout is a terminal
    )
    return textwrap.fill(shown, 76, initial_indent="  ", subsequent_indent="  ")


def info(options: argparse.Namespace) -> None:
    """Print the metadata of a store."""
    _print_info(acluster.sets.info(options.store))


def validate(options: argparse.Namespace) -> None:
    """Check a store and print its metadata."""
    _print_info(acluster.sets.validate(options.store))
    show("valid")


def _print_info(found: Any) -> None:
    show(f"{found.n_items} items, {'complete' if found.complete else 'NOT COMPLETE'}")
    for name, modality in found.modalities.items():
        places = f", places: {', '.join(modality['places'])}" if modality["places"] else ""
        show(
            f"  {name}: {modality['n_local_features']} local features, {modality['n_features']} "
            f"columns, {modality['dtype']}, {modality['bytes'] / 1e6:.1f} MB{places}"
        )
    show(f"columns: {', '.join(found.columns) or 'none'}")
    for name, value in found.attributes.items():
        show(f"{name}: {json.dumps(value)}")


def convert(options: argparse.Namespace) -> None:
    """Write or resume a store."""
    path, table = options.store, options.labels
    n_items = _convert.convert(options.source, path, table=table, dtype=options.dtype)
    show(f"{path}: {n_items} items")


def fit(options: argparse.Namespace) -> None:
    """Train a classifier, save it and print its held-out accuracy."""
    check_path(options.out)
    if options.hold_out is not None and not 0 < options.hold_out < 1:
        raise ValueError(
            f"--hold-out must be a fraction between 0 and 1, such as 0.2; got {options.hold_out}."
        )
    X = acluster.open_feature_sets(options.store)
    y = X.label
    if y is None:
        raise ValueError(
            f"{options.store} has no labels. Add them from a table: acluster convert "
            f"{options.store} labeled.zarr --labels labels.csv"
        )
    classifier_class = (
        acluster.MultimodalAttentionClusterClassifier
        if isinstance(X, acluster.MultimodalFeatureSets)
        else acluster.AttentionClusterClassifier
    )
    classifier = classifier_class(**_DEFAULTS, verbose=is_terminal())
    classifier.set_params(**dict(map(_parse_parameter, options.set)))
    train, test = _split(X, y, options.hold_out)
    weight = None if X.weight is None else X.weight[train]
    try:
        classifier.fit(X[train], y[train], weight, checkpoint_dir=options.checkpoint)
    except KeyboardInterrupt as interrupt:
        if not hasattr(classifier, "network_"):
            raise
        show(interrupt, error=True)
    if names := acluster.sets.info(options.store).label_names:
        classifier.label_names_ = list(names)
    # Whether this command runs on a terminal says nothing about where the model is used.
    classifier.set_params(verbose=False).save(options.out)
    show(f"{options.out}: {len(train)} items, {classifier.n_iter_} epochs")
    if len(test):
        accuracy = classifier.score(X[test], y[test])
        show(f"accuracy on the {len(test)} held-out items: {accuracy:.4f}")


def _split(X: Any, y: Any, test_size: float | None) -> tuple[Any, Any]:
    """Return the indices of the training and the held-out items.

    Whole groups are held out if the store has groups; otherwise the split is stratified by class.
    """
    from sklearn.model_selection import GroupShuffleSplit, train_test_split

    items = np.arange(len(y))
    if test_size is None:
        return items, items[:0]
    _check_split(X.group, y, test_size)
    if X.group is not None:
        splitter = GroupShuffleSplit(1, test_size=test_size, random_state=0)
        train, test = next(splitter.split(items, groups=X.group))
    else:
        stratify = y if y.ndim == 1 else None
        train, test = train_test_split(
            items, test_size=test_size, stratify=stratify, random_state=0
        )
    if y.ndim == 1 and (untrained := sorted(set(y[test]) - set(y[train]))):
        warnings.warn(
            f"--hold-out {test_size}: all items of the label {str(untrained[0])!r:.100} are held "
            f"out, and of {len(untrained)} labels in all. The model cannot predict them.",
            stacklevel=2,
        )
    # In their own order, rows of a store are read in longer runs.
    return np.sort(train), np.sort(test)


def _check_split(group: Any, y: Any, test_size: float) -> None:
    """Check that the items can be divided as `_split` does it."""
    what, parts = ("items", np.arange(len(y))) if group is None else ("groups", np.unique(group))
    n_test = ceil(test_size * len(parts))
    problem = None
    if len(parts) < 2:
        problem = f"the store has {len(parts)} {what}, and whole {what} are held out"
    elif n_test == len(parts):
        problem = f"it would hold out all {n_test} {what}"
    elif group is None and y.ndim == 1:
        labels, n_items = np.unique(y, return_counts=True)
        rare = labels[n_items < 2]
        if len(rare):
            problem = (
                f"the label {str(rare[0])!r:.100} has 1 item, and so have {len(rare)} labels in "
                "all; training and held-out items both need one of each label"
            )
        elif len(labels) > min(n_test, len(y) - n_test):
            problem = (
                f"it would hold out {n_test} of {len(y)} items, but training and held-out items "
                f"both need one of each of the {len(labels)} labels"
            )
    if problem:
        raise ValueError(
            f"--hold-out {test_size} is not possible: {problem}. Add data, choose another "
            "fraction, or leave --hold-out out."
        )


def _parse_parameter(text: str) -> tuple[str, Any]:
    name, equals_sign, value = text.partition("=")
    if not equals_sign:
        raise ValueError(f"--set takes NAME=VALUE, such as cluster_size=16; got {text!r}.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, {"None": None, "True": True, "False": False}.get(value, value)


def predict(options: argparse.Namespace) -> None:
    """Print or write the predicted labels, and print their accuracy if the store has labels."""
    check_path(options.out)
    classifier, X = acluster.load(options.model), acluster.open_feature_sets(options.store)
    # The progress line counts the batches of this loop, so predict needs none of its own.
    classifier.set_params(verbose=False)
    batches = [X[i : i + _ITEMS_PER_BATCH] for i in range(0, len(X), _ITEMS_PER_BATCH)]
    header = ["id", "prediction"]
    names = classifier.label_names_
    if options.proba:
        header += [f"probability of {name}" for name in names or classifier.classes_]
    rows: list[list[Any]] = []
    correct = []
    for batch in progress(batches, f"batches of {_ITEMS_PER_BATCH} items", len(batches)):
        labels = classifier.predict(batch)
        proba = classifier.predict_proba(batch) if options.proba else [()] * len(batch)
        ids = range(len(rows), len(rows) + len(batch)) if batch.id is None else batch.id
        rows += [
            [item, _format_label(label, names), *map("{:.6g}".format, probabilities)]
            for item, label, probabilities in zip(ids, labels, proba, strict=True)
        ]
        if batch.label is not None and _are_comparable(batch.label, labels):
            correct.append(np.asarray(batch.label == labels).reshape(len(batch), -1).all(axis=1))
    write_table(options.out, header, rows)
    if correct:
        show(f"accuracy: {np.concatenate(correct).mean():.4f}", error=True)


def _are_comparable(labels: Any, predicted: Any) -> bool:
    """Return whether both are text or both are numbers, and their shapes are the same."""
    are_text = [array.dtype.kind in "UO" for array in (labels, predicted)]
    return are_text[0] == are_text[1] and labels.shape == predicted.shape


def _format_label(label: Any, names: list[str]) -> Any:
    """Return a single label; of a multilabel item, the names or else the numbers of its labels."""
    if not np.ndim(label):
        return label
    numbers = np.flatnonzero(label)
    return "; ".join(names[i] for i in numbers) if names else " ".join(map(str, numbers))


def transform(options: argparse.Namespace) -> None:
    """Write the global features and print their shape."""
    classifier = acluster.load(options.model)
    if not hasattr(classifier, "transform"):
        raise TypeError(
            f"{options.model} holds a model of class {type(classifier).__name__}, which has no "
            "global features."
        )
    features = classifier.transform(options.store, out=options.out)
    show(f"{options.out}: {features.shape[0]} items, {features.shape[1]} columns")


def attention(options: argparse.Namespace) -> None:
    """Print the attention weights of an item as tables, or draw them."""
    check_path(options.png)
    if options.png and Path(options.png).suffix not in ("", ".png"):
        raise ValueError(
            f"--png writes PNG files only, got {options.png!r}; name the file "
            f"{Path(options.png).stem}.png."
        )
    classifier, X = acluster.load(options.model), acluster.open_feature_sets(options.store)
    index = _find_item(X, options.item)
    if not hasattr(classifier, "attention_weights"):
        raise TypeError(
            f"{options.model} holds a model of class {type(classifier).__name__}, which has no "
            "attention weights."
        )
    if options.png:
        from acluster.inspection import AttentionDisplay

        display = AttentionDisplay.from_estimator(classifier, X[index])
        with replaced_file(options.png) as unfinished:
            display.figure_.savefig(unfinished, dpi=150, format="png")
        show(options.png)
        return
    weights = classifier.attention_weights(X[index : index + 1])[0]
    for modality, a in (weights if isinstance(weights, dict) else {"": weights}).items():
        header = [f"{modality} local feature".strip(), *(f"unit {k}" for k in range(a.shape[1]))]
        write_table(None, header, ([i, *map("{:.6g}".format, row)] for i, row in enumerate(a)))


def _find_item(X: Any, item: str) -> int:
    ids = [] if X.id is None else [str(name) for name in X.id]
    if item in ids:
        return ids.index(item)
    if item.isdecimal() and int(item) < len(X):
        return int(item)
    raise LookupError(
        f"there is no item {item!r}; the store has {len(X)} items. Pass a position, 0 to "
        f"{len(X) - 1}" + (f", or an id, such as {ids[0]!r}." if ids else ".")
    )
