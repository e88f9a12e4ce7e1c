"""How much the attention units differ from each other: figures out of their weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from acluster import FeatureSets, MultimodalFeatureSets

__all__ = ["unit_entropy", "unit_similarity"]

_TOLERANCE = 0.01  # of a sum of weights: half precision rounds each to a thousandth


def unit_similarity(attention: FeatureSets) -> NDArray[np.float64]:
    """How alike the units attend: the cosine of their weights on a set, mean over the sets.

    Parameters
    ----------
    attention : FeatureSets
        What ``attention_weights`` of a classifier gives: arrays of shape (L_i, N). With
        several modalities, that of one. Items without local features count for nothing.

    Returns
    -------
    ndarray of shape (N, N)
        Between 0, where two units never weigh the same local feature, and 1, where they
        always weigh alike, as on the diagonal.

    Raises
    ------
    ValueError, TypeError
        If `attention` has no local features, a unit's weights on a set do not sum to 1, or it is
        not a sequence of two-dimensional arrays of equal width.

    Notes
    -----
    Sets of one local feature leave no choice; there any two units are alike.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.inspection import unit_similarity
    >>> unit_similarity([np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])])
    array([[1., 1., 0.],
           [1., 1., 0.],
           [0., 0., 1.]])
    """
    weights, offsets = _packed(attention)
    norms = np.sqrt(np.add.reduceat(weights**2, offsets[:-1]))
    unit_vectors = weights / np.repeat(norms, np.diff(offsets), axis=0)
    # ⟨a, b⟩ summed over rows of all sets is the sum over the sets of their products.
    return unit_vectors.T @ unit_vectors / (len(offsets) - 1)


def unit_entropy(attention: FeatureSets) -> NDArray[np.float64]:
    """How widely every unit spreads its weights: their entropy, mean over the sets.

    Parameters
    ----------
    attention : FeatureSets
        What ``attention_weights`` of a classifier gives: arrays of shape (L_i, N). With
        several modalities, that of one. Sets of fewer than two local features leave no
        choice and are left out.

    Returns
    -------
    ndarray of shape (N,)
        ``-Σ a log a / log L``: 0 where all weight lies on one local feature, 1 where all
        L local features weigh the same, as under Average.

    Raises
    ------
    ValueError, TypeError
        If no set has two local features, a unit's weights on a set do not sum to 1, or
        `attention` is not a sequence of two-dimensional arrays of equal width.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.inspection import unit_entropy
    >>> unit_entropy([np.array([[1.0, 0.25], [0.0, 0.25], [0.0, 0.25], [0.0, 0.25]])])
    array([0., 1.])
    """
    weights, offsets = _packed(attention, at_least=2)
    information = -weights * np.log(np.where(weights > 0, weights, 1.0))
    entropy = np.add.reduceat(information, offsets[:-1])
    share = entropy / np.log(np.diff(offsets))[:, None]
    return share.mean(axis=0) + 0.0  # not -0.0


def _packed(
    attention: FeatureSets, at_least: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The weights of all sets that are large enough, end to end, and what cuts them."""
    if isinstance(attention, MultimodalFeatureSets):
        raise TypeError(
            f"attention is of several modalities, {', '.join(attention.names)}, and units of "
            "different modalities do not compare. Pass that of one: attention[name]."
        )
    if not isinstance(attention, FeatureSets):
        attention = FeatureSets.from_arrays(attention)
    items = np.flatnonzero(attention.lengths >= at_least)
    attention = attention[items]
    if len(attention) == 0:
        raise ValueError(
            f"attention has no set of {at_least} or more local features, so that there is nothing "
            "to tell the units by. Pass the attention weights of larger sets."
        )
    weights, offsets = attention.packed()
    weights = weights.astype(np.float64)
    sums = np.add.reduceat(weights, offsets[:-1])
    wrong = np.argwhere(~np.isclose(sums, 1, atol=_TOLERANCE))
    if len(wrong):
        place, unit = wrong[0]
        raise ValueError(
            f"attention[{items[place]}] is no attention: the weights of unit {unit} sum to "
            f"{sums[place, unit]:.4g}, not 1. Pass what attention_weights(X) of a classifier gives."
        )
    return weights, offsets
