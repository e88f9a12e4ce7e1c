"""Parquet, Arrow and Feather tables with one item per row."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import feather, parquet

from acluster.formats import open_source

ROOT = Path(__file__).resolve().parents[2]
SETS = [np.arange(3 * n, dtype=np.float32).reshape(n, 3) + n for n in (2, 1, 4, 3, 1)] * 4
ROWS = [x.tolist() for x in SETS]


def parquet_of(table, path):
    parquet.write_table(table, path, row_group_size=3)


def arrow_of(table, path):
    with pa.ipc.new_file(path, table.schema) as file:
        file.write_table(table, max_chunksize=7)


def stream_of(table, path):
    with pa.ipc.new_stream(path, table.schema) as file:
        file.write_table(table, max_chunksize=7)


def compressed(table, path):
    feather.write_feather(table, str(path), compression="zstd")


WRITERS = {
    "parquet": (".parquet", parquet_of),
    "arrow file": (".arrow", arrow_of),
    "arrow stream": (".arrow", stream_of),
    "feather": (".feather", compressed),
}
TYPES = {
    "lists": pa.list_(pa.list_(pa.float32())),
    "large lists": pa.large_list(pa.large_list(pa.float64())),
    "rows of fixed size": pa.list_(pa.list_(pa.float32(), 3)),
    "half precision": pa.list_(pa.list_(pa.float16(), 3)),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("wanted", [range(20), [0], [19], [4, 5, 11], range(13, 20)])
def test_open_source_reads_the_rows_that_were_written(tmp_path, writer, type_, wanted):
    if (writer, type_) == ("feather", "half precision"):
        pytest.skip("the two others suffice")
    suffix, write = WRITERS[writer]
    number = np.float16 if type_ == "half precision" else float
    rows = [[[number(x) for x in row] for row in item] for item in ROWS]
    write(pa.table({"features": pa.array(rows, TYPES[type_])}), path := tmp_path / f"a{suffix}")
    source = open_source(path)
    assert source.names == [str(i) for i in range(20)]
    assert source.columns == {}
    found = [item.features for item in source.read(wanted)]
    assert all(np.array_equal(x, SETS[i]) for x, i in zip(found, wanted, strict=True))
    assert found[0].dtype == TYPES[type_].value_type.value_type.to_pandas_dtype()


def test_open_source_reads_columns_places_and_several_files(tmp_path):
    def table(first, last):
        rows = range(first, last)
        return pa.table(
            {
                "id": [f"s{i}" for i in rows],
                "label": pa.array(["ab"[i % 2] for i in rows]).dictionary_encode(),
                "group": [i // 3 for i in rows],
                "weight": [0.5 + i for i in rows],
                "notes": ["not used"] * len(rows),
                "tiles": ROWS[first:last],
                "coords": [[[j, 10 * i] for j in range(len(ROWS[i]))] for i in rows],
            }
        )

    parquet.write_table(table(0, 12), tmp_path / "part2.parquet")
    arrow_of(table(12, 20), tmp_path / "part10.arrow")
    source = open_source(tmp_path)
    assert source.names == [f"s{i}" for i in range(20)]
    assert {name: values[13] for name, values in source.columns.items()} == {
        "label": "b", "id": "s13", "group": 4, "weight": 13.5,
    }  # fmt: skip
    for i, item in zip([3, 11, 12, 19], source.read([3, 11, 12, 19]), strict=True):
        assert np.array_equal(item.features, SETS[i])
        assert item.places["x"].tolist() == [*range(len(SETS[i]))]
        assert item.places["y"].tolist() == [10 * i] * len(SETS[i])
    assert source.where(13) == f"{tmp_path / 'part10.arrow'}, row 1"


def test_open_source_takes_several_columns_as_modalities(tmp_path):
    table = pa.table({"rgb": ROWS[:3], "audio": [None, [], [[1.0, 2.0]]]})
    parquet.write_table(table, tmp_path / "a.parquet")
    items = [item.features for item in open_source(tmp_path / "a.parquet").read(range(3))]
    assert [[*item] for item in items] == [["rgb"], ["rgb"], ["rgb", "audio"]]
    assert items[2]["audio"].tolist() == [[1.0, 2.0]]


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=40), st.sampled_from(["zstd", "uncompressed"])
)
def test_open_source_reads_what_polars_writes(tmp_path_factory, lengths, compression):
    pl, folder = pytest.importorskip("polars"), tmp_path_factory.mktemp("polars")
    rng = np.random.default_rng(0)
    sets = [rng.normal(size=(n, 2)) for n in lengths]
    frame = pl.DataFrame(
        {"id": [f"{i}" for i in range(len(sets))], "x": [s.tolist() for s in sets]}
    )
    frame.write_parquet(folder / "a.parquet", compression=compression, row_group_size=5)
    frame.write_ipc(folder / "a.arrow", compression=compression)
    for path in (folder / "a.parquet", folder / "a.arrow"):
        source = open_source(path)
        assert source.names == [f"{i}" for i in range(len(sets))]
        for x, item in zip(sets, source.read(range(len(sets))), strict=True):
            assert np.array_equal(item.features, x)


def table_file(suffix=".parquet", **columns):
    def write(folder):
        writer = parquet_of if suffix == ".parquet" else arrow_of
        writer(pa.table(columns), path := folder / f"a{suffix}")
        return path

    return write


def text(name):
    def write(folder):
        (folder / name).write_text("text" * 9)
        return folder / name

    return write


def damaged(suffix, cut):
    def write(folder):
        path = table_file(suffix, x=ROWS)(folder)
        content = path.read_bytes()
        path.write_bytes(content[:cut] + bytes(64) + content[cut + 64 :])
        return path

    return write


def unlike(folder):
    parquet.write_table(pa.table({"x": ROWS}), folder / "a.parquet")
    parquet.write_table(pa.table({"y": ROWS}), folder / "b.parquet")
    return folder


WRONG = {
    "no table": (text("a.parquet"), "cannot be read as a .parquet file"),
    "no arrow": (text("a.arrow"), "cannot be read as a .arrow file"),
    "damaged parquet": (damaged(".parquet", 100), "row 0|a .parquet file"),
    "flat lists": (table_file(x=[[1.0, 2.0]]), r"no column of lists of lists.*x \(list<"),
    "text": (table_file(x=[[["a"]]]), "row 0: .*list<.*string.*expected lists of lists of numbers"),
    "ragged rows": (table_file(x=[[[1.0]], [[1.0, 2.0], [3.0]]]), "row 1: .* have 1..2 numbers"),
    "a missing number": (table_file(x=[[[1.0, None]]]), "row 0: .*1 missing numbers"),
    "a missing row": (table_file(x=[[[1.0], None]]), "row 0: .*1 missing local features"),
    "an empty item": (table_file(x=[[[1.0]], []]), "row 1: x has 0 local features"),
    "a missing item": (table_file(x=[[[1.0]], None]), "row 1: x has 0 local features"),
    "few coords": (table_file(x=[[[1.0]]], coords=[[[1, 2], [3, 4]]]), r"need the shape \(1, 2\)"),
    "unlike tables": (unlike, r"has the features \['y'\]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_open_source_rejects_table(tmp_path, name):
    write, message = WRONG[name]
    path = write(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        [*(source := open_source(path)).read(range(len(source.names)))]
    assert str(tmp_path) in str(caught.value)


def test_open_source_names_the_extra_without_pyarrow(tmp_path):
    parquet.write_table(pa.table({"x": ROWS}), tmp_path / "a.parquet")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "sys.modules['pyarrow'] = None\n"
        "from acluster.formats import open_source\n"
        "try:\n"
        "    open_source(Path('a.parquet'))\n"
        "except ImportError as error:\n"
        "    assert '.parquet files needs the package pyarrow' in str(error), error\n"
        "    assert 'acluster[formats]' in str(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


MUTATE = """
import sys
from pathlib import Path
import numpy as np
from acluster.formats import open_source
from tests.formats.test_readers import mutated

path, rng, read = Path(sys.argv[1]), np.random.default_rng(0), 0
content = path.read_bytes()
for _ in range(200):
    path.write_bytes(mutated(content, rng))
    try:
        source = open_source(path)
        items = [*source.read(range(len(source.names)))]
    except ValueError as error:
        assert str(path) in str(error), error
    else:
        read += 1
        assert all(item.features.ndim == 2 for item in items)
assert read
"""


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_open_source_of_mutated_tables_reads_items_or_raises_value_error(tmp_path, suffix):
    path = table_file(suffix, id=["a", "b"], x=ROWS[:2])(tmp_path)
    # In a process of its own, because a fault of the library may end it.
    command = [sys.executable, "-c", MUTATE, path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
