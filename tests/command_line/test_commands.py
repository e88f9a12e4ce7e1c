"""The commands give the results of the Python calls they stand for."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr
from joblib import parallel_config

import acluster
from acluster.command_line import _training
from acluster.command_line._main import main
from acluster.estimators import _ranges
from acluster.rivals import AverageClassifier
from acluster.training import _members
from tests.conftest import make_sets


def run(*arguments, fails=False):
    status = main([str(argument) for argument in arguments])
    assert status == int(fails)


def read_table(text):
    return list(csv.DictReader(io.StringIO(text)))


def convert_and_fit(*more):
    run("convert", "features", "sets.zarr", "--labels", "labels.csv")
    run("fit", "sets.zarr", "--out", "model", "--set", "max_iter=30", "tol=None",
        "learning_rate=0.03", "cluster_size=4", *more)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of arrays, labels.csv, sets.zarr, and a model with its checkpoint."""
    folder = tmp_path_factory.mktemp("commands")
    X, y = make_sets(n=40, dtype=np.float32)
    (folder / "features").mkdir()
    for number, rows in enumerate(X):
        np.save(folder / "features" / f"item{number}.npy", rows)
    with open(folder / "labels.csv", "w", newline="") as file:
        rows = [[f"item{i}", "one" if label else "none"] for i, label in enumerate(y)]
        csv.writer(file).writerows([["id", "label"], *rows[::-1]])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        convert_and_fit("--checkpoint", "run")
    return folder


@pytest.fixture
def fitted(folder, tmp_path, monkeypatch):
    """The items and labels; the current folder is a copy of `folder`."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return make_sets(n=40, dtype=np.float32)


@pytest.fixture
def data(fitted):
    """The items and labels; the current folder has the arrays and labels.csv only."""
    for name in ("sets.zarr", "run"):
        shutil.rmtree(name)
    Path("model").unlink()
    return fitted


def test_convert_fit_predict_transform_attention_match_python(fitted, capsys):
    X, _ = fitted
    stored = acluster.open_feature_sets("sets.zarr")
    assert stored.id.tolist() == [f"item{i}" for i in range(40)]
    assert all(np.array_equal(a, b) for a, b in zip(stored, X, strict=True))
    clf = acluster.load("model")
    assert clf.get_params()["learning_rate"] == 0.03
    assert clf.tol is None
    assert clf._architecture.standardize
    assert not clf.verbose
    expected = acluster.AttentionClusterClassifier(**clf.get_params()).fit(X, stored.label)
    assert np.array_equal(clf.predict_proba(X), expected.predict_proba(X))

    capsys.readouterr()
    run("predict", "model", "sets.zarr", "--proba")
    output = capsys.readouterr()
    rows = read_table(output.out)
    assert [row["id"] for row in rows] == [f"item{i}" for i in range(40)]
    assert [row["prediction"] for row in rows] == clf.predict(X).tolist()
    proba = [float(row["probability of one"]) for row in rows]
    np.testing.assert_allclose(proba, clf.predict_proba(X)[:, 1], rtol=1e-5)
    assert f"accuracy: {clf.score(X, stored.label):.4f}" in output.err

    run("transform", "model", "sets.zarr", "--out", "global.zarr")
    np.testing.assert_array_equal(zarr.open_array("global.zarr")[:], clf.transform(X))

    capsys.readouterr()
    run("attention", "model", "sets.zarr", "item7")
    rows = read_table(capsys.readouterr().out)
    a = [[float(row[f"unit {unit}"]) for unit in range(4)] for row in rows]
    np.testing.assert_allclose(a, clf.attention_weights(X)[7], rtol=1e-5, atol=1e-6)
    for picture in ("seven.png", "seven"):
        run("attention", "model", "sets.zarr", "7", "--png", picture)
        assert Path(picture).read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("columns", [("seconds",), ("x",), ("x", "y"), ()])
def test_attention_draws_over_places(fitted, monkeypatch, columns):
    X, _ = fitted
    places = [{name: np.arange(len(rows)) for name in columns} for rows in X]
    timed = acluster.FeatureSets.from_arrays(X, places=places if columns else None)
    acluster.save_feature_sets("places.zarr", timed)
    labels = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig",
        lambda figure, *_, **__: labels.append(figure.axes[0].get_xlabel()),
    )
    run("attention", "model", "places.zarr", "7", "--png", "picture.png")
    expected = {("seconds",): "time (s)", ("x", "y"): "x"}
    assert labels == [expected.get(columns, "local feature")]


def test_predict_writes_several_batches_to_a_file(fitted, monkeypatch):
    X, _ = fitted
    monkeypatch.setattr("acluster.command_line._commands._ITEMS_PER_BATCH", 7)
    run("predict", "model", "sets.zarr", "--out", "predictions.csv")
    with open("predictions.csv", newline="") as file:
        rows = read_table(file.read())
    assert [row["prediction"] for row in rows] == acluster.load("model").predict(X).tolist()


def test_jobs_0_is_a_usage_error(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["predict", "model", "sets.zarr", "--jobs", "0"])
    assert "argument --jobs: 0 processes cannot work; pass 1 or more" in capsys.readouterr().err


def test_jobs_share_the_items_of_predict_and_transform(fitted, monkeypatch, capsys):
    monkeypatch.setattr(_ranges, "_BYTES_PER_RANGE", 1)  # ranges of one batch
    monkeypatch.setattr("acluster.sets._store._range_output._CHUNK_BYTES", 1000)
    asked = []
    in_parallel = _ranges._in_parallel
    monkeypatch.setattr(
        _ranges, "_in_parallel", lambda *given: asked.append(given[-1]) or in_parallel(*given)
    )
    clf = acluster.load("model").set_params(batch_size=16)
    clf.save("model")
    capsys.readouterr()
    with parallel_config("threading"):
        run("predict", "model", "sets.zarr", "--proba")
        alone = capsys.readouterr()
        run("predict", "model", "sets.zarr", "--proba", "--jobs", "2")
        assert capsys.readouterr() == alone
        run("transform", "model", "sets.zarr", "--out", "global.zarr", "--jobs", "2")
    assert asked == [2, 2, 2]
    np.testing.assert_array_equal(
        zarr.open_array("global.zarr")[:], clf.transform("sets.zarr", n_jobs=1)
    )


def test_fit_hold_out_is_not_trained_on(data, capsys):
    convert_and_fit("--hold-out", "0.25")
    output = capsys.readouterr().out
    assert "model: 30 items, 30 epochs" in output
    assert "accuracy on the 10 held-out items: " in output
    shown = float(output.rsplit("held-out items: ", 1)[1])
    assert shown * 10 == pytest.approx(round(shown * 10))


def test_convert_and_fit_multimodal_with_missing_modality(data, capsys):
    X, _ = data
    run("convert", "features", "frames.zarr")
    for folder in ("both/frames", "both/sounds"):
        (path := Path(folder)).mkdir(parents=True)
        for number, rows in enumerate(X):
            if folder == "both/frames" or number:
                np.save(path / f"item{number}.npy", rows[:, :2])
    run("convert", "both", "both.zarr", "--labels", "labels.csv", "--dtype", "float16")
    stored = acluster.open_feature_sets("both.zarr")
    assert stored.missing["sounds"].tolist() == [True] + [False] * 39
    assert stored["frames"].dtype == np.float16
    run("fit", "both.zarr", "--out", "model", "--set", "max_iter=3", "tol=null")
    assert isinstance(acluster.load("model"), acluster.MultimodalAttentionClusterClassifier)
    capsys.readouterr()
    run("attention", "model", "both.zarr", "item1")
    assert "frames local feature,unit 0" in capsys.readouterr().out
    run("attention", "model", "both.zarr", "item0", "--png", "none.png")


def test_info_and_validate_print_the_same(fitted, capsys):
    run("info", "sets.zarr")
    shown = capsys.readouterr().out
    assert shown.startswith("40 items, complete\n  features: ")
    assert "columns: label, id" in shown
    run("validate", "sets.zarr")
    assert capsys.readouterr().out == shown + "valid\n"


def test_convert_from_npz_and_from_store(data):
    X, _ = data
    np.savez("items.npz", **{f"item{i}": rows for i, rows in enumerate(X)})
    run("convert", "items.npz", "npz.zarr", "--labels", "labels.csv")
    stored = acluster.open_feature_sets("npz.zarr")
    assert stored.id.tolist() == [f"item{i}" for i in range(40)]
    run("convert", "npz.zarr", "half.zarr", "--dtype", "float16")
    half = acluster.open_feature_sets("half.zarr")
    assert half.dtype == np.float16
    assert half.label.tolist() == stored.label.tolist()
    assert all(np.array_equal(a, b.astype(np.float16)) for a, b in zip(half, X, strict=True))


def test_convert_resumes_after_interrupt(data, monkeypatch, capsys):
    append, n_done = acluster.FeatureSetsWriter.append, []

    def interrupted(self, *args, **columns):
        n_done.append(1)
        if len(n_done) == 10:
            raise KeyboardInterrupt
        append(self, *args, **columns)

    with monkeypatch.context() as patch:
        patch.setattr(acluster.FeatureSetsWriter, "append", interrupted)
        assert main(["convert", "features", "sets.zarr"]) == 130
    assert "interrupted" in capsys.readouterr().err
    run("info", "sets.zarr")
    assert "9 items, NOT COMPLETE" in capsys.readouterr().out
    run("convert", "features", "sets.zarr")
    assert len(acluster.open_feature_sets("sets.zarr")) == 40
    run("convert", "features", "sets.zarr")  # nothing is left to do
    np.savez("others.npz", other=np.ones((2, 4)))
    run("convert", "others.npz", "sets.zarr", fails=True)
    assert "its column id differs from that of others.npz" in capsys.readouterr().err


@pytest.mark.parametrize("n_epochs", [0, 3])
def test_fit_interrupted_saves_the_epochs_so_far(data, monkeypatch, capsys, n_epochs):
    run_epoch, epochs = _members.run_epoch, []

    def interrupt(fits):
        if len(epochs) == n_epochs:
            raise KeyboardInterrupt
        epochs.append(run_epoch(fits))
        return epochs[-1]

    monkeypatch.setattr(_members, "run_epoch", interrupt)
    run("convert", "features", "sets.zarr", "--labels", "labels.csv")
    status = main(["fit", "sets.zarr", "--out", "model", "--set", "tol=null"])
    assert status == (0 if n_epochs else 130)
    assert "interrupted" in capsys.readouterr().err
    assert Path("model").exists() == (n_epochs > 0)
    if n_epochs:
        assert acluster.load("model").n_iter_ == n_epochs


def test_fit_checkpoint_resumes(fitted, capsys):
    whole = acluster.load("model").loss_curve_
    convert_and_fit("--checkpoint", "run")
    assert acluster.load("model").loss_curve_ == whole


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["info", "nothing.zarr"], "acluster info: "),
        (["fit", "plain.zarr", "--out", "m"], "plain.zarr has no labels.*--labels labels.csv"),
        (["fit", "sets.zarr", "--out", "m", "--set", "cluster_size"], "takes NAME=VALUE"),
        (["fit", "sets.zarr", "--out", "m", "--set", "n_units=3"], "Invalid parameter 'n_units'"),
        (["fit", "sets.zarr", "--out", "m", "--set", "dropout=2"], "'dropout' parameter"),
        (["predict", "labels.csv", "sets.zarr"], "labels.csv is not a model file"),
        (
            ["attention", "model", "sets.zarr", "item99"],
            "no item 'item99'.*or an id, such as 'item0'",
        ),
        (["convert", "features", "new.zarr", "--labels", "wrong.csv"], r"has the columns \['a'\]"),
        (
            ["convert", "features", "new.zarr", "--labels", "few.csv"],
            "no row for the item 'item1', and for 39",
        ),
        (["convert", "empty", "new.zarr"], "acluster convert: "),
        (["convert", "labels.csv", "new.zarr"], "labels.csv is a file; pass a folder of .npy"),
        (["convert", "damaged.npz", "new.zarr"], "damaged.npz: item3 is not an array of numbers"),
        (["convert", "flat.npz", "new.zarr"], r"flat.npz: item0 has shape \(4,\)"),
        (["convert", "gone.npz", "new.zarr"], "acluster convert: .*gone.npz"),
        (
            ["convert", "features", "new.zarr", "--labels", "long.csv"],
            "long.csv is not a CSV table",
        ),
        (
            ["convert", "features", "new.zarr", "--labels", "latin.csv"],
            "latin.csv is not encoded in",
        ),
        (["fit", "sets.zarr", "--out", "m", "--hold-out", "1"], "--hold-out must be a fraction"),
        (["attention", "model", "sets.zarr", "²"], "no item '²'"),
        (
            ["attention", "model", "sets.zarr", "7", "--png", "a.pdf"],
            "writes PNG files only.*a.png",
        ),
        (
            ["attention", "model", "sets.zarr", "7", "--png", "nowhere/a.png"],
            "nowhere' does not exist",
        ),
        (["predict", "run/fit.checkpoint", "sets.zarr"], "is the checkpoint of a fit, not a model"),
    ],
)
def test_error_is_one_line(fitted, capsys, command, message):
    run("convert", "features", "plain.zarr")
    X, _ = fitted
    np.savez("damaged.npz", **{f"item{i}": rows for i, rows in enumerate(X)})
    raw = bytearray(Path("damaged.npz").read_bytes())
    raw[raw.index(X[3].tobytes())] ^= 1
    Path("damaged.npz").write_bytes(raw)
    np.savez("flat.npz", item0=np.ones(4))
    Path("latin.csv").write_text("id,label\nitem0,Häher\n", encoding="latin-1")
    Path("long.csv").write_text(f"id,label\nitem0,{'x' * 200_000}\n")
    Path("wrong.csv").write_text("a\n1\n")
    Path("few.csv").write_text("id,label\nitem0,one\n")
    Path("empty").mkdir()
    capsys.readouterr()
    run(*command, fails=True)
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "Traceback" not in error
    assert error.startswith(f"acluster {command[0]}: ")


@pytest.mark.filterwarnings("default")
def test_warning_is_one_line(fitted, capsys):
    run(
        "fit",
        "sets.zarr",
        "--out",
        "model",
        "--set",
        "max_iter=2",
        "learning_rate_schedule=constant",
    )
    error = capsys.readouterr().err
    assert "warning: Maximum iterations (2) reached" in error
    assert ".py" not in error


COMMANDS = (
    "info",
    "validate",
    "convert",
    "merge",
    "fit",
    "predict",
    "transform",
    "attention",
    "evidence",
)


def shown_by(capsys, *arguments):
    with pytest.raises(SystemExit, match="0"):
        main(arguments)
    return capsys.readouterr().out


def test_help_lists_commands_and_parameters(capsys):
    shown = shown_by(capsys, "--help")
    assert "acluster fit videos.zarr --out videos.model" in shown
    assert all(re.search(rf"\n    {name}\s", shown) for name in COMMANDS)
    assert "a folder of files with one item each" in shown_by(capsys, "convert", "--help")
    shown = shown_by(capsys, "fit", "--help")
    defaults = acluster.MultimodalAttentionClusterClassifier(random_state=0)
    for name, value in defaults.get_params().items():
        given = value if isinstance(value, str) else json.dumps(value)
        assert (f" {name}={given}" in shown) == (name != "verbose")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_and_describes_arguments(capsys, name):
    shown = shown_by(capsys, name, "--help")
    assert f"\n  acluster {name} " in shown
    explained = shown.split("positional arguments:\n")[1]
    places = re.search(r"usage: .*?\n\n", shown, flags=re.DOTALL)[0].split()[3:]
    for place in (word for word in places if word.isalpha() and word.islower()):
        assert re.search(rf"^  {place}\s+\w", explained, flags=re.MULTILINE), place


def test_version_of_module_and_command():
    command = [sys.executable, "-m", "acluster", "--version"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown == f"acluster {acluster.__version__}\n"


def test_convert_rejects_damaged_compressed_npz(data, capsys):
    X, _ = data
    np.savez_compressed("items.npz", **{f"item{i}": rows for i, rows in enumerate(X)})
    raw = bytearray(Path("items.npz").read_bytes())
    place = raw.index(b"item3.npy") + 40
    raw[place : place + 60] = bytes(60)
    Path("items.npz").write_bytes(raw)
    run("convert", "items.npz", "new.zarr", fails=True)
    assert "items.npz: item3 is not an array of numbers" in capsys.readouterr().err


def test_convert_keeps_items_with_equal_ids_apart(data):
    items = [np.full((2, 4), float(i)) for i in range(4)]
    acluster.save_feature_sets("twice.zarr", items, id=[7, 7, 7, 8], label=[0, 1, 0, 1])
    run("convert", "twice.zarr", "half.zarr", "--dtype", "float16")
    half = acluster.open_feature_sets("half.zarr")
    assert [rows[0, 0] for rows in half] == [0, 1, 2, 3]
    assert half.label.tolist() == [0, 1, 0, 1]
    assert half.id.tolist() == [7, 7, 7, 8]


def test_fit_uses_indicator_labels_weights_and_groups(data, capsys):
    X, y = data
    labels = np.stack([y, 1 - y], axis=1)
    acluster.save_feature_sets("indicator.zarr", X, label=labels, weight=np.linspace(0.1, 1, 40))
    run("fit", "indicator.zarr", "--out", "model", "--set", "max_iter=3", "tol=null")
    parameters = acluster.load("model").get_params()
    expected = acluster.AttentionClusterClassifier(**parameters)
    expected.fit(X, labels, sample_weight=np.linspace(0.1, 1, 40))
    assert acluster.load("model").loss_curve_ == expected.loss_curve_
    capsys.readouterr()
    run("predict", "model", "indicator.zarr")
    assert read_table(capsys.readouterr().out)[0]["prediction"] in ("", "0", "1", "0 1")
    acluster.save_feature_sets("groups.zarr", X, label=y, group=np.arange(40) // 10)
    run("fit", "groups.zarr", "--out", "other", "--hold-out", "0.5", "--set", "max_iter=2",
        "tol=null")  # fmt: skip
    assert "other: 20 items" in capsys.readouterr().out
    run("predict", "other", "indicator.zarr")


def test_predict_writes_the_names_of_indicator_labels(data, capsys):
    pd = pytest.importorskip("pandas")
    X, y = data
    labels = pd.DataFrame({"cat": y, "hot dog": 1 - y, "any": np.arange(40) % 2})
    acluster.save_feature_sets("named.zarr", X, label=labels)
    assert acluster.sets.info("named.zarr").label_names == ("cat", "hot dog", "any")
    run("fit", "named.zarr", "--out", "model", "--set", "max_iter=30", "tol=null")
    assert acluster.load("model").label_names_ == [*labels]
    parameters = acluster.load("model").get_params()
    clf = acluster.AttentionClusterClassifier(**parameters).fit(X, labels)
    assert clf.label_names_ == [*labels]
    capsys.readouterr()
    run("predict", "model", "named.zarr", "--proba")
    rows = read_table(capsys.readouterr().out)
    assert [*rows[0]] == ["id", "prediction", *(f"probability of {name}" for name in labels)]
    for row, predicted in zip(rows, clf.predict(X), strict=True):
        assert row["prediction"] == "; ".join(np.array([*labels])[predicted == 1])
    clf.fit(X, labels.to_numpy())
    assert clf.label_names_ == []


def test_convert_reads_labels_saved_by_excel(data):
    Path("labels.csv").write_text(Path("labels.csv").read_text(), encoding="utf-8-sig")
    run("convert", "features", "sets.zarr", "--labels", "labels.csv")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("id,label\nitem0,one,more\n", "line 2 has the entries"),
        ("id,weight\nitem0,\n", "line 2 has the entries"),
        ("id,weight\nitem0,heavy\n", "line 2: the weight 'heavy' is not a number"),
        ("id,label\nitem0,a\nitem0,b\n", "line 3 is a second row for the item 'item0'"),
    ],
)
def test_convert_rejects_table(data, capsys, table, message):
    Path("wrong.csv").write_text(table)
    run("convert", "features", "new.zarr", "--labels", "wrong.csv", fails=True)
    assert f"wrong.csv, {message}" in capsys.readouterr().err


def test_convert_rejects_array_or_archive(data, capsys):
    for content, message in ((b"", "is not an array"), (b"text", "is not an array")):
        Path("features/item3.npy").write_bytes(content)
        run("convert", "features", "new.zarr", fails=True)
        assert f"item3.npy {message}" in capsys.readouterr().err
    np.save("features/item3.npy", np.ones(4))
    run("convert", "features", "new.zarr", fails=True)
    assert "item3.npy has shape (4,)" in capsys.readouterr().err
    for content in (b"text", b"PK\x03\x04 no archive"):
        Path("broken.npz").write_bytes(content)
        run("convert", "broken.npz", "other.zarr", fails=True)
        assert "broken.npz is not an .npz archive" in capsys.readouterr().err


def test_convert_rejects_store_with_other_content(data, capsys):
    X, _ = data
    acluster.save_feature_sets("nameless.zarr", X)
    run("convert", "features", "nameless.zarr", fails=True)
    assert "cannot be resumed" in capsys.readouterr().err
    run("convert", "features", "sets.zarr")
    run("convert", "features", "sets.zarr", "--labels", "labels.csv", fails=True)
    assert "it has the columns ['id'], but features has ['id', 'label']" in capsys.readouterr().err
    run("convert", "features", "labeled.zarr", "--labels", "labels.csv")
    text = Path("labels.csv").read_text()
    Path("labels.csv").write_text(text.replace("item3,one", "item3,none"))
    run("convert", "features", "labeled.zarr", "--labels", "labels.csv", fails=True)
    assert "its column label differs from that of features" in capsys.readouterr().err


def test_output_folder_is_checked_before_fit_and_predict(fitted, capsys, monkeypatch):
    monkeypatch.setattr(
        acluster.AttentionClusterClassifier, "fit", lambda *_, **__: pytest.fail("trains")
    )
    run("fit", "sets.zarr", "--out", "nowhere/model", fails=True)
    assert "nowhere' does not exist" in capsys.readouterr().err
    run("predict", "model", "sets.zarr", "--out", "nowhere/predictions.csv", fails=True)


def test_attention_rejects_model_without_attention(fitted, capsys):
    X, y = fitted
    AverageClassifier(max_iter=1, tol=None).fit(X, y).save("average")
    run("attention", "average", "sets.zarr", "item0", fails=True)
    message = "average holds a model of class AverageClassifier, which has no attention weights"
    assert message in capsys.readouterr().err


def test_commands_with_a_model_of_a_portfolio(fitted, capsys):
    X, y = fitted
    clf = acluster.AttentionClusterClassifierCV(cv=2, n_configurations=1, max_iter=1)
    clf.fit(X, np.where(y, "one", "none")).save("portfolio")
    run("predict", "portfolio", "sets.zarr", "--proba")
    rows = read_table(capsys.readouterr().out)
    assert [row["prediction"] for row in rows] == clf.predict(X).tolist()
    proba = [float(row["probability of one"]) for row in rows]
    np.testing.assert_allclose(proba, clf.predict_proba(X)[:, 1], rtol=1e-5)
    run("transform", "portfolio", "sets.zarr", "--out", "global.zarr", fails=True)
    message = "portfolio holds a model of class AttentionClusterClassifierCV, which has no"
    assert f"{message} global features" in capsys.readouterr().err
    run("attention", "portfolio", "sets.zarr", "item0", fails=True)
    assert f"{message} attention weights" in capsys.readouterr().err


def test_info_into_a_closed_pipe(fitted):
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "acluster", "info", "sets.zarr"]
    done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(".5", 0.5), ("1.", 1.0), ("+2", 2), ("1_000", 1000), ("1e-3", 0.001)],
        *[("None", None), ("null", None), ("True", True), ("false", False)],
        *[('{"a": null}', {"a": None}), ('{"a": [1]}', {"a": [1]})],
        *[(text, text) for text in ("fc1", "auto", "", "a b", "-", "'", "1 2", "{1, 2}")],
    ],
)
def test_values_of_parameters_are_json_or_numbers_or_text(text, value):
    assert _training.parse_value(text) == value
    assert type(_training.parse_value(text)) is type(value)


@pytest.mark.parametrize(
    ("label", "group", "fraction", "message"),
    [
        ("ababab", "pppppp", 0.3, "at least two groups are needed, not 1"),
        ("ababab", "ppqqqq", 0.9, "it would hold out all 2 groups"),
        ("aaaaab", None, 0.3, "the label 'b' has 1 item, and so have 1 labels"),
        ("aabbcc", None, 0.3, "hold out 2 of 6 items, but .* of the 3 labels"),
        ("aabbcc", None, 0.6, "hold out 4 of 6 items, but .* of the 3 labels"),
        ("ab", None, 0.99, "hold out all 2 items"),
        ("a", None, 0.5, "at least two items are needed, not 1"),
    ],
)
def test_fit_names_what_cannot_be_held_out(
    tmp_path, monkeypatch, capsys, label, group, fraction, message
):
    monkeypatch.chdir(tmp_path)
    X = [np.full((2, 3), i % 2, np.float32) for i in range(len(label))]
    acluster.save_feature_sets("s.zarr", X, label=list(label), group=group and list(group))
    run("fit", "s.zarr", "--out", "m", "--hold-out", fraction, fails=True)
    error = capsys.readouterr().err
    assert re.match(rf"acluster fit: --hold-out {fraction} is not possible: .*{message}", error)
    assert not Path("m").exists()


def test_fit_checks_of_hold_out_agree_with_the_split():
    from acluster.command_line import _splits

    rng = np.random.default_rng(0)
    for _ in range(300):
        n, n_labels = rng.integers(1, 12), rng.integers(1, 5)
        y, test_size = rng.integers(0, n_labels, n), rng.choice([0.01, 0.1, 0.3, 0.5, 0.9, 0.99])
        group = None if rng.random() < 0.5 else rng.integers(0, 4, n)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                train, test = _splits.split(group, y, test_size, "--hold-out")
            except ValueError as error:
                assert "--hold-out" in str(error)  # noqa: PT017
            else:
                assert len(train)
                assert len(test)


@pytest.mark.filterwarnings("default")
def test_fit_warns_of_labels_that_are_held_out_whole(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    X = [np.full((2, 3), i % 2, np.float32) for i in range(9)]
    acluster.save_feature_sets("s.zarr", X, label=list("ababcccab"), group=list("ppppqqqrr"))
    for fraction in (0.3, 0.6):
        run(
            "fit", "s.zarr", "--out", "m", "--hold-out", fraction, "--set", "max_iter=2", "tol=null"
        )
        error = capsys.readouterr().err
        held_out = "c" not in acluster.load("m").classes_
        assert ("all items of the label" in error) == held_out
    assert held_out


def test_convert_keeps_places_of_a_store(data, capsys):
    X, _ = data
    names = [f"item{i}" for i in range(len(X))]
    places = [
        {"seconds": np.arange(len(x)) / 2, "x": np.arange(len(x)) + i} for i, x in enumerate(X)
    ]
    sets = acluster.FeatureSets.from_arrays(X, places=places)
    acluster.save_feature_sets("one.zarr", sets, id=names)
    named = acluster.MultimodalFeatureSets(
        {"rgb": sets, "audio": acluster.FeatureSets.from_arrays(X)}
    )
    acluster.save_feature_sets("two.zarr", named, id=names)
    for store in ("one.zarr", "two.zarr"):
        run("convert", store, f"copy of {store}", "--dtype", "float16")
        found = acluster.open_feature_sets(f"copy of {store}")
        rgb = found if store == "one.zarr" else found["rgb"]
        assert rgb.dtype == np.float16
        assert rgb.places.column_names == ("seconds", "x")
        np.testing.assert_array_equal(rgb.places.packed()[0], sets.places.packed()[0])
    assert found["audio"].places is None
    capsys.readouterr()
    run("info", "copy of two.zarr")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("float16, 0.0 MB, places: seconds, x")
    assert lines[2].endswith("float16, 0.0 MB")


def test_convert_resumes_a_store_with_places(data, capsys):
    X, _ = data
    sets = acluster.FeatureSets.from_arrays(X, places=[{"x": np.arange(len(x))} for x in X])
    names = [f"item{i}" for i in range(len(X))]
    acluster.save_feature_sets("sets.zarr", sets, id=names)
    acluster.save_feature_sets("copy.zarr", sets[:3], id=names[:3])
    acluster.save_feature_sets("without.zarr", X[:3], id=names[:3])
    run("convert", "sets.zarr", "copy.zarr")
    copied = acluster.open_feature_sets("copy.zarr").places
    np.testing.assert_array_equal(copied.packed()[0], sets.places.packed()[0])
    run("convert", "sets.zarr", "without.zarr", fails=True)
    assert (
        "item 'item3': its local features have the coordinates x, but those"
        in capsys.readouterr().err
    )


def test_predict_compares_label_columns_by_name(fitted, capsys):
    X, _ = fitted
    labels = np.stack([np.arange(40) % 2, np.arange(40) % 3 == 0], axis=1).astype(int)
    for path, names, y in (
        ("same.zarr", ["odd", "third"], labels),
        ("swapped.zarr", ["third", "odd"], labels[:, ::-1]),
        ("others.zarr", ["a", "b"], labels),
    ):
        with acluster.FeatureSetsWriter(path, label_names=names) as writer:
            for item, label in zip(X, y, strict=True):
                writer.append(item, label=label)
    run("fit", "same.zarr", "--out", "two.model", "--set", "max_iter=3", "--hold-out", "0.2")
    capsys.readouterr()
    shown = []
    for path in ("same.zarr", "swapped.zarr", "others.zarr"):
        run("predict", "two.model", path)
        shown.append(capsys.readouterr().err)
    assert shown[0] == shown[1] != ""
    assert "accuracy" not in shown[2]
