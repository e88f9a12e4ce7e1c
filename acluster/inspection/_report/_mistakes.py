"""The mistakes of which the classifier is most certain, and the evidence that led to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster import FeatureSets, MultimodalFeatureSets
from acluster._utils._text import escape
from acluster.inspection._item import columns_of
from acluster.inspection._report._predictions import Predictions
from acluster.inspection._report._strips import Strip, strip_of


@dataclass(frozen=True)
class Mistake:
    """A wrong label of an item.

    Attributes
    ----------
    item : int
        The position of the item.

    predicted, true : int
        The numbers of the classes. With several labels per item, both are that of the label.

    probability : float
        That of what was predicted: the class or, with several labels per item, that the label is
        present or absent.

    true_probability : float
        The probability of what is true.
    """

    item: int
    predicted: int
    true: int
    probability: float
    true_probability: float


def most_confident_mistakes(
    predictions: Predictions, probabilities: NDArray[np.float64], n: int
) -> list[Mistake]:
    """Return up to n wrong labels, those of the highest probability first."""
    wrong = np.argwhere(predictions.true != predictions.predicted)
    items = wrong[:, 0]
    if predictions.has_one_label:
        predicted, true = predictions.predicted[items], predictions.true[items]
        probability, other = probabilities[items, predicted], probabilities[items, true]
    else:
        predicted = true = wrong[:, 1]
        present = probabilities[items, predicted]
        is_present = predictions.predicted[items, predicted] > 0
        probability, other = np.where(is_present, [present, 1 - present], [1 - present, present])
    order = np.argsort(-probability, kind="stable")[:n]
    return [
        Mistake(
            *map(int, (items[i], predicted[i], true[i])), *map(float, (probability[i], other[i]))
        )
        for i in order
    ]


def evidence_for(
    estimator: Any, X: Any, predictions: Predictions, mistakes: list[Mistake]
) -> list[dict[str, Strip]]:
    """Return the evidence of each mistake by modality, for the predicted and the true class.

    Of two classes, and of a label that is present or absent, evidence for one is evidence against
    the other: there is one row only.

    Parameters
    ----------
    estimator : classifier with `local_evidence`
        What was mistaken.

    X : FeatureSets or MultimodalFeatureSets
        All items.
    """
    chosen = X[np.array([mistake.item for mistake in mistakes])]
    used = sorted({c for mistake in mistakes for c in (mistake.predicted, mistake.true)})
    evidence = estimator.local_evidence(chosen, classes=predictions.classes[used])
    found = []
    for i, mistake in enumerate(mistakes):
        columns = [used.index(mistake.predicted)]
        if predictions.kind == "multiclass":
            columns.append(used.index(mistake.true))
        found.append(_strips(evidence, i, columns))
    return found


def _strips(evidence: Any, i: int, columns: list[int]) -> dict[str, Strip]:
    """Return the strips of an item in the modalities that it has; a single one has no name."""
    sets: dict[str, FeatureSets] = {"": evidence}
    if isinstance(evidence, MultimodalFeatureSets):
        sets = {escape(name): evidence[name] for name in evidence.names}
    strips = {}
    for name, own in sets.items():
        if own.lengths[i]:
            seconds = columns_of(own[i : i + 1].places).get("seconds")
            strips[name] = strip_of(np.asarray(own[i][:, columns], dtype=np.float64), seconds)
    return strips
