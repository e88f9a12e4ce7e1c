"""Images, which Pillow decodes, and slides, of which OpenSlide decodes any part."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from acluster.extraction._files import IMAGE, SLIDE
from acluster.extraction._media import MediaError, NoTrackError

if TYPE_CHECKING:
    from openslide import OpenSlide
    from PIL import Image

Pixels = NDArray[np.uint8]

_WHITE = (255, 255, 255)
_TOLERANCE = 1.01  # by which a level may be coarser than asked for
_BAND_PIXELS = 1 << 24  # that are decoded together where a level is much too fine
_UNEQUAL = 0.01  # of the width of a pixel, by which its height may differ
_MICRONS_PER_INCH = 25_400
_DARK = 1 << 12  # the values of cameras of 12 bits, in an image of 16
_TIFF = (".tif", ".tiff")  # of both kinds
# Pillow goes by the content of a file, and would run another program for some other formats.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
_EXTRA = "pip install 'acluster[slides]'"


class Picture(ABC):
    """An image or a slide, whose parts can be read at any scale. It is a context manager.

    All positions are in pixels of level 0, the finest one, and count from the upper left corner.

    Attributes
    ----------
    size : tuple of (int, int)
        The width and the height.

    box : tuple of (int, int, int, int)
        The left, top, right and bottom edges of what was scanned.

    mpp : float or None
        The width of a pixel in microns, if the file tells it.

    levels : list of (float, (int, int))
        For each level, the finest first, the width of its pixels in pixels of level 0, and its
        width and height.

    faults : list of str
        What is wrong with the file, and what is not read of it.
    """

    size: tuple[int, int]
    box: tuple[int, int, int, int]
    mpp: float | None
    levels: list[tuple[float, tuple[int, int]]]
    faults: list[str]

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, *_: object) -> None:
        """Close the file."""

    @abstractmethod
    def _read(self, level: int, corner: tuple[int, int], size: tuple[int, int]) -> Image.Image:
        """Return some pixels of a level in RGB; white where there are none."""

    def tile(self, corner: tuple[int, int], scale: float, size: int) -> Pixels:
        """Return a square part.

        It is read from the coarsest level that is fine enough. A whole number of its pixels is
        averaged, and otherwise interpolated.

        Parameters
        ----------
        corner : tuple of (int, int)
            The left and the top edge.

        scale : float
            The width of a pixel of the result, in pixels of level 0.

        size : int
            The width and the height of the result.

        Returns
        -------
        ndarray of uint8, shape (size, size, 3)
            What is outside of the picture is white.
        """
        from PIL import Image

        level = self._level(scale)
        n = max(1, round(size * scale / self.levels[level][0]))
        # Where a level is much too fine, averages come first, because they need little memory.
        factor = n // size if n % size == 0 else max(1, n // (2 * size))
        n = round(n / factor) * factor
        found = Image.fromarray(self._reduced(level, corner, (n, n), factor))
        if found.width != size:
            found = found.resize((size, size), Image.Resampling.BICUBIC)
        return np.asarray(found)

    def thumbnail(self, longest: int) -> tuple[Pixels, float]:
        """Return the whole picture at a low resolution.

        Parameters
        ----------
        longest : int
            The largest width and height of the result.

        Returns
        -------
        pixels : ndarray of uint8, shape (height, width, 3)
            The picture.

        scale : float
            The width of a pixel of the result, in pixels of level 0.
        """
        level = self._level(max(self.size) / longest)
        own, size = self.levels[level]
        factor = math.ceil(max(size) / longest)
        return self._reduced(level, (0, 0), size, factor), own * factor

    def _level(self, scale: float) -> int:
        """Return the coarsest level whose pixels are not wider than wanted."""
        fine = [i for i, (own, _) in enumerate(self.levels) if own <= scale * _TOLERANCE]
        return max(fine, default=0, key=lambda i: self.levels[i][0])

    def _reduced(
        self, level: int, corner: tuple[int, int], size: tuple[int, int], factor: int
    ) -> Pixels:
        """Return the averages of squares of `factor` pixels of a level; read in bands."""
        if factor == 1:
            return np.asarray(self._read(level, corner, size))
        (left, top), (width, height) = corner, size
        n_rows = factor * max(1, _BAND_PIXELS // (width * factor))
        bands = []
        for first in range(0, height, n_rows):
            own_top = top + round(first * self.levels[level][0])
            own_size = width, min(n_rows, height - first)
            bands.append(np.asarray(self._read(level, (left, own_top), own_size).reduce(factor)))
        return np.concatenate(bands)


class PlainImage(Picture):
    """An image that is decoded as a whole.

    Parameters
    ----------
    path : str or path
        The file.

    Raises
    ------
    MediaError
        If it cannot be decoded, or has too many pixels.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        Image = _import("PIL.Image")

        self.faults = []
        bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
        try:
            with Image.open(path, formats=_FORMATS) as opened:
                if (n_pages := getattr(opened, "n_frames", 1)) > 1:
                    self.faults.append(f"has {n_pages} pages, of which only the first is read")
                self.mpp = _mpp_of(opened.info.get("dpi"))
                opened.load()
                self._image = self._as_rgb(opened, path)
        except (MediaError, MemoryError, FileNotFoundError, PermissionError):
            raise
        except bombs as error:
            raise MediaError(
                f"{os.fspath(path)} has more pixels than Pillow decodes at once: {error} Convert "
                "it to a tiled TIFF file, which is read in parts."
            ) from error
        except Exception as error:  # Pillow has no common class for the faults of a file
            reason = str(error).rstrip(".") or type(error).__name__
            raise MediaError(f"{os.fspath(path)} cannot be read as an image: {reason}.") from error
        self.size = self._image.size
        self.box = (0, 0, *self.size)
        self.levels = [(1.0, self.size)]

    def __exit__(self, *_: object) -> None:
        self._image.close()

    def _as_rgb(self, image: Image.Image, path: str | os.PathLike[str]) -> Image.Image:
        """Return an image upright and in RGB: with 8 bits, and on white if it is transparent."""
        from PIL import Image, ImageOps

        image = ImageOps.exif_transpose(image)
        if image.mode in ("I", "F"):
            raise MediaError(
                f"{os.fspath(path)} has pixels of 32 bits, whose range is not known. Convert it to "
                "8 or 16 bits."
            )
        if image.mode.startswith("I;16"):
            values = np.asarray(image)
            if (highest := int(values.max())) < _DARK:
                self.faults.append(
                    f"is dark: its largest value is {highest:,} of 65,535. Scale it to 16 bits"
                )
            return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
        if image.has_transparency_data:
            return _on_white(image.convert("RGBA"))
        return image.convert("RGB")

    def _read(self, level: int, corner: tuple[int, int], size: tuple[int, int]) -> Image.Image:
        from PIL import Image

        (left, top), (width, height) = corner, size
        right, bottom = min(left + width, self.size[0]), min(top + height, self.size[1])
        part = self._image.crop((left, top, right, bottom))
        if part.size == size:
            return part
        whole = Image.new("RGB", size, _WHITE)
        whole.paste(part)
        return whole


class Slide(Picture):
    """A slide or a tiled TIFF file, of which only parts are decoded.

    Parameters
    ----------
    slide : openslide.OpenSlide
        The file, which is closed at the end.

    path : str or path
        Its path, for messages.
    """

    def __init__(self, slide: OpenSlide, path: str | os.PathLike[str]) -> None:
        self._slide, self._path = slide, path
        self.faults = []
        self.size = slide.dimensions
        self.levels = [*zip(slide.level_downsamples, slide.level_dimensions, strict=True)]
        self._check_levels()
        properties = slide.properties
        x, y = (_positive(properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
        self.mpp = _mean(x, y)
        if x and y and abs(x - y) > _UNEQUAL * x:
            self.faults.append(f"has {x:g} microns per pixel in x and {y:g} in y")
        names = ("bounds-x", "bounds-y", "bounds-width", "bounds-height")
        bounds = [int(properties.get(f"openslide.{name}") or 0) for name in names]
        left, top, width, height = bounds if all(bounds[2:]) else (0, 0, *self.size)
        self.box = (left, top, left + width, top + height)

    def __exit__(self, *_: object) -> None:
        self._slide.close()

    def _check_levels(self) -> None:
        """Raise a MediaError if the sizes of the levels contradict each other.

        A damaged header may claim millions of rows, whose empty tiles take minutes to read.
        """
        for scale, size in self.levels:
            for whole, own in zip(self.size, size, strict=True):
                # Writers round up or down, in every level anew.
                if abs(whole / scale - own) > len(self.levels) + _UNEQUAL * own:
                    raise MediaError(
                        f"{os.fspath(self._path)} is damaged: its level 0 has the size "
                        f"{self.size}, and a level reduced {scale:g} times the size {size}."
                    )

    def _read(self, level: int, corner: tuple[int, int], size: tuple[int, int]) -> Image.Image:
        from openslide import OpenSlideError

        try:
            return _on_white(self._slide.read_region(corner, level, size))
        except OpenSlideError as error:
            raise MediaError(
                f"{os.fspath(self._path)} cannot be decoded at x={corner[0]}, y={corner[1]} of "
                f"level {level}: {error}."
            ) from error


def open_picture(path: str | os.PathLike[str]) -> Picture:
    """Open an image or a slide, by its suffix.

    Parameters
    ----------
    path : str or path
        The file. TIFF files may be of both kinds: those that OpenSlide knows are slides.

    Returns
    -------
    Picture

    Raises
    ------
    NoTrackError
        If it has the suffix of neither.

    MediaError
        If it is empty, or cannot be read.

    FileNotFoundError
        If it does not exist.

    ImportError
        Without the packages of the extra ``slides``.
    """
    suffix = Path(path).suffix.lower()
    n_bytes = os.path.getsize(path)  # first, so that a mistyped name is not called another kind
    if suffix not in IMAGE and suffix not in SLIDE:
        raise NoTrackError(f"{os.fspath(path)} is not an image or a slide.")
    if n_bytes == 0:
        raise MediaError(f"{os.fspath(path)} is empty.")
    if suffix not in SLIDE and suffix not in _TIFF:
        return PlainImage(path)
    openslide = _import("openslide")
    try:
        if openslide.OpenSlide.detect_format(path):
            return Slide(openslide.OpenSlide(path), path)
    except openslide.OpenSlideError as error:
        raise MediaError(f"{os.fspath(path)} cannot be read as a slide: {error}.") from error
    if suffix in _TIFF:
        return PlainImage(path)
    raise MediaError(f"{os.fspath(path)} is not a slide that OpenSlide can read, or is damaged.")


def read_thumbnail(
    path: str | os.PathLike[str], longest: int = 2048
) -> tuple[NDArray[np.uint8], float]:
    """Read an image or a slide at a low resolution, such as to draw a map over it.

    Parameters
    ----------
    path : str or path
        The image or the slide.

    longest : int, default=2048
        The largest width and height of the result.

    Returns
    -------
    pixels : ndarray of uint8, shape (height, width, 3)
        The picture.

    scale : float
        The width of a pixel of the result in pixels of the file, as
        `acluster.inspection.AttentionMapDisplay` takes it.

    Raises
    ------
    MediaError
        If the file cannot be read, or is neither an image nor a slide.

    FileNotFoundError
        If it does not exist.

    ValueError
        If `longest` is less than 1.

    ImportError
        Without the packages of the extra ``slides``.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> from acluster.extraction import read_thumbnail
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (3000, 2000), "pink").save(f"{folder}/a.png")
    ...     pixels, scale = read_thumbnail(f"{folder}/a.png", longest=1000)
    >>> pixels.shape, scale
    ((667, 1000, 3), 3.0)
    """
    if not longest >= 1:
        raise ValueError(f"longest={longest!r} is a number of pixels, and must be at least 1.")
    with open_picture(path) as picture:
        return picture.thumbnail(longest)


def _import(name: str) -> Any:
    """Return a module, or raise an ImportError that names the extra."""
    try:
        return import_module(name)
    except (ImportError, OSError) as error:  # the library of OpenSlide may be absent
        raise ImportError(
            f"Reading images and slides needs Pillow and OpenSlide. Install them with {_EXTRA}."
        ) from error


def _on_white(image: Image.Image) -> Image.Image:
    """Return an RGBA image in RGB, over white."""
    from PIL import Image

    alpha = image.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return image.convert("RGB")
    below = Image.new("RGB", image.size, _WHITE)
    below.paste(image, mask=alpha)
    return below


def _mpp_of(dpi: Any) -> float | None:
    """Return the microns per pixel of an image with so many pixels per inch in x and y."""
    mean = _mean(*map(_positive, dpi)) if isinstance(dpi, tuple) and len(dpi) == 2 else None
    return None if mean is None else _MICRONS_PER_INCH / mean


def _positive(value: Any) -> float | None:
    """Return a positive number; None if it is something else."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if 0 < number < math.inf else None


def _mean(x: float | None, y: float | None) -> float | None:
    """Return the mean of two numbers; None if one of them is."""
    return None if x is None or y is None else (x + y) / 2
