"""A display of the attention weights of one item, as in figure 5 of the paper."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acluster.inspection._axes import as_axes, label_rows
from acluster.inspection._bars import (
    MAX_BARS,
    MAX_BINS,
    bar_width,
    by_bin,
    share_range,
    smallest_gap,
)
from acluster.inspection._diversity import order_by_similarity
from acluster.inspection._item import (
    arrays_by_modality,
    attend,
    check_positions,
    check_units,
    index,
    match_modalities,
    match_thumbnails,
)
from acluster.inspection._thumbnails import check_image, gray_limits

_BAR_HEIGHT = 0.9  # of the largest weight, as a fraction of the height of a row
_MAX_SIZE = 16, 9  # of a new figure in inches, so that a screen can show it


class AttentionDisplay:
    """Attention weights of one item: one row per unit, one column per local feature.

    With thumbnails, the weights are a heat map below them, as in figure 5 of the paper. Without
    thumbnails, they are bars. For an item of more than 100 local features, the bars show the
    largest weight in each of at most 300 bins. Units with similar weights are next to each other.
    Create a display with `from_estimator` or `from_attention`, which also plot it.

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

    units_ : dict of str or None to ndarray of shape (n_units,)
        The numbers of the units from top to bottom, for each modality.

    See Also
    --------
    EvidenceDisplay : What each local feature adds to the logit of a class.
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
        self.attention = arrays_by_modality(attention)
        names = [*self.attention]
        self.thumbnails = match_thumbnails(self.attention, thumbnails)
        self.times = match_modalities(names, times, "times")
        self.time_unit = time_unit
        for name, given in self.times.items():
            if given is not None:
                n_features = len(self.attention[name])
                self.times[name] = check_positions(given, f"times{index(name)}", n_features)
        for name, images in self.thumbnails.items():
            if images is not None:
                _check_thumbnails(images, index(name))

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
            The units to draw, in this order. By default all units are drawn, ordered by similarity.

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
            The units to draw, in this order. By default all units are drawn, ordered by similarity.

        cmap : str or Colormap, default="gray"
            Colormap of the weights if there are thumbnails.

        Returns
        -------
        AttentionDisplay
            The display, with `axes_` and `figure_` set.
        """
        self.units_ = {name: _choose_units(units, a, name) for name, a in self.attention.items()}
        longest = max(len(a) for a in self.attention.values())
        n_rows, n_axes = max(map(len, self.units_.values())), len(self.units_)
        size = 2 + 0.35 * longest, (1.2 + 0.35 * n_rows) * n_axes
        self.axes_ = as_axes(ax, n_axes, (min(size[0], _MAX_SIZE[0]), min(size[1], _MAX_SIZE[1])))
        self.figure_ = self.axes_[0].figure
        on_clock = self._on_clock()
        gap = smallest_gap([self.times[name] for name in on_clock])
        for axes, (name, units_of) in zip(self.axes_, self.units_.items(), strict=True):
            drawn = self.attention[name][:, units_of]
            rows = np.arange(drawn.shape[1], dtype=float)
            if self.thumbnails[name] is not None:
                _draw_map(axes, drawn, self.thumbnails[name], cmap)
            else:
                unit = self.time_unit if name in on_clock else None
                _draw_bars(axes, drawn, self.times[name], unit, gap if name in on_clock else 1.0)
                rows = rows[::-1] + _BAR_HEIGHT / 2
            label_rows(axes, rows, [f"unit {unit}" for unit in units_of])
            if name is not None:
                title = name if len(drawn) else f"{name}: missing"
                axes.set_title(title, loc="left", parse_math=False)
        on_time = [a for a, name in zip(self.axes_, self.units_, strict=True) if name in on_clock]
        share_range(on_time)
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


def _check_thumbnails(images: Sequence[ArrayLike], where: str) -> None:
    """Raise a ValueError unless all can be drawn, and they are not too many to see."""
    if len(images) > MAX_BINS:
        raise ValueError(
            f"thumbnails{where} has {len(images)} images, too many to see; draw at most "
            f"{MAX_BINS} local features. Choose some: from_attention(attention[rows], "
            "thumbnails=[thumbnails[i] for i in rows])."
        )
    for image in images:
        check_image(np.asarray(image))


def _choose_units(
    units: Sequence[int] | None, a: NDArray[Any], modality: str | None
) -> NDArray[Any]:
    """Return the units to draw: those given, or all, similar ones next to each other."""
    chosen = check_units(units, a.shape[1], modality)
    if units is not None:
        return chosen
    norms = np.linalg.norm(a, axis=0)
    directions = a / np.where(norms > 0, norms, 1)
    return order_by_similarity(directions.T @ directions)


def _draw_map(axes: Any, a: NDArray[Any], thumbnails: Sequence[ArrayLike], cmap: str) -> None:
    """Draw the weights as squares, with the thumbnails above them in the same width."""
    n_features, n_units = a.shape
    if a.size:
        axes.imshow(a.T, cmap=cmap, vmin=0, aspect="equal")
    images, top = [np.asarray(image) for image in thumbnails], 0.0
    limits: Any = gray_limits(images)
    for i, image in enumerate(images):
        height = image.shape[0] / image.shape[1]
        extent = (i - 0.5, i + 0.5, -0.6, -0.6 - height)
        axes.imshow(image, extent=extent, cmap="gray", aspect="equal", **limits)
        top = max(top, height)
    # imshow has set the limits to those of the last image.
    xlim, ylim = (-0.5, max(n_features, 1) - 0.5), (n_units - 0.5, -0.6 - top)
    axes.set(xlim=xlim, ylim=ylim, xticks=[])


def _draw_bars(
    axes: Any, a: NDArray[Any], times: NDArray[Any] | None, unit: str | None, default_gap: float
) -> None:
    """Draw the weights as bars, one row per unit, scaled by the largest weight of all."""
    n_features, n_units = a.shape
    x: NDArray[Any] = np.arange(n_features) if times is None else times
    label = "local feature" if times is None else "time" if unit is None else f"time ({unit})"
    heights = a * (_BAR_HEIGHT / max(a.max(initial=0), np.finfo(float).tiny))
    rows = n_units - 1 - np.arange(n_units)
    for row in rows:
        axes.axhline(row, color="0.8", linewidth=0.8)
    if n_features > MAX_BARS:
        edges, heights, n_largest = by_bin(x, heights, np.maximum)
        for row, steps in zip(rows, heights.T, strict=True):
            axes.stairs(row + steps, edges, baseline=row, fill=True)
        if n_largest > 1:
            label += f", the largest weight in each of {len(edges) - 1} bins"
    elif n_features:
        width = bar_width(x, default_gap)
        for row, bars in zip(rows, heights.T, strict=True):
            axes.bar(x, bars, width=width, bottom=row)
    axes.set(ylim=(0, n_units), xlabel=label)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
