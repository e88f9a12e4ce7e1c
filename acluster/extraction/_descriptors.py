"""Small classical descriptors of frames, tiles, optical flow and sound, which need no network.

A descriptor maps a batch to an array (B, D). The row of an item does not depend on the rest of the
batch, not even in its last bit.

Frames and flow fields are divided into 4 × 4 cells. Every cell has a histogram of vectors: of the
gradients of a frame, or of the displacements of a flow field. Its bins are the directions 0°, 45°,
90°, … from the x axis, which points right, to the y axis, which points down. Each vector is the sum
of two vectors along the two bins next to it, and adds their lengths to these bins. Unlike a
histogram of angles, this needs no arctangent, and small rotations change it little.
"""

from collections.abc import Iterator

import numpy as np

_N_CELLS = 4  # along each side
_N_BINS = 8
_N_COLORS = 3
_LARGEST = 255  # of a color
_N_SHADES = 16
_SCALES = (1, 2, 4, 8)  # pixels


def frame_descriptor(frames: np.ndarray) -> np.ndarray:
    """Describe color frames by their gradients and colors in 4 × 4 cells.

    Parameters
    ----------
    frames : ndarray of uint8, shape (B, H, W, 3)
        Color frames with sides of at least 4 pixels.

    Returns
    -------
    ndarray of float32, shape (B, 224)
        The square roots of the gradient histograms of the gray frame, which is the mean of the
        colors, (4, 4, 8); the mean of every color, (4, 4, 3); its standard deviation, (4, 4, 3).
        Colors are from 0 to 1, gradients per pixel, and histograms are means over the pixels of a
        cell.

    Raises
    ------
    ValueError
        If the frames have another dtype or shape.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.extraction import frame_descriptor
    >>> frames = np.zeros((2, 90, 120, 3), np.uint8)
    >>> frames[1, :, 60:, 0] = 255  # The right half of the second frame is red.
    >>> descriptors = frame_descriptor(frames)
    >>> descriptors.shape
    (2, 224)
    >>> means_of_red = descriptors[1, 128:176].reshape(4, 4, 3)[..., 0]
    >>> means_of_red[0]
    array([0., 0., 1., 1.], dtype=float32)
    """
    frames = _color_pictures(frames, "frames")
    _check_sides(frames)
    # All sums are of integers, and so exact: of the sum of the colors, and twice its derivatives.
    grey = np.add(frames[..., 0], frames[..., 1], dtype=np.int16)
    grey += frames[..., 2]
    histograms = _histograms(_differences(grey, axis=2), _differences(grey, axis=1))
    histograms /= 2 * _N_COLORS * _LARGEST
    means = _cell_means(frames)
    variances = _cell_means(np.square(frames, dtype=np.uint16)) - means**2
    deviations = np.sqrt(np.maximum(variances, 0))  # Rounding can make them negative.
    return _rows(np.sqrt(histograms), means / _LARGEST, deviations / _LARGEST)


def tile_descriptor(tiles: np.ndarray) -> np.ndarray:
    """Describe tiles of slides by their colors and textures, in any orientation.

    Tiles that are turned by 90° or mirrored have the same descriptors, if their sides are multiples
    of 8 pixels: unlike a photograph, a slide has no top.

    Parameters
    ----------
    tiles : ndarray of uint8, shape (B, H, W, 3)
        Tiles with sides of at least 16 pixels.

    Returns
    -------
    ndarray of float32, shape (B, 66)
        The square roots of the histograms of every color, (3, 16); the mean and the standard
        deviation of every color, (2, 3); the root mean square of the differences between
        neighboring squares of 1, 2, 4 and 8 pixels, (4, 3). Colors are from 0 to 1.

    Raises
    ------
    ValueError
        If the tiles have another dtype or shape.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.extraction import tile_descriptor
    >>> tiles = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    >>> tiles[1] = np.rot90(tiles[0])
    >>> descriptors = tile_descriptor(tiles)
    >>> descriptors.shape
    (2, 66)
    >>> np.array_equal(*descriptors)
    True
    """
    tiles = _color_pictures(tiles, "tiles")
    _check_sides(tiles, 2 * _SCALES[-1])
    # All sums are of integers, and so the same in any order.
    n_tiles, n_pixels = len(tiles), tiles.shape[1] * tiles.shape[2]
    first_bins = _N_SHADES * np.arange(_N_COLORS * n_tiles).reshape(n_tiles, 1, 1, _N_COLORS)
    bins = first_bins + tiles // (_LARGEST // _N_SHADES + 1)
    counts = np.bincount(bins.ravel(), minlength=_N_SHADES * _N_COLORS * n_tiles)
    histograms = np.sqrt(counts.reshape(n_tiles, _N_COLORS * _N_SHADES) / n_pixels)
    means = tiles.sum(axis=(1, 2), dtype=np.int64) / n_pixels
    squares = np.square(tiles, dtype=np.uint16).sum(axis=(1, 2), dtype=np.int64) / n_pixels
    deviations = np.sqrt(np.maximum(squares - means**2, 0))  # Rounding can make them negative.
    return _rows(histograms, means / _LARGEST, deviations / _LARGEST, *_roughness(tiles))


def _roughness(tiles: np.ndarray) -> Iterator[np.ndarray]:
    """Yield for each scale the root mean square of the differences between neighbors, (B, 3)."""
    sums = tiles.astype(np.int32)
    for scale in _SCALES:
        if scale > 1:
            height, width = (side // 2 * 2 for side in sums.shape[1:3])
            halves = sums[:, 0:height:2] + sums[:, 1:height:2]
            sums = halves[:, :, 0:width:2] + halves[:, :, 1:width:2]
        squares = [np.square(np.diff(sums, axis=axis)) for axis in (1, 2)]
        along, across = (
            x.sum(axis=(1, 2), dtype=np.int64) / (x.shape[1] * x.shape[2]) for x in squares
        )
        yield np.sqrt((along + across) / 2) / (_LARGEST * scale**2)


def flow_descriptor(stacks: np.ndarray) -> np.ndarray:
    """Describe stacks of optical flow fields by directions and speeds in 4 × 4 cells.

    Parameters
    ----------
    stacks : ndarray of floats, shape (B, H, W, 2 n)
        The displacements (u, v) of n fields, field by field, with sides of at least 4 pixels.

    Returns
    -------
    ndarray of float32, shape (B, 160)
        The square roots of the histograms of the displacements, averaged over the fields,
        (4, 4, 8); the mean speed of the cell, averaged over the fields, (4, 4); its largest value
        in any of the fields, (4, 4). Speeds are in pixels per frame, and histograms are means over
        the pixels of a cell.

    Raises
    ------
    ValueError
        If the stacks have another dtype or shape.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.extraction import flow_descriptor
    >>> stacks = np.zeros((1, 112, 112, 2 * 5), np.float32)
    >>> stacks[..., 1::2] = 4  # 4 pixels down, in all five fields
    >>> descriptors = flow_descriptor(stacks)
    >>> descriptors.shape
    (1, 160)
    >>> descriptors[0, :8]
    array([0., 0., 2., 0., 0., 0., 0., 0.], dtype=float32)
    """
    stacks = np.asarray(stacks)
    if stacks.dtype.kind != "f" or stacks.ndim != 4 or stacks.shape[3] % 2 or not stacks.shape[3]:
        raise _rejected("stacks are", stacks, "flow fields as floats (B, H, W, 2 n)")
    _check_sides(stacks)
    u, v = (np.ascontiguousarray(stacks[..., i::2], np.float32) for i in (0, 1))
    histograms = _histograms(u, v).mean(axis=3)
    speeds = _cell_means(np.sqrt(u * u + v * v))
    return _rows(np.sqrt(histograms), speeds.mean(axis=3), speeds.max(axis=3))


def patch_descriptor(patches: np.ndarray) -> np.ndarray:
    """Describe log-mel patches by the statistics of every band over time.

    Parameters
    ----------
    patches : ndarray of floats, shape (B, 96, 64)
        Log-mel spectra: time steps, then bands. Other numbers of both are accepted, with at least
        two time steps.

    Returns
    -------
    ndarray of float32, shape (B, 192)
        The mean, the standard deviation, and the mean absolute difference between successive time
        steps of every band.

    Raises
    ------
    ValueError
        If the patches have another dtype or shape.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.extraction import patch_descriptor
    >>> patches = np.full((5, 96, 64), np.log(0.01), np.float32)  # silence
    >>> descriptors = patch_descriptor(patches)
    >>> descriptors.shape
    (5, 192)
    >>> descriptors[0, 64:].max()
    np.float32(0.0)
    """
    patches = np.asarray(patches)
    if patches.dtype.kind != "f" or patches.ndim != 3 or patches.shape[1] < 2:
        raise _rejected("patches are", patches, "log-mel patches as floats (B, 96, 64)")
    patches = patches.astype(np.float64)  # whose sums are exact for constant bands
    steps = np.abs(np.diff(patches, axis=1))
    return _rows(patches.mean(axis=1), patches.std(axis=1), steps.mean(axis=1))


def _color_pictures(pictures: np.ndarray, noun: str) -> np.ndarray:
    pictures = np.asarray(pictures)
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[3] != _N_COLORS:
        raise _rejected(f"{noun} are", pictures, f"color {noun} as uint8 (B, H, W, 3)")
    return pictures


def flat_descriptor(batch: np.ndarray) -> np.ndarray:
    """Describe inputs by all of their values, one after the other.

    Use it for short patches of sound, in which the order of the spectra matters: `patch_descriptor`
    tells only their statistics.

    Parameters
    ----------
    batch : ndarray of numbers, shape (B, ...)
        Any inputs of the same shape.

    Returns
    -------
    ndarray of float32, shape (B, D)
        The values in the order of the axes. For log-mel patches these are the spectra in their
        order.

    Raises
    ------
    ValueError
        If the batch has no rows of real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.extraction import flat_descriptor
    >>> flat_descriptor(np.zeros((5, 10, 64), np.float32)).shape
    (5, 640)
    """
    batch = np.asarray(batch)
    if batch.dtype.kind not in "biuf" or batch.ndim < 2:
        raise _rejected("batch is", batch, "real numbers (B, ...)")
    return _rows(batch)


def _rejected(noun: str, batch: np.ndarray, expected: str) -> ValueError:
    return ValueError(f"The {noun} {batch.dtype} of shape {batch.shape}. Pass {expected}.")


def _check_sides(images: np.ndarray, least: int = _N_CELLS) -> None:
    if min(images.shape[1:3]) < least:
        height, width = images.shape[1:3]
        raise ValueError(
            f"The images have {height} x {width} pixels. Each side needs at least {least}."
        )


def _differences(images: np.ndarray, axis: int) -> np.ndarray:
    """Return twice the derivative along an axis: central differences, one-sided at the edges."""
    images = np.moveaxis(images, axis, 0)
    result = np.empty_like(images)
    np.subtract(images[2:], images[:-2], out=result[1:-1])
    result[0] = 2 * (images[1] - images[0])
    result[-1] = 2 * (images[-1] - images[-2])
    return np.moveaxis(result, 0, axis)


def _histograms(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the histograms (B, 4, 4, …, 8) of vectors with components (B, H, W, …)."""
    bins = [_cell_means(part) for part in _parts(x, y)]
    histograms = np.stack(bins, axis=-1)
    histograms[..., 1::2] *= np.sqrt(2)
    return histograms


def _parts(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the part of every vector along each of eight directions; diagonal ones as a side.

    A vector such as (5, 2) is (3, 0) + (2, 2): its part along the diagonal has the smaller of the
    two components as its sides, and its part along the axis is their difference.
    """
    zeros = np.zeros_like(x)  # NumPy vectorizes comparisons of arrays, but not those with 0.
    right, down = np.maximum(x, zeros), np.maximum(y, zeros)
    left, up = right - x, down - y
    across_x, across_y = right + left, down + up
    yield np.maximum(x - across_y, zeros)
    yield np.minimum(right, down)
    yield np.maximum(y - across_x, zeros)
    yield np.minimum(left, down)
    yield np.maximum(-x - across_y, zeros)
    yield np.minimum(left, up)
    yield np.maximum(-y - across_x, zeros)
    yield np.minimum(right, up)


def _cell_means(values: np.ndarray) -> np.ndarray:
    """Return the means over the cells, (B, 4, 4, …) in float64, of values (B, H, W, …)."""
    rows, columns = (np.arange(_N_CELLS + 1) * size // _N_CELLS for size in values.shape[1:3])
    narrow, wide = (np.int32, np.int64) if values.dtype.kind in "iu" else (np.float32, np.float64)
    bands = [values[:, rows[i] : rows[i + 1]].sum(axis=1, dtype=narrow) for i in range(_N_CELLS)]
    sums = np.add.reduceat(np.stack(bands, axis=1), columns[:-1], axis=2, dtype=wide)
    counts = np.outer(np.diff(rows), np.diff(columns))
    return sums / counts.reshape(1, _N_CELLS, _N_CELLS, *[1] * (values.ndim - 3))


def _rows(*parts: np.ndarray) -> np.ndarray:
    """Lay the parts (B, …) of the descriptors side by side, in float32."""
    flat = [part.reshape(len(part), int(np.prod(part.shape[1:]))) for part in parts]
    return np.concatenate(flat, axis=1).astype(np.float32)


DESCRIPTORS = (
    flat_descriptor,
    flow_descriptor,
    frame_descriptor,
    patch_descriptor,
    tile_descriptor,
)
