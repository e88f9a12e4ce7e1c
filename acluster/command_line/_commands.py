"""The commands: each makes one or two calls of the Python package.

Longer commands have modules of their own and are imported here.
"""

import argparse
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import acluster.extraction
import acluster.sets
from acluster._utils._progress import progress
from acluster.command_line import _convert, _extract, _pictures, _splits
from acluster.command_line._evidence import evidence as evidence
from acluster.command_line._evidence import find_item, load_with
from acluster.command_line._labels import Roles, read_table
from acluster.command_line._output import check_path, is_terminal, quiet, show, write_table
from acluster.command_line._report import report as report
from acluster.command_line._search import search as search
from acluster.command_line._training import (
    DEFAULTS,
    fit_classifier,
    new_classifier,
    open_task,
    show_model,
    train,
)
from acluster.sets import UNNAMED, label_names_of

_ITEMS_PER_BATCH = 256


def describe_parameters() -> str:
    """List the parameters that --set takes, with their defaults."""
    one = acluster.AttentionClusterClassifier().get_params()
    several = acluster.MultimodalAttentionClusterClassifier().get_params()
    more = {name: value for name, value in several.items() if name not in one}
    return (
        f"parameters for --set and their defaults:\n{_list_parameters({**one, **DEFAULTS})}\n\n"
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
    if found.label_names:
        show(f"labels: {', '.join(found.label_names)}")
    for name, value in found.attributes.items():
        show(f"{name}: {json.dumps(value)}")


def convert(options: argparse.Namespace) -> None:
    """Write or resume a store."""
    split = None if options.split is None else tuple(options.split.split("=", 1))
    if split is not None and len(split) != 2:
        raise ValueError(f"--split takes COLUMN=VALUE, such as split=train; got {options.split!r}.")
    roles = Roles(options.id, options.label, options.group, options.weight, split)
    if options.labels is None and (roles.are_given or options.only_matching):
        raise ValueError(
            "--id, --label, --group, --weight, --split and --only-matching are about the table of "
            "labels. Pass it too: --labels table.csv."
        )
    n_items, n_left_out = _convert.convert(
        options.source,
        options.store,
        table=None if options.labels is None else read_table(options.labels, roles),
        only_matching=options.only_matching,
        subfolders=options.subfolders,
        dtype=options.dtype,
    )
    left_out = f"; {n_left_out} others are left out" if n_left_out else ""
    show(f"{n_items} items are in {options.store}{left_out}")


def extract(options: argparse.Namespace) -> None:
    """Write or resume a store with the features of a folder of files."""
    report = _extract.extract_folder(options)
    for id_, reason in report.failed.items():
        show(f"failed: {id_}: {reason}", error=True)
    for line in str(report).splitlines():
        show(line)


def merge(options: argparse.Namespace) -> None:
    """Write or resume a store with the items of others."""
    n_items = acluster.sets.merge_stores(options.stores, options.out, verbose=True)
    show(f"{n_items} items are in {options.out}")


def fit(options: argparse.Namespace) -> None:
    """Train a classifier, save it and print its held-out accuracy."""
    from acluster.training import joined_group  # which imports torch

    check_path(options.out, options.store)
    task = open_task(options)
    classifier = new_classifier(task.X, options.set)
    with joined_group(classifier.distributed) as rank, quiet(rank > 0):
        if options.cv is not None:
            _cross_validate(classifier, task.X, task.y, task.group, options.cv)
        out = options.out if rank == 0 else None
        accuracy = train(classifier, task, out, options.checkpoint)
        show_model(classifier, task, options.out, accuracy)


def _cross_validate(classifier: Any, X: Any, y: Any, group: Any, n_folds: int) -> None:
    """Print the accuracy on the test items of each fold, and its mean."""
    from sklearn.base import clone

    accuracies = []
    folds = _splits.folds(group, y, n_folds)
    for fold, test in progress(folds, "folds", len(folds)):
        own = None if group is None else group[fold]
        fitted = clone(classifier).set_params(verbose=False)
        fit_classifier(fitted, X[fold], y[fold], own)
        accuracies.append(fitted.score(X[test], y[test]))
    shown = ", ".join(f"{accuracy:.4f}" for accuracy in accuracies)
    kept = "" if group is None else ", which keep groups together"
    show(
        f"cross-validated accuracy: {np.mean(accuracies):.4f} (standard deviation "
        f"{np.std(accuracies):.4f} over {len(folds)} folds{kept}: {shown})"
    )


def predict(options: argparse.Namespace) -> None:
    """Print or write the predicted labels, and print their accuracy if the store has labels."""
    files = acluster.extraction.find_media(options.paths)
    check_path(options.out, options.model, *options.paths, *files.values())
    classifier = acluster.load(options.model)
    # The progress line counts the batches of this loop. With --jobs, there is only one.
    classifier.set_params(verbose=options.jobs is not None)
    failed: dict[str, str] = {}
    if files and options.jobs is not None:
        raise ValueError(
            "--jobs predicts the items of a store in several processes. Media files are read by "
            "threads as it is; leave --jobs out."
        )
    if files:
        batches = _extracted_batches(classifier, files, failed, options)
    else:
        batches = _stored_batches(options.paths[0], options.jobs)
    header = ["id", "prediction"]
    names = classifier.label_names_
    if options.proba:
        header += [f"probability of {name}" for name in names or classifier.classes_]
    rows: list[list[Any]] = []
    correct = []
    for ids, batch in batches:
        labels = classifier.predict(batch, n_jobs=options.jobs)
        proba = [()] * len(batch)
        if options.proba:
            proba = classifier.predict_proba(batch, n_jobs=options.jobs)
        rows += [
            [item, _format_label(label, names), *map("{:.6g}".format, probabilities)]
            for item, label, probabilities in zip(ids, labels, proba, strict=True)
        ]
        true = _true_labels(batch, names)
        if true is not None and _are_comparable(true, labels):
            correct.append(np.asarray(true == labels).reshape(len(batch), -1).all(axis=1))
    write_table(options.out, header, rows)
    if correct:
        show(f"accuracy: {np.concatenate(correct).mean():.4f}", error=True)
    for item, reason in failed.items():
        show(f"{item}: {reason}", error=True)
    if failed:
        raise ValueError(f"{len(failed)} of {len(files)} files have no prediction.")


def _stored_batches(store: str, n_jobs: int | None) -> Iterator[tuple[Any, Any]]:
    """Yield the items of a store in batches, with their ids or else their positions.

    With `n_jobs`, all items are one batch, which the classifier divides among processes.
    """
    X = acluster.open_feature_sets(store)
    size = _ITEMS_PER_BATCH if n_jobs is None else len(X)
    starts = range(0, len(X), size)
    for i in progress(starts, f"batches of {size} items", len(starts)):
        batch = X[i : i + size]
        yield (range(i, i + len(batch)) if batch.id is None else batch.id), batch


def _extracted_batches(
    classifier: Any, files: dict[str, Path], failed: dict[str, str], options: argparse.Namespace
) -> Iterator[tuple[Any, Any]]:
    """Yield the features of files in batches, extracted as those that a model was fitted to."""
    extraction = getattr(classifier, "extraction_", None)
    if extraction is None:
        raise ValueError(
            f"{options.model} does not say how its features were extracted, because it was not "
            "fitted to a store of acluster.extraction.extract. Extract the files to a store as "
            "before, and pass the store."
        )
    parts = acluster.extraction.extracted_parts(
        files, extraction, _ITEMS_PER_BATCH, failed=failed, trust=options.trust
    )
    # A classifier of one modality takes it without its name.
    is_unnamed = [*extraction] == [UNNAMED]
    yield from ((ids, X[UNNAMED] if is_unnamed else X) for ids, X in parts)


def _true_labels(batch: Any, names: list[str]) -> Any:
    """Return the stored labels, their columns in the order of the model's; None without any."""
    labels, stored = batch.label, label_names_of(batch)
    if labels is None or not names or not stored or stored == names:
        return labels
    if set(stored) != set(names):
        return None
    return labels[:, [stored.index(name) for name in names]]


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
    classifier = load_with("transform", options.model, "global features")
    classifier.set_params(verbose=is_terminal())
    features = classifier.transform(options.store, out=options.out, n_jobs=options.jobs)
    show(f"{options.out}: {features.shape[0]} items, {features.shape[1]} columns")


def attention(options: argparse.Namespace) -> None:
    """Print the attention weights of an item as tables, or draw them."""
    _pictures.check_options(options)
    classifier = load_with("attention_weights", options.model, "attention weights")
    X = acluster.open_feature_sets(options.store)
    index = find_item(X, options.item)
    if options.png:
        _pictures.draw_attention(classifier, X[index : index + 1], options)
        show(options.png)
        return
    weights = classifier.attention_weights(X[index : index + 1])[0]
    for modality, a in (weights if isinstance(weights, dict) else {"": weights}).items():
        header = [f"{modality} local feature".strip(), *(f"unit {k}" for k in range(a.shape[1]))]
        write_table(None, header, ([i, *map("{:.6g}".format, row)] for i, row in enumerate(a)))
