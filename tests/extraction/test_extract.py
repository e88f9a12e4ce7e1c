import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from acluster import FeatureSetsWriter, open_feature_sets
from acluster.extraction import (
    Frames,
    LogMel,
    Waveforms,
    extract,
    frame_descriptor,
    patch_descriptor,
)
from acluster.extraction._batches import Batches, Item
from acluster.extraction._files import media_files
from acluster.extraction._report import notes_on_waiting
from acluster.extraction._tables import ItemTable
from acluster.extraction._view import Chunk
from acluster.sets import StoreError, info, notes_on_missing
from tests.extraction.media import make_media
from tests.extraction.test_sound import noise, write_wav
from tests.extraction.test_video import clips


def level(batch):
    """Describe pieces of a waveform by their mean magnitude and their deviation."""
    return np.stack([np.abs(batch).mean(axis=1), batch.std(axis=1)], axis=1)


SOUND = {"audio": (Waveforms(seconds=0.25), level)}


@pytest.fixture
def sounds(tmp_path):
    """Six sounds of 1 to 6 pieces in two folders."""
    root = tmp_path / "sounds"
    for number in range(6):
        folder = root / ("low" if number % 2 else "high")
        folder.mkdir(parents=True, exist_ok=True)
        write_wav(folder / f"{number}.wav", noise(4000 * (number + 1), seed=number))
    return root


def contents(store):
    """Return everything a store and its tables hold."""
    X = open_feature_sets(store)
    names = getattr(X, "names", [None])
    sets = {name: X if name is None else X[name] for name in names}
    values = {
        name: [[x.tolist() for x in own], own.places and [x.tolist() for x in own.places]]
        for name, own in sets.items()
    }
    tables = [
        path.read_text() if path.exists() else ""
        for path in (Path(f"{store}.{name}.csv") for name in ("failed", "warnings"))
    ]
    columns = [None if c is None else c.tolist() for c in (X.id, X.label, X.group)]
    return values, columns, tables


def test_extract_writes_features_ids_and_labels(sounds, tmp_path):
    store = tmp_path / "sounds.zarr"
    report = extract(sounds, store, SOUND, labels="folders", batch_size=4, dtype="float32")
    X = open_feature_sets(store)
    assert X.id.tolist() == [f"{'low' if i % 2 else 'high'}/{i}.wav" for i in (0, 2, 4, 1, 3, 5)]
    assert X.label.tolist() == ["high"] * 3 + ["low"] * 3
    assert X["audio"].lengths.tolist() == [1, 3, 5, 2, 4, 6]
    for id_, found, own in zip(X.id, X["audio"], X["audio"].places, strict=True):
        batch, places = Waveforms(seconds=0.25).read(sounds / id_)
        np.testing.assert_allclose(found, level(batch), rtol=1e-6)
        np.testing.assert_array_equal(own[:, 0], places["seconds"])
    assert X["audio"].places.column_names == ("seconds",)
    assert (report.n_items, report.n_new, dict(report.failed)) == (6, 6, {})
    assert "6 items, 6 of them new" in str(report)
    assert info(store).attributes["extraction"]["audio"]["view"]["seconds"] == 0.25


def test_extract_refuses_addresses(sounds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"store is an address.*Extract to a directory") as caught:
        extract(sounds, "s3://user:hunter2@bucket/sounds.zarr", SOUND)
    assert "hunter2" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"n_workers": 1}, {"ahead_bytes": 1}])
def test_extract_gives_the_same_features_with_any_batches_and_workers(sounds, tmp_path, options):
    extract(sounds, tmp_path / "one.zarr", SOUND)
    extract(sounds, tmp_path / "other.zarr", SOUND, **options)
    assert contents(tmp_path / "one.zarr") == contents(tmp_path / "other.zarr")


@pytest.mark.parametrize("n_before", [0, 2])
def test_extract_continues_in_the_same_process_after_a_full_disk(
    sounds, tmp_path, monkeypatch, n_before
):
    from zarr.storage import _local

    store, calls, put = tmp_path / "sounds.zarr", [], _local._put
    if n_before:
        extract(sounds, store, SOUND, part=(0, 3))

    def put_until_full(*args, **kwargs):
        calls.append(args)
        if len(calls) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return put(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(_local, "_put", put_until_full)
        with pytest.raises(OSError, match="No space") as error:
            extract(sounds, store, SOUND, flush_seconds=0)
    assert os.path.exists(store) == bool(n_before)
    assert extract(sounds, store, SOUND).n_new == 6 - n_before
    assert error.value.errno == errno.ENOSPC  # whose traceback refers to the first writer
    extract(sounds, tmp_path / "whole.zarr", SOUND)
    assert contents(store) == contents(tmp_path / "whole.zarr")


def test_extract_continues_with_the_files_that_are_not_in_the_store(sounds, tmp_path):
    store, whole = tmp_path / "some.zarr", tmp_path / "all.zarr"
    late = sounds / "low" / "5.wav"
    content = late.read_bytes()
    late.unlink()
    extract(sounds, store, SOUND)
    late.write_bytes(content)
    calls = []

    def counted(batch):
        calls.append(len(batch))
        return level(batch)

    counted.__module__, counted.__qualname__ = level.__module__, level.__qualname__
    report = extract(sounds, store, {"audio": (SOUND["audio"][0], counted)})
    assert (report.n_items, report.n_new, len(calls)) == (6, 1, 1)
    extract(sounds, whole, SOUND)
    assert contents(store) == contents(whole)


def test_extract_rejects_a_store_of_another_extraction(sounds, tmp_path):
    extract(sounds, tmp_path / "s.zarr", SOUND)
    before = contents(tmp_path / "s.zarr")
    (sounds / "low" / "7.wav").write_bytes((sounds / "low" / "1.wav").read_bytes())
    with pytest.raises(ValueError, match=r"begun with another extraction. For 'audio' it was"):
        extract(sounds, tmp_path / "s.zarr", {"audio": (Waveforms(seconds=0.5), level)})
    assert contents(tmp_path / "s.zarr") == before


def test_extract_skips_files_that_fail_and_tries_them_again_on_request(sounds, tmp_path):
    store = tmp_path / "s.zarr"
    broken = sounds / "low" / "1.wav"
    content = broken.read_bytes()
    broken.write_bytes(b"nothing of the kind" * 100)
    report = extract(sounds, store, SOUND)
    assert list(report.failed) == ["low/1.wav"]
    assert "cannot be read as a media file" in Path(f"{store}.failed.csv").read_text()
    broken.write_bytes(content)
    assert extract(sounds, store, SOUND).n_new == 0
    report = extract(sounds, store, SOUND, retry_failed=True)
    assert (report.n_items, report.n_new, dict(report.failed)) == (6, 1, {})
    assert not Path(f"{store}.failed.csv").exists()


def test_extract_raises_on_request_and_keeps_what_came_before(sounds, tmp_path):
    store = tmp_path / "s.zarr"
    (sounds / "low" / "1.wav").write_bytes(b"x" * 1000)
    with pytest.raises(ValueError, match=r"1.wav cannot be read as a media file"):
        extract(sounds, store, SOUND, on_error="raise", batch_size=1)
    (sounds / "low" / "1.wav").unlink()
    report = extract(sounds, store, SOUND, on_error="raise")
    assert (report.n_items, report.n_new) == (5, 2)


def test_extract_says_that_no_file_can_be_read(tmp_path):
    root = tmp_path / "files"
    root.mkdir()
    (root / "a.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"None of the 1 files .* is empty"):
        extract(root, tmp_path / "s.zarr", SOUND)


class Unreadable:
    """A view that no file has."""

    def read(self, path):
        raise ValueError(f"{path.name} is unreadable")

    def __repr__(self):
        return "Unreadable()"


def test_extract_turns_errors_of_a_view_into_missing_modalities_on_request(sounds, tmp_path):
    views = {**SOUND, "other": (Unreadable(), level)}
    report = extract(sounds, tmp_path / "s.zarr", views, on_error="missing")
    assert report.n_items == 6
    assert report.warnings["low/1.wav"] == ["1.wav is unreadable"]
    views = {"other": views["other"], "another": views["other"]}
    with pytest.raises(ValueError, match=r"None of the 6 files .* is: 0.wav is unreadable$"):
        extract(sounds, tmp_path / "t.zarr", views, on_error="missing")


def test_extract_rejects_other_labels_for_what_is_in_the_store(sounds, tmp_path):
    store, ids = tmp_path / "s.zarr", sorted(media_files(sounds))
    labels = dict.fromkeys(ids, 1.0) | {ids[0]: np.nan}
    for _ in range(2):
        extract(sounds, store, SOUND, labels=labels)
    with pytest.raises(ValueError, match=rf"has the label 1.0 for '{ids[2]}', .*2.0; 1 of 6 items"):
        extract(sounds, store, SOUND, labels={**labels, ids[2]: 2.0})


def test_extract_takes_views_and_tokens_of_your_own(sounds, tmp_path):
    class Sizes:
        def read(self, path):
            size = path.stat().st_size
            return None if path.name == "3.wav" else (np.full((2, 1), size), None)

        def __repr__(self):
            return "Sizes()"

    def tokens(batch):
        return np.stack([batch, batch + 1, batch + 2], axis=1).astype(float)

    report = extract(sounds, tmp_path / "s.zarr", {"size": (Sizes(), tokens)}, dtype="float32")
    assert list(report.failed) == ["low/3.wav"]
    X = open_feature_sets(tmp_path / "s.zarr")["size"]
    size = (sounds / "high" / "0.wav").stat().st_size
    assert X[0].tolist() == [[size], [size + 1], [size + 2]] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": {}}, "not a dict of at least one name"),
        ({"views": {"audio": LogMel()}}, "not a pair of a view and a backbone"),
        ({"views": {"audio": (LogMel(), 3)}}, "backbone 3 is not callable"),
        ({"views": {"audio": (LogMel(), "nonsense")}}, "not the name of a feature extractor"),
        ({"labels": "folder"}, "labels='folder' is not 'folders'"),
        ({"labels": {"low/1.wav": 0}}, "no entry for 'high/0.wav', and for 5 of 6 files"),
        ({"groups": {}}, "groups has no entry"),
        ({"on_error": "ignore"}, "on_error='ignore' is not one of"),
        ({"part": (2, 2)}, r"part=\(2, 2\) must be"),
        ({"batch_size": 0}, "batch_size=0 must be an integer of at least 1"),
    ],
)
def test_extract_rejects_invalid_arguments(sounds, tmp_path, change, message):
    arguments = {"views": SOUND, **change}
    with pytest.raises((ValueError, TypeError), match=message):
        extract(sounds, tmp_path / "s.zarr", **arguments)
    assert not (tmp_path / "s.zarr").exists()


def test_extract_rejects_features_of_a_wrong_shape(sounds, tmp_path):
    with pytest.raises(ValueError, match=r"extractor of 'audio' returned shape \(64,\)"):
        extract(sounds, tmp_path / "s.zarr", {"audio": (Waveforms(), lambda x: x[:, 0])})


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_extract_skips_files_whose_features_do_not_fit(sounds, tmp_path, value):
    def odd(batch):
        features = level(batch)
        features[np.abs(batch[:, 0] - first[0]) < 1e-7] = value
        return features

    first, _ = Waveforms(seconds=0.25).read(sounds / "low" / "3.wav")
    first = first[0]
    report = extract(sounds, tmp_path / "s.zarr", {"audio": (Waveforms(seconds=0.25), odd)})
    assert list(report.failed) == ["low/3.wav"]
    assert report.n_items == 5


def test_extract_leaves_a_store_that_another_process_makes_meanwhile(sounds, tmp_path, monkeypatch):
    store = tmp_path / "s.zarr"

    def locked(path, **options):
        store.mkdir()
        raise StoreError("another process is writing to it")

    monkeypatch.setattr("acluster.extraction._extract.FeatureSetsWriter", locked)
    with pytest.raises(StoreError):
        extract(sounds, store, SOUND)
    assert store.exists()


def test_extract_names_a_folder_without_media(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ValueError, match=r"no videos.*its files are 1 of .txt"):
        extract(tmp_path, tmp_path / "s.zarr", SOUND)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        extract(tmp_path / "nowhere", tmp_path / "s.zarr", SOUND)


def test_extract_of_parts_covers_every_file_once(sounds, tmp_path):
    ids = []
    for i in range(4):
        extract(sounds, tmp_path / f"{i}.zarr", SOUND, part=(i, 4))
        ids += open_feature_sets(tmp_path / f"{i}.zarr").id.tolist()
    extract(sounds, tmp_path / "all.zarr", SOUND)
    assert ids == open_feature_sets(tmp_path / "all.zarr").id.tolist()


def test_extract_uses_torch_modules_in_inference_mode(sounds, tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(4000, 3), torch.nn.Dropout(0.9))
    views = {"audio": (Waveforms(seconds=0.25), module)}
    extract(sounds, tmp_path / "s.zarr", views, dtype="float32", device="cpu")
    batch, _ = Waveforms(seconds=0.25).read(sounds / "high" / "2.wav")
    expected = module[0](torch.from_numpy(batch)).detach().numpy()
    np.testing.assert_allclose(
        open_feature_sets(tmp_path / "s.zarr")["audio"][1], expected, atol=1e-5
    )
    with torch.no_grad():
        module[0].weight.add_(1)
    (sounds / "low" / "9.wav").write_bytes((sounds / "low" / "1.wav").read_bytes())
    with pytest.raises(ValueError, match="another extraction"):
        extract(sounds, tmp_path / "s.zarr", views, dtype="float32", device="cpu")


VIEWS = {"rgb": (Frames(6, size=32), frame_descriptor), "audio": (LogMel(), patch_descriptor)}
# The local features of rgb and audio, and how often the table of failures or warnings names it.
WHAT_HAPPENS = {
    "av1_video.mkv": (6, 0, 0),
    "damaged/all_one_gop.mkv": (6, 10, 0),
    "damaged/audio_only.m4a": (0, 2, 0),
    "damaged/avi.avi": (6, 0, 0),
    "damaged/bit_errors.mkv": (5, 2, 3),
    "damaged/cover.mp3": (0, 13, 0),
    "damaged/frag.mp4": (6, 2, 0),
    "damaged/frag_cut.mp4": (6, 1, 1),
    "damaged/late_start.mp4": (6, 2, 1),
    "damaged/moov_first_cut.mp4": (4, 1, 3),
    "damaged/no_audio.mp4": (6, 0, 0),
    "damaged/odd.webm": (6, 0, 0),
    "damaged/one_frame.mp4": (1, 0, 1),
    "damaged/picture.mp4": (1, 0, 1),
    "damaged/short_audio.mp4": (6, 1, 1),
    "damaged/silent.mp4": (6, 0, 0),
    "damaged/text.mp4": (None, None, 1),
    "damaged/tiny.mp4": (6, 2, 0),
    "damaged/truncated_half.mkv": (3, 1, 2),
    "damaged/truncated_half.mp4": (None, None, 1),
    "damaged/vfr.mp4": (6, 6, 0),
    "damaged/zero_length.mp4": (None, None, 1),
    "discard_first_keyframe.mp4": (6, 0, 0),
    "h265_video.mp4": (6, 0, 0),
    "nasa_13013.mp4": (6, 13, 0),
    "nasa_13013_rotated.mp4": (6, 0, 0),
    "sine_mono_s16.wav": (0, 4, 0),
    "test_non_zero_start.mp4": (6, 0, 0),
    "testsrc2_vp9.webm": (6, 0, 0),
}


@pytest.mark.parametrize("workers", ["threads", "processes"])
def test_extract_of_good_and_damaged_clips(tmp_path, workers):
    store = tmp_path / "clips.zarr"
    report = extract(clips(), store, VIEWS, workers=workers, n_workers=2)
    X = open_feature_sets(store)
    lengths = {
        id_: (int(rgb), int(audio))
        for id_, rgb, audio in zip(X.id, X["rgb"].lengths, X["audio"].lengths, strict=True)
    }
    found = {
        id_: (
            *lengths.get(id_, (None, None)),
            len(report.warnings.get(id_, [])) + (id_ in report.failed),
        )
        for id_ in {*lengths, *report.failed}
    }
    assert found == WHAT_HAPPENS
    assert report.n_missing == {"rgb": 3, "audio": 12}
    assert (tmp_path / "clips.zarr.failed.csv").read_text().count("\n") == 4


SCRIPT = """
import sys
from acluster import FeatureSetsWriter
from acluster.extraction import extract
import tests.extraction.test_extract as t

flush = FeatureSetsWriter.flush
def flush_and_tell(writer):
    flush(writer)
    print(len(writer), flush=True)
FeatureSetsWriter.flush = flush_and_tell

options = {"labels": "folders", "flush_seconds": 0, "batch_size": 16, "n_workers": 1}
extract(sys.argv[1], sys.argv[2], t.VIEWS, **options)
"""


def run_until(n_flushes, kind, root, store):
    """Extract in a process that gets a signal after some flushes; return its exit status."""
    command = [sys.executable, "-c", SCRIPT, str(root), str(store)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for _ in range(n_flushes):
        if not process.stdout.readline():
            break
    else:
        process.send_signal(kind)
    process.communicate()
    return process.returncode


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Thirty clips, one of them damaged and one without sound."""
    root = tmp_path_factory.mktemp("videos")
    for number in range(30):
        folder = root / f"class{number % 2}"
        folder.mkdir(exist_ok=True)
        make_media(
            folder / f"{number}.mp4", 20 + number, seconds_of_sound=1 + number / 20 * (number != 7)
        )
    (root / "class0" / "12.mp4").write_bytes(b"damaged" * 50)
    return root


def test_extract_that_is_killed_again_and_again_ends_with_the_same_store(videos, tmp_path):
    one, killed = tmp_path / "one.zarr", tmp_path / "killed.zarr"
    extract(videos, one, VIEWS, labels="folders", batch_size=16)
    draw = random.Random(0)
    codes, kinds = [], [signal.SIGKILL] * 2 + [signal.SIGTERM, signal.SIGKILL]
    for kind in kinds:
        codes.append(run_until(draw.randint(1, 4), kind, videos, killed))
    assert codes.count(-signal.SIGKILL) >= 2
    assert 128 + signal.SIGTERM in codes
    with FeatureSetsWriter(killed, resume=True) as writer:
        assert 0 < len(writer) < 29
    assert run_until(10**6, signal.SIGKILL, videos, killed) == 0
    assert contents(killed) == contents(one)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
def test_extract_writes_what_is_complete_on_sigterm(sounds, tmp_path):
    store = tmp_path / "s.zarr"
    n_calls = []

    def terminated(batch):
        n_calls.append(1)
        if len(n_calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return level(batch)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        extract(sounds, store, {"audio": (SOUND["audio"][0], terminated)}, batch_size=4)
    assert ended.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    with FeatureSetsWriter(store, resume=True) as writer:
        assert 0 < len(writer) < 6


def test_extract_leaves_no_threads_behind_when_interrupted(sounds, tmp_path):
    def interrupted(batch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(
            sounds, tmp_path / "s.zarr", {"audio": (SOUND["audio"][0], interrupted)}, ahead_bytes=1
        )
    deadline = time.monotonic() + 20
    while any(thread.name.startswith("acluster-read") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_batches_have_one_size_and_keep_the_order():
    sizes, released = [], []

    def double(batch):
        sizes.append(len(batch))
        return 2 * batch

    batches = Batches("x", double, 4, released.append)
    items = [Item(str(number)) for number in range(3)]
    rows = [np.arange(3.0), np.arange(6.0), np.arange(2.0)]
    for item, own in zip(items, rows, strict=True):
        batches.add(item, Chunk("x", own[:, None], {"seconds": own}))
        item.is_read = True
    assert [item.is_complete for item in items] == [True, False, False]
    batches.finish()
    assert all(item.is_complete for item in items)
    assert sizes == [4, 4, 4]
    assert sum(released) == sum(own.nbytes for own in rows)
    for item, own in zip(items, rows, strict=True):
        np.testing.assert_array_equal(np.concatenate(item.features["x"])[:, 0], 2 * own)
        seconds = [places["seconds"] for places in item.places["x"]]
        np.testing.assert_array_equal(np.concatenate(seconds), own)


def test_item_table_cuts_off_a_row_that_was_not_finished(tmp_path):
    path = tmp_path / "t.csv"
    table = ItemTable(path, "error")
    table.add("a,b", 'said "no"\nand more')
    table.add("c", "x")
    table.add("c", "x")
    whole = path.read_bytes()
    path.write_bytes(whole + b"d,unfinish")
    again = ItemTable(path, "error")
    assert again.rows == [("a,b", 'said "no" and more'), ("c", "x")]
    assert path.read_bytes() == whole
    again.remove({"c", "a,b"})
    assert not path.exists()


def test_item_table_rejects_another_table(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"name,age\r\nx,3\r\n")
    with pytest.raises(ValueError, match="not a table with the columns id and error"):
        ItemTable(path, "error")


@pytest.mark.parametrize(
    ("seconds", "n_workers", "workers", "remedies"),
    [
        (60.0, 2, "threads", "more of them, up to n_workers=4 (--workers), or workers='processes'"),
        (
            60.0,
            4,
            "threads",
            "workers='processes' (--worker-kind processes), or views that read less",
        ),
        (60.0, 2, "processes", "more of them, up to n_workers=4 (--workers), or views that read"),
        (60.0, 4, "processes", "views that read less"),
        (50.0, 2, "threads", None),
    ],
)
def test_report_notes_backbones_that_wait(monkeypatch, seconds, n_workers, workers, remedies):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    notes = notes_on_waiting({"waiting": seconds, "total": 100.0}, n_workers, workers)
    if remedies is None:
        assert notes == []
        return
    (note,) = notes
    assert note.startswith(
        "The backbones waited for files to be read for 60% of the time. Files were read in "
        f"{n_workers} {workers}. Try {remedies}"
    )
    assert notes_on_waiting({"waiting": 6.0, "total": 8.0}, n_workers, workers) == []


def test_report_notes_a_missing_modality_that_predicts_the_label():
    labels = np.repeat(["a", "b"], 50)
    missing = labels == "b"
    missing[0], missing[-1] = True, False
    (note,) = notes_on_missing({"audio": missing}, labels)
    assert note == (
        "A missing modality predicts the label: 98% of the items labeled b have no audio, but 2% "
        "of those labeled a."
    )
    assert notes_on_missing({"audio": np.arange(100) % 7 == 0}, labels) == []
    assert notes_on_missing({"audio": missing}, None) == []
