"""Loaders for images of handwritten digits: MNIST, and a small bundled substitute."""

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import fetch_openml, load_digits
from sklearn.utils import Bunch

from acluster.datasets._data_home import get_data_home, invalid_file

_N_TRAIN, _N_TEST = 60_000, 10_000
# The file of each field, and the shape of its array.
_IDX_FILES = {
    "train_images": ("train-images-idx3-ubyte", (_N_TRAIN, 28, 28)),
    "train_labels": ("train-labels-idx1-ubyte", (_N_TRAIN,)),
    "test_images": ("t10k-images-idx3-ubyte", (_N_TEST, 28, 28)),
    "test_labels": ("t10k-labels-idx1-ubyte", (_N_TEST,)),
}

_MNIST_DESCR = """\
MNIST, handwritten digits

60,000 training and 10,000 test images of 28 x 28 gray pixels (0 is background, 255 ink),
labeled with their digit. LeCun, Cortes and Burges; licensed CC BY-SA 3.0.
"""

_DIGITS_DESCR = """\
Scikit-learn's digits in the size of MNIST

1,797 images of 8 x 8 pixels and 17 gray levels, enlarged by a cubic spline to 20 x 20
pixels from 0 to 255, centered on 28 x 28 pixels and labeled with their digit. The last
quarter of each digit's images is the test set. As the images are sorted by writer, most
writers of the test set are not in the training set. Alpaydin and Kaynak, UCI machine learning
repository, optical recognition of handwritten digits.
"""


def fetch_mnist(*, data_home: str | os.PathLike[str] | None = None) -> Bunch:
    """Load the MNIST images of handwritten digits from local files or OpenML.

    The four IDX files are read from the folder ``mnist`` of the data home, plain or compressed
    (``.gz``). If none of them exists, the images are downloaded from OpenML and cached in the
    data home.

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
            Like the training images.
        test_labels : ndarray of int64, shape (10000,)
            Like the training labels.
        DESCR : str
            Description and source of the data.

    Raises
    ------
    FileNotFoundError
        If only some of the four files exist, or none of them and OpenML cannot be read.
    ValueError
        If a file is damaged or is not a file of MNIST.

    See Also
    --------
    load_digits_28 : A small substitute that needs no files.

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
    """Load scikit-learn's bundled digits in the size of MNIST: 28 x 28 pixels from 0 to 255.

    As in MNIST, the digits fill 20 x 20 pixels in the center of the image.

    Returns
    -------
    digits : Bunch
        The fields of :func:`fetch_mnist`, with 1,352 training and 445 test images. The
        test set is the last quarter of the images of each digit.

    See Also
    --------
    fetch_mnist : The images used in the experiments of the paper.

    Examples
    --------
    >>> from acluster.datasets import load_digits_28
    >>> digits = load_digits_28()
    >>> digits.train_images.shape, digits.test_images.shape
    ((1352, 28, 28), (445, 28, 28))
    """
    from scipy import ndimage

    digits = load_digits()
    # A cubic spline keeps pen strokes fully white, while linear interpolation blurs them.
    enlarged = ndimage.zoom(
        digits.images * (255 / 16), (1, 2.5, 2.5), order=3, grid_mode=True, mode="grid-constant"
    )
    images = np.clip(np.rint(enlarged), 0, 255).astype(np.uint8)
    images = np.pad(images, ((0, 0), (4, 4), (4, 4)))
    labels = digits.target.astype(np.int64)
    is_test = _last_quarter_of_each(labels)
    return Bunch(**_fields(images, labels, ~is_test, is_test), DESCR=_DIGITS_DESCR)


def _fields(images: NDArray[Any], labels: NDArray[Any], train: Any, test: Any) -> dict[str, Any]:
    """Return the arrays of a Bunch, given the indices of the training and the test images."""
    return {
        f"{part}_{kind}": array[indices]
        for part, indices in (("train", train), ("test", test))
        for kind, array in (("images", images), ("labels", labels))
    }


def _last_quarter_of_each(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    is_test = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        members = np.flatnonzero(labels == digit)
        is_test[members[math.ceil(0.75 * len(members)) :]] = True
    return is_test


def _find_idx_files(folder: Path) -> dict[str, Path] | None:
    """Return the path of each field's file, or None if none of them exists."""
    paths = {}
    for field, (name, _) in _IDX_FILES.items():
        for path in (folder / name, folder / f"{name}.gz"):  # prefers .gz
            if path.is_file():
                paths[field] = path
    missing = [name for field, (name, _) in _IDX_FILES.items() if field not in paths]
    # Completing a partial copy with a download would silently mix two sources.
    if paths and missing:
        raise FileNotFoundError(
            f"{folder} has {len(paths)} of the 4 files of MNIST, but not {', '.join(missing)} "
            "(plain or .gz). Add them, or remove the others to download MNIST from OpenML."
        )
    return paths or None


def _read_idx_files(paths: dict[str, Path]) -> dict[str, NDArray[Any]]:
    fields = {}
    for field, path in paths.items():
        expected = _IDX_FILES[field][1]
        array = _read_idx(path, n_dimensions=len(expected))
        if array.shape != expected:
            problem = f"array of shape {array.shape}, but {field} of MNIST have shape {expected}"
            raise invalid_file(path, f"has an {problem}")
        fields[field] = array.astype(np.int64) if array.ndim == 1 else array
    return fields


def _read_idx(path: Path, *, n_dimensions: int) -> NDArray[np.uint8]:
    """Read the array of bytes in an IDX file."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise invalid_file(path, f"cannot be decompressed: {error}") from error
    # The header is two zeros, the type (8 is uint8), the number of dimensions, and their extents
    # as big-endian integers of 4 bytes.
    header_size = 4 + 4 * n_dimensions
    magic = bytes([0, 0, 8, n_dimensions])
    if content[:4] != magic:
        raise invalid_file(
            path,
            f"starts with the bytes {content[:4].hex(' ') or '(none)'}, but an IDX file of "
            f"{n_dimensions}-dimensional bytes starts with {magic.hex(' ')}",
        )
    if len(content) < header_size:
        raise invalid_file(path, f"is truncated in its header, at byte {len(content)}")
    shape = tuple(np.frombuffer(content[4:header_size], dtype=">u4").tolist())
    n_bytes, size = len(content) - header_size, math.prod(shape)
    if n_bytes != size:
        problem = f"has {n_bytes} bytes of data, but an array of shape {shape} has {size}"
        raise invalid_file(path, problem)
    return np.frombuffer(content, dtype=np.uint8, offset=header_size).reshape(shape).copy()


def _fetch_from_openml(home: Path) -> dict[str, NDArray[Any]]:
    try:
        mnist = fetch_openml(
            "mnist_784", version=1, as_frame=False, data_home=str(home), parser="auto"
        )
    except (OSError, ValueError) as error:  # scikit-learn's OpenMLError is a ValueError
        names = ", ".join(name for name, _ in _IDX_FILES.values())
        raise FileNotFoundError(
            f"{home / 'mnist'} has none of the files {names} (plain or .gz), and MNIST could not "
            f"be downloaded from OpenML: {error}. Put the four files there, set ACLUSTER_DATA or "
            "data_home to the folder that contains mnist, or use load_digits_28()."
        ) from error
    images = np.asarray(mnist.data).reshape(-1, 28, 28).astype(np.uint8)
    labels = np.asarray(mnist.target).astype(np.int64)
    return _fields(images, labels, slice(_N_TRAIN), slice(_N_TRAIN, None))
