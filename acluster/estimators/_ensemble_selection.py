"""The weights of an ensemble, chosen by out-of-fold predictions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster.estimators._items import Items
from acluster.estimators._labels import LabelCoding

_N_ROUNDS = 50  # weights are multiples of 1/50
SMALLEST_PROBABILITY = 1e-7  # of which the logarithm is taken


def greedy_weights(
    probabilities: NDArray[np.floating], coding: LabelCoding, items: Items
) -> NDArray[np.float64]:
    """Choose the weights of an ensemble by greedy selection (Caruana et al., 2004).

    In every round, the configuration joins that lowers the negative log-likelihood of the
    ensemble most. One may join many times.

    Parameters
    ----------
    probabilities : ndarray of shape (n_configurations, n, n_classes)
        The out-of-fold predictions; for an indicator y, (n_configurations, n, n_labels).

    coding : LabelCoding
        The coding of the labels.

    items : Items
        Their labels and weights.

    Returns
    -------
    ndarray of shape (n_configurations,)
        They add up to 1.
    """
    return weights_of(_of_truth(probabilities, coding, items.y), items.sample_weight)


def weights_of(of_truth: NDArray[Any], sample_weight: NDArray[Any]) -> NDArray[np.float64]:
    """Choose the weights by the probabilities of the truth, (n_configurations, n, ...)."""
    counts, total = np.zeros(len(of_truth)), np.zeros(of_truth.shape[1:])
    for n_joined in range(1, _N_ROUNDS + 1):
        means = np.maximum((total + of_truth) / n_joined, SMALLEST_PROBABILITY)
        losses = -np.log(means).reshape(*means.shape[:2], -1).sum(axis=2)
        best = int(np.argmin(losses @ sample_weight))
        counts[best] += 1
        total += of_truth[best]
    return counts / _N_ROUNDS


def _of_truth(
    probabilities: NDArray[np.floating], coding: LabelCoding, y: NDArray[Any]
) -> NDArray[np.floating]:
    """Return the probability of the right label, or of every right entry of an indicator."""
    if coding.kind == "multilabel":
        return np.where(y > 0, probabilities, 1 - probabilities)
    numbers = np.searchsorted(coding.classes, y)
    return probabilities[:, np.arange(len(y)), numbers]


def decided(probabilities: NDArray[np.floating], coding: LabelCoding) -> NDArray[Any]:
    """Return the most probable labels, or 1 for the entries of an indicator above 1/2."""
    if coding.kind == "multilabel":
        return (probabilities > 0.5).astype(np.int64)
    return coding.classes[probabilities.argmax(axis=1)]


def expected_accuracy(
    predicted: NDArray[np.floating],
    coding: LabelCoding,
    items: Items,
    splits: Sequence[tuple[NDArray[Any], NDArray[Any]]],
) -> float:
    """Return the accuracy of each fold with the weights that the other folds would choose."""
    right = np.empty(len(items))
    for train, test in splits:
        weights = greedy_weights(predicted[:, train], coding, items[train])
        found = decided(np.tensordot(weights, predicted[:, test], axes=1), coding)
        right[test] = (found == items.y[test]).reshape(len(test), -1).mean(axis=1)
    return float(np.average(right, weights=items.sample_weight))
