"""The benchmark of the compiled training step."""

import json

import members
import numpy as np
import pytest
from sklearn.utils import Bunch

from acluster import FeatureSets
from acluster.nn import _compiled


@pytest.mark.skipif(not _compiled._INSTALLED, reason="Numba is not installed")
def test_report_has_ratios_to_torch(monkeypatch, tmp_path):
    X = FeatureSets.from_padded(np.random.RandomState(0).rand(6, 3, 2).astype(np.float32))
    made_up = Bunch(data=X, target=np.arange(6) % 3)
    monkeypatch.setattr(members, "load_benchmark", lambda name: made_up)
    monkeypatch.setattr(members.torch, "set_num_threads", lambda n: None)
    options = ["--data", "made_up", "--members", "1", "--repeats", "1", "--epochs", "1"]
    report = members.main([*options, "--json", str(tmp_path / "figures.json")])
    assert report["made_up"]["torch"] == 1
    assert report["made_up"]["P=1"] > 0
    assert json.loads((tmp_path / "figures.json").read_text()) == report
