"""What `acluster convert` accepts and rejects: files, archives and tables of any origin."""

import io
import os
import shutil
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

import acluster
from acluster.command_line import main
from acluster.sets import with_column_names

pytestmark = pytest.mark.usefixtures("within_limits")

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def npy_header(shape, descr="<f4", content=b""):
    file = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + content


def archive(*members, path="a.npz", **options):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", **options) as file:
        warnings.simplefilter("ignore")  # of members with the same name
        for name, content in members:
            file.writestr(name, content)


def folder(**files):
    for name, content in files.items():
        path = Path("features", f"{name}.npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def convert(capsys, *arguments, fails=False):
    before = {*Path().rglob("*")}
    assert main(["convert", *arguments, "new.zarr"]) == int(fails)
    added = {*Path().rglob("*")} - before
    assert all(path.parts[0] == "new.zarr" for path in added)
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("x.npy", npy(ARRAY)), ("x.npy", npy(-ARRAY))], "'x.npy' is in it twice"),
        ([("x.npy", npy(ARRAY)), ("x", npy(-ARRAY))], "'x' is in it twice"),
        ([("x.npy", npy(ARRAY)), ("x.npy\0y", npy(-ARRAY))], "'x.npy' is in it twice"),
        ([("x.npy", npy(ARRAY)), ("README.txt", b"hello")], "'README.txt' is not a .npy"),
        ([("x", npy(ARRAY))], "the member 'x' is not a .npy file"),
        ([], "a.npz has no items"),
        ([("x.npy", b"hello, world")], "x is not an array of numbers: the magic string"),
    ],
)
def test_convert_rejects_archive(capsys, members, message):
    archive(*members)
    assert message in convert(capsys, "a.npz", fails=True)


CONTENTS = {
    "rows beyond memory": (npy_header((10**14, 4)), "takes 1600000000000000 bytes, but it has 0"),
    "rows beyond int64": (npy_header((10**30, 4)), "bytes, but it has 0"),
    "negative rows": (npy_header((-1, -6), content=bytes(24)), "claims the shape (-1, -6)"),
    "too few rows": (npy(ARRAY)[:-4], "takes 24 bytes, but it has 20"),
    "a second array": (npy(ARRAY) + npy(ARRAY), "takes 24 bytes, but it has 176"),
    "a pickle": (npy(np.array([[{}]], object)), "its dtype is object"),
    "text": (npy(np.array([["a"]])), "its dtype is <U1"),
    "records": (npy(np.zeros((1, 1), "f4,i4")), "its dtype is"),
    "one dimension": (npy(np.ones(3)), "has shape (3,); an item needs two dimensions"),
    "no dtype": (npy_header((2, 3), descr="nonsense"), "is not an array of numbers"),
    "a header that is no dict": (b"\x93NUMPY\1\0\4\0(){\n", "is not an array of numbers"),
    "a header of 4 GB": (b"\x93NUMPY\2\0\xff\xff\xff\xff{" + bytes(20_000), "EOF"),
    "another version": (b"\x93NUMPY\x09\0" + bytes(99), "its format version is (9, 0)"),
    "an archive": (b"PK\x05\x06" + bytes(18), "is not an array of numbers"),
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("in_archive", [True, False])
def test_convert_rejects_array(capsys, name, in_archive):
    content, message = CONTENTS[name]
    archive(("good.npy", npy(ARRAY)), ("wrong.npy", content))
    folder(good=npy(ARRAY), wrong=content)
    error = convert(capsys, "a.npz" if in_archive else "features", fails=True)
    assert ("a.npz: wrong" if in_archive else "wrong.npy") in error
    assert message in error


def test_convert_never_unpickles(capsys):
    class Payload:
        def __reduce__(self):
            return os.mkdir, ("made by a pickle",)

    content = npy(np.array([[Payload()]], object))
    archive(("x.npy", content))
    folder(x=content)
    for source in ("a.npz", "features"):
        assert "its dtype is object" in convert(capsys, source, fails=True)
    assert not Path("made by a pickle").exists()


def test_convert_rejects_zip_bomb_at_once(capsys):
    rows = 350_000
    with zipfile.ZipFile("a.npz", "w", zipfile.ZIP_DEFLATED) as file, file.open("x.npy", "w") as x:
        for part in [npy_header((rows, 100)), *[bytes(rows * 4)] * 100]:
            x.write(part)
    assert "members claim to have 140000" in convert(capsys, "a.npz", fails=True)
    assert not Path("new.zarr").exists()


@pytest.mark.parametrize("rows", [5, 100_000])
def test_convert_stops_at_the_declared_size_of_a_member(capsys, rows):
    head = npy_header((rows, 100))
    compressor = zlib.compressobj(1, zlib.DEFLATED, -15)
    parts = [compressor.compress(part) for part in [head, *[bytes(1 << 24)] * 16]]
    with zipfile.ZipFile("a.npz", "w") as file:
        file.writestr("x.npy", b"".join([*parts, compressor.flush()]))
        file.getinfo("x.npy").compress_type = zipfile.ZIP_DEFLATED
        file.getinfo("x.npy").file_size = len(head) + 400 * rows
    assert "a.npz: x is not an array of numbers" in convert(capsys, "a.npz", fails=True)


def test_convert_rejects_encrypted_or_unusual_compression(capsys):
    archive(("x.npy", npy(ARRAY)))
    raw = bytearray(Path("a.npz").read_bytes())
    central = raw.index(b"PK\x01\x02")
    raw[6] |= 1
    raw[central + 8] |= 1
    Path("a.npz").write_bytes(raw)
    assert "'x.npy' is encrypted" in convert(capsys, "a.npz", fails=True)
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        archive(("x.npy", npy(ARRAY)), compression=method)
        assert "'x.npy' is not compressed as" in convert(capsys, "a.npz", fails=True)


def test_convert_rejects_archive_with_damaged_directory(capsys):
    archive(("x.npy", npy(ARRAY)))
    raw = bytearray(Path("a.npz").read_bytes())
    central = raw.index(b"PK\x01\x02")
    for place, code, value in (
        (central + 42, "<I", 2**31),  # where the member begins
        (central + 6, "<B", 200),  # the version that it needs
        (central + 24, "<I", 2**20),  # its size
    ):
        damaged = bytearray(raw)
        struct.pack_into(code, damaged, place, value)
        Path("a.npz").write_bytes(damaged)
        assert "a.npz" in convert(capsys, "a.npz", fails=True)


def test_convert_takes_member_names_as_ids_only(capsys):
    names = ["/absolute", "../above", "class/a"]
    archive(("class/", b""), *((f"{name}.npy", npy(ARRAY)) for name in names))
    convert(capsys, "a.npz")
    assert acluster.open_feature_sets("new.zarr").id.tolist() == sorted(names)


@pytest.mark.parametrize("name", ["", "/features"])
def test_convert_refuses_an_array_without_an_item(capsys, name):
    archive((f"{name}.npy", npy(ARRAY)))
    message = convert(capsys, "a.npz", fails=True)
    assert (
        message
        == f"acluster convert: a.npz: the array {name!r} has no name of an item; rename it.\n"
    )


@pytest.mark.skipif(os.name != "posix", reason="needs FIFOs")
def test_convert_does_not_wait_for_a_pipe(capsys):
    folder(a=npy(ARRAY))
    os.mkfifo("features/b.npy")
    assert "b.npy is a folder, a device or a pipe" in convert(capsys, "features", fails=True)
    os.mkfifo("b.npz")
    assert "b.npz is a file; pass" in convert(capsys, "b.npz", fails=True)


@pytest.mark.parametrize("place", ["given", "given/slides"])
def test_convert_says_what_it_found_in_a_folder_and_what_it_takes(capsys, place):
    Path(place).mkdir(parents=True)
    assert "given has no files, which cannot be read. Pass" in convert(capsys, "given", fails=True)
    for name in ("a.mat", "b.mat", "labels.csv", "README", ".hidden.npy"):
        Path(place, name).write_bytes(b"content")
    error = convert(capsys, "given", fails=True)
    found = "given has 1 (no suffix) file, 1 .csv file and 2 .mat files, which cannot be read. Pass"
    assert f"{found} a folder of .npy, .npz, .h5, .hdf5, .pt, .pth files" in error


@pytest.mark.parametrize("suffix", [".h5", ".hdf5", ".pt", ".pth", ".npz", ".npy", ".parquet"])
@pytest.mark.parametrize("place", ["given", "given/slides"])
def test_convert_names_the_file_that_it_cannot_read(capsys, suffix, place):
    Path(place).mkdir(parents=True)
    Path(place, f"slide{suffix}").write_bytes(b"\x80\x04.")
    error = convert(capsys, "given", fails=True)
    assert error.startswith(f"acluster convert: {place}/slide{suffix} ")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [(npy(ARRAY[:0]), "0 local features"), (npy(ARRAY[:, :2]), "2"), (npy(ARRAY[:, :0]), "0")],
)
def test_convert_names_the_file_of_an_invalid_item(capsys, content, message):
    folder(a=npy(ARRAY), slide_2=content)
    error = convert(capsys, "features", fails=True)
    assert error.startswith("acluster convert: features/slide_2.npy: ")
    assert message in error
    assert len(error.splitlines()) == 1


TABLES = {
    "two columns of labels": ("id,label,label\na,1,2\nb,1,2\n", "two columns of the name 'label'"),
    "two columns of ids": ("id,id\na,a\nb,b\n", "two columns of the name 'id'"),
    "multilabel": ("id,cat,dog\na,1,0\nb,0,1\n", "--label COLUMN [COLUMN ...]"),
    "an unknown column": ("id,class\na,1\nb,1\n", "has the columns ['id', 'class']"),
    "no header": ("a,1\nb,2\n", "it needs the column id"),
    "a missing id": ("id,label\na,1\n", "no row for the item 'b'"),
    "other ids": ("id,label\na.npy,1\nb.npy,1\n", "first ids of the table are ['a.npy', 'b.npy']"),
    "an id twice": ("id,label\na,1\na,1\nb,1\n", "line 3 is a second row for the item 'a'"),
    "an open quote": ('id,label\na,"1\nb,2\n', "in the row that begins in line 2"),
    "no rows": ("id,label\n", "has no row of an item"),
    "a weight of NaN": ("id,weight\na,1\nb,nan\n", "line 3: the weight 'nan' is not a number"),
    "a negative weight": ("id,weight\na,-1\nb,1\n", "the weight '-1' is not a number of at least"),
    "a long line": ("id,label\n" + "a" * (1 << 21), "is not a CSV table"),
    "UTF-16": ("id,label\na,1\n".encode("utf-16"), "is not encoded in UTF-8"),
    "nothing": ("", "it needs the column id"),
}


@pytest.mark.parametrize("name", TABLES)
def test_convert_rejects_table(capsys, name):
    content, message = TABLES[name]
    folder(a=npy(ARRAY), b=npy(ARRAY))
    Path("t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert message in convert(capsys, "features", "--labels", "t.csv", fails=True)
    assert not Path("new.zarr").exists()


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("delimiter", ",;\t")
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_convert_reads_tables_of_spreadsheets(capsys, mark, delimiter, end):
    folder(a=npy(ARRAY), b=npy(ARRAY))
    rows = [["id", "label"], ["b", '"x;,\t y"'], ["a", "\u732b"], ["not converted", "z"]]
    text = mark + end.join(map(delimiter.join, rows)) + end
    Path("t.csv").write_bytes(text.encode())
    error = convert(capsys, "features", "--labels", "t.csv", fails=True)
    assert "t.csv has a row for 'not converted', but there is no such item" in error
    convert(capsys, "features", "--labels", "t.csv", "--only-matching")
    assert acluster.open_feature_sets("new.zarr").label.tolist() == ["\u732b", "x;,\t y"]


def many(**files):
    for name, array in files.items():
        path = Path("given", name.replace("__", "/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)


def test_convert_keeps_files_of_one_name_in_two_folders_apart(capsys):
    many(a__1=ARRAY, b__1=-ARRAY, b__2=ARRAY)
    error = convert(capsys, "given", fails=True)
    assert "given/a/1.npy and given/b/1.npy have the same name" in error
    convert(capsys, "given", "--subfolders", "items")
    X = acluster.open_feature_sets("new.zarr")
    assert X.id.tolist() == ["a/1", "b/1", "b/2"]
    assert np.array_equal(X[1], -ARRAY)


@pytest.mark.parametrize(
    ("ids", "modalities"), [(["1", "2"], ["a", "b"]), (["a/1", "b/1", "b/2"], None)]
)
def test_convert_takes_folders_for_what_the_table_of_labels_says(capsys, ids, modalities):
    many(a__1=ARRAY, b__1=-ARRAY, b__2=ARRAY)
    Path("t.csv").write_text("id,label\n" + "".join(f"{name},x\n" for name in ids))
    convert(capsys, "given", "--labels", "t.csv")
    X = acluster.open_feature_sets("new.zarr")
    assert X.id.tolist() == ids
    assert getattr(X, "names", None) == modalities


@pytest.mark.parametrize("source", ["given", "a.parquet"])
def test_convert_resumes_items_of_other_tools(capsys, monkeypatch, source):
    torch, pa = pytest.importorskip("torch"), pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    sets = [ARRAY + i for i in range(20)]
    Path("given").mkdir()
    for i, x in enumerate(sets):
        torch.save(torch.tensor(x), f"given/{i}.pt")
    table = {"id": [f"{i}" for i in range(20)], "x": [x.tolist() for x in sets]}
    parquet.write_table(pa.table(table), "a.parquet", row_group_size=6)
    append = acluster.FeatureSetsWriter.append

    def interrupted(self, *args, **columns):
        if len(self) == 13:
            raise KeyboardInterrupt
        append(self, *args, **columns)

    with monkeypatch.context() as patch:
        patch.setattr(acluster.FeatureSetsWriter, "append", interrupted)
        assert main(["convert", source, "new.zarr"]) == 130
    assert acluster.sets.info("new.zarr").n_items == 13
    assert main(["convert", source, "new.zarr"]) == 0
    X = acluster.open_feature_sets("new.zarr")
    assert X.id.tolist() == [f"{i}" for i in range(20)]
    assert all(np.array_equal(x, y) for x, y in zip(X, sets, strict=True))


def test_convert_says_how_to_continue_after_a_damaged_file(capsys):
    sets = {f"{i}": ARRAY + i for i in range(10)}
    many(**sets)
    Path("given/6.npy").write_bytes(b"damaged")
    error = convert(capsys, "given", fails=True)
    assert error.startswith("acluster convert: given/6.npy ")
    assert "The 6 items before it stay in new.zarr: run the same command again" in error
    assert acluster.sets.info("new.zarr").n_items == 6
    many(**{"6": sets["6"]})
    assert convert(capsys, "given") == ""
    X = acluster.open_feature_sets("new.zarr")
    assert X.id.tolist() == [*sets]
    assert all(np.array_equal(x, y) for x, y in zip(X, sets.values(), strict=True))


def test_convert_leaves_no_new_store_without_items(capsys):
    many(a=ARRAY[:0], b=ARRAY)
    assert "stay in" not in convert(capsys, "given", fails=True)
    assert not Path("new.zarr").exists()


def h5_files(*files):
    """Write files whose local features have coordinates with some attributes, or None."""
    h5py = pytest.importorskip("h5py", reason="needs the extra formats")
    Path("given").mkdir(exist_ok=True)
    for number, attributes in enumerate(files):
        with h5py.File(f"given/{number}.h5", "w") as file:
            file["features"] = ARRAY
            if attributes is not None:
                file["coords"] = np.arange(4).reshape(2, 2)
                file["coords"].attrs.update(attributes)


@pytest.mark.parametrize("is_resumed", [False, True])
@pytest.mark.parametrize(
    ("first", "last", "seen"),
    [
        ({}, None, "no coordinates, but those of the items before it have the coordinates x, y"),
        (None, {}, "the coordinates x, y, but those of the items before it have no coordinates"),
        (
            {"mpp": 0.5},
            {},
            "the coordinates x, y, but those of the items before it have the coordinates mpp, x, y",
        ),
    ],
)
def test_convert_names_the_item_with_other_coordinates(capsys, is_resumed, first, last, seen):
    if is_resumed:
        h5_files(first, first)
        Path("given/2.h5").write_bytes(b"damaged")
        convert(capsys, "given", fails=True)
    h5_files(first, first, last)
    error = convert(capsys, "given", fails=True)
    assert error.startswith(f"acluster convert: given/2.h5: its local features have {seen}. Give ")
    assert "or convert them to separate stores. The 2 items before it stay in new.zarr" in error


def test_convert_names_the_modality_with_other_coordinates(capsys):
    for name, number, has_coords in [
        ("a", 0, True),
        ("a", 1, True),
        ("b", 0, True),
        ("b", 1, False),
    ]:
        Path("given", name).mkdir(parents=True, exist_ok=True)
        width = 3 if name == "a" else 2
        own = {"coords": np.zeros((2, 2))} if has_coords else {}
        np.savez(f"given/{name}/{number}.npz", features=ARRAY[:, :width], **own)
    error = convert(capsys, "given", fails=True)
    assert "given/a/1.npz, given/b/1.npz: its local features of 'b' have no coordinates" in error


def named_store(path="old.zarr", **columns):
    X = acluster.FeatureSets.from_arrays([ARRAY, ARRAY + 1])
    acluster.save_feature_sets(
        path, with_column_names(X, ("a", "b", "c")), id=["x", "y"], **columns
    )


def test_convert_of_a_store_keeps_the_names_of_its_columns(capsys):
    named_store()
    convert(capsys, "old.zarr", "--dtype", "float16")
    assert acluster.open_feature_sets("new.zarr").column_names == ("a", "b", "c")


def test_convert_resumes_a_store_whose_labels_are_nan(capsys):
    named_store(label=[np.nan, 1.0])
    convert(capsys, "old.zarr")
    convert(capsys, "old.zarr")
    named_store("other.zarr", label=[np.nan, 2.0])
    assert "its column label differs" in convert(capsys, "other.zarr", fails=True)


def test_convert_reads_a_store_in_a_zip_archive(capsys):
    named_store()
    shutil.make_archive("old", "zip", "old.zarr")
    convert(capsys, "old.zip")
    X = acluster.open_feature_sets("new.zarr")
    assert X.id.tolist() == ["x", "y"]
    np.testing.assert_array_equal(X[1], ARRAY + 1)


def test_convert_names_the_row_whose_entry_is_missing(capsys):
    pa = pytest.importorskip("pyarrow", reason="needs the extra formats")
    from pyarrow import parquet

    rows = {"f": [ARRAY.tolist()] * 3, "id": ["x", "y", "z"], "group": pa.nulls(3)}
    parquet.write_table(pa.table({**rows, "label": ["a", None, None]}), "t.parquet")
    error = convert(capsys, "t.parquet", fails=True)
    assert "t.parquet, row 1: its label is missing, and so are 2 of 3" in error
    Path("t.csv").write_text("id\nx\n")
    convert(capsys, "t.parquet", "--labels", "t.csv", "--only-matching")
    convert(capsys, "t.parquet", "--labels", "t.csv", "--only-matching")
    X = acluster.open_feature_sets("new.zarr")
    assert (X.id.tolist(), X.label.tolist(), X.group) == (["x"], ["a"], None)
