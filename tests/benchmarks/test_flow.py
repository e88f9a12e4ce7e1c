"""The benchmark of optical flow."""

import json

import flow
import numpy as np
import pytest

from acluster.extraction import optical_flow


def test_textured_pair_moves_as_it_says():
    first, second, motion = flow.textured_pair(80, 90, seed=3)
    found = optical_flow("tvl1")(first[None], second[None])[0]
    inside = (slice(8, -8), slice(8, -8))
    assert flow.distance(found[inside], motion[inside]) < 0.2
    assert flow.distance(0, motion[inside]) > 0.5


def test_cpu_seconds_leaves_out_the_warm_up():
    calls = []
    measured = flow.cpu_seconds({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert {name: len(seconds) for name, seconds in measured.items()} == {"a": 2, "b": 2}


def test_report_compares_all_methods(tmp_path):
    pytest.importorskip("cv2", reason="the benchmark needs the extra flow")
    pytest.importorskip("skimage", reason="the benchmark needs the extra flow")
    options = ["--sizes", "40x50", "--pairs", "2", "--repeats", "1", "--fields", "2"]
    report = flow.main([*options, "--json", str(tmp_path / "figures.json")])
    figures = report["pairs"]["40x50"]
    assert figures.keys() == {"skimage", "tvl1", "dis", "tvl1 one by one"}
    assert figures["skimage"]["ratio"] == 1
    assert figures["skimage"]["distance_from_skimage"] == 0
    assert 0 < figures["tvl1"]["distance_from_skimage"] < 1e-3
    assert all(np.isfinite(one["error"]) for one in figures.values())
    assert report["clip"]["cpu_seconds"].keys() >= {"tvl1", "dis", "frame_descriptor"}
    assert json.loads((tmp_path / "figures.json").read_text()) == report
