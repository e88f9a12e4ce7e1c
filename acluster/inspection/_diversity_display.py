"""Which units agree, which look everywhere: a picture of a cluster."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from acluster import MultimodalFeatureSets
from acluster.inspection._axes import as_axes, check_attends
from acluster.inspection._diversity import unit_entropy, unit_similarity

__all__ = ["UnitDiversityDisplay"]

_DEAD = 0.99  # of the largest entropy


class UnitDiversityDisplay:
    """How alike the units attend, as a map, and beside it how widely each spreads its weights.

    Units that agree stand together. Make one by `from_estimator` or `from_attention`, which also
    draw it.

    Parameters
    ----------
    similarity : array-like of shape (N, N)
        What :func:`unit_similarity` gives.

    entropy : array-like of shape (N,)
        What :func:`unit_entropy` gives.

    Attributes
    ----------
    dead_units : ndarray of int
        Units that weigh all local features alike, as Average does: with an entropy of 0.99 or more
        of the largest, on average. Units that see a part of a set only, by `n_attended` or
        `pyramid_levels`, are not found by this.

    order : ndarray of int, shape (N,)
        The units as they are drawn: by average linkage of their similarity.

    ax_, entropy_ax_ : matplotlib Axes
        Of the map, and of the bars at its right.

    figure_ : matplotlib Figure
        The figure of these.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.inspection import UnitDiversityDisplay
    >>> attention = [np.array([[0.9, 0.5, 0.1], [0.1, 0.5, 0.9]])]
    >>> UnitDiversityDisplay.from_attention(attention).dead_units
    array([1])
    """

    def __init__(self, similarity: ArrayLike, entropy: ArrayLike) -> None:
        self.similarity, self.entropy = np.asarray(similarity), np.asarray(entropy)
        n_units = len(self.entropy)
        if self.similarity.shape != (n_units, n_units):
            raise ValueError(
                f"similarity has shape {self.similarity.shape}, and entropy is of {n_units} units; "
                "pass what unit_similarity and unit_entropy give of the same attention."
            )
        self.dead_units: NDArray[np.int64] = np.flatnonzero(self.entropy >= _DEAD)
        self.order = _together(self.similarity)

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, *, modality: str | None = None, ax: Any = None
    ) -> Self:
        """Draw the units of a fitted classifier, by what they look at in X.

        Parameters
        ----------
        estimator : classifier with ``attention_weights``
            Fitted.

        X : sets in any form that the estimator takes
            The items to look at.

        modality : str, optional
            Which one, where there are several.

        ax : Axes, optional
            Where to draw; by default in a new figure.

        Returns
        -------
        UnitDiversityDisplay

        Raises
        ------
        TypeError
            If the estimator has no attention units.

        ValueError
            If there are several modalities and none was named.
        """
        check_attends(estimator)
        attention = estimator.attention_weights(X)
        if isinstance(attention, MultimodalFeatureSets):
            if modality is None and len(attention.names) == 1:
                (modality,) = attention.names
            if modality not in attention.names:
                raise ValueError(
                    f"modality={modality!r} is not one of {attention.names}; units of different "
                    "modalities do not compare, so name one."
                )
            attention = attention[modality]
        elif modality is not None:
            raise ValueError(
                f"modality={modality!r} was given, but {type(estimator).__name__} has only one."
            )
        return cls.from_attention(attention, ax=ax)

    @classmethod
    def from_attention(cls, attention: Any, *, ax: Any = None) -> Self:
        """Draw the units by their weights on many items.

        Parameters
        ----------
        attention : FeatureSets, or sequence of arrays of shape (L_i, N)
            What ``attention_weights`` gives, of one modality.

        ax : Axes, optional
            Where to draw; by default in a new figure.

        Returns
        -------
        UnitDiversityDisplay
        """
        return cls(unit_similarity(attention), unit_entropy(attention)).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw it.

        Parameters
        ----------
        ax : Axes, optional
            Where to draw; by default in a new figure. The bars take a part of it.

        Returns
        -------
        UnitDiversityDisplay
            Itself, with `ax_`, `entropy_ax_` and `figure_`.
        """
        side = float(np.clip(1.5 + 0.22 * len(self.order), 3, 10))
        (self.ax_,) = as_axes(ax, 1, (1.4 * side, side))
        from mpl_toolkits.axes_grid1 import make_axes_locatable  # there once matplotlib is

        self.figure_ = self.ax_.figure
        rows = np.arange(len(self.order))
        image = self.ax_.imshow(
            self.similarity[np.ix_(self.order, self.order)], vmin=0, vmax=1, cmap="viridis"
        )
        names = [f"{unit} (dead)" if unit in self.dead_units else str(unit) for unit in self.order]
        self.ax_.set_yticks(rows, names, fontsize="small")
        self.ax_.set_xticks([])
        self.ax_.set(title="similarity of attention", xlabel="unit", ylabel="unit")
        beside = make_axes_locatable(self.ax_)
        self.entropy_ax_ = beside.append_axes("right", size="25%", pad=0.1, sharey=self.ax_)
        self.entropy_ax_.barh(rows, self.entropy[self.order], color="0.5")
        self.entropy_ax_.set(xlim=(0, 1), xticks=[0, 1], title="entropy")
        self.entropy_ax_.tick_params(labelleft=False)
        scale = beside.append_axes("right", size="4%", pad=0.15)
        self.figure_.colorbar(image, cax=scale)
        return self


def _together(similarity: NDArray[Any]) -> NDArray[np.int64]:
    """The units in an order in which those that agree are neighbours."""
    if len(similarity) < 3:
        return np.arange(len(similarity))
    distances = np.clip(1 - (similarity + similarity.T) / 2, 0, None)
    np.fill_diagonal(distances, 0)
    return leaves_list(linkage(squareform(distances), "average", optimal_ordering=True))
