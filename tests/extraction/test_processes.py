"""Files that are read in processes: crashes, hangs, signals, and the same bits as in threads."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from acluster import open_feature_sets
from acluster.extraction import (
    FlowStacks,
    Frames,
    LogMel,
    extract,
    flow_descriptor,
    frame_descriptor,
    patch_descriptor,
)
from acluster.extraction._processes import ReadingProcesses, _Process
from acluster.extraction._reading import ReadAhead
from tests.extraction.media import make_media
from tests.extraction.odd_views import ByName, Locked, Modules, Unmakeable
from tests.extraction.test_extract import contents

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the tests send signals")


def same(batch):
    return batch


def write(root, *names):
    """Write a file with its number for each name; return the folder."""
    root.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        (root / f"{name}_{number}.mp4").write_text(f"{number} {number + 1}")
    return root


def is_running(pid):
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def eventually(condition, seconds=60):
    """Return what a condition gives once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_extract_writes_the_same_store_from_processes_as_from_threads(tmp_path):
    pytest.importorskip("av", reason="needs the extra media")
    pytest.importorskip("cv2", reason="needs the extra flow")
    root = tmp_path / "videos"
    root.mkdir()
    for number in range(3):
        make_media(root / f"{number}.mp4", 12, seconds_of_sound=1 + number)
    (root / "3.mp4").write_bytes(b"damaged" * 50)
    whole = (root / "0.mp4").read_bytes()
    (root / "4.mp4").write_bytes(whole[: len(whole) * 9 // 10])
    views = {
        "rgb": (Frames(4, size=32), frame_descriptor),
        "flow": (FlowStacks(2, length=1, size=32, method="dis"), flow_descriptor),
        "audio": (LogMel(), patch_descriptor),
    }
    reports = []
    for workers in ("threads", "processes"):
        store = tmp_path / f"{workers}.zarr"
        reports.append(extract(root, store, views, workers=workers, n_workers=2, ahead_bytes=1))
    assert contents(tmp_path / "threads.zarr") == contents(tmp_path / "processes.zarr")
    threads, processes = reports
    assert (processes.n_items, dict(processes.failed)) == (threads.n_items, dict(threads.failed))
    assert "3.mp4" in processes.failed
    assert processes.seconds["reading"] > 0


def test_extract_names_files_that_end_the_process_and_reads_the_others(tmp_path):
    names = ["good", "crash", "good", "memory", "exit", "bad", "odd", "good"]
    root = write(tmp_path / "files", *names)
    store = tmp_path / "s.zarr"
    options = {"workers": "processes", "n_workers": 1, "dtype": "float32"}
    report = extract(root, store, {"x": (ByName(), same)}, **options)
    assert {id_.partition("_")[0]: reason for id_, reason in report.failed.items()} == {
        "bad": "bad numbers",
        "crash": f"The process that read {root}/crash_1.mp4 was ended by SIGSEGV.",
        "exit": f"The process that read {root}/exit_4.mp4 ended with exit status 3.",
        "memory": f"The process that read {root}/memory_3.mp4 was ended by SIGKILL. The memory may "
        "have run out: try fewer n_workers.",
        "odd": "OddError: a and b",
    }
    X = open_feature_sets(store)
    assert X.id.tolist() == ["good_0.mp4", "good_2.mp4", "good_7.mp4"]
    assert [x.tolist() for x in X["x"]] == [[[0, 1]], [[2, 3]], [[7, 8]]]


def test_processes_leave_signals_that_are_for_the_program_to_their_parent(tmp_path):
    root = write(tmp_path / "files", "interrupted")
    report = extract(root, tmp_path / "s.zarr", {"x": (ByName(), same)}, workers="processes")
    assert (report.n_items, dict(report.failed)) == (1, {})


@pytest.mark.parametrize("seconds", [60.0, 1.5])  # in one of two views, or in both together
def test_extract_ends_files_that_take_too_long(tmp_path, seconds):
    root = write(tmp_path / "files", "good", "slow", "good")
    started = time.monotonic()
    report = extract(
        root,
        tmp_path / "s.zarr",
        {"x": (ByName(seconds), same), "y": (ByName(seconds), same)},
        workers="processes",
        n_workers=1,
        seconds_per_file=2,
    )
    assert time.monotonic() - started < 30
    assert dict(report.failed) == {"slow_1.mp4": f"{root}/slow_1.mp4 was not read within 2 s."}
    assert report.n_items == 2


def test_seconds_per_file_does_not_count_the_time_without_room(tmp_path):
    root = write(tmp_path / "files", "good", "good")
    paths = {path.name: path for path in sorted(root.iterdir())}
    with ReadAhead(paths, {"x": ByName()}, 1, 20, False, "processes", 1.0) as reader:
        readings = iter(reader)
        (first,) = reader.chunks(next(readings))
        time.sleep(1.5)  # the second chunk has no room meanwhile
        reader.release(first.batch.nbytes)
        second = next(readings)
        assert len(list(reader.chunks(second))) == 1
        assert second.error is None


def test_errors_that_are_not_the_fault_of_a_file_stop_the_extraction(tmp_path):
    root = write(tmp_path / "files", "good", "bug")
    with pytest.raises(LookupError, match="a bug of the view") as error:
        extract(root, tmp_path / "s.zarr", {"x": (ByName(), same)}, workers="processes")
    assert "in _bug" in error.value.__notes__[0]


def test_processes_are_used_again_and_import_only_what_views_need(tmp_path):
    root = write(tmp_path / "files", "a", "b", "c")
    processes = ReadingProcesses({"x": Modules()}, False, None)
    found = []
    for path in sorted(root.iterdir()):
        found += [take().batch[0] for _, take in processes.read(path, [])]
    processes.close()
    assert [x[:5].tolist() for x in found] == [[0, 0, 0, 0, 0]] * 3
    (pid,) = {int(x[5]) for x in found}
    assert not is_running(pid)


def test_processes_compute_flow_as_threads_do_with_one_thread_of_torch(tmp_path, monkeypatch):
    pytest.importorskip("av", reason="needs the extra media")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    paths = {"a": make_media(tmp_path / "a.mp4", 6)}
    views = {"flow": FlowStacks(2, length=1, size=32), "modules": Modules()}
    found = []
    for workers in ("threads", "processes"):
        with ReadAhead(paths, views, 1, 10**9, False, workers) as reader:
            (reading,) = reader
            found.append({chunk.name: chunk.batch for chunk in reader.chunks(reading)})
    threads, processes = found
    np.testing.assert_array_equal(threads["flow"], processes["flow"])
    assert processes["modules"][0, [0, 4]].tolist() == [1, 1]


def pids_of_reading(root, seconds_per_file=None, between=None):
    """Read the files of a folder one after the other; return the process of each."""
    processes = ReadingProcesses({"x": Modules()}, False, seconds_per_file)
    pids = []
    for path in sorted(root.iterdir()):
        if pids and between is not None:
            between(pids[-1])
        pids += [int(take().batch[0, 5]) for _, take in processes.read(path, [])]
    processes.stop()
    return pids


def kill(pid):
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not is_running(pid))


@pytest.mark.parametrize("is_noticed", [True, False])
def test_a_process_that_died_between_two_files_is_no_fault_of_the_next(
    tmp_path, monkeypatch, is_noticed
):
    if not is_noticed:  # as if it died after the check, just when it is sent the next file
        monkeypatch.setattr(_Process, "is_alive", True)
    root = write(tmp_path / "files", "a", "b")
    pids = pids_of_reading(root, between=kill)
    assert len(pids) == len({*pids}) == 2


def test_a_process_that_does_not_begin_a_file_in_time_is_no_fault_of_the_file(tmp_path):
    root = write(tmp_path / "files", "a", "b")
    pids = pids_of_reading(root, 3, between=lambda pid: os.kill(pid, signal.SIGSTOP))
    assert len(pids) == len({*pids}) == 2
    assert not is_running(pids[0])


def test_a_file_that_no_process_begins_in_time_fails_alone(tmp_path, monkeypatch):
    root, begins = write(tmp_path / "files", "good", "good"), _Process.begins

    def hangs(process, path, seconds):
        if path.name == "good_0.mp4":
            os.kill(process._process.pid, signal.SIGSTOP)
        return begins(process, path, seconds)

    monkeypatch.setattr(_Process, "begins", hangs)
    report = extract(
        root, tmp_path / "s.zarr", {"x": (ByName(), same)}, workers="processes", n_workers=1,
        seconds_per_file=1, on_error="skip",
    )  # fmt: skip
    assert [*report.failed] == ["good_0.mp4"]
    assert report.failed["good_0.mp4"].endswith("was not read within 1 s.")


def test_extract_stops_if_no_process_begins_a_file(tmp_path, monkeypatch):
    root = write(tmp_path / "files", "a")

    def dies(process, *_):
        os.kill(process._process.pid, signal.SIGABRT)
        return False

    monkeypatch.setattr(_Process, "begins", dies)
    message = r"3 processes .*a_0\.mp4 did not begin.* ended by SIGABRT.*fewer n_workers"
    with pytest.raises(RuntimeError, match=message):
        extract(root, tmp_path / "s.zarr", {"x": (ByName(), same)}, workers="processes")
    assert not (tmp_path / "s.zarr.failed.csv").exists()


@pytest.mark.parametrize(
    ("view", "error", "message"),
    [
        (Locked(), ValueError, "The view 'x' cannot be passed to another process: cannot pickle"),
        (Unmakeable(), RuntimeError, "cannot make the views: KeyError: 'missing'. Define"),
    ],
)
def test_extract_names_the_remedy_for_views_that_cannot_be_passed(tmp_path, view, error, message):
    root = write(tmp_path / "files", "good")
    with pytest.raises(error, match=message):
        extract(root, tmp_path / "s.zarr", {"x": (view, same)}, workers="processes")
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": "fibers"}, "workers='fibers' is not one of"),
        ({"seconds_per_file": 60}, "seconds_per_file=60 needs processes.*workers='processes'"),
        (
            {"workers": "processes", "seconds_per_file": 0},
            "seconds_per_file=0 is not a number above 0",
        ),
        ({"workers": "processes", "seconds_per_file": "1"}, "seconds_per_file='1' is not a number"),
    ],
)
def test_extract_rejects_invalid_workers(tmp_path, options, message):
    root = write(tmp_path / "files", "good")
    with pytest.raises(ValueError, match=message):
        extract(root, tmp_path / "s.zarr", {"x": (ByName(), same)}, **options)


UNGUARDED = """
import sys
from acluster.extraction import extract
from tests.extraction.odd_views import ByName

{guard}extract(
    sys.argv[1], sys.argv[2], {{"x": (ByName(), lambda x: x)}}, workers="processes", n_workers=1
)
"""


@pytest.mark.parametrize("guard", ["", 'if __name__ == "__main__": '])
def test_a_script_without_guard_is_told_the_remedy(tmp_path, guard):
    root = write(tmp_path / "files", "good")
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED.format(guard=guard))
    command = [sys.executable, script, root, tmp_path / "s.zarr"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if guard:
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "RuntimeError: A process that reads files ended with exit status 1 while it" in last
    assert 'under `if __name__ == "__main__":`' in last
    assert not (tmp_path / "s.zarr").exists()


SCRIPT = """
import sys
from acluster.extraction import extract
from tests.extraction.odd_views import Announced

view = Announced(holds_lock=sys.argv[3] == "True")
options = {"workers": "processes", "n_workers": 2}
extract(sys.argv[1], sys.argv[2], {"x": (view, lambda x: x)}, **options)
"""


@pytest.mark.parametrize(
    ("kind", "to_group", "holds_lock"),
    [
        (signal.SIGKILL, False, False),
        (signal.SIGKILL, False, True),
        (signal.SIGTERM, True, False),
        (signal.SIGINT, True, True),
    ],
)
def test_no_process_outlives_an_extraction_that_ends(tmp_path, kind, to_group, holds_lock):
    if holds_lock and sys.platform != "linux":
        pytest.skip("only Linux ends a process that hangs inside a library")
    root = write(tmp_path / "files", "a", "b", "c")
    command = [sys.executable, "-X", "faulthandler", "-c", SCRIPT, root, tmp_path / "s.zarr"]
    process = subprocess.Popen(
        [*command, str(holds_lock)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Shells let programs in the background ignore Ctrl-C, and so the tests and this program.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        files = eventually(lambda: len(found := [*root.glob("*.pid")]) == 2 and found)
        pids = [int(eventually(path.read_text)) for path in files]
        assert all(map(is_running, pids))
        (os.killpg if to_group else os.kill)(process.pid, kind)
        _, errors = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGABRT)  # which prints where its threads are
        for pid in filter(is_running, pids):
            os.kill(pid, signal.SIGKILL)
        pytest.fail(f"children that run: {pids}\n{process.communicate()[1]}")
    finally:
        process.kill()
    eventually(lambda: not any(map(is_running, pids)), 10)
    if kind == signal.SIGTERM:
        assert process.returncode == 128 + signal.SIGTERM
        assert errors == ""
    if kind == signal.SIGINT:
        assert errors.count("KeyboardInterrupt") == 1  # that of the parent
    assert not (tmp_path / "s.zarr.failed.csv").exists()


def test_extract_leaves_no_process_behind_when_it_is_done_or_fails(tmp_path):
    root = write(tmp_path / "files", "a")
    pids = []

    def kept(batch):
        pids.append(int(batch[0, 5]))
        if len(pids) == 2:
            raise KeyboardInterrupt
        return batch[:, :5]

    for number in range(2):
        store = tmp_path / f"{number}.zarr"
        if number == 0:
            extract(root, store, {"x": (Modules(), kept)}, workers="processes")
        else:
            with pytest.raises(KeyboardInterrupt):
                extract(root, store, {"x": (Modules(), kept)}, workers="processes")
        assert not is_running(pids[-1])
    assert pids[0] != pids[1]
