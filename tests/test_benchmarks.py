"""The benchmarks measure what they say; nothing here is timed."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import accuracy
import compare
import machine
import memory
import numpy as np
import peers
import pytest
import roofline
import speed
import stopwatch
import torch
import workloads

from acluster import AttentionClusterClassifier
from acluster.nn import AttentionCluster, IntegrationNetwork

BENCHMARKS = Path(__file__).parent / "benchmarks"
OLD = {
    "machine": {"device": "an abacus", "threads": 2},
    "workloads": {
        "A": {
            "ratios": {
                "acluster": {
                    "padded": {"fit": {"of_medians": 2.0}, "predict": {"of_medians": 1.0}},
                    "skorch": {"fit": {"of_medians": 3.0}},
                }
            }
        }
    },
}


def run_compare(folder, new, *options):
    for name, report in (("old", OLD), ("new", new)):
        (folder / f"{name}.json").write_text(json.dumps(report))
    return compare.main([str(folder / "old.json"), str(folder / "new.json"), *options])


def changed(**ratios):
    new = copy.deepcopy(OLD)
    for phase, ratio in ratios.items():
        new["workloads"]["A"]["ratios"]["acluster"]["padded"][phase]["of_medians"] = ratio
    return new


@pytest.mark.parametrize(
    ("new", "options", "verdict"),
    [
        (OLD, [], compare.SAME),
        (changed(fit=1.71), [], compare.SAME),
        (changed(fit=1.69), [], compare.SLOWER),
        (changed(fit=1.69), ["--tolerance", "0.2"], compare.SAME),
        (changed(fit=5.0, predict=0.8), [], compare.SLOWER),
        ({**OLD, "machine": {"device": "a slide rule", "threads": 2}}, [], compare.NOT_COMPARABLE),
        ({**OLD, "machine": {"device": "an abacus", "threads": 1}}, [], compare.NOT_COMPARABLE),
        ({**changed(fit=1.0), "machine": {"device": "a", "threads": 1}}, ["--any-device"], 1),
        ({**OLD, "workloads": {}}, [], compare.NOT_COMPARABLE),
    ],
)
def test_verdicts_of_compare(tmp_path, new, options, verdict):
    assert run_compare(tmp_path, new, *options) == verdict


def test_what_one_result_lacks_is_shown_and_is_no_loss(tmp_path, capsys):
    new = changed()
    del new["workloads"]["A"]["ratios"]["acluster"]["skorch"]
    assert run_compare(tmp_path, new) == compare.SAME
    line = next(line for line in capsys.readouterr().out.splitlines() if "skorch" in line)
    assert line.split()[-2:] == ["3.00", "-"]


def small_task(shortest=2, longest=7, n_classes=3, n_sets=10, n_features=4):
    arrays, y = workloads.generated(n_sets, shortest, longest, n_features, n_classes)
    return workloads.Task(arrays, y, cluster_size=5, batch_size=4, epochs=1)


def our_network(task):
    cluster = AttentionCluster(task.n_features, task.cluster_size)
    return IntegrationNetwork([cluster], task.n_outputs).eval()


def copy_linear(ours, theirs):
    """Give a layer of torch's the map of ours, however ours keeps it."""
    with torch.no_grad():
        bias = ours(torch.zeros(1, theirs.in_features))
        theirs.weight.copy_((ours(torch.eye(theirs.in_features)) - bias).mT)
        theirs.bias.copy_(bias[0])


def packed(task):
    offsets = torch.tensor(np.cumsum([0, *task.lengths]))
    return torch.from_numpy(np.concatenate(task.arrays)), offsets


SHAPES = {"ragged": {}, "equal": {"shortest": 6, "longest": 6}, "binary": {"n_classes": 2}}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_padded_network_is_ours(shape):
    task = small_task(**shape)
    network, ours = peers.network_of(peers.PaddedNetwork, task).eval(), our_network(task)
    [cluster] = ours.integrations
    with torch.no_grad():
        network.weight.copy_(cluster.weighting(torch.eye(task.n_features)))
        network.alpha.copy_(cluster.shifting.alpha)
        network.beta.copy_(cluster.shifting.beta)
    copy_linear(ours.linear, network.linear)
    peer, expected = peers.Padded(task), ours([packed(task)])
    torch.testing.assert_close(network(*peer._inputs(slice(None))), expected)
    torch.testing.assert_close(network(*peer._inputs(torch.tensor([3, 1]))), expected[[3, 1]])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_looped_network_is_ours(shape):
    task = small_task(**shape)
    network, ours = peers.network_of(peers.LoopedNetwork, task).eval(), our_network(task)
    [cluster] = ours.integrations
    with torch.no_grad():
        weights = cluster.weighting(torch.eye(task.n_features)).mT
        for number, unit in enumerate(network.units):
            unit.score.weight.copy_(weights[number])
            unit.alpha.copy_(cluster.shifting.alpha[number])
            unit.beta.copy_(cluster.shifting.beta[number])
    copy_linear(ours.linear, network.linear)
    sets = [torch.from_numpy(array) for array in task.arrays]
    torch.testing.assert_close(network(*peers.pad(sets)), ours([packed(task)]))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_our_estimator_set_up_as_torchmil_is_its_network(shape):
    pytest.importorskip("torchmil.models")
    task = small_task(**shape)
    peer, ours = peers.TorchmilLoop(task), speed.Ours(task, **speed.AS_TORCHMIL)
    peer.fit()
    ours.fit()
    network, pool, classifier = ours.classifier.network_, peer.network.pool, peer.network.classifier
    weighting = network.integrations[0].weighting
    with torch.no_grad():
        pool.fc1.module.weight.copy_(weighting.weight1.mT)
        pool.fc1.module.bias.copy_(weighting.bias1)
        pool.fc2.weight.copy_(weighting.weight2)
    copy_linear(network.linear.cpu(), getattr(classifier, "module", classifier))
    torch.testing.assert_close(peer.predict(), torch.as_tensor(ours.predict()), check_dtype=False)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", peers.PEERS)
def test_every_peer_learns_and_predicts(name, shape):
    task = small_task(**shape)
    kind = peers.PEERS[name]
    if reason := kind.obstacle(task):
        pytest.skip(reason)
    peer = kind(task)
    peer.fit()
    probabilities = peer.predict()
    assert probabilities.shape == (len(task), task.n_classes)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(len(task)))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", ["skorch/batches", "skorch/sets"])
def test_skorch_sees_the_sets_as_the_padded_peer_does(name, shape):
    pytest.importorskip("skorch")
    task = small_task(**shape)
    skorch, padded = peers.PEERS[name](task), peers.Padded(task)
    skorch.fit()
    padded.network = skorch.net.module_
    torch.testing.assert_close(skorch.predict(), padded.predict())


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(peers.SkorchBatches, "package", "no_such_package")
    runnable, skipped = peers.available(small_task())
    assert {"authors", "padded"} <= runnable.keys()
    assert skipped["skorch/batches"] == "no_such_package is not installed"


def test_work_of_training_counted_by_hand():
    task = small_task(shortest=6, longest=6)  # 10 sets of 6 x 4, N 5, 3 classes, 3 batches
    n_parameters = 4 * 5 + 2 * 5 + 20 * 3 + 3
    training, prediction = roofline.training_work(task), roofline.prediction_work(task)
    assert training.flops == 10 * (8 * 6 * 4 * 5 + 6 * 5 * 4 * 3)
    assert training.bytes == 4 * (2 * 10 * 6 * 4 + 4 * 10 * 20 + 3 * 6 * n_parameters)
    assert prediction.flops == 10 * (4 * 6 * 4 * 5 + 2 * 5 * 4 * 3)
    assert prediction.bytes == 4 * (10 * 6 * 4 + 2 * 10 * 20 + 3 * n_parameters)


def test_roofline_is_the_slower_of_arithmetic_and_memory():
    device = {"matmul_gflops": {"float32": 2, "bfloat16": 4}, "copy_gb_per_second": 1}
    assert roofline.Work(8e9, 1e9).least_seconds(device, ["float32"]) == 4
    assert roofline.Work(8e9, 1e9).least_seconds(device, ["float32", "bfloat16"]) == 2
    assert roofline.Work(8e9, 6e9).least_seconds(device, ["float32"]) == 6


def test_interleaved_drops_the_warm_up():
    calls = []
    functions = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    measured = stopwatch.interleaved(functions, repeats=2)
    assert calls == ["a", "b"] * 3
    assert [len(seconds) for seconds in measured.values()] == [2, 2]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_rise_of_memory_is_that_of_the_peak():
    rise = memory.rise(lambda: np.ones(64 * 2**20, dtype=np.uint8))
    if rise is None:
        pytest.skip("the peak of this process cannot be reset here")
    assert rise == pytest.approx(64, abs=8)


def test_ratio_counts_the_fastest_setting_of_a_library():
    seconds = {
        ("acluster", "fit"): [1.0, 2.0, 3.0],
        ("lib/slow", "fit"): [9.0, 9.0, 9.0],
        ("lib/fast", "fit"): [4.0, 4.0, 9.0],
    }
    best = speed.fastest(seconds, ["acluster", "lib/slow", "lib/fast"], "lib", "fit")
    assert speed.ratio(seconds, ("acluster", "fit"), best) == {
        "of_medians": 2.0,
        "range": [2.0, 4.0],
        "peer": "lib/fast",
    }


MACHINE = {
    "device": "an abacus",
    "threads": 2,
    "load_average": 0.0,
    "bf16_is_faster": False,
    "matmul_gflops": {"float32": 1.0, "bfloat16": 1.0},
    "copy_gb_per_second": 1.0,
}


def test_small_run_writes_every_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "describe", lambda device: MACHINE)
    path = tmp_path / "speed.json"
    options = ["--sets", "16", "--epochs", "1", "--repeats", "1", "--no-memory"]
    speed.main(["--workloads", "A", "C", *options, "--json", str(path)])
    report = json.loads(path.read_text())
    assert report.keys() == {"date", "machine", "repeats", "workloads", "skipped"}
    assert report["workloads"].keys() == {"A", "C"}
    for figures in report["workloads"].values():
        assert figures.keys() == {"task", "methods", "ratios", "roofline", "skipped"}
        assert {"acluster", "authors", "padded"} <= figures["methods"].keys()
        for timed in figures["methods"].values():
            assert timed["fit"]["seconds"]["median"] > 0
            assert timed["predict"]["sets_per_second"] > 0
        assert {"authors", "padded"} <= figures["ratios"]["acluster"].keys()
        assert figures["roofline"]["acluster"]["fit"] > 0
    assert compare.main([str(path), str(path)]) == compare.SAME


def test_workload_without_its_data_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setenv("ACLUSTER_DATA", str(tmp_path))
    monkeypatch.setattr(machine, "describe", lambda device: MACHINE)
    path = tmp_path / "speed.json"
    speed.main(["--workloads", "musk1", "--json", str(path)])
    report = json.loads(path.read_text())
    assert report["workloads"] == {}
    assert "musk1.npz is not there" in report["skipped"]["musk1"]


def test_every_precision_is_timed():
    assert list(speed.our_methods(["full", "mixed"])) == ["acluster", "acluster/mixed"]


@pytest.mark.parametrize("name", accuracy.WAYS)
def test_ways_to_compute_agree_and_are_left(name):
    sets = [np.random.default_rng(i).normal(size=(2 + i % 3, 4)) for i in range(30)]
    clf = AttentionClusterClassifier(
        cluster_size=4, max_iter=3, tol=None, dtype="float32", random_state=0
    )
    expected = clf.fit(sets, np.arange(30) % 2).predict_proba(sets)
    precision = "mixed" if name == "mixed" else "full"
    with accuracy.way(name):
        found = clf.set_params(precision=precision).fit(sets, np.arange(30) % 2)
        found = found.predict_proba(sets)
    np.testing.assert_allclose(found, expected, atol=0.02 if name == "mixed" else 1e-5)
    assert (name == "mixed") == (abs(found - expected).max() > 1e-4)
    again = clf.set_params(precision="full").fit(sets, np.arange(30) % 2).predict_proba(sets)
    np.testing.assert_array_equal(again, expected)


def test_the_gpu_benchmark_runs_without_a_gpu():
    command = [sys.executable, BENCHMARKS / "gpu.py", "--smoke", "--parts", "epoch"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "epoch" in output


def test_machine_is_measured(monkeypatch):
    monkeypatch.setattr(machine, "MATMUL_SIZES", {"cpu": 64})
    monkeypatch.setattr(machine, "COPIED", 2**16)
    figures = machine.describe("cpu", budget=1e-3)
    assert figures.keys() == MACHINE.keys() | {"versions"}
    assert min(*figures["matmul_gflops"].values(), figures["copy_gb_per_second"]) > 0
    assert figures["versions"]["torch"] == torch.__version__
