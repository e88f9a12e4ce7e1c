"""The benchmark of the searches."""

import json

import numpy as np
import searches

from tests.conftest import make_sets


def test_report_has_a_ratio_for_every_way(monkeypatch, tmp_path):
    X, y = make_sets(n=40, dtype=np.float32)
    monkeypatch.setattr(searches, "training_items", lambda name: (X, y))
    monkeypatch.setattr(searches, "GRID", {"dropout": [0.2, 0.5]})
    options = ["--data", "made_up", "--repeats", "1", "--epochs", "1"]
    report = searches.main([*options, "--json", str(tmp_path / "figures.json")])
    assert report["made_up"]["fit"]["ratio"] > 0
    for way in ("search", "search_compiled"):
        assert report["made_up"][way]["ratio"] > 0
    assert report["store"]["seconds"].keys() == {"others", "ours"}
    assert json.loads((tmp_path / "figures.json").read_text()) == report
