"""Which items a folder holds: ids, modalities, kinds of files."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acluster.formats import open_source
from tests.formats.test_readers import write


def fill(root, names, width=3):
    """Write one file per name; the features tell the file."""
    for i, name in enumerate(names):
        (path := root / name).parent.mkdir(parents=True, exist_ok=True)
        write(path, np.full((1 + i % 3, width), i, np.float32))
    return root


def items(source):
    found = source.read(range(len(source.names)))
    return dict(zip(source.names, [item.features for item in found], strict=True))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5", ".pt"])
def test_open_source_sorts_the_items_of_a_folder(tmp_path, suffix):
    names = ["item10", "item2", "a.b"]
    fill(tmp_path, [f"{name}{suffix}" for name in names])
    (tmp_path / "labels.csv").write_text("not an item")
    source = open_source(tmp_path)
    assert source.names == ["a.b", "item2", "item10"]
    assert source.columns == {"id": source.names}
    assert {name: x[0, 0] for name, x in items(source).items()} == dict(
        zip(names, range(3), strict=True)
    )
    assert source.where(1) == str(tmp_path / f"item2{suffix}")


def test_open_source_takes_paths_below_the_root_as_ids(tmp_path):
    fill(tmp_path, ["cats/1.h5", "cats/old/1.h5", "dogs/2.h5"])
    assert open_source(tmp_path).names == ["cats/1", "cats/old/1", "dogs/2"]
    fill(tmp_path, ["1.h5"])
    assert open_source(tmp_path).names == ["1", "cats/1", "cats/old/1", "dogs/2"]


def test_open_source_takes_folders_of_different_widths_as_modalities(tmp_path):
    fill(tmp_path, ["rgb/1.npy", "rgb/2.npy"])
    fill(tmp_path, ["audio/1.pt", "audio/3.pt"], width=5)
    source = open_source(tmp_path)
    assert source.names == ["1", "2", "3"]
    shapes = {
        name: {m: x.shape[1] for m, x in item.items()} for name, item in items(source).items()
    }
    assert shapes == {"1": {"rgb": 3, "audio": 5}, "2": {"rgb": 3}, "3": {"audio": 5}}
    assert source.where(0) == f"{tmp_path / 'audio/1.pt'}, {tmp_path / 'rgb/1.npy'}"


def test_open_source_takes_a_single_folder_as_a_modality(tmp_path):
    source = open_source(fill(tmp_path, ["rgb/1.npy", "rgb/x/1.npy"]))
    assert source.names == ["1", "x/1"]
    assert [[*item] for item in items(source).values()] == [["rgb"], ["rgb"]]


def test_open_source_asks_what_folders_of_equal_names_and_widths_are(tmp_path):
    fill(tmp_path, ["a/1.h5", "a/2.h5", "b/1.h5"])
    with pytest.raises(ValueError, match=r"a/1.h5 and .*b/1.h5 have the same name.*--subfolders"):
        open_source(tmp_path)
    assert open_source(tmp_path, subfolders="items").names == ["a/1", "a/2", "b/1"]
    modalities = open_source(tmp_path, subfolders="modalities")
    assert [[*item] for item in items(modalities).values()] == [["a", "b"], ["a"]]
    assert open_source(tmp_path, known={"1", "2"}).names == ["1", "2"]
    assert open_source(tmp_path, known={"b/1"}).names == ["a/1", "a/2", "b/1"]
    with pytest.raises(ValueError, match="--subfolders"):
        open_source(tmp_path, known={"1", "b/1"})


NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)


@given(st.sets(NAMES, min_size=1, max_size=8))
def test_open_source_never_mixes_up_two_files(tmp_path_factory, names):
    root = fill(tmp_path_factory.mktemp("files"), [f"{name}.npy" for name in names])
    source = open_source(root, subfolders="items")
    assert {*source.names} == names
    assert len(source.names) == len(names)
    found = {name: x[0, 0] for name, x in items(source).items()}
    assert found == {name: i for i, name in enumerate(names)}


def test_open_source_rejects_two_files_of_one_id(tmp_path):
    fill(tmp_path, ["a.h5", "a.hdf5"])
    with pytest.raises(ValueError, match=r"a\.h5 and .*a\.hdf5 would both be the item 'a'"):
        open_source(tmp_path)


def test_open_source_rejects_several_kinds_in_a_folder(tmp_path):
    fill(tmp_path, ["a.h5", "b.hdf5", "c.pt"])
    with pytest.raises(
        ValueError, match=r"1 \.h5 file, 1 \.hdf5 file and 1 \.pt file, but the items"
    ):
        open_source(tmp_path)
    (tmp_path / "c.pt").rename(tmp_path / "c.parquet")
    with pytest.raises(ValueError, match=r"1 \.parquet file, but a folder must be of one kind"):
        open_source(tmp_path)


def test_open_source_rejects_items_beside_modalities(tmp_path):
    fill(tmp_path, ["a.npy", "rgb/a.npy"])
    with pytest.raises(ValueError, match=r"has items beside its subfolders, such as .*a\.npy"):
        open_source(tmp_path, subfolders="modalities")


def test_open_source_skips_hidden_files_and_follows_links_once(tmp_path):
    fill(tmp_path, ["in/a.npy", "in/._b.npy", "in/.cache/c.npy"])
    fill(tmp_path, ["elsewhere/d.npy"])
    os.symlink(tmp_path / "elsewhere", tmp_path / "in" / "linked")
    os.symlink(tmp_path / "in", tmp_path / "in" / "circle")
    assert open_source(tmp_path / "in").names == ["a", "linked/d"]


@pytest.mark.parametrize("suffix", [".npy", ".h5", ".pt"])
def test_open_source_of_one_item_says_what_to_pass(tmp_path, suffix):
    fill(tmp_path, [f"a{suffix}"])
    with pytest.raises(ValueError, match=rf"a\{suffix} is a file with one item; pass a folder of"):
        open_source(tmp_path / f"a{suffix}")


def test_open_source_of_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*nothing\. Pass a folder of"):
        open_source(tmp_path / "nothing")
