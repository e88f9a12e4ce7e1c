"""The view of an image or a slide as tiles."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import numpy as np

from acluster.extraction._media import MediaError
from acluster.extraction._pictures import Picture, open_picture
from acluster.extraction._tissue import TissueMap
from acluster.extraction._view import BYTES_TOGETHER, ROWS_TOGETHER, Array, ChunkedView, Places

_MOST_ENLARGED = 4  # from a pixel of the file
_NEARLY = 0.95  # the same resolution
_MOST_EMPTY = 4  # widths of a picture in that of a tile
_DETAIL = 8  # pixels of the thumbnail in the width of a tile
_SMALLEST_THUMBNAIL, _LARGEST_THUMBNAIL = 1024, 4096


@dataclass(frozen=True)
class Tiles(ChunkedView):
    """Tiles of an image or of a whole-slide image, on a grid.

    A row is a tile, (size, size, 3) in uint8. Its places are the upper left corner, "x" and "y" in
    pixels of the file at its full resolution, and with `mpp` also "mpp", the microns per pixel of
    these pixels. The grid begins in the upper left corner. Tiles at the right and at the bottom may
    exceed the image by half of their width, or of the stride if that is less, and are white there.
    The first one of an image that is smaller is kept. The view needs the extra ``slides``.

    Parameters
    ----------
    size : int, default=224
        The width and height in pixels.

    mpp : float, optional
        The microns per pixel of a tile, such as 0.5 for a magnification of 20. The tiles are read
        from the level of a slide that is just fine enough, and scaled. A file has to tell its own
        microns per pixel. By default, tiles have the pixels of the file.

    stride : int, optional
        The pixels from a tile to the next, at the resolution of the tiles. Tiles overlap if it is
        less than `size`. By default, they touch.

    tissue : float, default=0
        The least share of a tile that is tissue, from 0 to 1; 0 keeps all tiles. A pixel of a
        thumbnail is tissue if it is colorful: if its largest color exceeds its smallest by more
        than the threshold of Otsu, which is limited to the range from 10 to 20 of 255. An image
        without tissue counts as missing.

    Notes
    -----
    Slides are read in parts by OpenSlide; so are tiled TIFF files. Other images are decoded as a
    whole by Pillow, which refuses more than 179 million pixels. They are turned upright as their
    EXIF data say, and are over white if they are transparent. Of 16 bits, the upper 8 are used.
    Color profiles are ignored.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> from acluster.extraction import Tiles
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (300, 200), "pink").save(f"{folder}/a.png")
    ...     batch, places = Tiles(size=100).read(f"{folder}/a.png")
    >>> batch.shape
    (6, 100, 100, 3)
    >>> places["x"]
    array([  0., 100., 200.,   0., 100., 200.])
    """

    size: int = 224
    mpp: float | None = None
    stride: int | None = None
    tissue: float = 0.0
    _may_be_zero: ClassVar[tuple[str, ...]] = ("tissue",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tissue > 1:
            raise ValueError(f"Tiles: tissue={self.tissue} is a share, and must be at most 1.")

    def chunks(
        self, path: str | os.PathLike[str], warnings: list[str]
    ) -> Iterator[tuple[Array, Places]]:
        with open_picture(path) as picture:
            scale = self._scale(picture, path)
            corners = self._corners(picture, scale)
            n_together = max(1, min(ROWS_TOGETHER, BYTES_TOGETHER // (3 * self.size**2)))
            is_empty = True
            while part := list(islice(corners, n_together)):
                is_empty = False
                batch = np.stack([picture.tile(corner, scale, self.size) for corner in part])
                x, y = np.array(part, dtype=np.float64).T
                places = {"x": x, "y": y}
                if self.mpp is not None:
                    places["mpp"] = np.full(len(part), picture.mpp, dtype=np.float64)
                yield batch, places
            warnings += [f"The file {fault}." for fault in picture.faults]
            if is_empty:
                warnings.append(
                    f"No tile of the file has at least {self.tissue:.0%} of tissue. Pass a smaller "
                    "share; 0 keeps all tiles."
                )

    def _scale(self, picture: Picture, path: str | os.PathLike[str]) -> float:
        """Return the width of a pixel of the tiles, in pixels of the file."""
        name, own = os.fspath(path), picture.mpp
        without_mpp = "leave out mpp (--mpp) and choose a size (--size) in pixels of the files"
        remedy = f"{without_mpp}, or correct the file"
        if self.mpp is None:
            scale = 1.0
        elif own is None:
            raise MediaError(
                f"{name} does not tell its microns per pixel, which mpp={self.mpp:g} needs. Write "
                f"its resolution to the file, or {without_mpp}."
            )
        else:
            scale = self.mpp / own
            if scale * _MOST_ENLARGED < 1:
                raise MediaError(
                    f"{name} says that it has {own:g} microns per pixel, too many for mpp="
                    f"{self.mpp:g}. If this is wrong, {remedy}."
                )
            if scale < _NEARLY:
                picture.faults.append(
                    f"has {own:g} microns per pixel; it is enlarged to {self.mpp:g}"
                )
        width, height = picture.size
        if self.size * scale > _MOST_EMPTY * max(picture.size):
            raise MediaError(
                f"{name} has {width} x {height} pixels, and a tile covers "
                f"{self.size * scale:,.0f} x {self.size * scale:,.0f} of them. Choose a smaller "
                "size" + ("." if self.mpp is None else f", or {remedy}.")
            )
        return scale

    def _corners(self, picture: Picture, scale: float) -> Iterator[tuple[int, int]]:
        """Yield the upper left corners of the tiles, row by row."""
        side = self.size * scale
        step = scale * (self.size if self.stride is None else self.stride)
        left, top, right, bottom = picture.box
        last = min(step, side) / 2 - side  # of the corners, counted from the other end
        n_columns, n_rows = (
            max(0, math.floor((length + last) / step)) + 1
            for length in (right - left, bottom - top)
        )
        x = left + np.round(np.arange(n_columns) * step).astype(np.int64)
        tissue = None
        if self.tissue:
            longest = round(_DETAIL * max(picture.size) / side)
            longest = min(max(longest, _SMALLEST_THUMBNAIL), _LARGEST_THUMBNAIL)
            tissue = TissueMap(*picture.thumbnail(longest))
        for row in range(n_rows):
            y = top + round(row * step)
            chosen = x
            if tissue is not None:
                # The sums of shares are rounded.
                chosen = x[tissue.shares(x, y, side) >= self.tissue - 1e-9]
            yield from ((int(left), y) for left in chosen)
