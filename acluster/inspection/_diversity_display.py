"""A display of the similarity and the entropy of the attention units."""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acluster import MultimodalFeatureSets
from acluster.inspection._axes import as_axes, label_rows
from acluster.inspection._diversity import order_by_similarity, unit_entropy, unit_similarity
from acluster.inspection._item import check_attends

_DEAD_ENTROPY = 0.99  # of the largest possible


class UnitDiversityDisplay:
    """Similarity of the attention units as a heat map, with their entropies as bars.

    Similar units are drawn next to each other. Create a display with `from_estimator` or
    `from_attention`, which also plot it.

    Parameters
    ----------
    similarity : array-like of shape (N, N)
        The result of :func:`unit_similarity`.

    entropy : array-like of shape (N,)
        The result of :func:`unit_entropy`.

    Attributes
    ----------
    dead_units : ndarray of int
        Units that give all local features nearly the same weight, like a plain average: their
        normalized entropy is 0.99 or more. Units that see only a part of each set, because of
        `n_attended` or `pyramid_levels`, are not detected.

    order : ndarray of int, shape (N,)
        The order in which the units are drawn: that of the leaves of average-linkage clustering.

    ax_, entropy_ax_ : matplotlib Axes
        The Axes of the heat map, and of the bars to its right.

    figure_ : matplotlib Figure
        The figure that contains them.

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
                f"similarity has shape {self.similarity.shape}, but entropy has {n_units} units. "
                "Pass the results of unit_similarity and unit_entropy for the same attention."
            )
        self.dead_units: NDArray[np.int64] = np.flatnonzero(self.entropy >= _DEAD_ENTROPY)
        self.order = order_by_similarity(self.similarity)

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, *, modality: str | None = None, ax: Any = None
    ) -> Self:
        """Plot the units of a fitted classifier by their attention weights on X.

        Parameters
        ----------
        estimator : fitted classifier with ``attention_weights``
            Its units are compared.

        X : sets in any form that the estimator accepts
            The items on which to compare the units.

        modality : str, optional
            The modality whose units to plot; required if there are several.

        ax : Axes, optional
            Axes to draw in. By default a new figure is created.

        Returns
        -------
        UnitDiversityDisplay

        Raises
        ------
        TypeError
            If the estimator has no attention units.

        ValueError
            If there are several modalities and `modality` is not one of them.
        """
        check_attends(estimator)
        attention = estimator.attention_weights(X)
        if isinstance(attention, MultimodalFeatureSets):
            if modality is None and len(attention.names) == 1:
                (modality,) = attention.names
            if modality not in attention.names:
                raise ValueError(
                    f"modality={modality!r} is not one of {attention.names}. Units of different "
                    "modalities cannot be compared; pass the name of one."
                )
            attention = attention[modality]
        elif modality is not None:
            raise ValueError(
                f"modality={modality!r} was passed, but {type(estimator).__name__} has only one "
                "modality. Leave it out."
            )
        return cls.from_attention(attention, ax=ax)

    @classmethod
    def from_attention(cls, attention: Any, *, ax: Any = None) -> Self:
        """Plot the units by given attention weights.

        Parameters
        ----------
        attention : FeatureSets, or sequence of arrays of shape (L_i, N)
            The attention weights of one modality, as returned by ``attention_weights``.

        ax : Axes, optional
            Axes to draw in. By default a new figure is created.

        Returns
        -------
        UnitDiversityDisplay
        """
        return cls(unit_similarity(attention), unit_entropy(attention)).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the heat map and the bars.

        Parameters
        ----------
        ax : Axes, optional
            Axes to draw in; the bars take up part of them. By default a new figure is created.

        Returns
        -------
        UnitDiversityDisplay
            The display, with `ax_`, `entropy_ax_` and `figure_` set.
        """
        side = float(np.clip(1.5 + 0.22 * len(self.order), 3, 10))
        (self.ax_,) = as_axes(ax, 1, (1.4 * side, side))
        # mpl_toolkits is a part of matplotlib, whose absence as_axes has reported.
        from mpl_toolkits.axes_grid1 import make_axes_locatable

        self.figure_ = self.ax_.figure
        rows = np.arange(len(self.order))
        similarity = self.similarity[np.ix_(self.order, self.order)]
        image = self.ax_.imshow(similarity, vmin=0, vmax=1, cmap="viridis")
        names = [f"{unit} (dead)" if unit in self.dead_units else str(unit) for unit in self.order]
        label_rows(self.ax_, rows, names)
        self.ax_.set(xticks=[], title="similarity of attention", xlabel="unit", ylabel="unit")
        beside = make_axes_locatable(self.ax_)
        self.entropy_ax_ = beside.append_axes("right", size="25%", pad=0.1, sharey=self.ax_)
        self.entropy_ax_.barh(rows, self.entropy[self.order], color="0.5")
        self.entropy_ax_.set(xlim=(0, 1), xticks=[0, 1], title="entropy")
        self.entropy_ax_.tick_params(labelleft=False)
        self.figure_.colorbar(image, cax=beside.append_axes("right", size="4%", pad=0.15))
        return self
