"""The attention of one item, as a picture (figure 5 of the paper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acluster.inspection._axes import as_axes, check_attends

__all__ = ["AttentionDisplay"]

_BAR = 0.9  # the height of the largest weight, of a row's


class AttentionDisplay:
    """What the attention units look at in one item: a row per unit, a column per local feature.

    With thumbnails the weights are a map under them, as in figure 5 of the paper; without, bars.
    Make one by `from_estimator` or `from_attention`, which also draw it.

    Parameters
    ----------
    attention : ndarray of shape (L, N), or dict of str to such
        The weights on one item's local features, of one modality or by modality.

    thumbnails : sequence of L images, or dict of str to such, optional
        What stands for each local feature: arrays of shape (height, width), in any unit, or of
        shape (height, width, 3 or 4), colours as integers from 0 to 255 or as floats from 0 to 1.

    times : array-like of shape (L,), or dict of str to such, optional
        Where the bars of each local feature stand, in any unit; by default at 0 to L - 1. A map
        has them side by side.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes, shape (n_modalities,)
        Where it is drawn.

    figure_ : matplotlib Figure
        The figure of these.

    See Also
    --------
    UnitDiversityDisplay : How alike the units attend over many items.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.inspection import AttentionDisplay
    >>> attention = np.array([[0.7, 0.2], [0.2, 0.2], [0.1, 0.6]])
    >>> display = AttentionDisplay.from_attention(attention)
    >>> display.axes_[0].get_xlabel()
    'local feature'
    """

    def __init__(self, attention: Any, *, thumbnails: Any = None, times: Any = None) -> None:
        self.attention = _by_modality(attention)
        names = [*self.attention]
        for name, a in self.attention.items():
            if a.ndim != 2:
                raise ValueError(
                    f"attention{_of(name)} has shape {a.shape}; that of one item is (L, N). "
                    "Pass one item of what attention_weights(X) gives: attention_weights(X)[0]."
                )
        self.thumbnails = _for_each(names, thumbnails, "thumbnails")
        self.times = _for_each(names, times, "times")
        for kind, given in (("thumbnails", self.thumbnails), ("times", self.times)):
            for name, of_modality in given.items():
                n_wanted = len(self.attention[name])
                if of_modality is not None and len(of_modality) != n_wanted:
                    raise ValueError(
                        f"{kind}{_of(name)} are {len(of_modality)}, and the item has {n_wanted} "
                        "local features; pass one for each, in their order."
                    )
        for of_modality in self.thumbnails.values():
            for image in [] if of_modality is None else of_modality:
                _check_image(np.asarray(image))

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        item: Any,
        *,
        thumbnails: Any = None,
        times: Any = None,
        units: Sequence[int] | None = None,
        ax: Any = None,
        cmap: str = "gray",
    ) -> Self:
        """Draw what the units of a fitted classifier look at in an item.

        Parameters
        ----------
        estimator : classifier with ``attention_weights``
            Fitted.

        item : array-like of shape (L, M), or dict of str to such
            The local features of one item, as ``X[i]`` gives them.

        thumbnails : sequence of L images, or dict of str to such, optional
            What stands for each local feature.

        times : array-like of shape (L,), or dict of str to such, optional
            Where the bars of each local feature stand.

        units : sequence of int, optional
            The units to draw, in this order; by default all.

        ax : Axes, or a sequence with one for each modality, optional
            Where to draw; by default in a new figure.

        cmap : str or Colormap, default="gray"
            The colours of a map.

        Returns
        -------
        AttentionDisplay

        Raises
        ------
        TypeError
            If the estimator has no attention units.

        sklearn.exceptions.NotFittedError
            Before `fit`.
        """
        check_attends(estimator)
        attention = estimator.attention_weights([item])[0]
        display = cls(attention, thumbnails=thumbnails, times=times)
        return display.plot(ax, units=units, cmap=cmap)

    @classmethod
    def from_attention(
        cls,
        attention: Any,
        *,
        thumbnails: Any = None,
        times: Any = None,
        units: Sequence[int] | None = None,
        ax: Any = None,
        cmap: str = "gray",
    ) -> Self:
        """Draw attention weights of an item.

        Parameters
        ----------
        attention : ndarray of shape (L, N), or dict of str to such
            One item of what ``attention_weights`` gives.

        thumbnails, times, units, ax, cmap : optional
            As in `from_estimator`.

        Returns
        -------
        AttentionDisplay
        """
        return cls(attention, thumbnails=thumbnails, times=times).plot(ax, units=units, cmap=cmap)

    def plot(
        self, ax: Any = None, *, units: Sequence[int] | None = None, cmap: str = "gray"
    ) -> Self:
        """Draw it.

        Parameters
        ----------
        ax : Axes, or a sequence with one for each modality, optional
            Where to draw; by default in a new figure.

        units : sequence of int, optional
            The units to draw, in this order; by default all.

        cmap : str or Colormap, default="gray"
            The colours of a map.

        Returns
        -------
        AttentionDisplay
            Itself, with `axes_` and `figure_`.
        """
        chosen = {name: _chosen(a.shape[1], units, _of(name)) for name, a in self.attention.items()}
        longest = max(len(a) for a in self.attention.values())
        n_rows = max(len(of_modality) for of_modality in chosen.values())
        size = min(2 + 0.35 * longest, 16), min(1.2 + 0.35 * n_rows, 12) * len(chosen)
        self.axes_ = as_axes(ax, len(chosen), size)
        self.figure_ = self.axes_[0].figure
        for axes, (name, a) in zip(self.axes_, self.attention.items(), strict=True):
            own = a[:, chosen[name]]
            if self.thumbnails[name] is not None:
                _draw_map(axes, own, self.thumbnails[name], cmap)
                rows = np.arange(own.shape[1], dtype=float)
            else:
                _draw_bars(axes, own, self.times[name])
                rows = np.arange(own.shape[1], dtype=float)[::-1] + _BAR / 2
            axes.set_yticks(rows, [f"unit {unit}" for unit in chosen[name]], fontsize="small")
            if name is not None:
                axes.set_title(name if len(a) else f"{name}: missing", loc="left")
        return self


def _chosen(n_units: int, units: Sequence[int] | None, of: str) -> NDArray[np.int64]:
    if units is None:
        return np.arange(n_units)
    chosen = np.asarray(units)
    is_list = chosen.ndim == 1 and chosen.dtype.kind in "iu" and len(chosen)
    if not is_list or chosen.min() < 0 or chosen.max() >= n_units:
        raise ValueError(
            f"units={units!r} is no list of some of the {n_units} units{of}, from 0 to "
            f"{n_units - 1}."
        )
    return chosen


def _check_image(image: NDArray[Any]) -> None:
    is_image = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
    if not is_image or not image.size or image.dtype.kind not in "biuf":
        remedy = ""
        if image.ndim == 3 and image.shape[0] in (3, 4):
            remedy = " Colours come last: np.moveaxis(image, 0, -1)."
        raise ValueError(
            "A thumbnail is an array of numbers of shape (height, width) or (height, width, 3 or "
            f"4); there is one of {image.dtype} and shape {image.shape}.{remedy}"
        )
    if image.ndim == 3:
        highest = 1 if image.dtype.kind == "f" else 255
        if np.nanmin(image) < 0 or np.nanmax(image) > highest * (1 + 1e-3):
            raise ValueError(
                f"A thumbnail has colours from {np.nanmin(image):g} to {np.nanmax(image):g}; as "
                "integers they go from 0 to 255, as floats from 0 to 1."
            )


def _draw_map(axes: Any, a: NDArray[Any], thumbnails: Sequence[ArrayLike], cmap: str) -> None:
    """Weights as squares, a row per unit, and the thumbnails above, as wide as these."""
    n_features, n_units = a.shape
    if a.size:
        axes.imshow(a.T, cmap=cmap, vmin=0, aspect="equal")
    images, top = [np.asarray(image) for image in thumbnails], 0.0
    shades = _shades([image for image in images if image.ndim == 2])  # colours have their own
    for i, image in enumerate(images):
        height = image.shape[0] / image.shape[1]
        place = (i - 0.5, i + 0.5, -0.6, -0.6 - height)
        axes.imshow(image, extent=place, cmap="gray", aspect="equal", **shades)
        top = max(top, height)
    axes.set_xlim(-0.5, max(n_features, 1) - 0.5)
    axes.set_ylim(n_units - 0.5, -0.6 - top)
    axes.set_xticks([])


def _shades(images: list[NDArray[Any]]) -> dict[str, float]:
    """Black and white, the same for all of them."""
    if not images:
        return {}
    return {
        "vmin": float(np.nanmin([np.nanmin(image) for image in images])),
        "vmax": float(np.nanmax([np.nanmax(image) for image in images])),
    }


def _draw_bars(axes: Any, a: NDArray[Any], times: ArrayLike | None) -> None:
    """Weights as bars, a row per unit; the largest of all fills its row."""
    n_features, n_units = a.shape
    at = np.arange(n_features) if times is None else np.asarray(times, dtype=float)
    steps = np.diff(np.unique(at))
    width = _BAR * steps.min() if len(steps) else _BAR
    for unit in range(n_units):
        axes.axhline(n_units - 1 - unit, color="0.8", linewidth=0.8)
        if n_features:
            heights = a[:, unit] * (_BAR / max(a.max(), np.finfo(float).tiny))
            axes.bar(at, heights, width=width, bottom=n_units - 1 - unit)
    axes.set_ylim(0, n_units)
    axes.set_xlabel("local feature" if times is None else "time")
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _by_modality(attention: Any) -> dict[str | None, NDArray[Any]]:
    if not isinstance(attention, Mapping):
        return {None: np.asarray(attention)}
    if not attention:
        raise ValueError("attention is an empty dict; pass the weights of one modality at least.")
    return {name: np.asarray(of_modality) for name, of_modality in attention.items()}


def _for_each(names: list[str | None], given: Any, what: str) -> dict[str | None, Any]:
    """What was given by modality; for those that are left out, None."""
    if names == [None] or given is None:
        return dict.fromkeys(names, given)
    if len(names) == 1 and not isinstance(given, Mapping):
        return {names[0]: given}
    if not isinstance(given, Mapping) or not set(given) <= set(names):
        shown = [*given] if isinstance(given, Mapping) else type(given).__name__
        raise ValueError(
            f"{what} are of {shown}; the item has the modalities {names}: pass a dict from these "
            "to their own."
        )
    return {name: given.get(name) for name in names}


def _of(name: str | None) -> str:
    return "" if name is None else f"[{name!r}]"
