"""The evidence of one item: its classes, sums and titles."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acluster import FeatureSets, MultimodalFeatureSets
from acluster.inspection._item import check_one_item, index
from acluster.sets import label_array

Floats = NDArray[np.float64]

FOR, AGAINST = "#f28e1c", "#1f4e9c"  # also different in gray: light is for, dark is against
LABEL = "evidence (logit)"
_COLORS = AGAINST, "#8f9299", "#ffc46b"  # of negative, no and positive evidence, dark to light
_MAX_LABELS = 6  # drawn if no classes are named
_MAX_NAME = 30  # characters of a class in a title


class ItemEvidence:
    """The evidence of one item for some classes.

    Attributes
    ----------
    by_modality : dict of str or None to ndarray of shape (L, C)
        The evidence of the local features.

    classes : list
        The label of each column.

    constants : ndarray of shape (C,) or None
        What the logits contain besides the evidence.

    probabilities : ndarray of shape (C,) or None
        The probabilities of the classes.

    Raises
    ------
    ValueError
        If they have different numbers of classes.
    """

    def __init__(
        self,
        by_modality: dict[str | None, NDArray[Any]],
        classes: ArrayLike,
        constants: ArrayLike | None,
        probabilities: ArrayLike | None,
    ) -> None:
        labels = label_array(classes)
        if labels.ndim != 1 or not len(labels):
            raise ValueError(f"classes={classes!r} must be a list with a label per column.")
        for name, own in by_modality.items():
            if own.shape[1] != len(labels):
                raise ValueError(
                    f"evidence{index(name)} has {own.shape[1]} columns, but classes has "
                    f"{len(labels)} labels. Pass the classes of local_evidence(X, classes), in "
                    "their order."
                )
        self.by_modality = {name: own.astype(np.float64) for name, own in by_modality.items()}
        self.classes: list[Any] = labels.tolist()
        self.constants = _per_class(constants, "constants", len(labels))
        self.probabilities = _per_class(probabilities, "probabilities", len(labels))

    def titles(self, modality: str | None = None, is_narrow: bool = False) -> list[str]:
        """Return a title per class: its probability, its logit and the parts of the logit.

        Parameters
        ----------
        modality : str, optional
            The modality whose evidence is stated apart from that of the others.

        is_narrow : bool, default=False
            Whether to break the titles into lines.
        """
        sums = {name: own.sum(axis=0) for name, own in self.by_modality.items()}
        parts = {"evidence": sum(sums.values())}
        if modality is not None and len(sums) > 1:
            own = sums[modality]
            parts = {f"evidence of {modality}": own, "of the rest": parts["evidence"] - own}
        if self.constants is not None:
            parts["constant"] = self.constants
        titles, end = [], "\n" if is_narrow else " "
        for c, label in enumerate(self.classes):
            name = label if isinstance(label, str) else f"class {label}"
            name = name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…"
            first, *others = (f"{part} {signed(values[c])}" for part, values in parts.items())
            text = first
            if others:
                text += f",{end if len(others) > 1 else ' '}{', '.join(others)}"
            if self.constants is not None:
                text = f"logit {signed(sum(values[c] for values in parts.values()))} ({text})"
            if self.probabilities is not None:
                text = f"probability {self.probabilities[c]:.2f},{end}{text}"
            titles.append(f"{name}: {text}")
        return titles


def explain(
    estimator: Any, item: Any, classes: ArrayLike | None
) -> tuple[Any, list[Any], Floats, Floats]:
    """Return the evidence of one item for its most probable classes, or for given ones.

    Parameters
    ----------
    estimator : fitted classifier with ``local_evidence``
        The classifier to explain.

    item : FeatureSets or MultimodalFeatureSets of one item, array-like, or dict of array-likes
        The local features.

    classes : array-like of labels, or None
        None: the most probable class and, of more than two, the next two. Of several labels per
        item, those whose probability is above 1/2, or else the most probable one.

    Returns
    -------
    evidence : FeatureSets or MultimodalFeatureSets of one item
        The evidence, with the places of the local features.

    labels : list
        The classes of its columns.

    constants : ndarray of shape (C,)
        The constant of each class.

    probabilities : ndarray of shape (C,)
        The probability of each class.

    Raises
    ------
    TypeError
        If the estimator has no evidence.

    ValueError
        If `item` is a container of several items, or of none, or a class is unknown.
    """
    from acluster.estimators import label_numbers  # which imports torch

    check_explains(estimator)
    is_container = isinstance(item, FeatureSets | MultimodalFeatureSets)
    if is_container:
        check_one_item(item, "item")
    X = item if is_container else [item]
    probabilities = np.asarray(estimator.predict_proba(X)[0], dtype=np.float64)
    known = list(getattr(estimator, "label_names_", [])) or estimator.classes_.tolist()
    if classes is None:
        ranked = np.argsort(-probabilities, kind="stable")
        n_shown = 1 if len(ranked) == 2 else 3
        if estimator.predict(X).ndim == 2:
            n_shown = min(max(int(np.sum(probabilities > 0.5)), 1), _MAX_LABELS)
        labels = [known[c] for c in ranked[:n_shown]]
    else:
        labels = label_array(classes).tolist()
    evidence, constants = estimator.local_evidence(X, labels, return_constants=True)
    columns = label_numbers(estimator, label_array(labels), "classes")
    return evidence, labels, constants.total[0].astype(np.float64), probabilities[columns]


def check_explains(estimator: Any) -> None:
    """Raise a TypeError if the estimator has no evidence."""
    if hasattr(estimator, "local_evidence"):
        return
    remedy = (
        "For a search, pass best_estimator_. For a pipeline, pass the last step and items "
        "transformed by the other steps: from_estimator(pipe[-1], pipe[:-1].transform(X[[i]]))."
    )
    if hasattr(estimator, "attention_weights"):
        remedy = f"Draw its attention weights with an AttentionDisplay. {remedy}"
    raise TypeError(
        f"{type(estimator).__name__} has no local_evidence, which only classifiers with attention "
        "clusters have: AttentionClusterClassifier, MultimodalAttentionClusterClassifier, and "
        f"those with a portfolio. {remedy}"
    )


def signed(value: float) -> str:
    """Return a number with its sign, which is a minus as wide as the plus."""
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def evidence_colors() -> Any:
    """Return the colormap of evidence: dark blue is against a class, light orange is for it.

    The colors differ for people with any color vision, and their lightness grows with the evidence,
    so that the sign can be seen in gray print.
    """
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("evidence", _COLORS)


def _per_class(given: ArrayLike | None, parameter: str, n_classes: int) -> Floats | None:
    if given is None:
        return None
    values = np.asarray(given, dtype=np.float64)
    if values.shape != (n_classes,):
        raise ValueError(
            f"{parameter} has shape {values.shape}, but there are {n_classes} classes. Pass one "
            "number per class: those of one item, such as constants.total[i]."
        )
    return values
