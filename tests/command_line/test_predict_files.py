"""`acluster predict MODEL PATH...` extracts the features of media files, and predicts."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest

import acluster
from acluster.command_line._main import main
from acluster.extraction import LogMel, Waveforms, extract, patch_descriptor
from tests.extraction.test_extract import level
from tests.extraction.test_sound import noise, write_wav

pytest.importorskip("av")


def predict(*arguments):
    return main(["predict", *map(str, arguments)])


def table(text):
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def model(tmp_path, monkeypatch):
    """The current folder has sounds in folders, their store, and a model of it."""
    monkeypatch.chdir(tmp_path)
    for i in range(8):
        folder = Path("sounds", "loud" if i % 2 else "soft")
        folder.mkdir(parents=True, exist_ok=True)
        write_wav(folder / f"{i}.wav", noise(16000 + 4000 * i, i) * (2 if i % 2 else 0.2))
    extract("sounds", "s.zarr", {"audio": (LogMel(), patch_descriptor)}, labels="folders")
    assert main(["fit", "s.zarr", "--out", "m.model", "--set", "max_iter=20"]) == 0
    return "m.model"


def test_predict_of_files_equals_that_of_their_store(model, capsys, monkeypatch):
    capsys.readouterr()
    assert predict(model, "s.zarr", "--proba") == 0
    expected = table(capsys.readouterr().out)
    assert len(expected) == 8
    monkeypatch.setattr("acluster.command_line._commands._ITEMS_PER_BATCH", 3)
    assert predict(model, "sounds", "--proba") == 0
    rows = table(capsys.readouterr().out)
    for row, other in zip(rows, expected, strict=True):
        assert (row["id"], row["prediction"]) == (other["id"], other["prediction"])
        for name in ("probability of loud", "probability of soft"):
            assert float(row[name]) == pytest.approx(float(other[name]), rel=1e-4)
    assert predict(model, "sounds/soft/0.wav", "sounds/loud", "--proba", "--out", "p.csv") == 0
    rows = table(Path("p.csv").read_text())
    by_id = {f"sounds/{row['id']}": row for row in expected}
    assert [row["id"] for row in rows] == [
        "sounds/soft/0.wav", *(f"sounds/loud/{i}.wav" for i in (1, 3, 5, 7)),
    ]  # fmt: skip
    for row in rows:
        assert row["prediction"] == by_id[row["id"]]["prediction"]
    assert predict(model, "sounds", "--jobs", "2") == 1
    assert "--jobs predicts the items of a store" in capsys.readouterr().err


def test_predict_names_the_files_that_fail_and_predicts_the_others(model, capsys):
    Path("bad.mp4").write_bytes(b"")
    Path("sounds/soft/4.wav").write_bytes(b"nothing of the kind" * 100)
    capsys.readouterr()
    assert predict(model, "bad.mp4", "sounds/soft") == 1
    output = capsys.readouterr()
    assert [row["id"] for row in table(output.out)] == [f"sounds/soft/{i}.wav" for i in (0, 2, 6)]
    assert "bad.mp4: bad.mp4 is empty" in output.err
    assert "sounds/soft/4.wav: " in output.err
    assert "2 of 5 files have no prediction" in output.err
    assert predict(model, "gone.mp4", "sounds/soft") == 1
    assert "There is no file at 'gone.mp4'" in capsys.readouterr().err


def test_predict_of_files_that_all_fail_writes_an_empty_table(model, capsys):
    Path("bad.wav").write_bytes(b"")
    capsys.readouterr()
    assert predict(model, "bad.wav") == 1
    output = capsys.readouterr()
    assert output.out.split() == ["id,prediction"]
    assert "1 of 1 files have no prediction" in output.err


def test_predict_needs_trust_for_backbones_of_others(model, capsys):
    extract("sounds", "own.zarr", {"audio": (Waveforms(seconds=0.25), level)}, labels="folders")
    assert main(["fit", "own.zarr", "--out", "own.model", "--set", "max_iter=5"]) == 0
    capsys.readouterr()
    assert predict("own.model", "sounds/soft/0.wav") == 1
    assert "--trust on the command line" in capsys.readouterr().err
    assert predict("own.model", "sounds/soft/0.wav", "--trust") == 0
    assert predict("own.model", "s.zarr") == 1
    assert "columns" in (message := capsys.readouterr().err) or "features" in message


def test_predict_rejects_a_store_that_was_extracted_otherwise(model, capsys):
    views = {"audio": (LogMel(hop=48), patch_descriptor)}
    extract("sounds", "half.zarr", views, labels="folders")
    capsys.readouterr()
    assert predict(model, "half.zarr") == 1
    assert "view.hop is 48, but in fit it was 96" in capsys.readouterr().err


def test_predict_of_one_modality_takes_files(model, capsys):
    X = acluster.open_feature_sets("s.zarr")
    clf = acluster.AttentionClusterClassifier(max_iter=20, random_state=0)
    clf.fit(X["audio"], X.label).save("one.model")
    capsys.readouterr()
    assert predict("one.model", "sounds") == 0
    rows = table(capsys.readouterr().out)
    assert [row["prediction"] for row in rows] == clf.predict(X["audio"]).tolist()


def test_predict_of_files_needs_a_model_that_knows_its_extraction(model, capsys):
    X = acluster.open_feature_sets("s.zarr")
    arrays = [np.asarray(x) for x in X["audio"]]
    acluster.AttentionClusterClassifier(max_iter=2).fit(arrays, X.label).save("plain.model")
    capsys.readouterr()
    assert predict("plain.model", "sounds/soft/0.wav") == 1
    assert "plain.model does not say how its features were extracted" in capsys.readouterr().err
