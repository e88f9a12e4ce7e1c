"""Measures of how much the attention units differ from each other."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster import FeatureSets, MultimodalFeatureSets

# Weights in half precision are rounded to about three digits, so their sum may be off by 1 %.
_TOLERANCE = 0.01


def unit_similarity(attention: FeatureSets) -> NDArray[np.float64]:
    """Return the cosine similarity of the units' attention weights, averaged over the sets.

    Parameters
    ----------
    attention : FeatureSets
        The attention weights of one modality, arrays of shape (L_i, N), as returned by
        ``attention_weights`` of a classifier. Empty sets are ignored.

    Returns
    -------
    ndarray of shape (N, N)
        The similarity of each pair of units: 0 if they never attend to the same local feature, 1
        if their weights are always the same, as on the diagonal.

    Raises
    ------
    TypeError
        If `attention` has several modalities.

    ValueError
        If `attention` has no local features, is not a sequence of 2-D arrays with the same number
        of columns, or the weights of a unit on a set do not sum to 1.

    Notes
    -----
    On a set of one local feature all units have the weight 1, so their similarity is 1.

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
    # One product over the rows of all sets gives the sum of the cosines of the single sets.
    return unit_vectors.T @ unit_vectors / (len(offsets) - 1)


def unit_entropy(attention: FeatureSets) -> NDArray[np.float64]:
    """Return the normalized entropy of each unit's attention weights, averaged over the sets.

    Parameters
    ----------
    attention : FeatureSets
        The attention weights of one modality, arrays of shape (L_i, N), as returned by
        ``attention_weights`` of a classifier. Sets with fewer than two local features are
        ignored.

    Returns
    -------
    ndarray of shape (N,)
        The mean of ``-Σ a log a / log L``: 0 if all weight is on one local feature, 1 if all L
        local features have the same weight, as with ``weighting="average"``.

    Raises
    ------
    TypeError
        If `attention` has several modalities.

    ValueError
        If no set has two local features, `attention` is not a sequence of 2-D arrays with the
        same number of columns, or the weights of a unit on a set do not sum to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.inspection import unit_entropy
    >>> unit_entropy([np.array([[1.0, 0.25], [0.0, 0.25], [0.0, 0.25], [0.0, 0.25]])])
    array([0., 1.])
    """
    weights, offsets = _packed(attention, at_least=2)
    # The limit of a log a for a -> 0 is 0, where the logarithm alone would be infinite.
    information = -weights * np.log(np.where(weights > 0, weights, 1.0))
    entropy = np.add.reduceat(information, offsets[:-1])
    share = entropy / np.log(np.diff(offsets))[:, None]
    return share.mean(axis=0) + 0.0  # turns -0.0 into 0.0


def order_by_similarity(similarity: NDArray[Any]) -> NDArray[np.int64]:
    """Return the numbers of the units, similar units next to each other, shape (N,)."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(similarity) < 3:
        return np.arange(len(similarity))
    # squareform insists on an exactly symmetric matrix with zeros on the diagonal.
    distances = np.clip(1 - (similarity + similarity.T) / 2, 0, None)
    np.fill_diagonal(distances, 0)
    return leaves_list(linkage(squareform(distances), "average", optimal_ordering=True))


def _packed(attention: FeatureSets, at_least: int = 1) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the packed weights and the offsets of the sets with enough local features."""
    if isinstance(attention, MultimodalFeatureSets):
        raise TypeError(
            f"attention has several modalities, {', '.join(attention.names)}, whose units cannot "
            "be compared. Pass one of them: attention[name]."
        )
    if not isinstance(attention, FeatureSets):
        attention = FeatureSets.from_arrays(attention)
    items = np.flatnonzero(attention.lengths >= at_least)
    if len(items) == 0:
        raise ValueError(
            f"attention has no set of {at_least} or more local features. Pass the attention "
            "weights of larger sets."
        )
    weights, offsets = attention[items].packed()
    weights = weights.astype(np.float64)
    sums = np.add.reduceat(weights, offsets[:-1])
    wrong = np.argwhere(~np.isclose(sums, 1, atol=_TOLERANCE))
    if len(wrong):
        i, unit = wrong[0]
        raise ValueError(
            f"attention[{items[i]}] does not hold attention weights: those of unit {unit} sum to "
            f"{sums[i, unit]:.4g}, not 1. Pass the result of attention_weights(X) of a classifier."
        )
    return weights, offsets
