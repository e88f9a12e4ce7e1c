"""A display of the attention weights of one item over the positions of its local features."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acluster.inspection._item import arrays_by_modality, attend, check_units
from acluster.inspection._map_frame import MapFrame, choose_modality

_WIDTH, _N_COLUMNS = 2.4, 4  # of one of several maps, in inches, and how many are side by side


class AttentionMapDisplay:
    """Attention weights of one item as a map over the positions x and y of its local features.

    Local features on a regular grid, such as the tiles of a slide or the patches of an image, are
    cells without gaps and overlaps. Tiles that are not on one grid are squares, and other local
    features are points. The grid is found from the positions. Weights at the same position are
    added up. Create a display with `from_estimator` or `from_attention`, which also plot it.

    Parameters
    ----------
    attention : array-like of shape (L, N)
        The weights of the N units on the L local features of the item.

    places : mapping of str to array-like of shape (L,), data frame, or FeatureSets of one item
        The positions, in the columns "x" and "y" of any unit: x grows to the right and y downwards,
        as in images. Other columns are ignored.

    thumbnail : image, optional
        An image to draw below the map: an array of shape (height, width) in any unit, or of shape
        (height, width, 3 or 4) with integers from 0 to 255 or floats from 0 to 1.

    extent : tuple of float, optional
        The left, right, bottom and top edges of the thumbnail, in the units of x and y. By default
        its upper left corner is at (0, 0), and `scale` gives its size.

    scale : float, optional
        The width of a pixel of the thumbnail in the units of x and y, 1 by default. For positions
        in pixels of a slide, this is the factor by which the thumbnail is smaller.

    tile_size : float, optional
        The width of a tile, in the units of x and y. By default it is the spacing of the tiles.
        Pass it if tiles overlap, are far apart, or if there is only one.

    anchor : {"corner", "center"}, default="corner"
        Whether x and y are the upper left corner or the center of a tile. Points have no corners.

    modality : str, optional
        The name of the modality, for the titles.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes, shape (n_maps,)
        The Axes, one per map.

    maps_ : list of matplotlib artists
        The map in each of the Axes: an image, a collection of polygons or one of points. Empty if
        the item has no local features.

    figure_ : matplotlib Figure
        The figure that contains them.

    See Also
    --------
    AttentionDisplay : The weights over time, or in the order of the local features.

    Notes
    -----
    Classifiers have `n_attended=5` by default, so that each unit gives a weight to five local
    features at most, and the map is nearly empty. For maps, fit with ``n_attended=None``.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster import AttentionClusterClassifier, FeatureSets
    >>> from acluster.inspection import AttentionMapDisplay
    >>> rng = np.random.default_rng(0)
    >>> grid = {"x": np.tile([0, 32, 64], 2), "y": np.repeat([0, 32], 3)}
    >>> X = FeatureSets.from_arrays(rng.normal(size=(10, 6, 4)), places=[grid] * 10)
    >>> clf = AttentionClusterClassifier(cluster_size=2, n_attended=None, max_iter=5)
    >>> display = AttentionMapDisplay.from_estimator(clf.fit(X, [0, 1] * 5), X[[3]])
    >>> display.maps_[0].get_array().shape
    (2, 3)
    """

    def __init__(
        self,
        attention: ArrayLike,
        places: Any,
        *,
        thumbnail: Any = None,
        extent: Sequence[float] | None = None,
        scale: float | None = None,
        tile_size: float | None = None,
        anchor: str = "corner",
        modality: str | None = None,
    ) -> None:
        if isinstance(attention, Mapping):
            raise TypeError(
                f"attention is a dict of the modalities {[*attention]}; a map shows one of them. "
                "Pass attention[name]."
            )
        self.attention = arrays_by_modality(attention)[None]
        self.frame = MapFrame(
            places,
            len(self.attention),
            thumbnail=thumbnail,
            extent=extent,
            scale=scale,
            tile_size=tile_size,
            anchor=anchor,
        )
        self.modality = modality

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        item: Any,
        *,
        places: Any = None,
        modality: str | None = None,
        thumbnail: Any = None,
        extent: Sequence[float] | None = None,
        scale: float | None = None,
        tile_size: float | None = None,
        anchor: str = "corner",
        units: Sequence[int] | None = None,
        ax: Any = None,
        cmap: str = "viridis",
        alpha: float | None = None,
        colorbar: bool = True,
    ) -> Self:
        """Plot a map of the attention weights of a fitted classifier on an item.

        Parameters
        ----------
        estimator : fitted classifier with ``attention_weights``
            The classifier to inspect. Fit it with ``n_attended=None``.

        item : FeatureSets or MultimodalFeatureSets of one item, array-like of shape (L, M), or \
                dict of str to array-like
            The local features of one item: ``X[[i]]``, which keeps their places, or ``X[i]``.

        places : mapping of str to array-like of shape (L,), data frame or FeatureSets, optional
            The positions; see the class. By default they are the places of `item`.

        modality : str, optional
            The modality to draw; required if several have positions.

        thumbnail, extent, scale, tile_size, anchor : optional
            See the class.

        units : sequence of int, optional
            The units to draw, one small map each. By default there is one map, of the mean over all
            units.

        ax : Axes, or sequence of one per map, optional
            Axes to draw in. By default a new figure is created.

        cmap : str or Colormap, default="viridis"
            Colormap of the weights. All maps share its limits, which are 0 and the largest weight.

        alpha : float, optional
            Opacity of the map from 0 to 1. By default it is 1; over a thumbnail, it grows with the
            weight from 0.15 to 0.75, so that the image can be seen where the weights are small.

        colorbar : bool, default=True
            Whether to draw a color bar.

        Returns
        -------
        AttentionMapDisplay

        Raises
        ------
        TypeError
            If the estimator has no attention units.

        ValueError
            If `item` is a container of several items, there are no positions, `modality` is not one
            that has them, or another argument does not fit the item.

        sklearn.exceptions.NotFittedError
            If the estimator is not fitted.
        """
        attention, found = attend(estimator, item)
        name = choose_modality([*attention], found, modality, places is not None)
        display = cls(
            attention[name],
            found[name] if places is None else places,
            thumbnail=thumbnail,
            extent=extent,
            scale=scale,
            tile_size=tile_size,
            anchor=anchor,
            modality=name,
        )
        return display.plot(ax, units=units, cmap=cmap, alpha=alpha, colorbar=colorbar)

    @classmethod
    def from_attention(
        cls,
        attention: ArrayLike,
        places: Any,
        *,
        thumbnail: Any = None,
        extent: Sequence[float] | None = None,
        scale: float | None = None,
        tile_size: float | None = None,
        anchor: str = "corner",
        modality: str | None = None,
        units: Sequence[int] | None = None,
        ax: Any = None,
        cmap: str = "viridis",
        alpha: float | None = None,
        colorbar: bool = True,
    ) -> Self:
        """Plot a map of given attention weights of an item.

        Parameters
        ----------
        attention : array-like of shape (L, N)
            One item of the result of ``attention_weights``, in one modality.

        places : mapping of str to array-like of shape (L,), data frame, or FeatureSets of one item
            The positions, such as ``X.places[[i]]``; see the class.

        thumbnail, extent, scale, tile_size, anchor, modality : optional
            See the class.

        units, ax, cmap, alpha, colorbar : optional
            As in `from_estimator`.

        Returns
        -------
        AttentionMapDisplay

        Raises
        ------
        TypeError, ValueError
            If an argument is not valid or does not fit the attention.
        """
        display = cls(
            attention,
            places,
            thumbnail=thumbnail,
            extent=extent,
            scale=scale,
            tile_size=tile_size,
            anchor=anchor,
            modality=modality,
        )
        return display.plot(ax, units=units, cmap=cmap, alpha=alpha, colorbar=colorbar)

    def plot(
        self,
        ax: Any = None,
        *,
        units: Sequence[int] | None = None,
        cmap: str = "viridis",
        alpha: float | None = None,
        colorbar: bool = True,
    ) -> Self:
        """Draw the maps.

        Parameters
        ----------
        ax, units, cmap, alpha, colorbar : optional
            As in `from_estimator`.

        Returns
        -------
        AttentionMapDisplay
            The display, with `axes_`, `maps_` and `figure_` set.
        """
        titles, values = self._values(units)
        self.axes_, self.maps_ = self.frame.draw(
            ax,
            values,
            titles,
            width=_WIDTH,
            n_columns=_N_COLUMNS,
            cmap=cmap,
            limits=(0, values.max(initial=0) or 1),
            alpha=alpha,
        )
        self.figure_ = self.axes_[0].figure
        if colorbar and self.maps_:
            bar = self.figure_.colorbar(self.maps_[0], ax=[*self.axes_], label="attention weight")
            bar.formatter.set_powerlimits((-3, 3))
        return self

    def _values(self, units: Sequence[int] | None) -> tuple[list[str], NDArray[np.float64]]:
        """Return the title of each map, and the weights in its columns, (L, n_maps)."""
        n_units = self.attention.shape[1]
        chosen = check_units(units, n_units, None)
        prefix = "" if self.modality is None else f"{self.modality}: "
        if units is None and n_units > 1:
            titles = [f"mean of {n_units} units"]
            values = self.attention.mean(axis=1, keepdims=True, dtype=np.float64)
        else:
            titles = [f"unit {unit}" for unit in chosen]
            values = self.attention[:, chosen].astype(np.float64)
        if not len(self.attention):
            titles = ["missing"] * len(titles)
        return [prefix + title for title in titles], values
