import csv

import numpy as np
import pytest
import utd_mhad
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Bunch

from acluster import MultimodalFeatureSets


@pytest.fixture
def clips(monkeypatch):
    """Replace UTD-MHAD by one noisy clip of each of two actions by every subject."""
    rng = np.random.default_rng(0)
    n_clips = 16
    body = np.zeros((60, 80), dtype=bool)
    body[10:50, 30:50] = True

    def clip():
        depth = rng.integers(100, 200, size=(12, 60, 80)) * body
        return {
            "skeleton": rng.normal(size=(20, 60)).astype(np.float32),
            "inertial": rng.normal(size=(75, 6)).astype(np.float32),
            "depth": depth.reshape(12, -1).astype(np.uint8),
        }

    actions = Bunch(
        data=MultimodalFeatureSets.from_items([clip() for _ in range(n_clips)]),
        target=np.arange(n_clips) % 2,
        subject=1 + np.arange(n_clips) // 2,
    )
    monkeypatch.setattr(utd_mhad, "load_utd_mhad", lambda: actions)
    monkeypatch.setitem(utd_mhad.PARAMETERS, "max_iter", 1)
    for name in utd_mhad.TRANSFORMERS:  # PCA would take most of the time
        monkeypatch.setitem(utd_mhad.TRANSFORMERS, name, StandardScaler())


def test_local_features_have_documented_widths(clips, tmp_path):
    X = utd_mhad.local_features(tmp_path / "store.zarr")
    assert {name: X[name].n_features for name in X.names} == {
        "skeleton": 4 * 60,
        "inertial": 15 * 6 + 4 * 6,
        "depth": 2 * 3 * 15 * 14,
    }
    assert X["inertial"].lengths[0] == (75 - 60) // 5 + 1
    plain = utd_mhad.local_features(tmp_path / "plain.zarr", utd_mhad.PLAIN_FEATURES)
    assert {name: plain[name].n_features for name in plain.names} == {
        "skeleton": 121,
        "inertial": 7,
        "depth": 2 * 300 + 1,
    }


def test_main_runs_every_setting_once(clips, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(utd_mhad, "CHOICES", [["inertial"]])
    monkeypatch.setattr(utd_mhad, "SIZES", [(1, 2, 1)])
    table = tmp_path / "rows.csv"
    arguments = ["--study", "--seeds", "1"]
    arguments += ["--csv", str(table), "--store", str(tmp_path / "store.zarr")]
    utd_mhad.main(arguments)
    rows = list(csv.reader(table.read_text().splitlines()))
    assert [row[0] for row in rows] == [
        "pooled SVM",
        "modalities",
        "plain features, pooled SVM",
        "plain features, modalities",
        "cluster sizes",
        *["missing"] * 4,
    ]
    assert len(rows[-1]) == 3 + len(utd_mhad.MISSING_COLUMNS)
    monkeypatch.delattr(utd_mhad, "model")  # a second command needs no model
    utd_mhad.main(arguments)
    assert list(csv.reader(table.read_text().splitlines())) == rows
    assert "cluster sizes" in capsys.readouterr().out


def test_main_cross_validates_on_training_subjects(clips, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(utd_mhad, "CHOICES", [["inertial"]])
    utd_mhad.main(["--cv", "3", "--seeds", "1", "--store", str(tmp_path / "store.zarr")])
    line = capsys.readouterr().out
    assert line.startswith("inertial ")
    assert line.count(",") == 3  # four choices of three subjects
