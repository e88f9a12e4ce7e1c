"""The predictions for all items, which every section shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from acluster._utils._text import escape


@dataclass(frozen=True)
class Predictions:
    """The labels of all items, and what the classifier says.

    Attributes
    ----------
    kind : {"binary", "multiclass", "multilabel"}
        The task.

    classes : ndarray of shape (C,)
        The classes of the classifier; with several labels per item, their numbers.

    names : list of str
        The names of the classes or labels, without control characters.

    true, predicted : ndarray of int, shape (n,) or (n, C)
        The numbers of the classes; with several labels per item, 0 and 1.

    probabilities : ndarray of shape (n, C), or None
        None if the classifier has no `predict_proba`.

    rounding : float
        The relative rounding error of the probabilities, before they were made float64.
    """

    kind: str
    classes: NDArray[Any]
    names: list[str]
    true: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probabilities: NDArray[np.float64] | None
    rounding: float = float(np.finfo(np.float64).eps)

    @property
    def n_classes(self) -> int:
        """The number of classes or labels."""
        return len(self.names)

    @property
    def has_one_label(self) -> bool:
        """Whether each item has exactly one label."""
        return self.kind != "multilabel"

    def counts(self) -> NDArray[np.int64]:
        """Return the number of items of each class, or with each label."""
        if self.has_one_label:
            return np.bincount(self.true, minlength=self.n_classes)
        return self.true.sum(axis=0)

    def has(self, c: int) -> NDArray[np.bool_]:
        """Return which items are of a class, or have a label."""
        return self.true == c if self.has_one_label else self.true[:, c] > 0

    def labels(self) -> NDArray[Any]:
        """Return the labels of the items as the classifier takes them."""
        return self.classes[self.true] if self.has_one_label else self.true


def predictions_of(
    estimator: Any, X: Any, y: ArrayLike, label_names: Sequence[str] = ()
) -> Predictions:
    """Predict all items, in one pass if the classifier is one of acluster.

    Parameters
    ----------
    estimator : fitted classifier
        With `predict`, `classes_` and perhaps `predict_proba`.

    X : FeatureSets or MultimodalFeatureSets
        n items.

    y : array-like of shape (n,) or (n, n_labels)
        Their labels.

    label_names : sequence of str, optional
        The names of the columns of y, which are brought into the order of `fit`.

    Raises
    ------
    ValueError
        If there are no items, or the labels do not fit the items or the classifier.

    TypeError
        If the estimator is not a classifier.
    """
    # Importing estimators imports torch, which acluster.inspection does not need by itself.
    from acluster.estimators import check_labels, columns_of_fit

    check_is_fitted(estimator)
    if not hasattr(estimator, "classes_") or not hasattr(estimator, "predict"):
        raise TypeError(
            f"{type(estimator).__name__} has no classes_ or predict. Pass a fitted classifier."
        )
    if len(X) == 0:
        raise ValueError("X has no items; a report needs at least one item with a label.")
    y = check_labels(y, type(estimator).__name__)
    if len(y) != len(X):
        raise ValueError(
            f"y has {len(y)} labels, but X has {len(X)} items. Pass the labels of the same items."
        )
    y = columns_of_fit(y, list(label_names), estimator)
    has_one_label = np.ndim(estimator.predict(X[:1])) == 1
    classes = np.asarray(estimator.classes_)
    true = _encoded(y, classes, has_one_label)
    probabilities, rounding = None, Predictions.rounding
    if hasattr(estimator, "predict_proba"):
        given = np.asarray(estimator.predict_proba(X))
        probabilities = given.astype(np.float64)
        if given.dtype.kind == "f":
            rounding = float(np.finfo(given.dtype).eps)
    if probabilities is None or not _predicts_the_likeliest(estimator):
        predicted = _encoded(np.asarray(estimator.predict(X)), classes, has_one_label)
    elif has_one_label:
        predicted = probabilities.argmax(axis=1)
    else:
        predicted = (probabilities > 0.5).astype(np.int64)
    kind = "multilabel"
    if has_one_label:
        kind = "binary" if len(classes) == 2 else "multiclass"
    names = list(getattr(estimator, "label_names_", []))
    if not names:
        names = [str(name) if has_one_label else f"label {name}" for name in classes.tolist()]
    names = [*map(escape, names)]
    return Predictions(kind, classes, names, true, predicted, probabilities, rounding)


def _predicts_the_likeliest(estimator: Any) -> bool:
    """Return whether `predict` follows from the probabilities, so that one pass is enough.

    This holds for the classifiers of acluster. Others may have a threshold other than 0.5, or
    resolve ties in another way.
    """
    return str(getattr(type(estimator).predict, "__module__", "")).startswith("acluster.")


def _encoded(y: NDArray[Any], classes: NDArray[Any], has_one_label: bool) -> NDArray[np.int64]:
    """Return the numbers of the classes, or an indicator as it is."""
    if y.shape[1:] != (() if has_one_label else (len(classes),)):
        expected = "one label per item" if has_one_label else f"{len(classes)} label columns"
        raise ValueError(
            f"y has shape {y.shape}; the classifier was fitted on {expected}. Pass the labels in "
            "the form of fit."
        )
    if not has_one_label:
        return y.astype(np.int64)
    are_text = [labels.dtype.kind in "UOST" for labels in (y, classes)]
    unknown = y if are_text[0] != are_text[1] else np.setdiff1d(y, classes)
    if len(unknown):
        raise ValueError(
            f"y has the label {unknown.tolist()[0]!r}, but the classifier knows "
            f"{classes.tolist()!s:.200}. Leave out the items whose label it was not trained on, or "
            "train on some of them: add data, or hold out another fraction."
        )
    return np.searchsorted(classes, y)
