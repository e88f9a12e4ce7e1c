"""The command `acluster extract`, on generated clips."""

import pytest

from acluster import open_feature_sets
from acluster.command_line import main
from acluster.sets import info
from tests.extraction.media import make_media

pytest.importorskip("av", reason="needs the extra media")


@pytest.fixture
def clips(tmp_path):
    for number in range(4):
        folder = tmp_path / "clips" / ("clapping" if number % 2 else "waving")
        folder.mkdir(parents=True, exist_ok=True)
        make_media(folder / f"{number}.mp4", 20, seconds_of_sound=1.2)
    (tmp_path / "clips" / "waving" / "9.mp4").write_bytes(b"no video")
    return tmp_path / "clips"


def run(capsys, *arguments):
    status = main([*map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_extract_writes_a_store_and_names_what_failed(clips, tmp_path, capsys):
    store = tmp_path / "clips.zarr"
    options = ("--labels", "folders", "--rgb", "descriptor", "--audio", "descriptor")
    status, out, error = run(capsys, "extract", clips, store, *options, "--frames", 5)
    assert status == 0
    assert out.startswith("4 items, 4 of them new; 1 failed")
    assert error.startswith("failed: waving/9.mp4: ")
    X = open_feature_sets(store)
    assert X.names == ["rgb", "audio"]
    assert X["rgb"].lengths.tolist() == [5] * 4
    assert X.label.tolist() == ["clapping", "clapping", "waving", "waving"]
    status, out, _ = run(capsys, "extract", clips, store, *options, "--frames", 5)
    assert out.startswith("4 items, 0 of them new")
    status, _, error = run(capsys, "extract", clips, store, *options, "--frames", 6)
    assert status == 1
    assert "was begun with another extraction" in error


def test_extract_cuts_patches_of_the_given_length(clips, tmp_path, capsys):
    options = ("--audio", "descriptor", "--patch", 10, "--patch-hop", 5)
    assert run(capsys, "extract", clips, tmp_path / "s.zarr", *options)[0] == 0
    X = open_feature_sets(tmp_path / "s.zarr")
    view = X.extraction["audio"]["view"]
    assert view == {"kind": "LogMel", "hop": 5, "silence": 1e-3, "length": 10}
    assert X["audio"].places[0][:3, 0] == pytest.approx([0, 0.05, 0.1])


def test_extract_takes_labels_and_groups_from_a_table(clips, tmp_path, capsys):
    table = tmp_path / "t.csv"
    lines = [f"{'waving' if i % 2 == 0 else 'clapping'}/{i}.mp4,c{i},p{i // 2}" for i in range(4)]
    table.write_text("\n".join(["video,what,who", *lines, "waving/9.mp4,c9,p9"]))
    store = tmp_path / "clips.zarr"
    options = ("--audio", "descriptor", "--labels", table, "--id", "video", "--group", "who")
    status, _, _ = run(capsys, "extract", clips, store, *options, "--label", "what")
    assert status == 0
    X = open_feature_sets(store)
    assert X.label.tolist() == ["c1", "c3", "c0", "c2"]
    assert X.group.tolist() == ["p0", "p1", "p0", "p1"]


def test_extract_keeps_the_names_of_several_labels(clips, tmp_path, capsys):
    table, store = tmp_path / "t.csv", tmp_path / "clips.zarr"
    lines = [f"{'waving' if i % 2 == 0 else 'clapping'}/{i}.mp4,1,{i % 2}" for i in range(4)]
    table.write_text("\n".join(["id,person,hands", *lines, "waving/9.mp4,0,0"]))
    options = ("--audio", "descriptor", "--labels", table, "--label", "person", "hands")
    for _ in range(2):
        assert run(capsys, "extract", clips, store, *options)[0] == 0
    assert info(store).label_names == ("person", "hands")
    assert open_feature_sets(store).label.tolist() == [[1, 1], [1, 1], [1, 0], [1, 0]]


@pytest.mark.filterwarnings("default:the weights in")
def test_extract_warns_of_weights_that_it_does_not_store(clips, tmp_path, capsys):
    table = tmp_path / "t.csv"
    table.write_text("id,weight\n")
    options = ("--audio", "descriptor", "--labels", table)
    status, _, error = run(capsys, "extract", clips, tmp_path / "s.zarr", *options)
    assert status == 1
    assert "t.csv has no row of an item" in error
    names = [path.relative_to(clips).as_posix() for path in sorted(clips.rglob("*.mp4"))]
    table.write_text("\n".join(["id,weight", *(f"{name},1" for name in names)]))
    status, _, error = run(capsys, "extract", clips, tmp_path / "s.zarr", *options)
    assert status == 0
    assert "t.csv are not stored" in error


def test_extract_of_parts_can_be_merged(clips, tmp_path, capsys):
    options = ("--labels", "folders", "--rgb", "descriptor", "--frames", 3)
    for i in (1, 2):
        part = tmp_path / f"{i}.zarr"
        assert run(capsys, "extract", clips, part, *options, "--part", f"{i}/2")[0] == 0
    merged, whole = tmp_path / "merged.zarr", tmp_path / "whole.zarr"
    assert run(capsys, "merge", tmp_path / "1.zarr", tmp_path / "2.zarr", merged)[0] == 0
    run(capsys, "extract", clips, whole, *options)
    X, Y = open_feature_sets(merged), open_feature_sets(whole)
    assert X.id.tolist() == Y.id.tolist()
    assert X.label.tolist() == Y.label.tolist()
    for one, other in zip(X, Y, strict=True):
        assert one["rgb"].tolist() == other["rgb"].tolist()
    assert [x.tolist() for x in X["rgb"].places] == [x.tolist() for x in Y["rgb"].places]


def test_extract_reads_in_processes(clips, tmp_path, capsys):
    options = ("--rgb", "descriptor", "--frames", 3)
    one, other = tmp_path / "one.zarr", tmp_path / "other.zarr"
    assert run(capsys, "extract", clips, one, *options)[0] == 0
    limits = ("--workers", 1, "--worker-kind", "processes", "--seconds-per-file", 60)
    assert run(capsys, "extract", clips, other, *options, *limits)[0] == 0
    X, Y = open_feature_sets(one)["rgb"], open_feature_sets(other)["rgb"]
    assert len(X) == 4
    assert [x.tolist() for x in X] == [y.tolist() for y in Y]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "name at least one modality"),
        (("--rgb", "nonsense"), "'nonsense' is not the name of a feature extractor"),
        (("--rgb", "descriptor", "--part", "3/2"), "--part takes I/N"),
        (("--audio", "descriptor", "--patch-hop", "97"), "hop=97 is more than length=96"),
        (("--rgb", "descriptor", "--id", "x"), "about a table of labels"),
        (("--rgb", "descriptor", "--frames", "0"), "n=0 is not an integer above 0"),
        (("--rgb", "descriptor", "--seconds-per-file", "9"), "Pass workers='processes'"),
        (("--flow", "descriptor", "--flow-device", "gpu"), "'gpu' is not the name of a device"),
        (("--tiles", "descriptor", "--tissue", "50"), "tissue=50.0 is a share"),
        (("--tiles", "descriptor", "--mpp", "-1"), "mpp=-1.0 is not a number above 0"),
        (("--rgb", "descriptor", "--mpp", "0.5"), "--mpp is about --tiles, which is not given"),
        (("--rgb", "descriptor", "--patch-hop", "5"), "--patch-hop is about --audio"),
        (("--audio", "descriptor", "--flow-method", "dis"), "--flow-method is about --flow"),
    ],
)
def test_extract_rejects_invalid_options(clips, tmp_path, capsys, options, message):
    status, _, error = run(capsys, "extract", clips, tmp_path / "s.zarr", *options)
    assert status == 1
    assert message in error
    assert not (tmp_path / "s.zarr").exists()
