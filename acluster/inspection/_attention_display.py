"""A display of the attention weights of one item, as in figure 5 of the paper."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acluster.inspection._axes import as_axes
from acluster.inspection._item import attend, by_modality, check_image, check_units, index

_BAR_HEIGHT = 0.9  # of the largest weight, as a fraction of the height of a row
_MAX_COLUMNS = 300  # that can be seen, of a few pixels each
_MAX_BARS = 100  # drawn one by one, which takes matplotlib a millisecond each


class AttentionDisplay:
    """Attention weights of one item: one row per unit, one column per local feature.

    With thumbnails, the weights are a heat map below them, as in figure 5 of the paper. Without
    thumbnails, they are bars. For an item of more than 100 local features, the bars show the
    largest weight in each of at most 300 bins. Create a display with
    `from_estimator` or `from_attention`, which also plot it.

    Parameters
    ----------
    attention : ndarray of shape (L, N), or dict of str to ndarray
        The weights of the N units on the L local features of the item, or a dict by modality.

    thumbnails : sequence of L images, or dict of str to sequence, optional
        An image of each local feature, for at most 300: an array of shape (height, width) in any
        unit, or of shape (height, width, 3 or 4) with integers from 0 to 255 or floats from 0 to 1.

    times : array-like of shape (L,), or dict of str to array-like, optional
        The position of each local feature on the horizontal axis, in any unit. By default these
        are 0 to L - 1. Heat maps ignore them.

    time_unit : str, optional
        The unit of `times` on the label of the axis, such as "s". With a unit, all modalities that
        have times share one range, so that you can compare them.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes, shape (n_modalities,)
        The Axes, one per modality.

    figure_ : matplotlib Figure
        The figure that contains them.

    See Also
    --------
    AttentionMapDisplay : The weights over the positions of the local features in an image.
    UnitDiversityDisplay : Similarity of the units over many items.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.inspection import AttentionDisplay
    >>> attention = np.array([[0.7, 0.2], [0.2, 0.2], [0.1, 0.6]])
    >>> display = AttentionDisplay.from_attention(attention)
    >>> display.axes_[0].get_xlabel()
    'local feature'

    A container of one item can have places. If these are times, the bars stand at them:

    >>> from acluster import AttentionClusterClassifier, FeatureSets
    >>> times = [{"seconds": [0.0, 0.5, 1.0]}, {"seconds": [0.0, 0.5]}]
    >>> X = FeatureSets.from_arrays([np.eye(3), np.ones((2, 3))], places=times)
    >>> clf = AttentionClusterClassifier(cluster_size=2, max_iter=5).fit(X, [0, 1])
    >>> AttentionDisplay.from_estimator(clf, X[[0]]).axes_[0].get_xlabel()
    'time (s)'
    """

    def __init__(
        self,
        attention: Any,
        *,
        thumbnails: Any = None,
        times: Any = None,
        time_unit: str | None = None,
    ) -> None:
        self.attention = by_modality(attention)
        names = [*self.attention]
        self.thumbnails = _match_modalities(names, thumbnails, "thumbnails")
        self.times = _match_modalities(names, times, "times")
        self.time_unit = time_unit
        for kind, given in (("thumbnails", self.thumbnails), ("times", self.times)):
            for name, values in given.items():
                n_expected = len(self.attention[name])
                if values is not None and len(values) != n_expected:
                    raise ValueError(
                        f"{kind}{index(name)} has {len(values)} entries, but the item has "
                        f"{n_expected} local features. Pass one per local feature, in their order."
                    )
        for name, images in self.thumbnails.items():
            if images is not None and len(images) > _MAX_COLUMNS:
                raise ValueError(
                    f"thumbnails{index(name)} has {len(images)} images, too many to see; draw at "
                    f"most {_MAX_COLUMNS} local features. Choose some: from_attention(attention"
                    "[rows], thumbnails=[thumbnails[i] for i in rows])."
                )
            for image in [] if images is None else images:
                check_image(np.asarray(image))

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        item: Any,
        *,
        thumbnails: Any = None,
        times: Any = None,
        time_unit: str | None = None,
        units: Sequence[int] | None = None,
        ax: Any = None,
        cmap: str = "gray",
    ) -> Self:
        """Plot the attention weights of a fitted classifier on an item.

        Parameters
        ----------
        estimator : fitted classifier with ``attention_weights``
            The classifier to inspect.

        item : FeatureSets or MultimodalFeatureSets of one item, array-like of shape (L, M), or \
                dict of str to array-like
            The local features of one item: ``X[[i]]``, which keeps their places, or ``X[i]``.

        thumbnails : sequence of L images, or dict of str to sequence, optional
            An image of each local feature; see the class.

        times : array-like of shape (L,), or dict of str to array-like, optional
            The position of the bars of each local feature. By default this is the place "seconds",
            if `item` is a container with such places.

        time_unit : str, optional
            The unit of `times`; see the class. It is "s" for times that are taken from the places.

        units : sequence of int, optional
            The units to draw, in this order. By default all units are drawn.

        ax : Axes, or sequence of one per modality, optional
            Axes to draw in. By default a new figure is created.

        cmap : str or Colormap, default="gray"
            Colormap of the weights if there are thumbnails.

        Returns
        -------
        AttentionDisplay

        Raises
        ------
        TypeError
            If the estimator has no attention units.

        ValueError
            If `item` is a container of several items, or another argument does not fit it.

        sklearn.exceptions.NotFittedError
            If the estimator is not fitted.
        """
        attention, places = attend(estimator, item)
        seconds = {name: own["seconds"] for name, own in places.items() if "seconds" in own}
        if times is None and seconds:
            times, time_unit = seconds.get(None, seconds), "s"
        weights = attention.get(None, attention)
        display = cls(weights, thumbnails=thumbnails, times=times, time_unit=time_unit)
        return display.plot(ax, units=units, cmap=cmap)

    @classmethod
    def from_attention(
        cls,
        attention: Any,
        *,
        thumbnails: Any = None,
        times: Any = None,
        time_unit: str | None = None,
        units: Sequence[int] | None = None,
        ax: Any = None,
        cmap: str = "gray",
    ) -> Self:
        """Plot given attention weights of an item.

        Parameters
        ----------
        attention : ndarray of shape (L, N), or dict of str to ndarray
            One item of the result of ``attention_weights``.

        thumbnails, times, time_unit : optional
            See the class.

        units, ax, cmap : optional
            As in `from_estimator`.

        Returns
        -------
        AttentionDisplay
        """
        display = cls(attention, thumbnails=thumbnails, times=times, time_unit=time_unit)
        return display.plot(ax, units=units, cmap=cmap)

    def plot(
        self, ax: Any = None, *, units: Sequence[int] | None = None, cmap: str = "gray"
    ) -> Self:
        """Draw the attention weights.

        Parameters
        ----------
        ax : Axes, or sequence of one per modality, optional
            Axes to draw in. By default a new figure is created.

        units : sequence of int, optional
            The units to draw, in this order. By default all units are drawn.

        cmap : str or Colormap, default="gray"
            Colormap of the weights if there are thumbnails.

        Returns
        -------
        AttentionDisplay
            The display, with `axes_` and `figure_` set.
        """
        chosen = {name: check_units(units, a.shape[1], name) for name, a in self.attention.items()}
        longest = max(len(a) for a in self.attention.values())
        n_rows = max(len(rows) for rows in chosen.values())
        size = min(2 + 0.35 * longest, 16), min(1.2 + 0.35 * n_rows, 12) * len(chosen)
        self.axes_ = as_axes(ax, len(chosen), size)
        self.figure_ = self.axes_[0].figure
        on_clock = self._on_clock()
        gap = _smallest_gap([self.times[name] for name in on_clock])
        for axes, (name, a) in zip(self.axes_, self.attention.items(), strict=True):
            drawn = a[:, chosen[name]]
            rows = np.arange(drawn.shape[1], dtype=float)
            if self.thumbnails[name] is not None:
                _draw_map(axes, drawn, self.thumbnails[name], cmap)
            else:
                unit = self.time_unit if name in on_clock else None
                _draw_bars(axes, drawn, self.times[name], unit, gap if name in on_clock else 1.0)
                rows = rows[::-1] + _BAR_HEIGHT / 2
            axes.set_yticks(rows, [f"unit {unit}" for unit in chosen[name]], fontsize="small")
            if name is not None:
                axes.set_title(name if len(a) else f"{name}: missing", loc="left")
        _share_range(
            [axes for axes, name in zip(self.axes_, chosen, strict=True) if name in on_clock]
        )
        return self

    def _on_clock(self) -> list[str | None]:
        """Return the modalities whose bars stand at times of a known unit, and can be compared."""
        if self.time_unit is None:
            return []
        return [
            name
            for name, times in self.times.items()
            if times is not None and self.thumbnails[name] is None
        ]


def _share_range(axes: list[Any]) -> None:
    """Give all Axes the union of the horizontal ranges of those that have bars."""
    if limits := [one.get_xlim() for one in axes if one.patches]:
        low, high = np.transpose(limits)
        for one in axes:
            one.set_xlim(low.min(), high.max())


def _smallest_gap(times: list[ArrayLike]) -> float:
    """Return the smallest distance in time within any modality, or 1."""
    gaps = [np.diff(np.unique(np.asarray(own, dtype=float))) for own in times]
    return min((float(own.min()) for own in gaps if len(own)), default=1.0)


def _draw_map(axes: Any, a: NDArray[Any], thumbnails: Sequence[ArrayLike], cmap: str) -> None:
    """Draw the weights as squares, with the thumbnails above them in the same width."""
    n_features, n_units = a.shape
    if a.size:
        axes.imshow(a.T, cmap=cmap, vmin=0, aspect="equal")
    images, top = [np.asarray(image) for image in thumbnails], 0.0
    limits = {}
    if grays := [image.ravel() for image in images if image.ndim == 2]:
        values = np.concatenate(grays)  # the images share one scale
        limits = {"vmin": float(np.nanmin(values)), "vmax": float(np.nanmax(values))}
    for i, image in enumerate(images):
        height = image.shape[0] / image.shape[1]
        extent = (i - 0.5, i + 0.5, -0.6, -0.6 - height)
        axes.imshow(image, extent=extent, cmap="gray", aspect="equal", **limits)
        top = max(top, height)
    # imshow has set the limits to those of the last image.
    xlim, ylim = (-0.5, max(n_features, 1) - 0.5), (n_units - 0.5, -0.6 - top)
    axes.set(xlim=xlim, ylim=ylim, xticks=[])


def _draw_bars(
    axes: Any, a: NDArray[Any], times: ArrayLike | None, unit: str | None, default_gap: float
) -> None:
    """Draw the weights as bars, one row per unit, scaled by the largest weight of all."""
    n_features, n_units = a.shape
    x = np.arange(n_features) if times is None else np.asarray(times, dtype=float)
    label = "local feature" if times is None else "time" if unit is None else f"time ({unit})"
    heights = a * (_BAR_HEIGHT / max(a.max(initial=0), np.finfo(float).tiny))
    rows = n_units - 1 - np.arange(n_units)
    for row in rows:
        axes.axhline(row, color="0.8", linewidth=0.8)
    if n_features > _MAX_BARS:
        edges, heights = _largest_by_bin(x, heights)
        for row, steps in zip(rows, heights.T, strict=True):
            axes.stairs(row + steps, edges, baseline=row, fill=True)
        label += f", the largest weight in each of {len(edges) - 1} bins"
    elif n_features:
        gaps = np.diff(np.unique(x))
        # Bars do not overlap, unless their times are too close together to be told apart.
        width = _BAR_HEIGHT * (gaps.min() if len(gaps) else default_gap)
        width = max(width, np.ptp(x) / _MAX_COLUMNS)
        for row, bars in zip(rows, heights.T, strict=True):
            axes.bar(x, bars, width=width, bottom=row)
    axes.set(ylim=(0, n_units), xlabel=label)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)


def _largest_by_bin(x: NDArray[Any], heights: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the edges of bins of equal width, and the largest height of each unit in every bin."""
    n_bins = min(len(x), _MAX_COLUMNS)
    edges = np.linspace(x.min(), x.max() + (np.ptp(x) == 0), n_bins + 1)
    bins = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, n_bins - 1)
    largest = np.zeros((n_bins, heights.shape[1]))
    np.maximum.at(largest, bins, heights)
    return edges, largest


def _match_modalities(names: list[str | None], given: Any, parameter: str) -> dict[str | None, Any]:
    """Return the value given for each modality, or None."""
    if names == [None] or given is None:
        return dict.fromkeys(names, given)
    if len(names) == 1 and not isinstance(given, Mapping):
        return {names[0]: given}
    if not isinstance(given, Mapping) or not set(given) <= set(names):
        shown = [*given] if isinstance(given, Mapping) else type(given).__name__
        raise ValueError(
            f"{parameter} is given for {shown}, but the item has the modalities {names}. Pass a "
            "dict by modality."
        )
    return {name: given.get(name) for name in names}
