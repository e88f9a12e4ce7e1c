"""Write the evidence of local features for classes, as a table, a store or a picture."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import acluster
from acluster._utils._progress import progress
from acluster.command_line._output import check_path, show, write_table
from acluster.command_line._pictures import check_options, draw_evidence
from acluster.sets import FeatureSetsWriter, by_modality, check_resumable, info

_ITEMS_PER_BATCH = 256
_CONSTANT = "constant"  # the modality of a store, and the last row of an item in a table

Rows = dict[str, NDArray[Any]]


def evidence(options: argparse.Namespace) -> None:
    """Write the evidence as the options of the command ask for it.

    Parameters
    ----------
    options : argparse.Namespace
        The options of the command.

    Raises
    ------
    TypeError
        If the model has no evidence.

    ValueError
        If a class is unknown, or the store to write holds something else.
    """
    check_options(options)
    if options.png and (options.item is None or options.out is not None):
        raise ValueError("--png draws one item: pass --item ITEM, and leave --out out.")
    classifier = load_with("local_evidence", options.model, "evidence")
    X = acluster.open_feature_sets(options.store)
    classes = _chosen(classifier, X, options.classes)
    numbers = range(len(X)) if options.item is None else [find_item(X, options.item)]
    known = X.id  # read once
    ids = {number: number if known is None else known[number] for number in numbers}
    if options.png:
        # Without --class, the display chooses the most probable ones.
        shown = classes if options.classes else None
        draw_evidence(classifier, X[numbers], shown, options)
        show(options.png)
        return
    if options.out is not None and Path(options.out).suffix == ".zarr":
        _write_store(classifier, X, ids, classes, options)
        show(f"{options.out}: {len(numbers)} items, {len(classes)} classes")
        return
    check_path(options.out, options.model, options.store)
    has_names = isinstance(X, acluster.MultimodalFeatureSets)
    header = ["id", *(["modality"] if has_names else []), "local feature", *_place_names(X)]
    header += [f"evidence for {name}" for name in classes]
    write_table(options.out, header, _table(classifier, X, ids, classes, has_names))


def load_with(method: str, path: str, what: str) -> Any:
    """Load a model, and check that it has the method that the command needs.

    Raises
    ------
    TypeError
        If it does not have it. The message says `what` it lacks.
    """
    classifier = acluster.load(path)
    if not hasattr(classifier, method):
        raise TypeError(
            f"{path} holds a model of class {type(classifier).__name__}, which has no {what}. "
            "Use a model of AttentionClusterClassifier."
        )
    return classifier


def find_item(X: Any, item: str) -> int:
    """Return the position of the item with an id, or at a position that is given as text."""
    ids = [] if X.id is None else [str(name) for name in X.id]
    if item in ids:
        return ids.index(item)
    if item.isdecimal() and int(item) < len(X):
        return int(item)
    raise LookupError(
        f"there is no item {item!r}; the store has {len(X)} items. Pass a position, 0 to "
        f"{len(X) - 1}" + (f", or an id, such as {ids[0]!r}." if ids else ".")
    )


def _chosen(classifier: Any, X: Any, wanted: Sequence[str] | None) -> list[Any]:
    """Return the classes that texts name; without any, all, or the second of two classes."""
    names = list(getattr(classifier, "label_names_", [])) or classifier.classes_.tolist()
    if wanted is None:
        # Two labels have a logit each, and two classes share one.
        return names[1:] if classifier.decision_function(X[:1]).ndim == 1 else names
    by_text = {str(name): name for name in names}
    for text in wanted:
        if text not in by_text:
            raise ValueError(
                f"--class {text!r} is unknown; the model knows {', '.join(map(str, names))!s:.300}."
            )
    return [by_text[text] for text in dict.fromkeys(wanted)]


def _explained(
    classifier: Any, X: Any, numbers: Sequence[int], classes: list[Any]
) -> Iterator[tuple[Rows, NDArray[Any], dict[str, Any]]]:
    """Yield the evidence by modality, the constants and the places of every item."""
    starts = range(0, len(numbers), _ITEMS_PER_BATCH)
    for i in progress(starts, f"batches of {_ITEMS_PER_BATCH} items", len(starts)):
        batch = X[np.asarray(numbers[i : i + _ITEMS_PER_BATCH])]
        found, constants = classifier.local_evidence(batch, classes, return_constants=True)
        sets = by_modality(found)
        located = {name: one.places.load() for name, one in sets.items() if one.places is not None}
        for k in range(len(batch)):
            rows = {name: one[k] for name, one in sets.items()}
            places = {
                name: dict(zip(own.column_names, own[k].T, strict=True))
                for name, own in located.items()
                if len(rows[name])
            }
            yield rows, constants.total[k], places


def _place_names(X: Any) -> list[str]:
    sets = by_modality(X).values()
    names = [name for one in sets if one.places is not None for name in one.places.column_names]
    return [*dict.fromkeys(names)]


def _table(
    classifier: Any, X: Any, ids: Mapping[int, Any], classes: list[Any], has_names: bool
) -> Iterator[list[Any]]:
    """Yield a row per local feature, and one for the constant of every item.

    `ids` are those of the items to explain, by their numbers.
    """
    columns = _place_names(X)
    explained = _explained(classifier, X, [*ids], classes)
    for id_, (found, constant, places) in zip(ids.values(), explained, strict=True):
        for modality, rows in found.items():
            own: Mapping[str, Any] = places.get(modality, {})
            for k, row in enumerate(rows):
                start = [id_, *([modality] if has_names else []), k]
                start += [f"{own[name][k]:.9g}" if name in own else "" for name in columns]
                yield [*start, *map("{:.6g}".format, row)]
        start = [id_, *([""] if has_names else []), _CONSTANT, *[""] * len(columns)]
        yield [*start, *map("{:.6g}".format, constant)]


def _write_store(
    classifier: Any, X: Any, ids: Mapping[int, Any], classes: list[Any], options: argparse.Namespace
) -> None:
    """Write a store whose local features are the evidence, or continue an interrupted call."""
    if isinstance(X, acluster.MultimodalFeatureSets) and _CONSTANT in X.names:
        raise ValueError(
            f"{options.store} has a modality named {_CONSTANT!r}, a name that the store of "
            "evidence needs. Write a table instead: --out FILE.csv."
        )
    digest = hashlib.sha256(Path(options.model).read_bytes()).hexdigest()
    description = {"classes": [str(name) for name in classes], "model_sha256": digest}
    names = [str(id_) if isinstance(id_, int) else id_ for id_ in ids.values()]
    attributes = {"evidence": description}
    with FeatureSetsWriter(options.out, resume=True, attributes=attributes) as writer:
        # Also without items: a store keeps the description with which it was begun.
        if info(writer.path).attributes.get("evidence") != description:
            raise ValueError(
                f"{options.out} does not hold the evidence of this model for these classes. "
                "Name another store."
            )
        if len(writer):
            check_resumable(writer, {"id": names}, options.store)
        done = len(writer)
        explained = _explained(classifier, X, [*ids][done:], classes)
        for id_, (rows, constant, places) in zip(names[done:], explained, strict=True):
            item = {name: own for name, own in rows.items() if len(own)}
            item[_CONSTANT] = constant[None]
            writer.append(item, id=id_, places=places or None)
