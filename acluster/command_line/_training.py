"""What `acluster fit` and `acluster search` share: the items, the classifier, and its training."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

import acluster
import acluster.sets
from acluster.command_line import _splits
from acluster.command_line._output import is_terminal, show

# Defaults of the commands that differ from those of the classifiers.
DEFAULTS: dict[str, Any] = {"random_state": 0}


@dataclass(frozen=True)
class Task:
    """The items of a store to train on, and those that are held out.

    Attributes
    ----------
    store : str
        The store.

    X, y : FeatureSets or MultimodalFeatureSets, and ndarray of shape (n,) or (n, n_labels)
        The items to train on, and their labels.

    group : ndarray of shape (n,), or None
        The groups that splits keep together.

    held_out : tuple of (X, y)
        Those that are held out; of length 0 if there are none.
    """

    store: str
    X: Any
    y: Any
    group: Any
    held_out: tuple[Any, Any]


def open_task(options: argparse.Namespace) -> Task:
    """Open the store that the options name, and hold out a part of its items.

    Raises
    ------
    ValueError
        If the items have no labels, or no groups that are required, or cannot be divided.
    """
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
    group = _splits.groups_of(X, options.store, options.group)
    train, test = _splits.split(group, y, options.hold_out, "--hold-out")
    own = None if group is None else group[train]
    return Task(options.store, X[train], y[train], own, (X[test], y[test]))


def new_classifier(X: Any, settings: Iterable[str]) -> Any:
    """Return a classifier for the items, with parameters from texts such as "dropout=0.2"."""
    classifier_class = (
        acluster.MultimodalAttentionClusterClassifier
        if isinstance(X, acluster.MultimodalFeatureSets)
        else acluster.AttentionClusterClassifier
    )
    classifier = classifier_class(**DEFAULTS, verbose=is_terminal())
    return classifier.set_params(**dict(map(_parse_setting, settings)))


def _parse_setting(text: str) -> tuple[str, Any]:
    name, equals_sign, value = text.partition("=")
    if not equals_sign:
        raise ValueError(f"--set takes NAME=VALUE, such as cluster_size=16; got {text!r}.")
    return name, parse_value(value)


def parse_value(text: str) -> Any:
    """Return the value of a parameter: JSON, a number or constant of Python, or else text."""
    parsers: tuple[Any, ...] = (json.loads, int, float)  # JSON has no .5
    for parse in parsers:
        with suppress(ValueError):
            return parse(text)
    return {"None": None, "True": True, "False": False}.get(text, text)


def fit_classifier(classifier: Any, X: Any, y: Any, group: Any, **options: Any) -> Any:
    """Train on items with their sample weights.

    With early stopping, whole groups are held out for validation: the classifier knows no groups
    and would validate on items that resemble those of training.
    """
    items = np.arange(len(y))
    if group is not None and classifier.early_stopping:
        fraction = classifier.validation_fraction
        items, held_out = _splits.split(group, y, fraction, "validation_fraction")
        options |= {"X_val": X[held_out], "y_val": y[held_out]}
    weight = None if X.weight is None else X.weight[items]
    return classifier.fit(X[items], y[items], weight, **options)


def train(
    classifier: Any, task: Task, out: str | None, checkpoint: str | None = None
) -> float | None:
    """Train a classifier, save it to `out`, and return its accuracy on the held-out items.

    After Ctrl-C, the weights learned so far are saved. Without held-out items, None is returned.
    """
    try:
        fit_classifier(classifier, task.X, task.y, task.group, checkpoint_dir=checkpoint)
    except KeyboardInterrupt as interrupt:
        if not hasattr(classifier, "network_"):
            raise
        show(interrupt, error=True)
    if names := acluster.sets.info(task.store).label_names:
        classifier.label_names_ = list(names)
    # Whether this command runs on a terminal says nothing about where the model is used.
    classifier.set_params(verbose=False, distributed=False)
    if out is not None:
        classifier.save(out)
    X, y = task.held_out
    return float(classifier.score(X, y)) if len(y) else None


def show_model(classifier: Any, task: Task, out: str, accuracy: float | None) -> None:
    """Print what a saved classifier was trained on, and its held-out accuracy."""
    show(f"{out}: {len(task.y)} items, {classifier.n_iter_} epochs")
    if accuracy is not None:
        show(f"accuracy on the {len(task.held_out[1])} held-out items: {accuracy:.4f}")
