"""Measurements of bfloat16, with a clock of the test's own, and the files that keep them."""

import json
import os
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from acluster._utils._operations import (
    _IN_BFLOAT16,
    OPERATIONS,
    choosing_bfloat16,
    precision_of,
    without_autocast,
)
from acluster.training import Trial, bfloat16_gain, has_bfloat16, multiplying_in_bfloat16
from acluster.training import _precision as timing

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The cache folder of a user on a new machine, for a new process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(timing, "_gains", {})
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    return tmp_path / "acluster" / "bfloat16"


def forget(monkeypatch):
    """Continue as a new process."""
    monkeypatch.setattr(timing, "_gains", {})


class Steps:
    """Passes of a trial that take given times; cycles through them round by round."""

    def __init__(self, monkeypatch, full, mixed, warm_up=0.0):
        self.now, self.order, self.n_made = 0.0, [], 0
        self._full, self._mixed, self._warm_up = full, mixed, warm_up
        monkeypatch.setattr(timing, "_now", lambda: self.now)
        self.trial = Trial({"operation": "linear", "items": 64}, self.make)

    def make(self):
        self.n_made += 1
        return self.forward, self.backward

    def pass_time(self, phase):
        is_mixed = _IN_BFLOAT16.get() == frozenset(OPERATIONS) if phase == 0 else self.order[-1]
        if phase == 0:
            self.order.append(is_mixed)
        number = self.order.count(is_mixed) - 2
        times = self._mixed if is_mixed else self._full
        self.now += self._warm_up if number < 0 else times[number % len(times)][phase]

    def forward(self):
        self.pass_time(0)
        return torch.ones(())

    def backward(self, output):
        assert not _IN_BFLOAT16.get()  # as in a training step
        self.pass_time(1)


def test_gain_is_that_of_a_whole_step(monkeypatch):
    steps = Steps(monkeypatch, full=[(0.02, 0.04)], mixed=[(0.01, 0.02)])
    assert bfloat16_gain(steps.trial) == pytest.approx(2)


def test_gain_is_that_of_the_forward_pass_if_it_is_less(monkeypatch):
    steps = Steps(monkeypatch, full=[(0.02, 0.4)], mixed=[(0.04, 0.2)])
    assert bfloat16_gain(steps.trial) == pytest.approx(0.5)


def test_gain_is_a_median_over_interleaved_rounds_without_the_first_calls(monkeypatch):
    full = [(0.001, 0.001), (0.001, 0.001), (5.0, 5.0), (0.001, 0.001), (0.001, 0.001)]
    steps = Steps(monkeypatch, full, mixed=[(0.002, 0.002)], warm_up=9.0)
    monkeypatch.setattr(timing, "_MAX_SECONDS", 1e9)
    assert bfloat16_gain(steps.trial) == pytest.approx(0.5)
    rounds = [steps.order[i : i + 2] for i in range(0, len(steps.order), 2)]
    assert len(rounds) == 1 + timing._MAX_ROUNDS
    assert rounds[1:3] == [[True, False], [False, True]]


def test_measurement_ends_after_a_few_rounds_once_the_time_is_up(monkeypatch):
    steps = Steps(monkeypatch, full=[(1.0, 1.0)], mixed=[(1.0, 1.0)])
    bfloat16_gain(steps.trial)
    assert len(steps.order) == 2 * (1 + timing._MIN_ROUNDS)


def test_gain_is_finite_if_the_clock_does_not_move(monkeypatch):
    steps = Steps(monkeypatch, full=[(0.0, 0.0)], mixed=[(0.0, 0.0)])
    assert bfloat16_gain(steps.trial) == 1


@pytest.mark.parametrize(("full", "mixed", "kept"), [(1e6, 1e-6, 1e3), (1e-6, 1e6, 1e-3)])
def test_gain_of_a_clock_that_jumps_is_bounded_and_kept(monkeypatch, full, mixed, kept):
    steps = Steps(monkeypatch, full=[(full, full)], mixed=[(mixed, mixed)])
    assert bfloat16_gain(steps.trial) == kept
    forget(monkeypatch)
    assert bfloat16_gain(steps.trial) == kept
    assert steps.n_made == 1


@pytest.mark.parametrize("phase", ["make", "forward", "backward"])
def test_errors_of_a_trial_are_raised_and_nothing_is_kept(monkeypatch, folder, phase):
    def fail(*arguments):
        raise RuntimeError("no trial")

    steps = Steps(monkeypatch, full=[(1.0, 1.0)], mixed=[(1.0, 1.0)])
    with monkeypatch.context() as patch:
        patch.setattr(steps, phase, fail)
        trial = Trial({}, fail if phase == "make" else steps.make)
        with pytest.raises(RuntimeError, match="no trial"):
            bfloat16_gain(trial)
    assert not folder.exists()
    assert not timing._lock.locked()
    assert bfloat16_gain(Trial({}, steps.make)) == 1


def test_measurement_leaves_the_global_generator_of_torch_alone(monkeypatch):
    state = torch.get_rng_state()
    trial = Trial({}, lambda: (lambda: torch.rand(3), lambda output: torch.rand(1)))
    bfloat16_gain(trial)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.skipif(os.name != "posix", reason="its processor time is coarse")
def test_clock_does_not_count_waiting_for_other_processes_on_one_thread(monkeypatch):
    monkeypatch.setattr(time, "thread_time", lambda: 1.0)
    monkeypatch.setattr(time, "perf_counter", lambda: 2.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert timing._now() == 1.0
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert timing._now() == 2.0


def fixed(monkeypatch, gain):
    """Let a measurement return `gain`; the list has an entry for each."""
    measured = []

    def measure(trial):
        measured.append(trial)
        return gain

    monkeypatch.setattr(timing, "_measure", measure)
    return measured


TRIAL = Trial({"operation": "linear", "items": 64}, lambda: pytest.fail("is made"))


def test_gain_is_measured_once_for_all_processes(monkeypatch, folder):
    measured = fixed(monkeypatch, 1.5)
    assert [bfloat16_gain(TRIAL) for _ in range(3)] == [1.5] * 3
    [file] = folder.iterdir()
    assert json.loads(file.read_text()) == {"gain": 1.5}
    forget(monkeypatch)
    fixed(monkeypatch, 0.5)
    assert bfloat16_gain(TRIAL) == 1.5
    assert len(measured) == 1


def test_gain_of_a_trial_with_a_long_key_is_kept(monkeypatch):
    measured = fixed(monkeypatch, 1.5)
    for _ in range(3):
        bfloat16_gain(Trial({"operation": "x" * 100_000}, TRIAL.make))
        forget(monkeypatch)
    assert len(measured) == 1


@pytest.mark.parametrize("what", ["items", "processor", "threads", "torch"])
def test_gain_is_measured_again_for_anything_that_changes_it(monkeypatch, what):
    fixed(monkeypatch, 1.5)
    bfloat16_gain(TRIAL)
    other = Trial({"operation": "linear", "items": 128}, TRIAL.make) if what == "items" else TRIAL
    if what == "processor":
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    if what == "torch":
        monkeypatch.setattr(torch, "__version__", "9.9")
    if what == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    fixed(monkeypatch, 0.5)
    assert bfloat16_gain(other) == 0.5


DAMAGED = [
    "",
    "{",
    "[" * 100_000,
    "1.5",
    "[1.5]",
    "{}",
    '{"gain": true}',
    '{"gain": "1.5"}',
    '{"gain": -1.5}',
    '{"gain": NaN}',
    '{"gain": 1e999}',
    '{"gain": 1e300}',
    '{"gain": 1e-300}',
    b"\xff\xfe",
    b"\x80\x04cos\nsystem\n(S'false'\ntR.",
]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_file_is_replaced(monkeypatch, folder, content):
    fixed(monkeypatch, 2.5)
    bfloat16_gain(TRIAL)
    [file] = folder.iterdir()
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    forget(monkeypatch)
    fixed(monkeypatch, 3.5)
    assert bfloat16_gain(TRIAL) == 3.5
    assert [*folder.iterdir()] == [file]
    forget(monkeypatch)
    fixed(monkeypatch, 4.5)
    assert bfloat16_gain(TRIAL) == 3.5


def put_pipe(path):
    os.mkfifo(path)


def put_device(path):
    path.symlink_to("/dev/zero")


def put_dangling_link(path):
    path.symlink_to(path.parent / "nothing")


@pytest.mark.skipif(os.name != "posix", reason="needs pipes and devices")
@pytest.mark.parametrize("put", [put_pipe, put_device, put_dangling_link])
def test_what_is_not_a_regular_file_is_replaced(monkeypatch, folder, put):
    fixed(monkeypatch, 2.5)
    bfloat16_gain(TRIAL)
    [file] = folder.iterdir()
    file.unlink()
    put(file)
    forget(monkeypatch)
    fixed(monkeypatch, 3.5)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(bfloat16_gain, TRIAL)
        try:
            assert found.result(timeout=20) == 3.5
        except TimeoutError:  # it waits for somebody to write to the pipe
            os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK))
            raise
    assert json.loads(file.read_text()) == {"gain": 3.5}
    assert [*folder.iterdir()] == [file]
    assert not file.is_symlink()


def test_folder_in_place_of_the_file_is_left_alone(monkeypatch, folder):
    fixed(monkeypatch, 2.5)
    bfloat16_gain(TRIAL)
    [file] = folder.iterdir()
    file.unlink()
    (file / "own").mkdir(parents=True)
    forget(monkeypatch)
    assert bfloat16_gain(TRIAL) == 2.5
    assert [*folder.iterdir()] == [file]
    assert (file / "own").is_dir()


@pytest.mark.parametrize("has_links", [True, False])
def test_processes_that_replace_a_damaged_file_at_the_same_time_agree(
    monkeypatch, folder, has_links
):
    fixed(monkeypatch, 2.5)
    bfloat16_gain(TRIAL)
    [file] = folder.iterdir()
    file.write_text("damaged")
    forget(monkeypatch)
    fixed(monkeypatch, 3.5)
    replace, others = os.replace, []

    def replace_late(source, target):
        """Let another process be first, after both have found the damage."""
        monkeypatch.setattr(os, "replace", replace)
        timing._write(file, 4.5)
        others.append(timing._read(file))
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_late)
    if not has_links:
        hide_link(monkeypatch)
    assert bfloat16_gain(TRIAL) == 4.5
    assert others == [4.5]
    assert [*folder.iterdir()] == [file]


def test_process_agrees_with_another_one_that_has_taken_a_damaged_file_away(monkeypatch, folder):
    fixed(monkeypatch, 2.5)
    bfloat16_gain(TRIAL)
    [file] = folder.iterdir()
    file.write_text("damaged")
    forget(monkeypatch)
    replace = os.replace

    def replace_late(source, target):
        monkeypatch.setattr(os, "replace", replace)
        file.unlink()
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_late)
    bfloat16_gain(TRIAL)
    assert json.loads(file.read_text()) == {"gain": 2.5}


def hide_link(monkeypatch):
    def link(source, target):
        raise OSError("this file system has no links")

    monkeypatch.setattr(os, "link", link)


def test_gain_is_kept_on_a_file_system_without_links(monkeypatch, folder):
    hide_link(monkeypatch)
    fixed(monkeypatch, 1.5)
    bfloat16_gain(TRIAL)
    [file] = folder.iterdir()
    assert json.loads(file.read_text()) == {"gain": 1.5}
    timing._write(file, 0.5)  # of a process that was second
    forget(monkeypatch)
    fixed(monkeypatch, 0.5)
    assert bfloat16_gain(TRIAL) == 1.5


def put_file_in_place_of_folder(monkeypatch, folder):
    folder.parent.parent.mkdir(exist_ok=True)
    folder.parent.write_text("")


def forbid_writing(monkeypatch, folder):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    folder.parent.parent.chmod(stat.S_IRUSR | stat.S_IXUSR)


def take_away_home(monkeypatch, folder):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(timing.Path, "home", home)


@pytest.mark.parametrize("prevent", [put_file_in_place_of_folder, forbid_writing, take_away_home])
def test_gain_holds_for_the_process_if_it_cannot_be_kept(monkeypatch, folder, prevent):
    prevent(monkeypatch, folder)
    fixed(monkeypatch, 1.5)
    assert bfloat16_gain(TRIAL) == 1.5
    fixed(monkeypatch, 0.5)
    assert bfloat16_gain(TRIAL) == 1.5
    assert not [*folder.glob("*")] if folder.is_dir() else True
    forget(monkeypatch)
    assert bfloat16_gain(TRIAL) == 0.5


@pytest.mark.parametrize("given", ["", "relative/folder"])
def test_cache_is_in_the_home_without_a_valid_xdg_cache_home(monkeypatch, tmp_path, given):
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    monkeypatch.setattr(timing.Path, "home", lambda: tmp_path / "home")
    fixed(monkeypatch, 1.5)
    bfloat16_gain(TRIAL)
    assert len([*(tmp_path / "home" / ".cache" / "acluster" / "bfloat16").iterdir()]) == 1


def test_threads_measure_once(monkeypatch):
    measured = fixed(monkeypatch, 1.5)
    with ThreadPoolExecutor(8) as pool:
        assert {*pool.map(bfloat16_gain, [TRIAL] * 40)} == {1.5}
    assert len(measured) == 1


SCRIPT = """
import sys
import torch
torch.cpu.get_capabilities = lambda: {"avx512_bf16": True}
from acluster.training import Trial, bfloat16_gain
from acluster.training import _precision as timing

def measure(trial):
    print("measures", flush=True)
    sys.stdin.readline()
    return float(sys.argv[1])

timing._measure = measure
print(bfloat16_gain(Trial({"operation": "linear"}, None)), flush=True)
"""


def test_first_of_several_processes_decides_for_all(folder):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(gain)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for gain in (2.0, 0.5, 3.0)
    ]
    try:
        for process in processes:
            assert process.stdout.readline() == "measures\n"
        for i in (1, 0, 2):  # all measure at the same time; the second one ends first
            assert processes[i].communicate("end\n", timeout=60)[0] == "0.5\n"
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()
    [file] = folder.iterdir()
    assert json.loads(file.read_text())["gain"] == 0.5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_measures_while_a_thread_of_its_parent_holds_the_lock(monkeypatch):
    fixed(monkeypatch, 1.5)
    with timing._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if bfloat16_gain(TRIAL) == 1.5 else 1)
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": True, "amx_bf16": True}, True),
        ({"bf16": True}, True),
        ({"avx512_f": True, "avx512_bf16": False}, False),
        ({}, False),
    ],
)
def test_has_bfloat16_by_processor(monkeypatch, able, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert has_bfloat16(CPU) is expected


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True)])
def test_has_bfloat16_by_gpu(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_bfloat16(torch.device("cuda")) is expected


def product(operation):
    with precision_of(operation, CPU):
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


def test_choice_holds_for_its_operations_in_its_context():
    with multiplying_in_bfloat16(CPU, ["linear"]):
        assert product("linear") == torch.bfloat16
        assert product("integration") == torch.float32
        with choosing_bfloat16(["integration"]):
            assert product("linear") == torch.float32
            assert product("integration") == torch.bfloat16
        assert product("linear") == torch.bfloat16
    assert product("linear") == torch.float32
    with torch.autocast("cpu", torch.bfloat16):  # of the user's
        assert product("linear") == torch.bfloat16


def test_choice_has_no_effect_without_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {})
    with multiplying_in_bfloat16(CPU, OPERATIONS):
        assert product("linear") == torch.float32


@pytest.mark.parametrize("names", [None, "linear", {"linear": 1}, ["linear", "integration"], [[]]])
def test_check_operations_rejects_what_no_choice_returns(names):
    message = r"its operations in bfloat16 are .*, not some of \['integration', 'linear'\] in this"
    with pytest.raises(ValueError, match=message):
        timing.check_operations(names)


@pytest.mark.parametrize("names", [[], ["linear"], ["integration"], ["integration", "linear"]])
def test_check_operations_returns_a_choice(names):
    assert timing.check_operations(names) == tuple(names)


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_without_autocast_ignores_it_on_all_devices(device):
    torch.set_autocast_enabled(device, True)
    try:
        with without_autocast():
            assert not torch.is_autocast_enabled(device)
        assert torch.is_autocast_enabled(device)
    finally:
        torch.set_autocast_enabled(device, False)
