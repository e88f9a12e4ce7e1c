"""Files with one item each, as other tools write them, and files that are none."""

import io
import os
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from acluster.formats import read_item

FEATURES = np.arange(12, dtype=np.float32).reshape(4, 3)
TENSOR = torch.ones(2, 3)
COORDS = np.array([[0, 512], [512, 0], [1024, 256], [7, 9]])


def write(path, features, coords=None, mpp=None):
    """Write an item in the way of the tools that use files of this kind."""
    if path.suffix in (".h5", ".hdf5"):
        with h5py.File(path, "w") as file:
            file["features"] = features
            if coords is not None:
                file["coords"] = coords
                file["coords"].attrs["patch_size"] = 256
                if mpp is not None:
                    file["coords"].attrs["mpp"] = mpp
    elif path.suffix in (".pt", ".pth"):
        tensor = torch.tensor(features)
        both = {"features": tensor, "coords": None if coords is None else torch.tensor(coords)}
        torch.save(tensor if coords is None else both, path)
    elif path.suffix == ".npz":
        np.savez(
            path, **({"x": features} if coords is None else dict(features=features, coords=coords))
        )
    else:
        np.save(path, features)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5", ".hdf5", ".pt", ".pth", ".H5"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32"])
def test_read_item_returns_the_features_that_were_written(tmp_path, suffix, dtype):
    written = write(tmp_path / f"a{suffix.lower()}", FEATURES.astype(dtype))
    item = read_item(written.rename(tmp_path / f"b{suffix}"))
    assert item.features.dtype == dtype
    assert np.array_equal(item.features, FEATURES)
    assert item.places == {}


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".pt"])
def test_read_item_returns_coordinates_as_places(tmp_path, suffix):
    item = read_item(write(tmp_path / f"a{suffix}", FEATURES, COORDS))
    assert np.array_equal(item.features, FEATURES)
    assert {axis: x.tolist() for axis, x in item.places.items()} == {
        "x": [0, 512, 1024, 7],
        "y": [512, 0, 256, 9],
    }


def test_read_item_drops_the_batch_axis_and_reads_mpp(tmp_path):
    path = write(tmp_path / "a.h5", FEATURES[None], COORDS[None], mpp=0.2527)
    item = read_item(str(path))
    assert item.features.shape == (4, 3)
    assert item.places["mpp"].tolist() == [0.2527] * 4
    assert item.places["y"].tolist() == COORDS[:, 1].tolist()


@given(
    hnp.arrays(
        st.sampled_from(["float16", "float32", "int64", "uint8"]),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
    )
)
def test_read_item_is_the_inverse_of_writing(tmp_path_factory, features):
    folder = tmp_path_factory.mktemp("inverse")
    for suffix in (".npy", ".npz", ".h5", ".pt"):
        found = read_item(write(folder / f"a{suffix}", features)).features
        assert found.dtype == features.dtype
        np.testing.assert_array_equal(found, features)


def test_read_item_reads_bfloat16_and_compressed_or_empty_chunks(tmp_path):
    torch.save({"features": torch.tensor(FEATURES).bfloat16(), "n": 3}, tmp_path / "a.pt")
    assert np.array_equal(read_item(tmp_path / "a.pt").features, FEATURES)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("features", data=np.ones((500, 64)), compression="gzip")
    assert read_item(tmp_path / "a.h5").features.sum() == 500 * 64


def hdf5(**datasets):
    def fill(path):
        with h5py.File(path, "w") as file:
            for name, value in datasets.items():
                file[name] = value

    return fill


def huge_hdf5(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("features", (10**9, 1000), "f4", chunks=(1000, 1000))


def linked_hdf5(path):
    hdf5(features=FEATURES)(path.with_name("secret.h5"))
    with h5py.File(path, "w") as file:
        file["features"] = h5py.ExternalLink("secret.h5", "features")


def external_hdf5(path):
    path.with_name("secret").write_bytes(bytes(48))
    with h5py.File(path, "w") as file:
        where = [(str(path.with_name("secret")), 0, 48)]
        file.create_dataset("features", (4, 3), "f4", external=where)


def virtual_hdf5(path):
    hdf5(features=FEATURES)(path.with_name("secret.h5"))
    layout = h5py.VirtualLayout((4, 3), "f4")
    layout[:] = h5py.VirtualSource(str(path.with_name("secret.h5")), "features", shape=(4, 3))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("features", layout)


def cut(path):
    hdf5(features=np.ones((100, 30)))(path)
    path.write_bytes(path.read_bytes()[:-5000])


class Payload:
    def __reduce__(self):
        return os.mkdir, ("made by a pickle",)


def saved(thing):
    return lambda path: torch.save(thing, path)


def arrays(**members):
    return lambda path: np.savez(path, **members)


def huge_archive(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", b"")
        with file.open("a/data/0", "w") as member:
            for _ in range(300):
                member.write(bytes(1 << 20))


WRONG = {
    "h5 that is none": (".h5", lambda p: p.write_bytes(b"hello"), "as an HDF5 file"),
    "h5 that is cut": (".h5", cut, "as an HDF5 file"),
    "h5 without features": (".h5", hdf5(coords=COORDS), "no dataset 'features'; it has ['coords']"),
    "h5 with a group": (".h5", hdf5(**{"features/x": FEATURES}), "but a group, or a link"),
    "h5 of one row": (".h5", hdf5(features=FEATURES[0]), "has shape (3,)"),
    "h5 of three axes": (".h5", hdf5(features=np.ones((2, 3, 4))), "has shape (2, 3, 4)"),
    "h5 of text": (".h5", hdf5(features=[["a", "b"]]), "its dtype is object"),
    "h5 of records": (".h5", hdf5(features=np.zeros((2, 2), "f4,f4")), "not an array of numbers"),
    "h5 of a scalar": (".h5", hdf5(features=1.0), "has shape ()"),
    "h5 with few coords": (".h5", hdf5(features=FEATURES, coords=COORDS[:2]), "shape (4, 2)"),
    "h5 with another axis": (".h5", hdf5(features=FEATURES, coords=np.ones((4, 3))), "(4, 2)"),
    "h5 beyond memory": (".h5", huge_hdf5, "which takes 4000000000000 bytes"),
    "h5 with a link": (".h5", linked_hdf5, "or a link to another file"),
    "h5 with raw data elsewhere": (".h5", external_hdf5, "or a link to another file"),
    "h5 of other files": (".h5", virtual_hdf5, "or a link to another file"),
    "pt that is none": (".pt", lambda p: p.write_bytes(b"hello"), "as a file of torch.save"),
    "pt that runs code": (".pt", saved(Payload()), "as a file of torch.save with tensors alone"),
    "pt of a list": (".pt", saved([TENSOR]), "holds a list"),
    "pt of two tensors": (".pt", saved({"a": TENSOR, "b": TENSOR}), "keys ['a', 'b']"),
    "pt of no tensor": (".pt", saved({"a": 1}), "keys ['a']"),
    "pt of a vector": (".pt", saved(torch.ones(3)), "has shape (3,)"),
    "pt of complex": (".pt", saved(torch.ones(2, 3, dtype=torch.complex64)), "dtype is complex64"),
    "pt beyond memory": (".pt", saved(torch.ones(1).expand(10**9, 10**3)), "fewer numbers"),
    "pt that inflates": (".pt", huge_archive, "but claims to have"),
    "npz of two": (".npz", arrays(a=FEATURES, b=FEATURES), "has the arrays ['a', 'b']"),
    "npz of a pickle": (".npz", arrays(a=np.array([[{}]])), "its dtype is object"),
    "npz of few coords": (".npz", arrays(features=FEATURES, coords=COORDS[:1]), "shape (4, 2)"),
    "another suffix": (".mat", lambda p: p.write_bytes(b""), "its name must end with .npy"),
    "a folder": (".pt", lambda p: p.mkdir(), "is a folder, a device or a pipe"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.usefixtures("within_limits")
def test_read_item_rejects(name, tmp_path, monkeypatch):
    suffix, fill, message = WRONG[name]
    monkeypatch.chdir(tmp_path)
    fill(path := tmp_path / f"wrong{suffix}")
    with pytest.raises(ValueError) as caught:
        read_item(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made by a pickle").exists()


def test_read_item_of_no_file(tmp_path):
    for suffix in (".npy", ".npz", ".h5", ".pt"):
        with pytest.raises(FileNotFoundError, match="nothing"):
            read_item(tmp_path / f"nothing{suffix}")


@pytest.mark.skipif(os.name != "posix", reason="needs FIFOs")
@pytest.mark.parametrize("suffix", [".npy", ".h5", ".pt"])
def test_read_item_does_not_wait_for_a_pipe(tmp_path, suffix):
    os.mkfifo(tmp_path / f"a{suffix}")
    with pytest.raises(ValueError, match="a device or a pipe"):
        read_item(tmp_path / f"a{suffix}")


def test_read_item_names_the_extra_without_h5py(tmp_path, monkeypatch):
    write(tmp_path / "a.h5", FEATURES)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        ImportError, match=r"\.h5 files needs the package h5py.*acluster\[formats\]"
    ):
        read_item(tmp_path / "a.h5")


def test_reading_npy_imports_no_other_library(tmp_path):
    np.save(tmp_path / "a.npy", FEATURES)
    code = (
        "import sys\n"
        "from acluster.formats import read_item\n"
        "read_item('a.npy')\n"
        "assert not {'torch', 'h5py', 'pyarrow', 'sklearn'} & {*sys.modules}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def mutated(content, rng):
    raw = bytearray(content)
    for _ in range(rng.integers(1, 8)):
        raw[rng.integers(len(raw))] = rng.integers(256)
    return bytes(raw[: rng.integers(1, len(raw))] if rng.random() < 0.2 else raw)


@pytest.mark.parametrize("suffix", [".h5", ".pt"])
def test_read_item_of_mutated_files_returns_features_or_raises_value_error(tmp_path, suffix):
    content = write(tmp_path / f"a{suffix}", FEATURES, COORDS).read_bytes()
    rng, read = np.random.default_rng(0), 0
    for _ in range(300):
        (path := tmp_path / f"b{suffix}").write_bytes(mutated(content, rng))
        try:
            item = read_item(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
        else:
            read += 1
            assert item.features.ndim == 2
            assert all(len(x) == len(item.features) for x in item.places.values())
    assert 0 < read < 300


def test_torch_before_the_archive_format(tmp_path):
    file = io.BytesIO()
    torch.save(torch.tensor(FEATURES), file, _use_new_zipfile_serialization=False)
    (tmp_path / "a.pt").write_bytes(file.getvalue())
    assert np.array_equal(read_item(tmp_path / "a.pt").features, FEATURES)
