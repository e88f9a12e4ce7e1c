"""One HDF5 file, or .npz archive, with many items: which layouts are read, and as what."""

import os
import tracemalloc

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acluster import open_feature_sets
from acluster.command_line import main
from acluster.formats import _hdf5, open_source
from tests.formats.test_readers import mutated


def write(path, datasets):
    """Write datasets; a number is short for an array of so many columns, filled with its rank."""
    with h5py.File(path, "w") as file:
        for rank, (name, value) in enumerate(datasets.items()):
            file[name] = np.full((rank % 3 + 1, value), rank) if isinstance(value, int) else value
    return path


def items(source):
    numbers = range(len(source.names))
    return dict(zip(source.names, source.read(numbers), strict=True))


def shown(source):
    """Return the first number of the features of each item, by modality if it has some."""
    return {
        name: {key: x[0, 0] for key, x in item.features.items()}
        if isinstance(item.features, dict)
        else item.features[0, 0]
        for name, item in items(source).items()
    }


COORDS = np.array([[0, 512], [512, 0], [1024, 256]])


@pytest.mark.parametrize("suffix", [".h5", ".hdf5", ".H5"])
def test_convert_reads_groups_with_features_and_coords(tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"slides{suffix}"
    with h5py.File(path, "w") as file:
        for number in range(12):
            group = file.create_group(f"slide{number}")
            n = number % 3 + 1
            group["features"] = np.full((1, n, 4), number, np.float16)
            group["coords"] = COORDS[:n] + number
            group["coords"].attrs["level0_mpp"] = 0.25
        file["version"] = 3
    rows = [f"slide{i},{'tumor' if i % 2 else 'normal'},case{i // 2}" for i in range(12)]
    (tmp_path / "cases.csv").write_text("\n".join(["slide_id,subtype,case_id", *rows]))
    options = ["--id", "slide_id", "--label", "subtype", "--group", "case_id"]
    assert main(["convert", path.name, "s.zarr", "--labels", "cases.csv", *options]) == 0
    X = open_feature_sets("s.zarr")
    assert X.id.tolist() == [f"slide{i}" for i in range(12)]
    assert X.group.tolist() == [f"case{i // 2}" for i in range(12)]
    assert X.dtype == np.float16
    assert X.places.column_names == ("x", "y", "mpp")
    for number, (rows, places) in enumerate(zip(X, X.places, strict=True)):
        assert (rows == number).all()
        np.testing.assert_array_equal(places[:, :2], COORDS[: len(rows)] + number)
        assert (places[:, 2] == 0.25).all()


def test_convert_resumes_within_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("videos.h5", {f"v{i}": 3 for i in range(9)})
    read, n_read = _hdf5.read_features, []

    def interrupted(*args):
        n_read.append(args)
        if len(n_read) == 5:
            raise KeyboardInterrupt
        return read(*args)

    with monkeypatch.context() as patch:
        patch.setattr("acluster.formats._hdf5_items.read_features", interrupted)
        assert main(["convert", "videos.h5", "s.zarr"]) == 130
    assert main(["convert", "videos.h5", "s.zarr"]) == 0
    X = open_feature_sets("s.zarr")
    assert X.id.tolist() == [f"v{i}" for i in range(9)]
    assert [rows[0, 0] for rows in X] == [*range(9)]


LAYOUTS = {
    "datasets": ({"v2": 3, "v10": 3}, {"v2": 0, "v10": 1}),
    "nested groups with features": (
        {"a/1/features": 3, "b/2/features": 3, "b/2/other": 7},
        {"a/1": 0, "b/2": 1},
    ),
    "one group is a modality": ({"i3d/1": 3, "i3d/x/2": 3}, {"1": {"i3d": 0}, "x/2": {"i3d": 1}}),
    "groups of other items": ({"train/1": 3, "test/2": 3}, {"test/2": 1, "train/1": 0}),
    "modalities in items": (
        {"v1/rgb": 3, "v1/audio": 2, "v2/rgb": 3},
        {"v1": {"rgb": 0, "audio": 1}, "v2": {"rgb": 2}},
    ),
    "items in modalities": (
        {"rgb/v1": 3, "audio/v1": 2, "rgb/v2": 3},
        {"v1": {"rgb": 0, "audio": 1}, "v2": {"rgb": 2}},
    ),
    "modalities with coords": (
        {"v1/a/features": 3, "v1/b/features": 2, "v2/a/features": 3},
        {"v1": {"a": 0, "b": 1}, "v2": {"a": 2}},
    ),
}


@pytest.mark.parametrize(("datasets", "expected"), LAYOUTS.values(), ids=LAYOUTS)
def test_open_source_reads_layouts(tmp_path, datasets, expected):
    assert shown(open_source(write(tmp_path / "a.h5", datasets))) == expected


def test_open_source_asks_what_groups_of_equal_names_and_widths_are(tmp_path):
    path = write(tmp_path / "a.h5", {"v1/rgb": 3, "v1/flow": 3, "v2/rgb": 3})
    with pytest.raises(ValueError, match=r"'v1/rgb' and 'v2/rgb' have the same .*--subfolders"):
        open_source(path)
    in_items = {"v1": {"rgb": 1, "flow": 0}, "v2": {"rgb": 2}}  # HDF5 sorts names
    assert {*open_source(path, known={"v2"}).names} == {*in_items}
    assert open_source(path, known={"v2/rgb"}).names == ["v1/flow", "v1/rgb", "v2/rgb"]
    assert open_source(path, subfolders="items").names == ["v1/flow", "v1/rgb", "v2/rgb"]
    assert open_source(path, subfolders="modalities").names == ["flow", "rgb"]
    with pytest.raises(ValueError, match="--subfolders"):
        open_source(path, known={"v1", "rgb"})
    with pytest.raises(ValueError, match=r"'v3' is in no group, so its modality"):
        open_source(write(tmp_path / "b.h5", {"v3": 3, "a/1": 3}), subfolders="modalities")


NAMES = st.lists(st.sampled_from("abc"), min_size=2, max_size=2).map("/".join)


@given(st.dictionaries(NAMES, st.integers(1, 3), min_size=1, max_size=6))
def test_open_source_takes_each_dataset_once_or_asks(tmp_path_factory, datasets):
    path = write(tmp_path_factory.mktemp("h5") / "a.h5", datasets)
    try:
        found = shown(open_source(path))
    except ValueError as error:
        assert "--subfolders modalities" in str(error)  # noqa: PT017
    else:
        ranks = [own.values() if isinstance(own, dict) else [own] for own in found.values()]
        assert sorted(rank for own in ranks for rank in own) == [*range(len(datasets))]


def fill_linked(path):
    write(path, {"a": 3})
    with h5py.File(path, "a") as file:
        file["b"] = h5py.ExternalLink("secret.h5", "x")


def fill_link_to_link(path):
    write(path.with_name("secret.h5"), {"x": 3})
    write(path, {"a": 3})
    with h5py.File(path, "a") as file:
        file["other"] = h5py.ExternalLink("secret.h5", "/")
        file["b"] = h5py.SoftLink("/other/x")


def fill_soft(path):
    write(path, {"a": 3})
    with h5py.File(path, "a") as file:
        file["b"] = h5py.SoftLink("/a")


def linked(path, **links):
    """Add soft links to a file; return its path."""
    with h5py.File(path, "a") as file:
        for name, target in links.items():
            file[name] = h5py.SoftLink(target)
    return path


def fill_group_beyond_link(path):
    write(path.with_name("secret.h5"), {"x/features": 3})
    write(path, {"a/features": 3})
    with h5py.File(path, "a") as file:
        file["other"] = h5py.ExternalLink("secret.h5", "/")
        file["b"] = h5py.SoftLink("/other/x")


def fill_nested(path):
    with h5py.File(path, "w") as file:
        group = file
        for _ in range(1500):
            group = group.create_group("g")
        group["features"] = np.ones((2, 3))


def fill_bytes(name):
    def fill(path):
        write(path, {"a/features": 3})
        with h5py.File(path, "a") as file:
            file[name] = np.ones((2, 3))

    return fill


def fill_huge(path):
    write(path, {"a/features": 3})
    with h5py.File(path, "a") as file:
        file.create_dataset("b/features", (10**9, 1000), "f4", chunks=(1000, 1000))


def filled(**datasets):
    return lambda path: write(path, datasets)


WRONG = {
    "one item": (filled(features=3, coords=COORDS), "is a file with one item"),
    "nothing": (filled(), "has 0 datasets. Pass a file with a group per item with the dataset"),
    "only columns": (
        filled(labels=np.arange(5), n=3.0),
        "has 2 datasets: labels of shape (5,), n of shape (). Pass a file with a group per item",
    ),
    "a vector among items": (filled(a=3, b=np.ones(3)), "b has shape (3,); an item needs two"),
    "three axes": (filled(a=np.ones((2, 3, 4))), "a has shape (2, 3, 4)"),
    "text": (filled(a=[["x", "y"]]), "a is not an array of numbers"),
    "a group without features": (
        filled(**{"s1/features": 3, "s1/coords": COORDS[:1], "s2/coords": COORDS}),
        "items such as 's1', a group with the dataset 'features', but 1 other datasets are in no "
        "such group, for example 's2/coords'",
    ),
    "items of both kinds": (filled(**{"s1/features": 3, "s2": 3}), "for example 's2'"),
    "an external link": (fill_linked, "b is not a dataset in this file"),
    "a link to a link": (fill_link_to_link, "b is not a dataset in this file"),
    "a soft link to a dataset": (fill_soft, None),
    "a group beyond a link": (fill_group_beyond_link, "b is not a dataset in this file"),
    "a link to nothing": (
        lambda p: linked(write(p, {"a": 3}), b="/lost"),
        "'b' is a link to '/lost', which leads to nothing. Remove it.",
    ),
    "a link to itself": (lambda p: linked(write(p, {"a": 3}), b="/b"), "'b' is a link to '/b'"),
    "two names of one group": (
        lambda p: linked(write(p, {"g/v1": 3, "g/v2": 3}), h="/g"),
        "'h' and 'g' are two names of one group. Remove the",
    ),
    "groups too deep": (
        fill_nested,
        "is nested 100 groups deep. Pass a file with a group per item",
    ),
    "a group that is not UTF-8": (
        fill_bytes(b"caf\xe9/features"),
        "has the name b'caf\\xe9', which is not encoded in UTF-8. Rename it with h5py",
    ),
    "a dataset that is not UTF-8": (fill_bytes(b"caf\xe9"), "the name b'caf\\xe9', which is not"),
    "beyond memory": (fill_huge, "b: features claims the shape (1000000000, 1000)"),
    "not in HDF5": (lambda p: p.write_bytes(b"hello"), "cannot be read as an HDF5 file"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.usefixtures("within_limits")
def test_open_source_rejects(name, tmp_path, monkeypatch):
    fill, message = WRONG[name]
    monkeypatch.chdir(tmp_path)
    fill(path := tmp_path / "wrong.h5")
    if message is None:  # a link within the file is another name of the same item
        assert shown(open_source(path)) == {"a": 0, "b": 0}
        return
    with pytest.raises(ValueError) as caught:
        open_source(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_read_names_the_item_with_wrong_coords(tmp_path):
    path = write(tmp_path / "a.h5", {"s1/features": 3, "s1/coords": COORDS})
    with pytest.raises(ValueError, match=r"a\.h5: s1: coords has shape \(3, 2\)"):
        items(open_source(path))


def test_open_source_reads_an_item_under_each_of_its_names(tmp_path):
    path = linked(write(tmp_path / "a.h5", {"s1/features": 3, "s2/features": 3}), s3="/s1")
    assert shown(open_source(path)) == {"s1": 0, "s2": 1, "s3": 0}


def test_open_source_passes_over_two_names_of_a_group_without_features(tmp_path):
    path = write(tmp_path / "a.h5", {"s1": 3})
    with h5py.File(path, "a") as file:
        file["empty"] = file.create_group("other")
    assert shown(open_source(path)) == {"s1": 0}


def test_the_remedy_for_names_that_are_not_utf_8_works(tmp_path):
    path = tmp_path / "a.h5"
    fill_bytes(b"caf\xe9/features")(path)
    with h5py.File(path, "a") as file:
        file.move(b"caf\xe9", "cafe")
    assert [*shown(open_source(path))] == ["a", "cafe"]


def test_open_source_of_a_group_that_contains_itself(tmp_path):
    path = write(tmp_path / "a.h5", {"g/v1": 3, "g/v2": 3})
    with h5py.File(path, "a") as file:
        file["g/again"] = file["g"]
        file["g/whole"] = file["/"]
    assert shown(open_source(path)) == {"v1": {"g": 0}, "v2": {"g": 1}}


@pytest.mark.skipif(os.name != "posix", reason="needs FIFOs")
def test_open_source_does_not_wait_for_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "a.h5")
    with pytest.raises(ValueError, match="pass a folder of"):
        open_source(tmp_path / "a.h5")


def test_mutated_files_give_items_or_value_errors_that_name_them(tmp_path):
    arrays = {"s1/features": 3, "s1/coords": COORDS[:1], "s2/features": 3}
    content = write(tmp_path / "a.h5", arrays).read_bytes()
    rng, n_read = np.random.default_rng(0), 0
    for _ in range(200):
        (path := tmp_path / "b.h5").write_bytes(mutated(content, rng))
        try:
            n_read += len(items(open_source(path)))
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
    assert 0 < n_read < 400


def test_reading_keeps_one_item_in_memory(tmp_path):
    path = write(tmp_path / "a.h5", {f"v{i}": np.ones((1000, 100)) for i in range(20)})
    source = open_source(path)
    tracemalloc.start()
    for item in source.read(range(20)):
        assert item.features.shape == (1000, 100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 800_000


def test_npz_with_features_and_coords_of_each_item(tmp_path):
    arrays = {"s10/features": np.ones((3, 4)), "s10/coords": COORDS, "s2/features": np.ones((1, 4))}
    np.savez(tmp_path / "a.npz", **arrays)
    found = items(open_source(tmp_path / "a.npz"))
    assert [*found] == ["s2", "s10"]
    assert found["s10"].places["x"].tolist() == [0, 512, 1024]
    assert found["s2"].places == {}
    np.savez(tmp_path / "b.npz", **arrays, other=np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"1 other arrays are neither .* for example 'other'"):
        open_source(tmp_path / "b.npz")
