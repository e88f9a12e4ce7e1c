"""Images of handwritten digits: MNIST, and a small stand-in that needs no download."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.datasets import fetch_openml, load_digits
from sklearn.utils import Bunch

from acluster.datasets._data_home import get_data_home

__all__ = ["fetch_mnist", "load_digits_28"]

_N_TRAIN, _N_TEST = 60_000, 10_000

# The file of each field, and the shape of what it holds.
_IDX_FILES = {
    "train_images": ("train-images-idx3-ubyte", (_N_TRAIN, 28, 28)),
    "train_labels": ("train-labels-idx1-ubyte", (_N_TRAIN,)),
    "test_images": ("t10k-images-idx3-ubyte", (_N_TEST, 28, 28)),
    "test_labels": ("t10k-labels-idx1-ubyte", (_N_TEST,)),
}

_MNIST_DESCR = """\
MNIST, handwritten digits

60,000 training and 10,000 test images of 28 x 28 grey pixels (0 is background, 255 ink),
with the digit each shows. LeCun, Cortes and Burges; licensed CC BY-SA 3.0.
"""

_DIGITS_DESCR = """\
Scikit-learn's digits, brought to the size of MNIST

1,797 images of 8 x 8 pixels and 17 grey levels, enlarged by a cubic spline to 20 x 20
pixels of 0 to 255 and centred on 28 x 28, with the digit each shows. The last quarter of
each digit's images is the test set: the images are stored writer by writer, so that most
test writers are not in the training set. Alpaydin and Kaynak, UCI machine learning
repository, optical recognition of handwritten digits.
"""


def fetch_mnist(*, data_home: str | os.PathLike[str] | None = None) -> Bunch:
    """The MNIST images of handwritten digits, from local files or else from OpenML.

    The four IDX files, compressed (``.gz``) or plain, are looked for in the folder
    ``mnist`` of the data home. When none of them is there, the same images are downloaded
    from OpenML into the data home, and found there the next time.

    Parameters
    ----------
    data_home : str or path-like, default=None
        See :func:`get_data_home`.

    Returns
    -------
    mnist : Bunch
        With the fields

        train_images : ndarray of uint8, shape (60000, 28, 28)
            0 is background, 255 is ink.
        train_labels : ndarray of int64, shape (60000,)
            The digit, 0 to 9.
        test_images : ndarray of uint8, shape (10000, 28, 28)
            As the training images.
        test_labels : ndarray of int64, shape (10000,)
            As the training labels.
        DESCR : str
            What the data are, and where they come from.

    Raises
    ------
    FileNotFoundError
        If only some of the four files are there, or none is and OpenML cannot be read.
    ValueError
        If a file is damaged or is not the one its name says.

    See Also
    --------
    load_digits_28 : A small stand-in that is always there.

    Examples
    --------
    >>> from acluster.datasets import fetch_mnist
    >>> mnist = fetch_mnist()  # doctest: +SKIP
    >>> mnist.train_images.shape  # doctest: +SKIP
    (60000, 28, 28)
    """
    home = get_data_home(data_home)
    paths = _find_idx_files(home / "mnist")
    fields = _fetch_from_openml(home) if paths is None else _read_idx_files(paths)
    return Bunch(DESCR=_MNIST_DESCR, **fields)


def load_digits_28() -> Bunch:
    """Scikit-learn's bundled digits at the size of MNIST: 28 x 28 pixels, 0 to 255.

    Like the digits of MNIST, they fill 20 x 20 pixels in the middle of the image.

    Returns
    -------
    digits : Bunch
        The fields of :func:`fetch_mnist`, with 1,352 training and 445 test images. The
        test set is the last quarter of the images of each digit.

    See Also
    --------
    fetch_mnist : The images that the paper's experiments use.

    Examples
    --------
    >>> from acluster.datasets import load_digits_28
    >>> digits = load_digits_28()
    >>> digits.train_images.shape, digits.test_images.shape
    ((1352, 28, 28), (445, 28, 28))
    """
    digits = load_digits()
    # A cubic spline keeps the full black and white of pen strokes; linear blurs them away.
    enlarged = ndimage.zoom(
        digits.images * (255 / 16), (1, 2.5, 2.5), order=3, grid_mode=True, mode="grid-constant"
    )
    images = np.clip(np.rint(enlarged), 0, 255).astype(np.uint8)
    images = np.pad(images, ((0, 0), (4, 4), (4, 4)))
    labels = digits.target.astype(np.int64)
    is_test = _last_quarter_of_each(labels)
    return Bunch(
        train_images=images[~is_test],
        train_labels=labels[~is_test],
        test_images=images[is_test],
        test_labels=labels[is_test],
        DESCR=_DIGITS_DESCR,
    )


def _last_quarter_of_each(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    is_test = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        members = np.flatnonzero(labels == digit)
        is_test[members[math.ceil(0.75 * len(members)) :]] = True
    return is_test


def _find_idx_files(folder: Path) -> dict[str, Path] | None:
    """The path of each field's file; None when no file is there at all."""
    paths, missing = {}, []
    for field, (name, _) in _IDX_FILES.items():
        candidates = [path for path in (folder / f"{name}.gz", folder / name) if path.is_file()]
        if candidates:
            paths[field] = candidates[0]
        else:
            missing.append(name)
    # A download beside half a local copy would mix two sources without a word.
    if paths and missing:
        raise FileNotFoundError(
            f"{folder} has {len(paths)} of the 4 MNIST files; missing: {', '.join(missing)} "
            "(plain or .gz). Add them, or remove the others to download MNIST from OpenML."
        )
    return paths or None


def _read_idx_files(paths: dict[str, Path]) -> dict[str, NDArray[Any]]:
    fields = {}
    for field, path in paths.items():
        expected = _IDX_FILES[field][1]
        array = _read_idx(path, n_dimensions=len(expected))
        if array.shape != expected:
            raise ValueError(
                f"{path} holds an array of shape {array.shape}, but MNIST's {field} have shape "
                f"{expected}. {_REPLACE}"
            )
        fields[field] = array.astype(np.int64) if array.ndim == 1 else array
    return fields


_REPLACE = "Replace it by the original file."


def _read_idx(path: Path, *, n_dimensions: int) -> NDArray[np.uint8]:
    """An IDX file of bytes: 0, 0, type 8, dimensions; each extent in 4 bytes; the bytes."""
    content = _read_bytes(path)
    header_size = 4 + 4 * n_dimensions
    magic = bytes([0, 0, 8, n_dimensions])
    if content[:4] != magic:
        raise ValueError(
            f"{path} begins with bytes {content[:4].hex(' ') or '(none)'}, but an IDX file of "
            f"{n_dimensions}-dimensional bytes begins with {magic.hex(' ')}. {_REPLACE}"
        )
    if len(content) < header_size:
        raise ValueError(f"{path} ends inside its header, at byte {len(content)}. {_REPLACE}")
    shape = tuple(np.frombuffer(content[4:header_size], dtype=">u4").tolist())
    n_bytes = len(content) - header_size
    if n_bytes != math.prod(shape):
        raise ValueError(
            f"{path} announces an array of shape {shape}, which is {math.prod(shape)} bytes, but "
            f"holds {n_bytes}. {_REPLACE}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header_size).reshape(shape).copy()


def _read_bytes(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be decompressed: {error}. {_REPLACE}") from error


def _fetch_from_openml(home: Path) -> dict[str, NDArray[Any]]:
    try:
        mnist = fetch_openml(
            "mnist_784", version=1, as_frame=False, data_home=str(home), parser="auto"
        )
    except (OSError, ValueError) as error:  # OpenML's own errors are ValueErrors
        names = ", ".join(name for name, _ in _IDX_FILES.values())
        raise FileNotFoundError(
            f"MNIST is not in {home / 'mnist'} (looked for {names}, plain or .gz), and OpenML "
            f"could not be read: {error}. Put the four files there, set ACLUSTER_DATA or "
            "data_home to the folder above theirs, or use load_digits_28()."
        ) from error
    images = np.asarray(mnist.data).reshape(-1, 28, 28).astype(np.uint8)
    labels = np.asarray(mnist.target).astype(np.int64)
    return {
        "train_images": images[:_N_TRAIN],
        "train_labels": labels[:_N_TRAIN],
        "test_images": images[_N_TRAIN:],
        "test_labels": labels[_N_TRAIN:],
    }
