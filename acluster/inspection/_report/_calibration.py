"""How well probabilities agree with frequencies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acluster.inspection._report._predictions import Predictions

_N_BINS = 10


@dataclass(frozen=True)
class Calibration:
    """The reliability curve, and how far it is from the diagonal.

    Attributes
    ----------
    what : str
        What the probabilities are of.

    edges : ndarray of shape (n_bins + 1,)
        The ends of the bins, which have the same width.

    counts : ndarray of shape (n_bins,)
        The number of probabilities in each bin.

    mean_probability, frequency : ndarray of shape (n_bins,)
        Their mean, and how often they were right; NaN in empty bins.
    """

    what: str
    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    mean_probability: NDArray[np.float64]
    frequency: NDArray[np.float64]

    @property
    def expected_error(self) -> float:
        """The expected calibration error: the mean distance of the bins, weighted by counts."""
        used = self.counts > 0
        distance = np.abs(self.frequency - self.mean_probability)[used]
        return float(np.average(distance, weights=self.counts[used]))


def calibration_of(predictions: Predictions, probabilities: NDArray[np.float64]) -> Calibration:
    """Compare the probabilities with the labels.

    Of several classes, only the probability of the predicted one counts; of two classes, that of
    the second; of several labels per item, all.
    """
    if predictions.kind == "multiclass":
        values = probabilities[np.arange(len(probabilities)), predictions.predicted]
        events = predictions.true == predictions.predicted
        what = "probability of the predicted class"
    elif predictions.kind == "binary":
        values, events = probabilities[:, 1], predictions.true == 1
        what = f"probability of {predictions.names[1]}"
    else:
        values, events = probabilities.ravel(), predictions.true.ravel() > 0
        what = "probability of a label"
    bins = np.minimum((values * _N_BINS).astype(np.int64), _N_BINS - 1)
    counts = np.bincount(bins, minlength=_N_BINS)
    nothing = np.full(_N_BINS, np.nan)
    means = [
        np.divide(np.bincount(bins, of, _N_BINS), counts, out=nothing.copy(), where=counts > 0)
        for of in (values, events)
    ]
    return Calibration(what, np.linspace(0, 1, _N_BINS + 1), counts, *means)
