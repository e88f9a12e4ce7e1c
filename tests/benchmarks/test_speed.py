import json

import compare
import machine
import speed

from tests.benchmarks.conftest import MACHINE


def test_ratio_uses_fastest_setting_of_library():
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


def test_main_writes_report(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "describe", lambda device: MACHINE)
    path = tmp_path / "speed.json"
    options = ["--sets", "16", "--epochs", "1", "--repeats", "1", "--no-memory"]
    speed.main(["--workloads", "A", "C", *options, "--json", str(path)])
    report = json.loads(path.read_text())
    assert report.keys() == {"date", "machine", "repeats", "clock", "workloads", "skipped"}
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


def test_main_compares_mixed_with_full_precision_without_peers(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "describe", lambda device: MACHINE)
    path = tmp_path / "speed.json"
    options = ["--sets", "16", "--epochs", "1", "--repeats", "2", "--no-memory", "--no-peers"]
    precisions = ["--precision", "full", "mixed", "--clock", "cpu"]
    speed.main(["--workloads", "C", *options, *precisions, "--json", str(path)])
    figures = json.loads(path.read_text())["workloads"]["C"]
    assert figures["methods"].keys() == {"acluster", "acluster/mixed"}
    assert figures["ratios"]["acluster"] == {}
    for phase, found in figures["ratios"]["acluster/mixed"]["acluster"].items():
        medians = [figures["methods"][name][phase] for name in ("acluster", "acluster/mixed")]
        full, mixed = (one["seconds"]["median"] for one in medians)
        assert found["of_medians"] == full / mixed
        assert found["range"][0] <= found["range"][1]


def test_main_skips_workload_without_data(tmp_path, monkeypatch):
    monkeypatch.setenv("ACLUSTER_DATA", str(tmp_path))
    monkeypatch.setattr(machine, "describe", lambda device: MACHINE)
    path = tmp_path / "speed.json"
    speed.main(["--workloads", "musk1", "--json", str(path)])
    report = json.loads(path.read_text())
    assert report["workloads"] == {}
    assert "musk1.npz does not exist" in report["skipped"]["musk1"]


def test_our_methods_has_each_precision():
    assert list(speed.our_methods(["full", "mixed"])) == ["acluster", "acluster/mixed"]
