"""`acluster evidence` writes what `local_evidence` returns, as a table and as a store."""

import csv
import io

import numpy as np
import pytest

import acluster
from acluster.command_line import main
from acluster.rivals import AverageClassifier
from tests.conftest import make_sets


def run(*arguments, fails=False):
    assert main([*map(str, arguments)]) == int(fails)


def read_table(text):
    return [*csv.DictReader(io.StringIO(text))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evidence")
    X, y = make_sets(n=24, n_classes=3, dtype=np.float32)
    places = [{"seconds": np.arange(len(x)) / 2} for x in X]
    X = acluster.FeatureSets.from_arrays(X, places=places)
    ids = [f"item{i}" for i in range(24)]
    acluster.save_feature_sets(folder / "sets.zarr", X, label=y, id=ids)
    options = {"cluster_size": 4, "max_iter": 3, "random_state": 0}
    acluster.AttentionClusterClassifier(**options).fit(X, y).save(folder / "model")
    acluster.AttentionClusterClassifier(**options).fit(X, y > 0).save(folder / "binary")
    AverageClassifier(max_iter=1, tol=None).fit(X, y).save(folder / "average")
    audio = acluster.FeatureSets.from_arrays([x[:, :2] for x in X])
    lacks = np.where(np.arange(24) % 4 == 0, 0, audio.lengths)
    kept = [x[:n] for x, n in zip(audio, lacks, strict=True)]
    audio = acluster.FeatureSets(np.concatenate(kept), np.cumsum([0, *lacks]))
    both = acluster.MultimodalFeatureSets({"rgb": X, "audio": audio})
    acluster.save_feature_sets(folder / "both.zarr", both, label=y)
    multimodal = acluster.MultimodalAttentionClusterClassifier(**options).fit(both, y)
    multimodal.save(folder / "multimodal")
    renamed = acluster.MultimodalFeatureSets({"constant": X, "audio": audio})
    acluster.save_feature_sets(folder / "renamed.zarr", renamed)
    acluster.MultimodalAttentionClusterClassifier(**options).fit(renamed, y).save(folder / "named")
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def test_evidence_table_has_local_features_and_constants(here, capsys, monkeypatch):
    monkeypatch.setattr("acluster.command_line._evidence._ITEMS_PER_BATCH", 7)
    run("evidence", "model", "sets.zarr", "--out", "all.csv")
    with open("all.csv", newline="") as file:
        rows = read_table(file.read())
    classifier, X = acluster.load("model"), acluster.open_feature_sets("sets.zarr")
    evidence, constants = classifier.local_evidence(X, return_constants=True)
    names = [f"evidence for {label}" for label in range(3)]
    first = 0
    for i, own in enumerate(evidence):
        expected = np.vstack([own, constants.total[i]])
        found = rows[first : first + len(expected)]
        first += len(expected)
        numbers = [[float(row[name]) for name in names] for row in found]
        np.testing.assert_allclose(numbers, expected, rtol=1e-4, atol=1e-6)
        assert [row["id"] for row in found] == [f"item{i}"] * len(expected)
        assert [row["local feature"] for row in found] == [*map(str, range(len(own))), "constant"]
        assert [row["seconds"] for row in found] == [*(f"{k / 2:g}" for k in range(len(own))), ""]
    assert first == len(rows)

    run("evidence", "model", "sets.zarr", "--item", "item3", "--class=2", "--class=0", "--class=2")
    rows = read_table(capsys.readouterr().out)
    assert [*rows[0]] == ["id", "local feature", "seconds", "evidence for 2", "evidence for 0"]
    assert float(rows[0]["evidence for 2"]) == pytest.approx(evidence[3][0, 2], rel=1e-4)


def test_evidence_of_two_classes_is_that_of_the_second(here, capsys):
    run("evidence", "binary", "sets.zarr", "--item", "0")
    row = read_table(capsys.readouterr().out)[0]
    assert [*row][-1] == "evidence for True"


def test_evidence_store_adds_up_to_the_logits(here, capsys):
    run("evidence", "multimodal", "both.zarr", "--out", "both_evidence.zarr")
    assert "24 items, 3 classes" in capsys.readouterr().out
    classifier, X = acluster.load("multimodal"), acluster.open_feature_sets("both.zarr")
    found = acluster.open_feature_sets("both_evidence.zarr")
    assert set(found.names) == {"rgb", "audio", "constant"}
    assert found.id.tolist() == [str(i) for i in range(24)]
    np.testing.assert_array_equal(found["rgb"].lengths, X["rgb"].lengths)
    np.testing.assert_array_equal(found["audio"].lengths, X["audio"].lengths)
    np.testing.assert_array_equal(found["rgb"].places.packed()[0], X["rgb"].places.packed()[0])
    total = [sum(rows.sum(axis=0) for rows in item.values()) for item in found]
    np.testing.assert_allclose(total, classifier.decision_function(X), rtol=0, atol=1e-4)
    about = acluster.sets.info("both_evidence.zarr").attributes["evidence"]
    assert about["classes"] == ["0", "1", "2"]


def test_an_interrupted_evidence_store_continues_and_refuses_another_model(
    here, capsys, monkeypatch
):
    from acluster.command_line import _evidence

    monkeypatch.setattr(_evidence, "_ITEMS_PER_BATCH", 7)
    append, n_calls = acluster.FeatureSetsWriter.append, []

    def interrupted(self, *args, **kwargs):
        n_calls.append(1)
        if len(n_calls) == 11:
            raise KeyboardInterrupt
        return append(self, *args, **kwargs)

    monkeypatch.setattr(acluster.FeatureSetsWriter, "append", interrupted)
    assert main(["evidence", "model", "sets.zarr", "--out", "e.zarr"]) == 130
    run("evidence", "binary", "sets.zarr", "--out", "e.zarr", fails=True)
    assert "does not hold the evidence of this model" in capsys.readouterr().err
    run("evidence", "model", "sets.zarr", "--out", "e.zarr", "--class", "1", fails=True)
    assert "for these classes" in capsys.readouterr().err
    run("evidence", "model", "sets.zarr", "--out", "e.zarr")
    assert len(n_calls) == 11 + 24 - 10  # those before the interrupt are kept
    found = acluster.open_feature_sets("e.zarr")
    expected = acluster.load("model").local_evidence(acluster.open_feature_sets("sets.zarr"))
    np.testing.assert_allclose(
        found["features"].packed()[0], expected.packed()[0], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["average", "sets.zarr"],
            "average holds a model of class AverageClassifier, which has no",
        ),
        (
            ["model", "sets.zarr", "--class", "7"],
            "--class '7' is unknown; the model knows 0, 1, 2.",
        ),
        (["model", "sets.zarr", "--item", "item99"], "there is no item 'item99'"),
        (["model", "sets.zarr", "--out", "no/a.csv"], "no"),
        (["named", "renamed.zarr", "--out", "c.zarr"], "has a modality named 'constant'"),
    ],
)
def test_evidence_names_the_mistake(here, capsys, arguments, message):
    run("evidence", *arguments, fails=True)
    assert message in capsys.readouterr().err
