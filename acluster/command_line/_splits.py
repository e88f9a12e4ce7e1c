"""Which items `acluster fit` trains on, holds out and cross-validates."""

from __future__ import annotations

import warnings
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


def groups_of(X: Any, store: str, wanted: bool | None) -> NDArray[Any] | None:
    """Return the groups that are to be kept together, or None.

    Parameters
    ----------
    X : FeatureSets or MultimodalFeatureSets
        The items of the store.

    store : str
        The name of the store in error messages.

    wanted : bool or None
        The option --group or --no-group; None uses the groups if there are any.

    Raises
    ------
    ValueError
        If groups are wanted, but the store has none.
    """
    if wanted and X.group is None:
        raise ValueError(
            f"--group needs a store with the column group, which {store} does not have. Add it "
            f"from a table: acluster convert {store} grouped.zarr --labels table.csv --label LABEL "
            "--group COLUMN"
        )
    return None if wanted is False else X.group


def split(
    group: NDArray[Any] | None, y: NDArray[Any], test_size: float | None, option: str
) -> tuple[IntArray, IntArray]:
    """Return the numbers of the training and the held-out items, each in increasing order.

    Parameters
    ----------
    group : ndarray of shape (n,), or None
        Whole groups are held out. Without groups, the split is stratified by class.

    y : ndarray of shape (n,) or (n, n_labels)
        The labels.

    test_size : float or None
        The fraction of the groups, or else of the items, to hold out; None holds out nothing.

    option : str
        What sets `test_size`, in error messages.

    Raises
    ------
    ValueError
        If the items cannot be divided so.
    """
    from sklearn.model_selection import GroupShuffleSplit, train_test_split

    items = np.arange(len(y))
    if test_size is None:
        return items, items[:0]
    _check_split(group, y, test_size, option)
    if group is not None:
        splitter = GroupShuffleSplit(1, test_size=test_size, random_state=0)
        train, test = next(splitter.split(items, groups=group))
    else:
        stratify = y if y.ndim == 1 else None
        train, test = train_test_split(
            items, test_size=test_size, stratify=stratify, random_state=0
        )
    if y.ndim == 1 and (untrained := sorted(set(y[test]) - set(y[train]))):
        warnings.warn(
            f"{option} {test_size}: all items of the label {str(untrained[0])!r:.100} are held "
            f"out, and of {len(untrained)} labels in all. The model cannot predict them.",
            stacklevel=2,
        )
    # In their own order, rows of a store are read in longer runs.
    return np.sort(train), np.sort(test)


def _check_split(group: Any, y: Any, test_size: float, option: str) -> None:
    """Check that the items can be divided as `split` does it."""
    what, parts = ("items", np.arange(len(y))) if group is None else ("groups", np.unique(group))
    n_test = ceil(test_size * len(parts))
    problem = None
    if len(parts) < 2:
        problem = f"at least two {what} are needed, not {len(parts)}"
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
            f"{option} {test_size} is not possible: {problem}. Add data, choose another "
            f"fraction, or leave {option} out."
        )


def folds(
    group: NDArray[Any] | None, y: NDArray[Any], n_folds: int
) -> list[tuple[IntArray, IntArray]]:
    """Return the training and the test items of each fold, shuffled with a fixed seed.

    Folds are stratified by class, and keep the items of a group together if there are groups.

    Raises
    ------
    ValueError
        If there are fewer items of a label, or fewer groups, than folds.
    """
    from sklearn import model_selection as sk

    if n_folds < 2:
        raise ValueError(f"--cv must be at least 2 folds; got {n_folds}.")
    parts = np.arange(len(y)) if group is None else np.unique(group)
    what, fewest, remedy = "items" if group is None else "groups", len(parts), ""
    if group is None and y.ndim == 1:
        labels, counts = np.unique(y, return_counts=True)
        fewest = int(counts.min())
        remedy = f" of the label {str(labels[counts.argmin()])!r:.100}"
    if fewest < n_folds:
        raise ValueError(
            f"--cv {n_folds} is not possible: there are {fewest} {what}{remedy}. Use at most "
            f"{fewest} folds, or add data."
        )
    with_groups = sk.StratifiedGroupKFold if y.ndim == 1 else sk.GroupKFold
    without_groups = sk.StratifiedKFold if y.ndim == 1 else sk.KFold
    splitter = without_groups if group is None else with_groups
    with warnings.catch_warnings():
        # A label may have fewer groups than there are folds.
        warnings.filterwarnings("ignore", message="The least populated class in y")
        parts_of = splitter(n_folds, shuffle=True, random_state=0).split(np.zeros(len(y)), y, group)
        return [(train, test) for train, test in parts_of if len(test)]
