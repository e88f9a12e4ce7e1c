"""The frame of maps of one item: the positions of its local features, and an image below."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster.inspection._axes import as_axes
from acluster.inspection._item import as_columns, check_positions
from acluster.inspection._layouts import Layout, find_layout
from acluster.inspection._thumbnails import check_image

_WIDTH = 5.5  # of a single map, in inches
_OPACITY = 0.15, 0.75  # of no value and of the largest over a thumbnail
_N_COLORS = 256


class MapFrame:
    """What all maps of an item share.

    Its arguments are those of a display.

    Attributes
    ----------
    x, y : ndarray of shape (L,)
        The positions of the local features; y points down.

    thumbnail : ndarray or None
        The image to draw below the maps.

    extent : tuple of float or None
        The left, right, bottom and top edges of the thumbnail.

    tile_size : float or None
        The width of a tile, if it is known.

    anchor : {"corner", "center"}
        The point of a tile that the positions are of.

    Raises
    ------
    TypeError
        If `places` has no columns.

    ValueError
        If another argument is not valid or does not fit the item.
    """

    def __init__(
        self,
        places: Any,
        n_features: int,
        *,
        thumbnail: Any = None,
        extent: Sequence[float] | None = None,
        scale: float | None = None,
        tile_size: float | None = None,
        anchor: str = "corner",
    ) -> None:
        self.x, self.y = _coordinates(places, n_features)
        self.thumbnail = None if thumbnail is None else np.asarray(thumbnail)
        if self.thumbnail is not None:
            check_image(self.thumbnail)
        if anchor not in ("corner", "center"):
            raise ValueError(f"anchor={anchor!r} must be 'corner' or 'center'.")
        for name, size in (("scale", scale), ("tile_size", tile_size)):
            if size is not None and not 0 < size < np.inf:
                raise ValueError(f"{name}={size!r} must be a positive number.")
        self.extent = _check_extent(extent, scale, self.thumbnail)
        self.tile_size, self.anchor = tile_size, anchor

    def draw(
        self,
        ax: Any,
        values: NDArray[np.float64],
        titles: list[str],
        *,
        width: float,
        n_columns: int,
        cmap: Any,
        limits: tuple[float, float],
        alpha: float | None = None,
    ) -> tuple[NDArray[Any], list[Any]]:
        """Draw a map per column of values.

        Parameters
        ----------
        ax : Axes, sequence of Axes or None
            Where to draw. None makes a new figure.

        values : ndarray of shape (L, n_maps)
            The values to show as colors.

        titles : list of str
            A title per map.

        width : float
            Width of each of several maps of a new figure, in inches.

        n_columns : int
            Largest number of maps side by side.

        cmap : str or Colormap
            Colormap of the values.

        limits : tuple of float
            The values of the first and the last color. Over a thumbnail, colors become transparent
            towards the value 0.

        alpha : float, optional
            One opacity for all values.

        Returns
        -------
        axes : ndarray of Axes, shape (n_maps,)
            The Axes.

        maps : list of matplotlib artists
            The maps; empty without local features.
        """
        layout: Layout | None = None
        if len(self.x):
            layout = find_layout(self.x, self.y, self.tile_size, self.anchor)
        edges = _union(self.extent, None if layout is None else layout.bounds)
        n_maps, maps = len(titles), []
        n_columns = min(n_maps, n_columns)
        size = _figure_size(edges, n_maps, n_columns, width)
        all_axes = as_axes(ax, n_maps, size, n_columns, "map")
        fades = alpha is None and self.thumbnail is not None
        colors: Any = _faded(cmap, limits) if fades else cmap
        style = {"cmap": colors, "alpha": alpha, "vmin": limits[0], "vmax": limits[1]}
        for axes, title, own in zip(all_axes, titles, values.T, strict=True):
            axes.set(aspect="equal", xlim=edges[:2], ylim=edges[2:])
            font = "medium" if n_maps == 1 else "small"
            axes.set_title(title, loc="left", fontsize=font, parse_math=False)
            if self.thumbnail is not None:
                axes.imshow(self.thumbnail, extent=self.extent, cmap="gray")
            if layout is not None:
                maps.append(layout.draw(axes, own, **style))
            # Images set the limits to their own edges.
            axes.set(xlim=edges[:2], ylim=edges[2:])
            if n_maps > 1 or (layout is None and self.thumbnail is None):
                axes.set(xticks=[], yticks=[])
            else:
                axes.set(xlabel="x", ylabel="y")
                axes.locator_params(nbins=6)
        return all_axes, maps


def _coordinates(places: Any, n_features: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the columns x and y of the places of one item."""
    places = as_columns(places)
    if not {"x", "y"} <= set(places):
        raise ValueError(
            f"places has the columns {[*places]}, but a map needs 'x' and 'y'. For times, draw an "
            "AttentionDisplay, or an EvidenceDisplay with kind='rows'."
        )
    x, y = (check_positions(places[name], f"places[{name!r}]", n_features) for name in ("x", "y"))
    return x, y


def choose_modality(
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


def _faded(cmap: Any, limits: tuple[float, float]) -> Any:
    """Return a colormap whose colors for values around 0 let an image show through."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    share = np.linspace(0, 1, _N_COLORS)
    colors = colormaps.get_cmap(cmap)(share)
    values = limits[0] + share * (limits[1] - limits[0])
    lowest, highest = _OPACITY
    # The square root keeps values of a tenth of the largest visible.
    strength = np.sqrt(np.abs(values) / np.abs(limits).max())
    colors[:, 3] = lowest + (highest - lowest) * strength
    return ListedColormap(colors)


def _figure_size(
    edges: tuple[float, float, float, float], n_maps: int, n_columns: int, small_width: float
) -> tuple[float, float]:
    """Return the width and height of a figure, with room for titles and a color bar, in inches."""
    left, right, bottom, top = edges
    n_rows = -(-n_maps // n_columns)
    width = _WIDTH if n_maps == 1 else small_width
    height = float(np.clip(width * (bottom - top) / (right - left), width / 3, 2 * width))
    return n_columns * width + (2.0 if n_maps == 1 else 1.2), n_rows * (height + 0.3) + 0.4
