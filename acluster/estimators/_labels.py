"""Convert y to the targets of the loss, and logits back to labels."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils import check_array, column_or_1d, compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from torch import Tensor
from torch.nn import functional

from acluster.sets import bounded, check_not_masked, is_missing, text_columns, to_numpy


def check_labels(y: Any, estimator_name: str) -> NDArray[Any]:
    """Return y as an array: (n,) labels, or an (n, n_labels) indicator of 0 and 1.

    Raises
    ------
    ValueError
        If y or an entry of it is missing or not finite, or y is neither classes nor an indicator
        matrix.
    """
    if y is None:
        raise ValueError(
            f"This {estimator_name} estimator requires y to be passed, but the target y is None."
        )
    y = without_missing(y, "y")
    if not hasattr(y, "shape"):
        y = _as_array(y)
    y = check_array(y, ensure_2d=False, dtype=None, accept_sparse="csr", input_name="y")
    y = y.toarray() if hasattr(y, "toarray") else y
    if y.ndim == 1 or y.shape[1] == 1:
        y = column_or_1d(y, warn=True)
    if _type_of(y) == "unknown":
        kinds = sorted({type(label).__name__ for label in y.ravel().tolist()})
        raise ValueError(
            f"Unknown label type: unknown. y is an array of objects ({', '.join(kinds)}); use "
            "strings or integers, for example y.astype(str)."
        )
    check_classification_targets(y)
    if type_of_target(y) == "multiclass-multioutput":
        raise ValueError(
            "Unknown label type: multiclass-multioutput. y has several columns that are not all "
            "0 and 1; pass one label per item, or an indicator matrix (one column per label)."
        )
    if y.ndim == 2 and not np.isin(y, (0, 1)).all():
        odd = y[~np.isin(y, (0, 1))][0]
        raise ValueError(
            f"y has {y.shape[1]} columns and holds {odd}; an indicator matrix holds 0 and 1 only. "
            "For labels -1 and 1, pass (y > 0).astype(int)."
        )
    return y


def without_missing(values: Any, name: str) -> Any:
    """Return labels or weights; those of tensors, data frames and other sequences as numpy reads.

    Raises
    ------
    ValueError
        If an entry is missing. numpy would turn it into the text "nan" or "None", or return what
        is under a mask.
    """
    check_not_masked(values, name)
    if hasattr(values, "detach") or hasattr(values, "columns"):
        values = to_numpy(values)
    elif not hasattr(values, "shape") and hasattr(values, "__getitem__"):
        is_one = isinstance(values, str | bytes | Mapping)
        values = values if is_one else list(bounded(values))
    dtype = getattr(values, "dtype", None)
    may_lack = not isinstance(dtype, np.dtype) or dtype.kind in "OT"
    for i, value in enumerate(values if may_lack and np.iterable(values) else ()):
        if is_missing(value):
            kind = "NaN" if isinstance(value, float | np.floating) else "missing values"
            raise ValueError(
                f"Input {name} contains {kind}.\n{name}[{i}] is {value!r}; every item needs a "
                "value. Drop the item, or fill it in."
            )
    # scikit-learn reads pandas' nullable integers as float64, which rounds those above 2**53.
    numpy_dtype = getattr(dtype, "numpy_dtype", None)
    if numpy_dtype is not None and numpy_dtype.kind in "biu":
        values = np.asarray(values, numpy_dtype)
    # zarr reads text as NumPy's strings of variable width, which scikit-learn rejects.
    return np.asarray(values.tolist()) if getattr(dtype, "kind", "") == "T" else values


def check_groups(groups: Any, n_items: int) -> NDArray[Any]:
    """Return the groups of the items as an array, and check that there is one per item.

    Raises
    ------
    ValueError
        If a group is missing, or there is not one per item.
    """
    # Unlike a list, an array of floats is not searched for NaN.
    groups = np.asarray(without_missing(groups, "groups"))
    without_missing(groups.astype(object), "groups")
    if groups.shape != (n_items,):
        raise ValueError(
            f"groups has shape {groups.shape}, but X has {n_items} items. Pass one group per item."
        )
    return groups


def columns_of_fit(y: NDArray[Any], names: list[str], estimator: Any) -> NDArray[Any]:
    """Return the label columns in the order of `label_names_`, if both have names.

    Parameters
    ----------
    y : ndarray
        The labels.

    names : list of str
        The names of their columns, or an empty list.

    estimator : object
        A classifier that may have `label_names_`.

    Raises
    ------
    ValueError
        If the names differ from those seen in `fit`.
    """
    expected = list(getattr(estimator, "label_names_", []))
    if not names or not expected or names == expected:
        return y
    if sorted(names) != sorted(expected):
        raise ValueError(
            f"y has the label columns {names!s:.200}, but the classifier was fitted on "
            f"{expected!s:.200}. Pass columns of the same names, or an array in the order of fit."
        )
    return y[:, [names.index(name) for name in expected]]


def label_numbers(classifier: Any, labels: NDArray[np.object_], parameter: str) -> list[int]:
    """Return the numbers of classes, or of label columns, which may be given by name.

    Parameters
    ----------
    classifier : fitted classifier
        With `classes_`, and perhaps `label_names_`.

    labels : ndarray of object, shape (n,)
        Labels as `label_array` returns them.

    parameter : str
        What the labels are, in the error message.

    Raises
    ------
    ValueError
        If the classifier does not know a label.
    """
    classes, names = classifier.classes_.tolist(), list(getattr(classifier, "label_names_", []))
    numbers = {label: i for known in (classes, names) for i, label in enumerate(known)}
    for label in labels.tolist():
        if not isinstance(label, Hashable) or label not in numbers:
            shown = f"{classes!s:.200}" + (f" and the labels {names!s:.200}" if names else "")
            raise ValueError(f"{parameter} has {label!r}, but the classifier knows {shown}.")
    return [numbers[label] for label in labels.tolist()]


class LabelledClassifierMixin(ClassifierMixin):
    """A classifier of sets with one or several labels, whose `score` takes no missing labels."""

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy: the fraction of items whose label, or row of labels, is right.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path or URL of a store
            The items.

        y : array-like of shape (n,) or (n, n_labels)
            The labels. Columns of a data frame are matched by name with `label_names_`.

        sample_weight : array-like of shape (n,), optional
            The weight of each item.

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If X is invalid, a label is missing, or the label columns have other names than in
            `fit`.
        """
        y = columns_of_fit(without_missing(y, "y"), text_columns(y), self)
        return super().score(X, y, sample_weight)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.classifier_tags.multi_label = True
        return tags


def _type_of(y: NDArray[Any]) -> str:
    try:
        return type_of_target(y)
    except TypeError:  # labels that cannot be compared with each other
        return "unknown"


def _as_array(y: Any) -> NDArray[Any]:
    try:
        array = np.asarray(y)
    except ValueError:
        raise ValueError(
            "y has rows of differing length; pass one label per item, or an indicator matrix "
            "(sklearn.preprocessing.MultiLabelBinarizer makes one)."
        ) from None
    if array.ndim == 0:
        raise ValueError(f"y is the single value {y!r}; pass one label per item.")
    return array


@dataclass(frozen=True)
class LabelCoding:
    """How labels correspond to logits.

    Two classes share one logit under a sigmoid; more classes have one logit each under a softmax;
    an indicator matrix has one logit per column, each under a sigmoid.
    """

    kind: str  # "binary", "multiclass" or "multilabel"
    classes: NDArray[Any]

    @classmethod
    def of(cls, y: NDArray[Any], classes: Any = None) -> LabelCoding:
        """Return the coding of checked labels, or of `classes` if y may lack some of them."""
        if y.ndim == 2:
            columns = np.arange(y.shape[1])
            if classes is not None and not np.array_equal(classes, columns):
                raise ValueError(
                    f"classes={classes!r} does not match an indicator y of {len(columns)} columns; "
                    f"pass classes={columns.tolist()}."
                )
            return cls("multilabel", columns)
        found = np.unique(y if classes is None else classes)
        if len(found) < 2 and classes is not None:
            raise ValueError(f"classes={classes!r} holds fewer than two classes.")
        if len(found) < 2:
            raise ValueError(
                f"y holds only one class, {found.tolist()[0]!r}, among the items of positive "
                "weight; a classifier needs at least two classes."
            )
        return cls("binary" if len(found) == 2 else "multiclass", found)

    @property
    def n_outputs(self) -> int:
        """The number of logits per item."""
        return 1 if self.kind == "binary" else len(self.classes)

    def encode(self, y: NDArray[Any], name: str = "y") -> NDArray[Any]:
        """Return the targets of the loss: class numbers (n,), or 0 and 1 (n, n_outputs)."""
        is_indicator, n_classes = self.kind == "multilabel", len(self.classes)
        if y.shape[1:] != ((n_classes,) if is_indicator else ()):
            expected = f"{n_classes} label columns" if is_indicator else "one label per item"
            raise ValueError(
                f"{name} has shape {y.shape}; the classifier was fitted on {expected}."
            )
        if y.ndim == 2:
            return y.astype(np.float64)
        unknown = np.setdiff1d(y, self.classes)
        if len(unknown):
            raise ValueError(
                f"{name} contains labels that the classifier does not know: {unknown.tolist()}; "
                f"its classes are {self.classes.tolist()}."
            )
        numbers = np.searchsorted(self.classes, y)
        return numbers if self.kind == "multiclass" else numbers[:, None].astype(np.float64)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the negative log-likelihood: (n,) for a softmax, (n, n_outputs) for sigmoids."""
        if self.kind == "multiclass":
            return functional.cross_entropy(logits, targets, reduction="none")
        return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")

    def accuracy(
        self, y: NDArray[Any], logits: NDArray[Any], sample_weight: NDArray[np.float64]
    ) -> float:
        """Return the fraction of correct labels, or of correct entries of an indicator y."""
        right = self.decide(logits) == y
        share_right = right.mean(axis=1) if y.ndim == 2 else right
        return float(np.average(share_right, weights=sample_weight))

    def decide(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Return the most probable label of every item, or all labels above probability 1/2."""
        if self.kind == "multilabel":
            return (logits > 0).astype(np.int64)
        if self.kind == "binary":
            return self.classes[(logits[:, 0] > 0).astype(np.int64)]
        return self.classes[logits.argmax(axis=1)]

    def probabilities(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Return the probabilities of classes (n, n_classes), or of single labels (n, n_labels)."""
        from scipy.special import expit, softmax

        if self.kind == "multiclass":
            return softmax(logits, axis=1)
        positive = expit(logits)
        return positive if self.kind == "multilabel" else np.hstack([1 - positive, positive])

    def weigh(
        self,
        targets: NDArray[Any],
        sample_weight: NDArray[np.float64],
        class_weight: dict[Any, float] | str | None,
    ) -> NDArray[np.float64]:
        """Return the weight of every loss: the sample weight, of mean 1, times the class weight.

        "balanced" weights a class by the inverse of its total weight, the paper's 1/S. For an
        indicator y, it balances the presence and the absence of every label.
        """
        sample_weight = sample_weight / sample_weight.max()  # so that sums cannot overflow
        sample_weight = sample_weight / sample_weight.mean()
        if self.kind == "multilabel":
            balance = self._balance_labels(targets, sample_weight, class_weight)
            return sample_weight[:, None] * balance
        _check_class_weight(class_weight)
        numbers = targets if self.kind == "multiclass" else targets[:, 0].astype(np.int64)
        # The items of a fold or of a later fit may lack a class, which then has no balanced weight.
        weighted: Any = np.unique(numbers) if class_weight == "balanced" else slice(None)
        classes, y = self.classes[weighted], self.classes[numbers]
        by_class = np.ones(len(self.classes))
        by_class[weighted] = compute_class_weight(
            class_weight, classes=classes, y=y, sample_weight=sample_weight
        )
        weights = sample_weight * by_class[numbers]
        return weights if self.kind == "multiclass" else weights[:, None]

    @staticmethod
    def _balance_labels(
        targets: NDArray[Any], sample_weight: NDArray[np.float64], class_weight: Any
    ) -> NDArray[np.float64]:
        if class_weight is None:
            return np.ones_like(targets)
        if class_weight != "balanced":
            raise ValueError(
                f"class_weight={class_weight!r} does not fit an indicator y; use 'balanced', None, "
                "or pass sample_weight."
            )
        total = sample_weight.sum()
        present = (sample_weight[:, None] * targets).sum(axis=0)
        # If a label is always or never present, the only side that occurs keeps weight 1/2.
        present = np.clip(present, 0, total)
        with np.errstate(divide="ignore"):
            return np.where(targets > 0, total / (2 * present), total / (2 * (total - present)))


def _check_class_weight(class_weight: dict[Any, float] | str | None) -> None:
    if not isinstance(class_weight, dict):
        return
    for label, weight in class_weight.items():
        if not isinstance(weight, Real) or not np.isfinite(weight) or weight < 0:
            raise ValueError(
                f"class_weight gives class {label!r} the weight {weight!r}; weights must be finite "
                "and non-negative."
            )


def to_mean_one(weights: NDArray[np.float64], class_weight: Any) -> NDArray[np.float64]:
    """Return the weights scaled to mean 1, so that their scale does not act as a learning rate.

    Raises
    ------
    ValueError
        If all are 0.
    """
    if not weights.any():
        raise ValueError(
            f"class_weight={class_weight!r} gives every item the weight 0; give at least one "
            "class a positive weight."
        )
    return weights / weights.mean()
