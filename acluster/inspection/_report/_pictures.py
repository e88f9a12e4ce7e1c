"""Figures of matplotlib as images that are a part of the page."""

from __future__ import annotations

import base64
import io
import warnings
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from acluster.inspection._report._blocks import Picture, shortened
from acluster.inspection._report._calibration import Calibration

_PIXELS_PER_INCH = 96  # of a page
_SHARPNESS = 2  # pixels of a PNG per pixel of the page
_MAX_CLASS_NAME = 24  # characters beside a matrix
_MAX_VECTORS = 100_000  # bytes of an SVG, which is sharper, before a PNG is smaller

# SVG keeps text as text, which readers draw with fonts for any script. The identifiers of its parts
# are the same every time, and titles may begin with a dollar sign.
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "acluster",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,
}


def check_matplotlib() -> None:
    """Check that pictures can be drawn, before hours are spent on predictions.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise ImportError(
            "A report needs matplotlib; install acluster with its extra 'report'."
        ) from None


def new_figure(
    width: float, height: float, layout: Literal["constrained"] | None = "constrained"
) -> Any:
    """Return a figure of this size in inches, which pyplot does not know.

    `layout` is what arranges its parts.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout)


def style() -> Any:
    """Return the context in which pictures are drawn."""
    import matplotlib as mpl

    return mpl.rc_context(_STYLE)


def picture_of(figure: Any, alt: str, caption: str = "") -> Picture:
    """Return a figure as an SVG or, if that is large, as a PNG.

    Parameters
    ----------
    figure : matplotlib Figure
        What to draw.

    alt, caption : str
        As in `Picture`.
    """
    width = round(figure.get_size_inches()[0] * _PIXELS_PER_INCH)
    with warnings.catch_warnings():
        # Names may be in a script that the fonts of matplotlib lack.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        dpi = _SHARPNESS * _PIXELS_PER_INCH  # in an SVG, that of strips of color
        content = _drawn(figure, format="svg", dpi=dpi, metadata={"Date": None})
        kind = "svg+xml"
        if len(content) > _MAX_VECTORS:
            content, kind = (
                _drawn(figure, format="png", dpi=dpi, metadata={"Software": None}),
                "png",
            )
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return Picture(source, alt, caption, width)


def _drawn(figure: Any, **options: Any) -> bytes:
    with io.BytesIO() as content:
        figure.savefig(content, **options)
        return content.getvalue()


def draw_sizes(lengths: dict[str, NDArray[np.int64]]) -> Any:
    """Draw a histogram of the sizes of the sets, one row per modality; empty sets are left out."""
    figure = new_figure(5.2, 1.1 + 1.2 * len(lengths))
    for axes, (name, sizes) in zip(
        figure.subplots(len(lengths), squeeze=False)[:, 0], lengths.items(), strict=True
    ):
        present = sizes[sizes > 0]
        is_wide = len(present) and present.max() > 50 * present.min()
        axes.hist(present, bins=_bins(present, bool(is_wide)), color="#4477aa")
        axes.set_ylabel("items")
        axes.yaxis.get_major_locator().set_params(integer=True)
        if is_wide:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.xaxis.set_minor_formatter("")
        else:
            axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_title(shortened(name), loc="left", fontsize="medium")
    axes.set_xlabel("local features per item")
    return figure


def _bins(sizes: NDArray[np.int64], is_wide: bool) -> NDArray[np.floating[Any]]:
    if not len(sizes):
        return np.array([0.0, 1.0])
    least, most = int(sizes.min()), int(sizes.max())
    if is_wide:
        return np.asarray(np.geomspace(least, most + 1, 31))
    step = -(-(most - least + 1) // 30)  # bins of whole numbers are of equal width
    return np.arange(least, most + step + 1, step) - 0.5


def draw_confusion(counts: NDArray[np.int64], names: list[str]) -> Any:
    """Draw a confusion matrix of scikit-learn."""
    from sklearn.metrics import ConfusionMatrixDisplay

    shown = [shortened(name, _MAX_CLASS_NAME) for name in names]
    # A cell is as wide as its number; a letter is less than a tenth of an inch.
    cell = max(0.42, 0.14 + 0.085 * len(str(counts.max())))
    side = 0.8 + max(cell * len(names), 1.6) + 0.085 * max(map(len, shown))
    figure = new_figure(side, side)
    axes = figure.subplots()
    display = ConfusionMatrixDisplay(counts, display_labels=shown)
    display.plot(
        ax=axes, cmap="Blues", colorbar=False, xticks_rotation="vertical", values_format="d"
    )
    if len(names) > 10:
        for text in display.text_.ravel():
            text.set_fontsize("small")
    axes.set(xlabel="predicted", ylabel="true")
    axes.spines[:].set_visible(True)
    return figure


def draw_calibration(calibration: Calibration) -> Any:
    """Draw the reliability curve, with the number of items in each bin below."""
    figure = new_figure(4.8, 4.4)
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    used = calibration.counts > 0
    above.plot([0, 1], [0, 1], color="0.6", linestyle="--", label="perfect calibration")
    above.plot(
        calibration.mean_probability[used],
        calibration.frequency[used],
        color="#4477aa",
        marker="o",
        label="this classifier",
    )
    above.set(ylabel="observed frequency", ylim=(-0.03, 1.03), xlim=(-0.01, 1.01))
    above.legend(fontsize="small")
    edges = calibration.edges
    below.bar(edges[:-1], calibration.counts, np.diff(edges), align="edge", color="#4477aa")
    below.yaxis.get_major_locator().set_params(integer=True)
    below.set(ylabel="count", xlabel=shortened(calibration.what))
    return figure


def draw_importances(mean: dict[str, float], spread: dict[str, float]) -> Any:
    """Draw the importances of the modalities, with their standard deviations."""
    figure = new_figure(5.2, 0.9 + 0.35 * len(mean))
    axes, names = figure.subplots(), [shortened(name) for name in mean]
    rows = np.arange(len(names))
    axes.barh(rows, [*mean.values()], xerr=[*spread.values()], color="#4477aa", ecolor="0.3")
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    axes.axvline(0, color="0.3", linewidth=0.8)
    axes.set_xlabel("decrease in accuracy")
    return figure
