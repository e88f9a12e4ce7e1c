"""`fit` in several processes: the same model as in one, and errors that reach all of them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from acluster import AttentionClusterClassifier, load, save_feature_sets
from acluster.training import Ranks
from tests.conftest import make_sets
from tests.estimators.killed_ranks import EPOCHS_PER_KILL
from tests.estimators.mixed_ranks import OPTIONS as MIXED
from tests.mixed_precision import gains

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    # Else torchrun 2.13 keeps one key-value store over its restarts, in which new processes may
    # find the addresses of killed ones.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}
FAILURES = {
    "other features": ("ValueError", "the digest of the first sets is"),
    "fewer items": ("ValueError", "the number of items is 102 on rank 1, 103 on rank 0"),
    "other labels": ("ValueError", "the digest of the labels and weights is"),
    "another learning rate": ("ValueError", "learning_rate is 1.01 on rank 1, 0.01 on rank 0"),
    "a wrong parameter on one rank": ("RankError", "The 'learning_rate' parameter"),
    "no classes on one rank": ("RankError", "classes must be passed on the first call"),
    "a seed that does not resume on one rank": ("RankError", "random_state"),
    "a bad item on one rank": ("RankError", "Rank 1 of this distributed fit failed"),
    "a damaged store": ("RankError", "Its error was ValueError"),
    "a callback that fails": ("RankError", "OSError: the callback has no disk"),
    "a callback that fails, units": ("RankError", "OSError: the callback has no disk"),
    "a damaged store on one rank, units": ("RankError", "Rank 1 of this distributed fit failed"),
    "batch normalization": ("ValueError", "its batch normalization needs the statistics"),
    "a second fit in a thread": ("ValueError", "Another fit with distributed=True is running"),
}


def torchrun(n, *command, options=()):
    """Run a program in several processes, which must succeed; return its output."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", *options]
    done = subprocess.run(
        [*launcher, "--nproc-per-node", str(n), *map(str, command)],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def found_by(n_ranks, folder, *names):
    """Return what each rank has found in the scenarios."""
    torchrun(n_ranks, ROOT / "tests/estimators/distributed_scenarios.py", folder, *names)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(n_ranks)]


def problems_of(found):
    """Return in which scenarios the ranks differ from each other or from one process."""
    problems = []
    for name, of_first in found[0].items():
        of_ranks = [of_rank[name] for of_rank in found]
        if name in FAILURES:
            kind, text = FAILURES[name]
            if not all(text in one.get("text", "") for one in of_ranks if one["error"] == kind):
                problems.append(f"{name}: {of_ranks}")
            if kind not in [one["error"] for one in of_ranks]:
                problems.append(f"{name}: no {kind} in {of_ranks}")
            continue
        if len({one["digest"] for one in of_ranks}) > 1:
            problems.append(f"{name}: the ranks differ")
        if of_first.get("gap", 0) > 1e-12:
            problems.append(f"{name}: {of_first['gap']:.1e} from one process")
        if "scores" in of_first and of_first["scores"][0] != of_first["scores"][1]:
            problems.append(f"{name}: other validation scores {of_first['scores']}")
    return "\n".join(problems)


def test_fit_distributed_is_fit_of_one_process(tmp_path):
    found = found_by(2, tmp_path)
    assert problems_of(found) == ""
    assert sum("gap" in one for one in found[0].values()) >= 70
    assert found[0]["units, units"]["digest"] == found[0]["undisturbed"]["digest"]
    assert found[0]["decisions"]["digest"] == "[False, True]"  # a small last layer, and a large one
    assert sum(name.endswith(", units") for name in found[0]) >= 30
    assert set(FAILURES) <= set(found[0])


def test_fit_distributed_shares_what_three_ranks_cannot_divide(tmp_path):
    names = ["batches smaller than the ranks", "a last batch of one", "validation of one", "mean"]
    found = found_by(3, tmp_path, *names, "members")
    assert problems_of(found) == ""
    assert len(found[0]) == 10  # items and units shared out


def digest_of_killed(folder, n_kills):
    """Return the digest of a fit in two processes, one of which is killed so many times."""
    options = ["--max-restarts", str(n_kills), "--monitor-interval", "0.1"]
    arguments = folder, n_kills, "items", EPOCHS_PER_KILL
    torchrun(2, ROOT / "tests/estimators/killed_ranks.py", *arguments, options=options)
    assert (folder / "restarts").read_text() == str(n_kills)
    assert (folder / "checkpoint 0").exists()
    assert not (folder / "checkpoint 1").exists()  # rank 0 writes it
    return (folder / "digest").read_text()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The digest of the fit without kills on one host."""
    return digest_of_killed(tmp_path_factory.mktemp("undisturbed"), 0)


def test_fit_distributed_resumes_when_a_rank_is_killed(tmp_path, undisturbed):
    assert digest_of_killed(tmp_path, 1) == undisturbed


@pytest.fixture
def two_hosts():
    """Two network namespaces, joined by a cable; return the commands that enter them."""
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and the program ip, to make network namespaces")
    names = [f"acluster{os.getpid()}{letter}" for letter in "ab"]
    cables = [f"ac{os.getpid() % 10**6}{letter}" for letter in "ab"]  # 15 letters at most
    made = [f"netns add {name}" for name in names]
    made.append(f"link add {cables[0]} type veth peer name {cables[1]}")
    for number, (name, cable) in enumerate(zip(names, cables, strict=True), 1):
        made += [f"link set {cable} netns {name}", f"-n {name} link set lo up"]
        made += [f"-n {name} addr add 10.77.0.{number}/24 dev {cable}"]
        made += [f"-n {name} link set {cable} up"]
    try:
        for options in made:
            done = subprocess.run(["ip", *options.split()], capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"ip {options} is not allowed here: {done.stderr}")
        cabled = zip(names, cables, strict=True)
        yield [(["ip", "netns", "exec", name], cable) for name, cable in cabled]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def test_fit_distributed_gives_the_same_bits_on_two_hosts(tmp_path, two_hosts, undisturbed):
    script = str(ROOT / "tests/estimators/killed_ranks.py")
    arguments = str(tmp_path), "0", "items", str(EPOCHS_PER_KILL)  # no kills
    processes = []
    for number, (enter, cable) in enumerate(two_hosts, 1):
        options = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
        options += ["--rdzv-endpoint", "10.77.0.1:29400", "--local-addr", f"10.77.0.{number}"]
        options += ["--rdzv-id", "test", "--rdzv-conf", f"is_host={int(number == 1)}"]
        command = [sys.executable, "-m", "torch.distributed.run", *options, script]
        environment = os.environ | ENVIRONMENT | {"GLOO_SOCKET_IFNAME": cable}
        processes.append(
            subprocess.Popen(
                [*enter, *command, *arguments],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    shown = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(shown)
    assert (tmp_path / "digest").read_text() == undisturbed


def test_fit_command_trains_in_the_processes_of_torchrun(tmp_path):
    X, y = make_sets()
    save_feature_sets(tmp_path / "sets.zarr", X, label=y)
    settings = "max_iter=2", "tol=null", "distributed=true"
    arguments = ["fit", tmp_path / "sets.zarr", "--out", tmp_path / "a.model", "--hold-out", "0.2"]
    shown = torchrun(2, "-m", "acluster", *arguments, "--set", *settings)
    assert shown.count("48 items, 2 epochs") == 1
    assert shown.count("accuracy on the 12 held-out items") == 1
    classifier = load(tmp_path / "a.model")
    assert not classifier.distributed
    assert classifier.predict(X).shape == (60,)


def test_fit_distributed_rejects_process_without_group():
    X, y = make_sets()
    with pytest.raises(ValueError, match=r"needs a process group.*torchrun --nproc-per-node 2"):
        AttentionClusterClassifier(distributed=True).fit(X, y)


def test_ranks_alone_exchange_nothing():
    with Ranks() as ranks:
        assert (ranks.rank, ranks.size) == (0, 1)
        assert ranks.share(7) is None
        assert ranks.own(7) == slice(0, 7)
        assert ranks.same("x") == "x"
        assert ranks.all_of(3) == [3]


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("n_items", [0, 1, 2, 7, 8, 32])
def test_ranks_own_every_item_once(size, n_items):
    owned = []
    for rank in range(size):
        ranks = Ranks()
        ranks.rank, ranks.size = rank, size
        owned += [*range(n_items)[ranks.own(n_items)]]
    assert np.array_equal(owned, np.arange(n_items))


def test_ranks_take_the_precision_that_rank_0_has_measured(tmp_path):
    torchrun(2, ROOT / "tests/estimators/mixed_ranks.py", tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    X, y = make_sets(n=24, dtype=np.float32)
    with gains(integration=0.5):
        alone = AttentionClusterClassifier(precision="mixed", **MIXED).fit(X, y)
    for name in ("items", "units"):
        assert first[name] == second[name]
        assert first[name][0] == ["linear"]
        # Each rank rounds its own partial sums to bfloat16.
        np.testing.assert_allclose(first[name][2], alone.loss_curve_, rtol=1e-3)
