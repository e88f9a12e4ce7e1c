"""A display of the attention weights of one item over the positions of its local features."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acluster import FeatureSets
from acluster.inspection._axes import as_axes
from acluster.inspection._item import (
    attend,
    by_modality,
    check_image,
    check_one_item,
    check_units,
    columns_of,
)
from acluster.inspection._layouts import find_layout

_WIDTH, _SMALL_WIDTH = 5.5, 2.4  # of a single map and of one of several, in inches
_OPACITY = 0.15, 0.75  # of the smallest and the largest weight over a thumbnail
_N_COLORS = 256
_N_COLUMNS = 4


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
        self.attention = by_modality(attention)[None]
        self.x, self.y = _coordinates(places, len(self.attention))
        self.thumbnail = None if thumbnail is None else np.asarray(thumbnail)
        if self.thumbnail is not None:
            check_image(self.thumbnail)
        if anchor not in ("corner", "center"):
            raise ValueError(f"anchor={anchor!r} must be 'corner' or 'center'.")
        for name, size in (("scale", scale), ("tile_size", tile_size)):
            if size is not None and not 0 < size < np.inf:
                raise ValueError(f"{name}={size!r} must be a positive number.")
        self.extent = _check_extent(extent, scale, self.thumbnail)
        self.tile_size, self.anchor, self.modality = tile_size, anchor, modality

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
        name = _choose_modality([*attention], found, modality, places is not None)
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
        layout = None
        if len(self.attention):
            layout = find_layout(self.x, self.y, self.tile_size, self.anchor)
        edges = _union(self.extent, None if layout is None else layout.bounds)
        n_maps, n_columns = len(titles), min(len(titles), _N_COLUMNS)
        self.axes_ = as_axes(ax, n_maps, _figure_size(edges, n_maps), n_columns, "map")
        self.figure_, self.maps_ = self.axes_[0].figure, []
        colors: Any = cmap if alpha is not None or self.thumbnail is None else _faded(cmap)
        style = {"cmap": colors, "alpha": alpha, "vmin": 0, "vmax": values.max(initial=0) or 1}
        for axes, title, own in zip(self.axes_, titles, values.T, strict=True):
            axes.set(aspect="equal", xlim=edges[:2], ylim=edges[2:])
            axes.set_title(title, loc="left", fontsize="medium" if n_maps == 1 else "small")
            if self.thumbnail is not None:
                axes.imshow(self.thumbnail, extent=self.extent, cmap="gray")
            if layout is not None:
                self.maps_.append(layout.draw(axes, own, **style))
            # Images set the limits to their own edges.
            axes.set(xlim=edges[:2], ylim=edges[2:])
            if n_maps > 1 or (layout is None and self.thumbnail is None):
                axes.set(xticks=[], yticks=[])
            else:
                axes.set(xlabel="x", ylabel="y")
                axes.locator_params(nbins=6)
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


def _coordinates(places: Any, n_features: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the columns x and y of the places of one item."""
    if isinstance(places, FeatureSets):
        check_one_item(places, "places")
        places = columns_of(places)
    if places is None or isinstance(places, np.ndarray | list | tuple):
        raise TypeError(
            f"places has type {type(places).__name__}; pass a mapping with the columns 'x' and "
            "'y', a data frame, or the places of a container of one item, X.places[[i]]."
        )
    x, y = (_column(places, name, n_features) for name in ("x", "y"))
    return x, y


def _column(places: Any, name: str, n_features: int) -> NDArray[np.float64]:
    if name not in places:
        raise ValueError(
            f"places has the columns {[*places]}, but a map needs 'x' and 'y'. For times, draw an "
            "AttentionDisplay."
        )
    column = np.asarray(places[name], dtype=np.float64)
    if column.shape != (n_features,):
        raise ValueError(
            f"places[{name!r}] has shape {column.shape}, but the item has {n_features} local "
            "features. Pass one number per local feature, in their order."
        )
    if not np.isfinite(column).all():
        i = int(np.flatnonzero(~np.isfinite(column))[0])
        raise ValueError(
            f"places[{name!r}] is {column[i]} for local feature {i}; a position must be finite."
        )
    return column


def _choose_modality(
    names: list[str | None], places: Mapping[Any, Any], given: str | None, has_own: bool
) -> str | None:
    """Return the modality to draw: the given one, or the only one that has positions."""
    candidates = [name for name in names if has_own or {"x", "y"} <= set(places.get(name, {}))]
    if not candidates:
        columns = {name: [*own] for name, own in places.items()}
        raise ValueError(
            f"item has no positions: its places have the columns {columns.get(None, columns)}. "
            "Pass a container with the places 'x' and 'y', X[[i]], or places={'x': x, 'y': y}."
        )
    if given is None and len(candidates) == 1:
        return candidates[0]
    if given not in candidates:
        known = "the item has one modality, without a name" if candidates == [None] else candidates
        raise ValueError(
            f"modality={given!r} is not among those with positions: {known}. A map shows one "
            "modality; pass its name."
        )
    return given


def _check_extent(
    extent: Sequence[float] | None, scale: float | None, thumbnail: NDArray[Any] | None
) -> tuple[float, ...] | None:
    """Return the edges of the thumbnail in the units of x and y; None without thumbnail."""
    if thumbnail is None:
        if extent is not None or scale is not None:
            raise ValueError(
                "extent and scale describe a thumbnail, but thumbnail is None. Pass it too."
            )
        return None
    height, width = thumbnail.shape[:2]
    if extent is None:
        factor = 1 if scale is None else scale
        return 0.0, width * factor, height * factor, 0.0
    if scale is not None:
        raise ValueError(f"extent={extent!r} and scale={scale!r} exclude each other; pass one.")
    edges = np.asarray(extent, dtype=np.float64)
    if edges.shape != (4,) or not np.isfinite(edges).all() or 0 in np.diff(edges)[::2]:
        raise ValueError(
            f"extent={extent!r} must be the left, right, bottom and top edges of the thumbnail, in "
            "the units of x and y."
        )
    left, right, bottom, top = map(float, edges)
    return left, right, bottom, top


def _union(*boxes: tuple[float, ...] | None) -> tuple[float, float, float, float]:
    """Return the left, right, bottom and top edges around all boxes; bottom has the largest y."""
    edges = np.array([box for box in boxes if box is not None] or [(0, 1, 1, 0)])
    x, y = edges[:, :2], edges[:, 2:]
    return float(x.min()), float(x.max()), float(y.max()), float(y.min())


def _faded(cmap: Any) -> Any:
    """Return a colormap whose colors for small values let an image show through."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    share = np.linspace(0, 1, _N_COLORS)
    colors = colormaps.get_cmap(cmap)(share)
    lowest, highest = _OPACITY
    # The square root keeps weights of a tenth of the largest visible.
    colors[:, 3] = lowest + (highest - lowest) * np.sqrt(share)
    return ListedColormap(colors)


def _figure_size(edges: tuple[float, float, float, float], n_maps: int) -> tuple[float, float]:
    """Return the width and height of a figure, with room for titles and a color bar, in inches."""
    left, right, bottom, top = edges
    n_columns = min(n_maps, _N_COLUMNS)
    n_rows = -(-n_maps // n_columns)
    width = _WIDTH if n_maps == 1 else _SMALL_WIDTH
    height = float(np.clip(width * (bottom - top) / (right - left), width / 3, 2 * width))
    return n_columns * width + (2.0 if n_maps == 1 else 1.2), n_rows * (height + 0.3) + 0.4
