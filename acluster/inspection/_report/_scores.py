"""Scores of fixed predictions, with bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster.inspection._report._predictions import Predictions

Floats = NDArray[np.float64]

_RESAMPLES = (100, 1000)  # the fewest and the most
_MAX_STEPS = 3e8  # of all resamples, a few seconds
_MAX_RANKED = 2e7  # probabilities that are sorted for ROC AUC, 300 MB


@dataclass(frozen=True)
class Score:
    """A score of all items.

    Attributes
    ----------
    name : str
        Such as "accuracy".

    value : float
        The score; NaN if it is not defined.

    low, high : float
        The ends of its confidence interval; NaN if there are fewer than two items or groups.
    """

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class HeldOutScores:
    """The scores of all items and of each class.

    Attributes
    ----------
    scores : list of Score
        Accuracy first or, with several labels per item, macro F1.

    precision, recall, f1, roc_auc : ndarray of shape (C,)
        By class or label; NaN where they are not defined.

    n_resamples : int
        The number of bootstrap resamples.

    n_units : int
        The number of items or groups that were drawn in each.
    """

    scores: list[Score]
    precision: Floats
    recall: Floats
    f1: Floats
    roc_auc: Floats
    n_resamples: int
    n_units: int


class _Ranking:
    """The items in the order of a probability, for ROC AUC with any weights."""

    def __init__(self, positive: NDArray[Any], probability: Floats) -> None:
        self.order = np.argsort(probability, kind="stable")
        self.positive = positive[self.order].astype(np.float64)
        # Items of equal probability count half against each other.
        self.starts = np.flatnonzero(np.diff(probability[self.order], prepend=-np.inf))

    def roc_auc(self, weights: Floats) -> float:
        ordered = weights[self.order]
        positive = ordered * self.positive
        negative = ordered - positive
        if len(self.starts) < len(self.order):
            positive = np.add.reduceat(positive, self.starts)
            negative = np.add.reduceat(negative, self.starts)
        below = np.cumsum(negative) - negative
        n_pairs = positive.sum() * negative.sum()
        return float(positive @ (below + negative / 2) / n_pairs) if n_pairs > 0 else np.nan


class _Scorer:
    """The scores as functions of the weights of the items, which a resample counts."""

    def __init__(self, predictions: Predictions) -> None:
        self.predictions = predictions
        true, predicted = predictions.true, predictions.predicted
        self.right = (true == predicted).reshape(len(true), -1).all(axis=1).astype(np.float64)
        self.losses: Floats | None = None
        self.rankings: list[_Ranking] | None = None
        probabilities = predictions.probabilities
        if probabilities is None:
            return
        self.losses = _losses(predictions, probabilities)
        if probabilities.size <= _MAX_RANKED:
            self.rankings = _rankings(predictions, probabilities)

    def counts(self, weights: Floats) -> tuple[Floats, Floats, Floats]:
        """Return the weights of the right, the predicted and the true items of each class."""
        true, predicted = self.predictions.true, self.predictions.predicted
        if not self.predictions.has_one_label:
            right: Floats = weights @ (true * predicted)
            return right, weights @ predicted, weights @ true
        n = self.predictions.n_classes
        # numpy does not say that the sums of weights have their dtype.
        sums: list[Any] = [
            np.bincount(true, weights * self.right, n),
            np.bincount(predicted, weights, n),
            np.bincount(true, weights, n),
        ]
        return sums[0], sums[1], sums[2]

    def roc_aucs(self, weights: Floats) -> Floats:
        """Return the ROC AUC of each class; that of the second of two."""
        return np.array([one.roc_auc(weights) for one in self.rankings or []])

    def __call__(self, weights: Floats) -> dict[str, float]:
        """Return the scores by name."""
        right, predicted, true = self.counts(weights)
        recall, f1 = _ratio(right, true), _ratio(2 * right, predicted + true)
        scores = {"accuracy": float(weights @ self.right / weights.sum())}
        if self.predictions.has_one_label:
            scores |= {"balanced accuracy": _mean(recall), "macro F1": _mean(f1)}
        else:
            micro = _ratio(2 * right.sum(keepdims=True), (predicted + true).sum(keepdims=True))
            scores = {
                "macro F1": _mean(f1),
                "micro F1": float(micro[0]),
                "all labels right": scores["accuracy"],
            }
        if self.losses is not None:
            scores["log-loss"] = float(weights @ self.losses / weights.sum())
        if self.rankings is not None:
            scores["ROC AUC"] = _mean(self.roc_aucs(weights))
        return scores


def held_out_scores(
    predictions: Predictions,
    groups: NDArray[Any] | None = None,
    *,
    n_resamples: int | None = None,
    random_state: np.random.RandomState | None = None,
) -> HeldOutScores:
    """Return the scores with the 95 % percentile intervals of a bootstrap.

    Parameters
    ----------
    predictions : Predictions
        Of n items.

    groups : ndarray of shape (n,), optional
        Whole groups are drawn. By default, single items.

    n_resamples : int, optional
        How often items are drawn; by default 1,000, or fewer if there are very many.

    random_state : RandomState, optional
        What draws.
    """
    rng = np.random.RandomState(0) if random_state is None else random_state
    scorer, n_items = _Scorer(predictions), len(predictions.true)
    found = scorer(np.ones(n_items))
    units = np.arange(n_items) if groups is None else np.unique(groups, return_inverse=True)[1]
    n_units = int(units.max()) + 1
    if n_resamples is None:
        n_steps = n_items * (3 + len(scorer.rankings or []))
        n_resamples = int(np.clip(_MAX_STEPS / n_steps, *_RESAMPLES))
    resampled: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(n_resamples if n_units > 1 else 0):
        weights = np.bincount(rng.randint(n_units, size=n_units), minlength=n_units)[units]
        for name, value in scorer(weights.astype(np.float64)).items():
            resampled[name].append(value)
    scores = [Score(name, found[name], *_interval(resampled[name])) for name in found]
    right, predicted, true = scorer.counts(np.ones(n_items))
    return HeldOutScores(
        scores,
        precision=_ratio(right, predicted),
        recall=_ratio(right, true),
        f1=_ratio(2 * right, predicted + true),
        roc_auc=_by_class(scorer, predictions, n_items),
        n_resamples=n_resamples,
        n_units=n_units,
    )


def _by_class(scorer: _Scorer, predictions: Predictions, n_items: int) -> Floats:
    """Return the ROC AUC of every class; both of two classes have the same."""
    if scorer.rankings is None:
        return np.full(predictions.n_classes, np.nan)
    return np.broadcast_to(scorer.roc_aucs(np.ones(n_items)), predictions.n_classes)


def _interval(values: list[float]) -> tuple[float, float]:
    """Return the ends of the 95 % percentile interval."""
    # In a resample without a class, ROC AUC may not be defined.
    defined = np.array([value for value in values if not np.isnan(value)])
    if not len(defined):
        return np.nan, np.nan
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def _losses(predictions: Predictions, probabilities: Floats) -> Floats:
    """Return the negative log-likelihood of each item, the mean over the labels if several."""
    smallest = predictions.rounding  # as in sklearn.metrics.log_loss
    clipped = np.clip(probabilities, smallest, 1 - smallest)
    if predictions.has_one_label:
        return -np.log(clipped[np.arange(len(clipped)), predictions.true])
    losses: Floats = -np.log(np.where(predictions.true > 0, clipped, 1 - clipped)).mean(axis=1)
    return losses


def _rankings(predictions: Predictions, probabilities: Floats) -> list[_Ranking]:
    """Return one ranking per class; only that of the second of two."""
    columns = [1] if predictions.kind == "binary" else range(predictions.n_classes)
    return [_Ranking(predictions.has(c), probabilities[:, c]) for c in columns]


def _ratio(part: Floats, whole: Floats) -> Floats:
    """Return the ratios; NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _mean(values: Floats) -> float:
    """Return the mean of the classes for which there is a value."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else np.nan
