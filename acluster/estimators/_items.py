"""Check the items of a fit: their sets, labels and sample weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_consistent_length
from sklearn.utils._param_validation import validate_parameter_constraints
from sklearn.utils.validation import _check_sample_weight

from acluster.estimators._labels import LabelCoding, check_labels, columns_of_fit, without_missing
from acluster.sets import (
    UNNAMED,
    AllFinite,
    FeatureSets,
    MultimodalFeatureSets,
    check_finite,
    check_multimodal_sets,
    check_sets,
    text_columns,
)

# Of all parameters, those that predictions use. `fit` has checked them, but they may be set later.
_FOR_PREDICTIONS = ("batch_size", "precision")


@dataclass(frozen=True)
class Items:
    """Items with their labels and sample weights, all of the same length."""

    X: MultimodalFeatureSets
    y: NDArray[Any]
    sample_weight: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: NDArray[Any]) -> Items:
        return Items(self.X[index], self.y[index], self.sample_weight[index])


def check_X(
    estimator: Any, X: Any, *, seen: dict[str, int] | None, ensure_all_finite: AllFinite = True
) -> MultimodalFeatureSets:
    """Check X, and return it with named modalities.

    Parameters
    ----------
    estimator : SetClassifier
        Named in error messages; its `n_features_in_` is set or checked.

    X : object
        In any form that the classifiers accept.

    seen : dict of str to int, or None
        The modalities and widths that X must have; None learns them, as a first `fit` does.

    ensure_all_finite : bool or "deferred", default=True
        Whether NaN and infinity raise an error; "deferred" leaves this to the caller.

    Raises
    ------
    ValueError
        If X is invalid, or a parameter that predictions use was set to an invalid value after
        `fit`.
    """
    if seen is not None:
        used = {one: value for one, value in vars(estimator).items() if one in _FOR_PREDICTIONS}
        constraints, caller = estimator._parameter_constraints, type(estimator).__name__
        validate_parameter_constraints(constraints, used, caller)
    checks: dict[str, Any] = {"estimator": estimator, "ensure_all_finite": ensure_all_finite}
    if estimator._is_multimodal:
        return check_multimodal_sets(X, seen=seen, **checks)
    sets = check_sets(X, reset=seen is None, **checks)
    return MultimodalFeatureSets({UNNAMED: sets})


def unwrapped(estimator: Any, X: MultimodalFeatureSets) -> Any:
    """Return the sets in the form that users see: without modalities if there is only one."""
    return X if estimator._is_multimodal else X[UNNAMED]


def as_given(sets: dict[str, FeatureSets], has_names: bool) -> Any:
    """Return results by modality, or without a name if the sets were given without one."""
    return MultimodalFeatureSets(sets) if has_names else sets[UNNAMED]


@contextmanager
def finite_first(unchecked: Callable[[], MultimodalFeatureSets | None]) -> Iterator[None]:
    """Check local features before an error leaves this context, if that was deferred.

    If X and another argument are wrong, the error is about X, as without deferring.

    Parameters
    ----------
    unchecked : callable
        Returns the sets that are not known to be finite, or None if there are none.
    """
    try:
        yield
    except Exception:
        if (X := unchecked()) is not None:
            try:
                check_finite(X)
            except ValueError as error:
                raise error from None
        raise


def check_items(
    estimator: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    *,
    seen: dict[str, int] | None,
    ensure_all_finite: AllFinite = True,
) -> Items:
    """Check the items, and return them without those of weight 0.

    The parameters are those of `check_X`, and the labels and sample weights.
    """
    names = text_columns(y)
    y = check_labels(y, type(estimator).__name__)
    if seen is None:
        estimator.label_names_ = names if y.ndim == 2 else []
    y = columns_of_fit(y, names, estimator)
    sets = check_X(estimator, X, seen=seen, ensure_all_finite=ensure_all_finite)
    with finite_first(lambda: sets if ensure_all_finite == "deferred" else None):
        weight = _check_lengths(sets, X, y, sample_weight)
        items, weighted = Items(sets, y, weight), weight > 0
    if weighted.all():
        return items
    if ensure_all_finite == "deferred":
        check_finite(sets)  # nothing reads those of weight 0 any more
    return items[weighted]


def _check_lengths(
    sets: MultimodalFeatureSets, X: Any, y: NDArray[Any], sample_weight: Any
) -> NDArray[np.float64]:
    """Check that there are as many labels and sample weights as items; return the weights."""
    try:
        check_consistent_length(sets, y)
    except ValueError as error:
        if len(getattr(X, "shape", ())) == 2:
            raise ValueError(
                f"{error}. A two-dimensional X has one local feature per item. If its index names "
                "the items, pass [group for _, group in X.groupby(level=0)]."
            ) from None
        raise
    given = without_missing(sample_weight, "sample_weight")
    weight: NDArray[np.float64] = _check_sample_weight(
        given, y, dtype=np.float64, ensure_non_negative=True
    )
    return weight


def copy_checked(estimator: Any, other: Any) -> None:
    """Give another estimator what `check_items` has learnt about the items of this one."""
    learnt = ("n_features_in_", "feature_names_in_", "label_names_", "extraction_", "_one_row")
    for name in learnt:
        if hasattr(estimator, name):
            setattr(other, name, getattr(estimator, name))


def check_validation(
    estimator: Any, X_val: Any, y_val: Any, coding: LabelCoding, widths: dict[str, int]
) -> Items | None:
    """Check and return the validation set of `fit`, or return None if there is none.

    `widths` are those of the training items: the network that has them does not exist yet.
    """
    if (X_val is None) != (y_val is None):
        given, missing = ("y_val", "X_val") if X_val is None else ("X_val", "y_val")
        raise ValueError(f"{given} is passed without {missing}; pass both or neither.")
    if X_val is None:
        return None
    try:
        items = check_items(estimator, X_val, y_val, None, seen=widths)
    except (TypeError, ValueError) as error:
        raise type(error)(f"In X_val and y_val: {error}") from None
    coding.encode(items.y, name="y_val")
    return items


def hold_out(
    y: NDArray[Any], fraction: float, random_state: np.random.RandomState
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split item numbers into those to train on and those to validate on."""
    # Importing model_selection is slow, and only early stopping needs it.
    from sklearn.model_selection import train_test_split

    try:
        train, held_out = train_test_split(
            np.arange(len(y)),
            test_size=fraction,
            stratify=y if y.ndim == 1 else None,
            random_state=random_state,
        )
    except ValueError as error:
        raise ValueError(
            f"early_stopping=True cannot hold out validation_fraction={fraction} of {len(y)} "
            f"items: {error}. Pass X_val and y_val, change validation_fraction, or set "
            "early_stopping=False."
        ) from None
    # In their original order, in which compressed stores are read fastest.
    return np.sort(train), np.sort(held_out)


def check_partial_fit(estimator: Any, classes: ArrayLike | None, resumes: bool) -> None:
    """Raise a ValueError for parameters that `partial_fit` does not support."""
    if estimator.early_stopping:
        raise ValueError(
            "partial_fit does not support early_stopping=True: it never sees all items. "
            "Use fit, or early_stopping=False."
        )
    if estimator.class_weight == "balanced":
        raise ValueError(
            "partial_fit does not support class_weight='balanced': it never sees all labels. "
            "Pass the weights as a dict, from sklearn.utils.compute_class_weight."
        )
    without_missing(classes, "classes")
    if classes is None:
        if not resumes:
            raise ValueError("classes must be passed on the first call to partial_fit.")
    elif np.ndim(classes) == 0:  # NumPy takes a set for a single value
        raise ValueError(f"classes={classes!r} must be a list of all labels, such as [0, 1].")
    elif resumes and not np.array_equal(estimator.classes_, np.unique(classes)):
        raise ValueError(
            f"`classes={classes!r}` is not the same as on last call to partial_fit, "
            f"was: {estimator.classes_!r}"
        )


def finite_blocks(
    blocks: Iterable[NDArray[Any]], offsets: NDArray[np.int64] | None = None, first: int = 0
) -> Iterator[NDArray[Any]]:
    """Yield the outputs of a network batch by batch, if they are finite.

    Parameters
    ----------
    blocks : iterable of ndarray
        Their rows together are the items, or with `offsets` their local features.

    offsets : ndarray of shape (n_items + 1,), optional
        Where the rows of each item begin and end.

    first : int, default=0
        The number of the first item, for error messages.

    Raises
    ------
    ValueError
        At the first item whose output is not finite. The most probable class of NaN would be the
        first one.
    """
    n_before = 0
    for block in blocks:
        # Almost always the sum, which is fast, shows that all is finite; a sum may also overflow.
        with np.errstate(all="ignore"):
            is_finite = np.isfinite(block.sum()) or np.isfinite(block).all()
        if not is_finite:
            bad = int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
            row = n_before + bad
            item = row if offsets is None else int(np.searchsorted(offsets, row, "right")) - 1
            item += first
            value = block[bad][~np.isfinite(block[bad])][0]
            raise ValueError(
                f"The output of the classifier for item {item} is {value}, not a finite number: "
                "its local features, or the weights, are too large. Compare their scale with that "
                "of the training items. Fit again with a lower learning_rate, or without "
                "standardize=False."
            )
        n_before += len(block)
        yield block


def check_finite_rows(values: NDArray[Any], offsets: NDArray[np.int64] | None = None) -> None:
    """Check that outputs in memory are finite, with the error of `finite_blocks`."""
    for _ in finite_blocks([values], offsets):
        pass
