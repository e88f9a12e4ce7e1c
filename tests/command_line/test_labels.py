"""Tables of labels with columns of any name, and what `acluster convert` does with them."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest

import acluster
from acluster.command_line import main
from acluster.sets import info

ARRAYS = [np.full((2 + i % 3, 3), i, np.float32) for i in range(6)]
# The columns of a table of CLAM, with a split, a weight and two findings.
TABLE = """\
case_id,slide_id,label,split,w,tumor,necrosis,note
p0,s0,luad,train,1,1,0,
p0,s1,luad,train,0.5,1,1,x
p1,s2,lusc,test,2,0,0,
p1,s3,lusc,train,1,0,True,
p2,s4,luad,train,1,1,false,
p2,s5,lusc,test,1,0,1,
"""
ROLES = ["--id", "slide_id", "--label", "label", "--group", "case_id", "--weight", "w"]


@pytest.fixture(autouse=True)
def slides(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("slides").mkdir()
    for i, array in enumerate(ARRAYS):
        np.save(f"slides/s{i}.npy", array)
    Path("t.csv").write_text(TABLE)


def convert(capsys, *options, source="slides", store="new.zarr", fails=False):
    assert main(["convert", source, store, "--labels", "t.csv", *options]) == int(fails)
    output = capsys.readouterr()
    return output.err if fails else output.out


def test_convert_reads_named_columns(capsys):
    assert convert(capsys, *ROLES) == "6 items are in new.zarr\n"
    X = acluster.open_feature_sets("new.zarr")
    assert X.id.tolist() == [f"s{i}" for i in range(6)]
    assert X.label.tolist() == ["luad", "luad", "lusc", "lusc", "luad", "lusc"]
    assert X.group.tolist() == ["p0", "p0", "p1", "p1", "p2", "p2"]
    assert X.weight.tolist() == [1, 0.5, 2, 1, 1, 1]


def test_convert_uses_no_other_columns_than_the_named_ones(capsys):
    convert(capsys, "--id", "slide_id", "--group", "case_id")
    assert {*info("new.zarr").columns} == {"id", "group"}


def test_convert_reads_the_id_from_the_column_id_by_default(capsys):
    Path("t.csv").write_text(TABLE.replace("slide_id", "id"))
    convert(capsys, "--label", "tumor")
    assert acluster.open_feature_sets("new.zarr").label.tolist() == list("110010")


def test_convert_stores_several_labels_with_their_names(capsys):
    convert(capsys, "--id", "slide_id", "--label", "tumor", "necrosis")
    stored = [[1, 0], [1, 1], [0, 0], [0, 1], [1, 0], [0, 1]]
    assert acluster.open_feature_sets("new.zarr").label.tolist() == stored
    assert main(["info", "new.zarr"]) == 0
    assert "labels: tumor, necrosis\n" in capsys.readouterr().out
    assert main(["convert", "new.zarr", "half.zarr", "--dtype", "float16"]) == 0
    assert info("half.zarr").label_names == ("tumor", "necrosis")
    fit = [
        "fit",
        "half.zarr",
        "--out",
        "m",
        "--set",
        "max_iter=40",
        "learning_rate=0.03",
        "tol=null",
    ]
    assert main(fit) == 0
    capsys.readouterr()
    assert main(["predict", "m", "new.zarr", "--proba"]) == 0
    rows = [*csv.DictReader(io.StringIO(capsys.readouterr().out))]
    assert {*rows[0]} >= {"probability of tumor", "probability of necrosis"}
    assert {name for row in rows for name in row["prediction"].split("; ")} <= {
        "tumor", "necrosis", ""
    }  # fmt: skip
    assert any(row["prediction"] for row in rows)


def test_convert_resumes_with_the_same_names_of_labels_only(capsys):
    convert(capsys, "--id", "slide_id", "--label", "tumor", "necrosis")
    convert(capsys, "--id", "slide_id", "--label", "tumor", "necrosis")
    error = convert(capsys, "--id", "slide_id", "--label", "necrosis", "tumor", fails=True)
    assert "label_names=['necrosis', 'tumor'], but new.zarr has ('tumor', 'necrosis')" in error


def test_convert_converts_one_split(capsys):
    out = convert(capsys, *ROLES, "--split", "split=test")
    assert out == "2 items are in new.zarr; 4 others are left out\n"
    X = acluster.open_feature_sets("new.zarr")
    assert X.id.tolist() == ["s2", "s5"]
    assert all(np.array_equal(x, ARRAYS[i]) for x, i in zip(X, (2, 5), strict=True))
    convert(capsys, *ROLES, "--split", "split=train", store="train.zarr")
    assert acluster.open_feature_sets("train.zarr").id.tolist() == ["s0", "s1", "s3", "s4"]


def test_convert_of_one_split_from_a_store_and_an_archive(capsys):
    np.savez("a.npz", **{f"s{i}": array for i, array in enumerate(ARRAYS)})
    convert(capsys, *ROLES, store="all.zarr")
    for source in ("a.npz", "all.zarr"):
        convert(capsys, *ROLES, "--split", "split=test", source=source, store=f"{source}.test")
        X = acluster.open_feature_sets(f"{source}.test")
        assert X.id.tolist() == ["s2", "s5"]
        assert X.group.tolist() == ["p1", "p2"]
        assert np.array_equal(X[1], ARRAYS[5])


def test_convert_counts_items_without_rows_and_rows_without_items(capsys):
    Path("slides/s1.npy").unlink()
    np.save("slides/extra.npy", ARRAYS[0])
    error = convert(capsys, *ROLES, fails=True)
    assert "t.csv has no row for the item 'extra', and for 1 items in all." in error
    Path("slides/extra.npy").unlink()
    Path("slides/s4.npy").unlink()
    error = convert(capsys, *ROLES, fails=True)
    assert "t.csv has a row for 's1', but there is no such item; the same holds for 2 rows" in error
    assert "(also 's4')" in error
    assert not Path("new.zarr").exists()
    np.save("slides/extra.npy", ARRAYS[0])
    out = convert(capsys, *ROLES, "--only-matching")
    assert out == "4 items are in new.zarr; 1 others are left out\n"
    assert acluster.open_feature_sets("new.zarr").id.tolist() == ["s0", "s2", "s3", "s5"]


WRONG = {
    "no such column": (
        ["--id", "slide"],
        "t.csv has no column 'slide'; its columns are ['case_id'",
    ),
    "no column id": (["--label", "label"], "t.csv has no column 'id'"),
    "no column of the split": (["--id", "slide_id", "--split", "fold=1"], "no column 'fold'"),
    "an empty split": (["--id", "slide_id", "--split", "split=val"], "no row whose split is 'val'"),
    "no value": (["--id", "slide_id", "--split", "split"], "--split takes COLUMN=VALUE"),
    "labels that are not 0 and 1": (
        ["--id", "slide_id", "--label", "tumor", "label"],
        "line 2: the label 'label' is 'luad'; with several labels per item, each must be 0 or 1",
    ),
    "a label twice": (["--id", "slide_id", "--label", "tumor", "tumor"], "names a column twice"),
    "an empty entry": (["--id", "slide_id", "--label", "note"], "line 2 has the entries"),
    "a weight of text": (["--id", "slide_id", "--weight", "case_id"], "'p0' is not a number"),
    "ids twice": (["--id", "case_id"], "line 3 is a second row for the item 'p0'"),
    "other items": (["--id", "w", "--only-matching"], "line 5 is a second row"),
    "nothing in common": (["--id", "x", "--only-matching"], "has no row for any item"),
}


@pytest.mark.parametrize("name", WRONG)
def test_convert_rejects_roles(capsys, name):
    options, message = WRONG[name]
    if name == "nothing in common":
        Path("t.csv").write_text("x\n1\n2\n")
    assert message in convert(capsys, *options, fails=True)
    assert not Path("new.zarr").exists()


@pytest.mark.parametrize("option", [["--id", "a"], ["--split", "a=b"], ["--only-matching"]])
def test_convert_rejects_roles_without_a_table(capsys, option):
    assert main(["convert", "slides", "new.zarr", *option]) == 1
    assert "Pass it too: --labels table.csv" in capsys.readouterr().err
