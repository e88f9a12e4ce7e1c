"""Places in stores: written with the features, resumed, checked, and read on access."""

import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from acluster import (
    FeatureSets,
    FeatureSetsWriter,
    MultimodalFeatureSets,
    open_feature_sets,
    save_feature_sets,
)
from acluster.sets import StoreError, info, validate
from acluster.sets._store import _format, _writer
from tests.sets._store.helpers import (
    COLUMNS,
    N_WITHOUT_TEXT,
    PLACES,
    assert_has_places,
    assert_holds,
    assert_tidy,
    columns_at,
    item_of,
    places_of,
    write_items,
)
from tests.sets.helpers import keys, numbers_of

TIMES = {"seconds": [0.0, 0.5]}
FIRST_VERSION = Path(__file__).parents[2] / "files/first_version_stores.zip"


@given(keys(12), st.sampled_from(["view", "pickle", "load"]))
@settings(max_examples=60, deadline=None)
def test_places_of_a_store_follow_selections(sound_store, key, way):
    X = open_feature_sets(sound_store)[key]
    X = pickle.loads(pickle.dumps(X)) if way == "pickle" else X
    numbers = numbers_of(key, 12)
    for name, names in PLACES.items():
        sets = X[name].load() if way == "load" else X[name]
        assert sets.places.in_memory == (way == "load")
        assert list(sets.places.column_names) == names
        np.testing.assert_array_equal(sets.places.lengths, sets.lengths)
        for i, found in zip(numbers, sets.places, strict=True):
            expected = places_of(i).get(name, {})
            assert found.T.tolist() == [list(column) for column in expected.values()] or (
                not expected and found.shape == (0, len(names))
            )


def test_pickle_of_places_of_a_store_is_small(sound_store):
    X = open_feature_sets(sound_store)["rgb"]
    for places in (X.places, X[[3, 1]].places):
        data = pickle.dumps(places)
        assert len(data) < 1000 + len(os.fspath(sound_store))
        copied = pickle.loads(data)
        np.testing.assert_array_equal(copied.packed()[0], places.packed()[0])
        assert copied.column_names == ("seconds",)
        np.testing.assert_array_equal(copied.id, places.id)


def test_places_of_a_zip_archive(written, tmp_path):
    archive = shutil.make_archive(tmp_path / "archive", "zip", written)
    assert_holds(archive, 12)
    validate(archive)


def test_places_that_another_program_has_compressed(written):
    group = zarr.open_group(written)
    for name, names in PLACES.items():
        group.create_array(
            f"{name}_places",
            data=group[f"{name}_places"][...],
            attributes={"column_names": names},
            config={"write_empty_chunks": True},
            overwrite=True,
        )
        assert group[f"{name}_places"].compressors[0].to_dict()["name"] == "zstd"
    assert_holds(written, 12)
    validate(written)
    with FeatureSetsWriter(written, resume=True) as writer:
        write_items(writer, 14)
    assert_holds(written, 14)


def test_opening_a_store_reads_no_places(written):
    X = open_feature_sets(written)["rgb"]
    places = X.places
    shutil.rmtree(Path(written, "rgb_places", "c"))
    assert len(places) == 12
    with pytest.raises(StoreError, match=r"array 'rgb_places' of .*was not there"):
        places.packed()


@pytest.mark.parametrize("form", ["container", "view", "mapping", "in memory", "path"])
def test_save_keeps_places(written, tmp_path, form):
    X = open_feature_sets(written)
    forms = {
        "container": X,
        "view": X[np.arange(12)],
        "mapping": {name: list(X[name]) if name == "audio" else X[name] for name in X.names},
        "in memory": MultimodalFeatureSets({name: X[name].load() for name in X.names}),
        "path": written,
    }
    columns = {}
    if form in ("mapping", "in memory"):  # which have no columns
        columns = {name: getattr(X, name) for name in COLUMNS}
    save_feature_sets(tmp_path / "copy.zarr", forms[form], **columns)
    assert_holds(tmp_path / "copy.zarr", 12)
    validate(tmp_path / "copy.zarr")


def test_save_keeps_places_of_sets_without_modality_names(path):
    X = FeatureSets(np.ones((3, 2)), [0, 2, 3], places={"x": [0, 1, 2], "y": [5, 4, 3]})
    save_feature_sets(path, X[[1, 0]])
    places = open_feature_sets(path).places
    np.testing.assert_array_equal(places.packed()[0], [[2, 3], [0, 5], [1, 4]])
    assert places.column_names == ("x", "y")


def test_save_keeps_places_of_a_modality_without_local_features(path):
    audio = FeatureSets(np.ones((0, 2)), [0, 0], places={"seconds": []})
    rgb = FeatureSets.from_arrays([np.ones((1, 2))])
    save_feature_sets(path, MultimodalFeatureSets({"rgb": rgb, "audio": audio}))
    X = open_feature_sets(path)
    assert X["audio"].places.column_names == ("seconds",)
    assert X["audio"].places[0].shape == (0, 1)
    assert X["rgb"].places is None
    with FeatureSetsWriter(path, resume=True) as writer:
        item = {"rgb": np.ones((1, 2)), "audio": np.ones((1, 2))}
        with pytest.raises(ValueError, match="Item 1, modality 'audio' has no places, but"):
            writer.append(item)
        writer.append(item, places={"audio": {"seconds": [3]}})
    np.testing.assert_array_equal(open_feature_sets(path)["audio"].places[1], [[3]])


def test_save_rejects_modalities_of_different_length_before_their_places(path):
    rgb = FeatureSets(np.ones((2, 2)), [0, 1, 2], places=TIMES)
    with pytest.raises(ValueError, match="Modality 'rgb' has fewer items"):
        save_feature_sets(path, {"rgb": rgb, "audio": [np.ones((1, 2))] * 3})


@pytest.mark.parametrize("flushes", [False, True])
def test_append_decides_places_with_the_first_local_features(path, flushes):
    """An item without local features of a modality decides nothing about its places."""
    writer = FeatureSetsWriter(path)
    writer.append({"rgb": np.ones((1, 2)), "audio": np.ones((0, 2))})
    if flushes:
        writer.flush()
        writer = FeatureSetsWriter(path, resume=True)
        assert zarr.open_group(path).attrs["version"] == 1
    item = {"rgb": np.ones((1, 2)), "audio": np.ones((2, 2))}
    writer.append(item, places={"audio": TIMES})
    with pytest.raises(ValueError, match="Item 2, modality 'audio' has no places"):
        writer.append(item)
    with pytest.raises(ValueError, match="Item 2, modality 'rgb' has places, but earlier"):
        writer.append(item, places={"rgb": {"seconds": [0]}, "audio": TIMES})
    writer.append({"rgb": np.ones((1, 2))})
    writer.append({"rgb": np.ones((1, 2)), "audio": None}, places={"audio": None})
    writer.close()
    X = open_feature_sets(path)
    assert X["rgb"].places is None
    assert [table.tolist() for table in X["audio"].places] == [[], [[0], [0.5]], [], []]
    assert_same_version(path, 2)


def assert_same_version(path, version):
    assert zarr.open_group(path, mode="r").attrs["version"] == version
    assert info(path).version == version


def test_append_matches_places_by_name(path):
    with FeatureSetsWriter(path) as writer:
        writer.append(np.ones((1, 1)), places={"x": [1], "y": [2]})
        writer.append(np.ones((1, 1)), places={"y": [4], "x": [3]})
        writer.flush()
        writer.append(np.ones((1, 1)), places={"y": [6], "x": [5]})
    places = open_feature_sets(path).places
    np.testing.assert_array_equal(places.packed()[0], [[1, 2], [3, 4], [5, 6]])


def test_append_copies_places(path):
    times = np.zeros(2)
    with FeatureSetsWriter(path) as writer:
        writer.append(np.ones((2, 1)), places={"seconds": times})
        times += 1
    assert not open_feature_sets(path).places.packed()[0].any()


ITEM = {"rgb": np.ones((2, 3)), "audio": np.ones((1, 2))}
WRONG = {
    "none": (None, ValueError, r"modality 'rgb' has no places, but earlier items have \['seconds'"),
    "no modality": ({}, ValueError, "modality 'rgb' has no places"),
    "length": ({"rgb": {"seconds": [0]}}, ValueError, r"'rgb': places\['seconds'\] has shape \(1,"),
    "NaN": ({"rgb": {"seconds": [0, np.nan]}}, ValueError, "is nan for local feature 1"),
    "names": ({"rgb": {"x": [0, 1]}}, ValueError, r"\['x'\], but those of earlier items have \['s"),
    "audio": ({"rgb": TIMES, "audio": {"seconds": [0]}}, ValueError, "'audio' has places, but"),
    "unknown": ({"rgb": TIMES, "depth": TIMES}, ValueError, "has 'depth', which is no modality"),
    "no mapping": ({"rgb": [0, 1]}, TypeError, "'rgb': places has type list; pass a mapping"),
    "no modalities": (TIMES, ValueError, "has 'seconds', which is no modality of the item"),
    "a list": ([TIMES], TypeError, "places has type list; pass a mapping of modality names"),
}


@pytest.mark.parametrize(("places", "error", "message"), WRONG.values(), ids=WRONG)
def test_append_rejects_wrong_places(path, places, error, message):
    with FeatureSetsWriter(path) as writer:
        for i in range(2):
            writer.append(ITEM, places={"rgb": TIMES})
            with pytest.raises(error, match=f"^Item {i + 1}.*{message}"):
                writer.append(ITEM, places=places)
            assert len(writer) == i + 1
    X = open_feature_sets(path)
    assert len(X) == 2
    np.testing.assert_array_equal(X["rgb"].places.packed()[0].ravel(), [0, 0.5] * 2)


def test_append_rejects_an_array_that_it_has_not_made(path):
    writer = FeatureSetsWriter(path)
    Path(path, "features_places").mkdir()
    Path(path, "rgb_places").mkdir()
    with pytest.raises(ValueError, match="its name clashes with 'rgb_places'"):
        writer.append({"rgb": np.ones((1, 1))}, places={"rgb": {"seconds": [0]}})
    with pytest.raises(ValueError, match="its name clashes with 'features_places'"):
        writer.append(np.ones((1, 1)))


def test_append_rejects_a_foreign_array_for_later_places(path):
    writer = FeatureSetsWriter(path)
    writer.append({"rgb": np.ones((1, 1)), "audio": np.ones((0, 1))})
    writer.flush()
    Path(path, "audio_places").mkdir()
    item = {"audio": np.ones((1, 1))}
    with pytest.raises(StoreError, match="already contains 'audio_places', which no writer"):
        writer.append(item, places={"audio": {"seconds": [0]}})
    writer.append(item)
    writer.close()
    assert open_feature_sets(path)["audio"].places is None


def test_modality_and_places_of_one_name_are_refused(written):
    """They would be one array. No writer makes such a store."""
    group = zarr.open_group(written)
    committed = group.attrs["committed"]
    committed["n_rows"]["rgb_places"] = committed["n_rows"]["rgb"]
    group.attrs.update({"committed": committed})
    with pytest.raises(StoreError, match="'rgb_places' is a modality and the places of 'rgb'"):
        open_feature_sets(written)


def test_store_without_places_has_the_first_version(path):
    with FeatureSetsWriter(path) as writer:
        writer.append({"rgb": np.ones((1, 2))})
    assert_same_version(path, 1)
    committed = {"n_items": 1, "n_rows": {"rgb": 1}, "columns": []}
    assert zarr.open_group(path, mode="r").attrs["committed"] == committed
    assert info(path).modalities["rgb"].places == []


def test_info_names_places(written):
    found = info(written)
    assert {name: one.places for name, one in found.modalities.items()} == PLACES | {"audio": []}


@pytest.fixture
def first_version(tmp_path):
    """Stores that the release before places has written."""
    with zipfile.ZipFile(FIRST_VERSION) as archive:
        archive.extractall(tmp_path)
    return tmp_path


def test_open_reads_store_of_the_first_version(first_version):
    path = first_version / "complete.zarr"
    assert_holds(path, 5, with_places=False)
    assert_tidy(path)
    assert validate(path).version == 1
    assert info(path).attributes == {"extractor": "r18"}


@pytest.mark.parametrize("name", ["complete.zarr", "interrupted.zarr"])
def test_writer_resumes_store_of_the_first_version(first_version, name):
    path = first_version / name
    with FeatureSetsWriter(path, resume=True) as writer:
        n = len(writer)
        assert n == (5 if name == "complete.zarr" else N_WITHOUT_TEXT)
        with pytest.raises(ValueError, match="modality 'rgb' has places, but earlier items have"):
            writer.append(item_of(n), places=places_of(n), **columns_at(n))
        write_items(writer, 9, with_places=False)
    assert_holds(path, 9, with_places=False)
    assert_tidy(path)
    assert validate(path).version == 1


def test_new_modality_of_a_store_of_the_first_version_may_have_places(first_version):
    path = first_version / "interrupted.zarr"
    with FeatureSetsWriter(path, resume=True) as writer:
        for i in range(len(writer), 6):
            places = {"text": places_of(i)["text"]}
            writer.append(item_of(i), places=places, **columns_at(i))
    X = open_feature_sets(path)
    assert X["rgb"].places is None
    assert_has_places(X["text"].places, "text", 6)
    assert validate(path).version == 2


def test_modality_of_the_first_version_may_be_called_places(first_version):
    path = first_version / "names.zarr"
    with FeatureSetsWriter(path, resume=True) as writer:
        writer.append({"rgb": np.full((3, 2), 2), "rgb_places": np.full((2, 1), 2)})
    X = open_feature_sets(path)
    assert X.names == ["rgb", "rgb_places"]
    assert [x["rgb_places"].tolist() for x in X] == [[[i]] * 2 for i in range(3)]
    assert X["rgb"].places is None
    assert validate(path).version == 1
    with pytest.raises(ValueError, match=r"modality 'rgb_places'.* _offsets or _places"):
        save_feature_sets(first_version / "copy.zarr", X)


def interrupt(monkeypatch, function, n):
    """Let the n-th call of a function of the writer raise an error."""
    original, calls = getattr(_writer, function), []

    def failing(*args):
        calls.append(args)
        if len(calls) == n:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(_writer, function, failing)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("n_more", [0, 2])
def test_torn_write_of_places_is_discarded(path, small, monkeypatch, n, version, n_more):
    """Whether the store already has places, or the torn write has the first ones."""
    writer = FeatureSetsWriter(path)
    writer.append({"rgb": np.ones((0, 3)), "depth": np.ones((1, 1))})
    if version == 2:
        writer.append({"rgb": np.ones((2, 3))}, places={"rgb": TIMES})
    writer.flush()
    n_before = len(writer)
    monkeypatch.setattr(_writer, "_PENDING_BYTES", 1 << 20)
    item = {"rgb": np.ones((2, 3)), "text": np.ones((2, 1))}
    for _ in range(5):
        writer.append(item, places={"rgb": TIMES, "text": TIMES})
    interrupt(monkeypatch, "_append_places", n)
    with pytest.raises(KeyboardInterrupt):
        writer.flush()
    assert Path(path, "rgb_places").exists() == (n == 2 or version == 2)
    assert zarr.open_group(path).attrs["version"] == version
    monkeypatch.undo()
    del writer
    with FeatureSetsWriter(path, resume=True) as writer:
        assert len(writer) == n_before
        assert Path(path, "rgb_places").exists() == (version == 2)
        assert not Path(path, "text_places").exists()
        for _ in range(n_more):
            writer.append(item, places={"rgb": TIMES, "text": TIMES})
    X = open_feature_sets(path)
    assert X.names == ["rgb", "depth", "text"][: 3 if n_more else 2]
    expected = {"rgb": n_more + (version == 2), "text": n_more}
    for name in X.names:
        if expected.get(name):
            values, _ = X[name].places.packed()
            assert values.ravel().tolist() == [0, 0.5] * expected[name]
        else:
            assert X[name].places is None
    validate(path)


@pytest.mark.parametrize("n", [1, 2])
def test_writer_goes_on_after_an_error_in_a_write_of_places(path, monkeypatch, n):
    writer = FeatureSetsWriter(path)
    interrupt(monkeypatch, "_append_places", n)
    write_items(writer, 5)
    with pytest.raises(KeyboardInterrupt):
        writer.flush()
    write_items(writer, 7)
    writer.close()
    assert_holds(path, 7)
    assert_tidy(path)


def files_of(path):
    return {file: file.read_bytes() for file in Path(path).rglob("*") if file.is_file()}


@pytest.fixture
def stopped(path, small):
    writer = FeatureSetsWriter(path)
    write_items(writer, 10)
    writer.flush()
    return path


def edit(change):
    """Return a damage that changes the array of places."""

    def damage(path):
        change(zarr.open_array(path, path="rgb_places", mode="r+"))

    return damage


def replace(dtype):
    def damage(path):
        group = zarr.open_group(path)
        n = group["rgb"].shape[0]
        values = np.ones((n, 1), dtype)
        config = {"write_empty_chunks": True}
        array = group.create_array("rgb_places", data=values, overwrite=True, config=config)
        array.attrs["column_names"] = ["seconds"]

    return damage


def commit_places(places):
    def damage(path):
        group = zarr.open_group(path)
        group.attrs.update({"committed": group.attrs["committed"] | {"places": places}})

    return damage


def drop_places(path):
    group = zarr.open_group(path)
    kept = {key: value for key, value in group.attrs["committed"].items() if key != "places"}
    group.attrs.update({"committed": kept})


def first_shard(path):
    return Path(path, "rgb_places", "c", "0", "0")


DAMAGES = {
    "no array": (lambda path: shutil.rmtree(Path(path, "rgb_places")), "is missing"),
    "metadata": (lambda path: os.truncate(Path(path, "rgb_places/zarr.json"), 9), "cannot be op"),
    "shard": (lambda path: first_shard(path).unlink(), "lacks the files c/0/0"),
    "short shard": (lambda path: os.truncate(first_shard(path), 30), "truncated"),
    "rows": (edit(lambda x: x.resize((x.shape[0] - 1, 1))), "rows"),
    "no names": (edit(lambda x: x.attrs.put({})), "has data type float64 and the column names"),
    "more names": (edit(lambda x: x.attrs.put({"column_names": ["a", "b"]})), "does not fit"),
    "dtype": (replace("f4"), "has data type float32"),
    "integers": (replace("i8"), "has shape .* and data type int64"),
    "unknown": (commit_places(["rgb", "depth"]), "places is .* but may only have rgb, audio"),
    "twice": (commit_places(["rgb", "rgb"]), "once each"),
    "no list": (commit_places("rgb"), "places is 'rgb'"),
    "null": (commit_places(None), "places is None"),
    "nested": (commit_places([["rgb"]]), "places is"),
    "no entry": (drop_places, "committed has no places, which version 2 needs"),
    "version": (lambda path: zarr.open_group(path).attrs.update(version=1), "1 has no places"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_places_are_rejected(written, damage, message):
    damage(written)
    for use in (open_feature_sets, validate, lambda path: FeatureSetsWriter(path, resume=True)):
        with pytest.raises(StoreError, match=message):
            use(written)


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_writer_does_not_resume_stopped_store_with_damaged_places(stopped, damage, message):
    damage(stopped)
    before = {file: file.read_bytes() for file in Path(stopped).rglob("*") if file.is_file()}
    with pytest.raises(StoreError, match=message):
        FeatureSetsWriter(stopped, resume=True)
    assert before == {
        file: file.read_bytes() for file in Path(stopped).rglob("*") if file.is_file()
    }


def test_writer_does_not_resume_store_that_has_lost_a_place(stopped):
    array = zarr.open_array(stopped, path="rgb_places", mode="r+")
    array[-1:] = np.nan
    with pytest.raises(StoreError, match=r"'rgb_places' .* has lost row"):
        FeatureSetsWriter(stopped, resume=True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_validate_rejects_places_that_are_not_finite(written, value):
    zarr.open_array(written, path="text_places", mode="r+")[3, 1] = value
    open_feature_sets(written)
    with pytest.raises(StoreError, match=rf"'text_places' .* holds {value} in row 3, column 1"):
        validate(written)


def flip_last_value(path):
    file = first_shard(path)
    content = bytearray(file.read_bytes())
    content[6] ^= 1
    file.write_bytes(content)


def test_flipped_bit_of_a_place_is_found(written):
    flip_last_value(written)
    open_feature_sets(written)["rgb"].places.packed()
    for read in (
        lambda: open_feature_sets(written, verify=True)["rgb"].places.packed(),
        lambda: validate(written),
    ):
        with pytest.raises(StoreError, match=r"'rgb_places' .*does not match its checksum"):
            read()


@pytest.mark.parametrize(("width", "dtype"), [(2048, "f2"), (4, "f4"), (1, "f2")])
def test_files_of_places_have_about_as_many_rows_as_those_of_features(width, dtype, path):
    features = zarr.create_array(
        path, **_format.features_layout("rgb", np.empty((0, width), dtype))
    )
    layout = _format.places_layout(
        "rgb_places", np.empty((0, 3)), features=features, names=["x", "y", "mpp"]
    )
    rows = layout["shards"][0]
    assert rows <= features.shards[0]
    assert rows * 24 <= _format._SHARD_BYTES
    full = min(features.shards[0], _format._SHARD_BYTES // 24)
    assert rows > full - layout["chunks"][0]
