import gzip
import struct
from urllib.error import URLError

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.utils import Bunch

from acluster.datasets import _mnist, fetch_mnist, load_digits_28

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
FIELDS = {
    "train_images": ((60_000, 28, 28), np.uint8),
    "train_labels": ((60_000,), np.int64),
    "test_images": ((10_000, 28, 28), np.uint8),
    "test_labels": ((10_000,), np.int64),
}


def idx(array):
    """Encode an array as an IDX file, independently of the reader."""
    extents = b"".join(struct.pack(">I", extent) for extent in array.shape)
    return bytes([0, 0, 8, array.ndim]) + extents + array.astype(np.uint8).tobytes()


def fake_mnist():
    """Arrays of the shapes of MNIST, with pixels and labels that depend on their position."""
    images = {}
    for prefix, n_items in (("train", 60_000), ("test", 10_000)):
        pixels = np.zeros((n_items, 28, 28), dtype=np.uint8)
        pixels[:, 3, 4] = np.arange(n_items) % 251
        images[f"{prefix}_images"] = pixels
        images[f"{prefix}_labels"] = np.arange(n_items) % 10
    return images


def write_files(home, contents, *, compress=()):
    folder = home / "mnist"
    folder.mkdir()
    for name, content in contents.items():
        if name in compress:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content, compresslevel=1))
        else:
            (folder / name).write_bytes(content)
    return folder


def read_error(home):
    with pytest.raises(ValueError) as caught:
        fetch_mnist(data_home=home)
    return str(caught.value)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("OpenML is called")

    monkeypatch.setattr(_mnist, "fetch_openml", refuse)


@pytest.mark.usefixtures("no_network")
def test_fetch_mnist_reads_plain_and_compressed_files(tmp_path):
    arrays = fake_mnist()
    contents = dict(zip(NAMES, map(idx, arrays.values()), strict=True))
    write_files(tmp_path, contents, compress=(NAMES[1], NAMES[2]))
    mnist = fetch_mnist(data_home=tmp_path)
    for field, (shape, dtype) in FIELDS.items():
        assert mnist[field].shape == shape
        assert mnist[field].dtype == dtype
        np.testing.assert_array_equal(mnist[field], arrays[field])
    assert mnist.DESCR.startswith("MNIST, handwritten digits")
    mnist.train_images[0, 0, 0] = 1  # writable, not a view of the bytes of the file


@pytest.mark.usefixtures("no_network")
def test_fetch_mnist_does_not_complete_partial_files(tmp_path):
    folder = write_files(tmp_path, {NAMES[0]: b"", NAMES[3]: b""})
    with pytest.raises(FileNotFoundError) as caught:
        fetch_mnist(data_home=tmp_path)
    assert str(caught.value) == (
        f"{folder} has 2 of the 4 files of MNIST, but not {NAMES[1]}, {NAMES[2]} (plain or .gz). "
        "Add them, or remove the others to download MNIST from OpenML."
    )


@pytest.mark.parametrize(
    ("content", "beginning"),
    [(b"", "(none)"), (idx(np.zeros(5)), "00 00 08 01"), (b"<html>", "3c 68 74 6d")],
)
def test_fetch_mnist_rejects_file_of_another_kind(tmp_path, content, beginning):
    folder = write_files(tmp_path, dict.fromkeys(NAMES, content))
    assert read_error(tmp_path) == (
        f"{folder / NAMES[0]} starts with the bytes {beginning}, but an IDX file of "
        "3-dimensional bytes starts with 00 00 08 03. Replace it with the original file."
    )


def test_fetch_mnist_rejects_truncated_header(tmp_path):
    folder = write_files(tmp_path, dict.fromkeys(NAMES, idx(np.zeros((5, 28, 28)))[:10]))
    assert read_error(tmp_path) == (
        f"{folder / NAMES[0]} is truncated in its header, at byte 10. Replace it with the original "
        "file."
    )


def test_fetch_mnist_rejects_truncated_file(tmp_path):
    folder = write_files(tmp_path, dict.fromkeys(NAMES, idx(np.zeros((5, 28, 28)))[:-1]))
    assert read_error(tmp_path) == (
        f"{folder / NAMES[0]} has 3919 bytes of data, but an array of shape (5, 28, 28) has 3920. "
        "Replace it with the original file."
    )


def test_fetch_mnist_rejects_another_number_of_images(tmp_path):
    folder = write_files(tmp_path, dict.fromkeys(NAMES, idx(np.zeros((5, 28, 28)))))
    assert read_error(tmp_path) == (
        f"{folder / NAMES[0]} has an array of shape (5, 28, 28), but train_images of MNIST "
        "have shape (60000, 28, 28). Replace it with the original file."
    )


@pytest.mark.parametrize("damage", ["cut", "not gzip", "flipped"])
def test_fetch_mnist_rejects_damaged_gz_file(tmp_path, damage):
    compressed = gzip.compress(np.random.default_rng(0).bytes(1000))
    content = {
        "cut": compressed[:-20],
        "not gzip": b"plain",
        "flipped": compressed[:20] + b"\xff" * 20 + compressed[40:],
    }[damage]
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.gz").write_bytes(content)
    message = read_error(tmp_path)
    assert message.startswith(f"{folder / NAMES[0]}.gz cannot be decompressed: ")
    assert message.endswith(". Replace it with the original file.")


def test_fetch_mnist_downloads_from_openml_without_files(tmp_path, monkeypatch):
    arrays = fake_mnist()
    asked = []

    def fake_openml(name, **options):
        asked.append((name, options))
        images = np.concatenate([arrays["train_images"], arrays["test_images"]])
        labels = np.concatenate([arrays["train_labels"], arrays["test_labels"]])
        return Bunch(
            data=images.reshape(-1, 784).astype(np.int64), target=labels.astype(str).astype(object)
        )

    monkeypatch.setattr(_mnist, "fetch_openml", fake_openml)
    mnist = fetch_mnist(data_home=tmp_path)
    options = {"version": 1, "as_frame": False, "data_home": str(tmp_path), "parser": "auto"}
    assert asked == [("mnist_784", options)]
    for field, (_, dtype) in FIELDS.items():
        assert mnist[field].dtype == dtype
        np.testing.assert_array_equal(mnist[field], arrays[field])


@pytest.mark.parametrize("failure", [URLError("no route"), ValueError("no route")])
def test_fetch_mnist_without_files_and_openml(tmp_path, monkeypatch, failure):
    def fail(*args, **kwargs):
        raise failure

    monkeypatch.setattr(_mnist, "fetch_openml", fail)
    with pytest.raises(FileNotFoundError) as caught:
        fetch_mnist(data_home=tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'mnist'} has none of the files {', '.join(NAMES)} (plain or .gz), and MNIST "
        f"could not be downloaded from OpenML: {failure}. Put the four files there, set "
        "ACLUSTER_DATA or data_home to the folder that contains mnist, or use load_digits_28()."
    )


@pytest.mark.usefixtures("no_network")
def test_fetch_mnist_of_the_real_files(data_home):
    if not (data_home / "mnist").is_dir():
        pytest.skip(f"mnist is not in {data_home}")
    mnist = fetch_mnist()
    assert {field: (mnist[field].shape, mnist[field].dtype) for field in FIELDS} == FIELDS
    assert set(mnist.train_labels) == set(mnist.test_labels) == set(range(10))
    # FrameExtractor normalizes the pixels by these published figures.
    pixels = mnist.train_images / np.float32(255)
    assert pixels.mean() == pytest.approx(0.1307, abs=1e-4)
    assert pixels.std() == pytest.approx(0.3081, abs=1e-4)


@pytest.fixture(scope="module")
def digits():
    return load_digits_28()


def test_digits_28_has_the_fields_of_mnist(digits):
    for part, n_items in (("train", 1352), ("test", 445)):
        images, labels = digits[f"{part}_images"], digits[f"{part}_labels"]
        assert images.shape == (n_items, 28, 28)
        assert images.dtype == np.uint8
        assert labels.shape == (n_items,)
        assert labels.dtype == np.int64
    assert digits.DESCR.startswith("Scikit-learn's digits")


def test_digits_28_fill_the_same_pixels_as_mnist(digits):
    images = np.concatenate([digits.train_images, digits.test_images])
    border = images.copy()
    border[:, 4:24, 4:24] = 0
    assert not border.any()
    assert images.max() == 255


def test_digits_28_are_split_within_each_digit(digits):
    counts = np.bincount(load_digits().target)
    np.testing.assert_array_equal(np.bincount(digits.test_labels), counts // 4)
    np.testing.assert_array_equal(np.bincount(digits.train_labels), counts - counts // 4)


def test_digits_28_keep_their_order_and_shape(digits):
    original = load_digits()
    # The first images are all training images.
    np.testing.assert_array_equal(digits.train_labels[:500], original.target[:500])
    small = digits.train_images[:500, 4:24, 4:24].reshape(500, 4, 5, 4, 5).mean(axis=(2, 4))
    averaged = original.images[:500].reshape(500, 4, 2, 4, 2).mean(axis=(2, 4))
    assert np.corrcoef(small.ravel(), averaged.ravel())[0, 1] > 0.98
