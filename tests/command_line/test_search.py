"""`acluster search` gives the results of the searches in Python, and keeps them after Ctrl-C."""

import csv
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

import acluster
from acluster import model_selection
from acluster.command_line import _search, main
from acluster.model_selection import GridSearchCV

GROUPS = np.repeat(np.arange(12), 4)
LABELS = np.where(np.arange(12) % 2, "b", "a")[GROUPS]
SHORT = ("--set", "max_iter=4", "batch_size=16")
GRID = ("--param", "learning_rate", "0.01", "0.1", "--param", "cluster_size", "2", "3")


def make_items(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(2 + i % 3, 4)) + (i // 4 % 2) * np.eye(4)[0] for i in range(48)]


@pytest.fixture(autouse=True)
def stores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X, weight = make_items(), 0.5 + np.arange(48) % 3
    acluster.save_feature_sets("s.zarr", X, label=LABELS, group=GROUPS, weight=weight)
    acluster.save_feature_sets("plain.zarr", X, label=LABELS)


def search(capsys, *options, store="s.zarr", status=0, short=SHORT):
    assert main(["search", store, "--out", "m", *options, *short]) == status
    output = capsys.readouterr()
    return output.err if status else output.out


def read_csv(path="r.csv"):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def classifier(**parameters):
    given = {"max_iter": 4, "batch_size": 16, "random_state": 0} | parameters
    return acluster.AttentionClusterClassifier(**given)


def unweighted(fitted, X, y, sample_weight=None):
    """Score as `acluster fit --cv` does it."""
    return fitted.score(X, y)


@pytest.mark.parametrize("store", ["s.zarr", "plain.zarr"])
def test_search_equals_grid_search(capsys, store):
    out = search(capsys, *GRID, "--cv", "3", "--csv", "r.csv", store=store)
    X = acluster.open_feature_sets(store)
    folds = StratifiedKFold if X.group is None else StratifiedGroupKFold
    cv = list(folds(3, shuffle=True, random_state=0).split(np.zeros(48), LABELS, X.group))
    grid = {"learning_rate": [0.01, 0.1], "cluster_size": [2, 3]}
    expected = GridSearchCV(classifier(), grid, cv=cv, scoring=unweighted)
    expected.fit(X, X.label, **({} if X.weight is None else {"sample_weight": X.weight}))
    rows = read_csv()
    found = {(row["learning_rate"], row["cluster_size"]): row for row in rows}
    results = expected.cv_results_
    assert len(found) == 4
    for number, parameters in enumerate(results["params"]):
        row = found[f"{parameters['learning_rate']}", f"{parameters['cluster_size']}"]
        assert float(row["mean"]) == pytest.approx(results["mean_test_score"][number], rel=1e-5)
        assert float(row["std"]) == pytest.approx(results["std_test_score"][number], abs=1e-6)
        own = [results[f"split{k}_test_score"][number] for k in range(3)]
        assert [float(row[f"fold {k}"]) for k in (1, 2, 3)] == pytest.approx(own, rel=1e-5)
        assert float(row["seconds"]) > 0
    best = expected.best_params_
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    assert float(rows[0]["learning_rate"]) == best["learning_rate"]
    assert int(rows[0]["cluster_size"]) == best["cluster_size"]
    model = acluster.load("m")
    refitted = expected.best_estimator_.predict_proba(X)
    np.testing.assert_array_equal(model.predict_proba(X), refitted)
    lines = out.splitlines()
    kept = "" if X.group is None else ", which keep groups together"
    assert lines[0] == (
        f"accuracy, mean and standard deviation over 3 folds{kept}; the best of 4 candidates:"
    )
    shown = f"cluster_size={best['cluster_size']} learning_rate={best['learning_rate']}"
    mean, std = (results[f"{name}_test_score"][expected.best_index_] for name in ("mean", "std"))
    assert lines[1] == f"  {mean:.4f} ± {std:.4f}  {shown}"
    assert lines[-1] == "m: 48 items, 4 epochs"


def test_search_without_param_tries_the_candidates_of_the_study(capsys):
    search(capsys, "--cv", "2", "--csv", "r.csv", short=("--set", "cluster_size=8", "max_iter=3"))
    rows = read_csv()
    names = ("hidden_features", "n_attended", "pyramid_levels", "weight_decay")
    found = {tuple(row[name] for name in names) for row in rows}
    assert found == {
        ("0", "5", "1", "0.0"), ("0", "null", "1", "0.0"), ("0", "1", "1", "0.0"),
        ("0", "5", "1", "0.001"), ("64", "5", "1", "0.0"), ("0", "5", "3", "0.0"),
    }  # fmt: skip
    # --set wins over a candidate.
    assert "max_iter" not in rows[0]
    assert acluster.load("m").n_iter_ == 3


def test_search_halving_trains_the_best_longest(capsys):
    values = ["0.001", "0.003", "0.01", "0.03", "0.1"]
    options = ["--param", "learning_rate", *values, "--cv", "2", "--halving", "--csv", "r.csv"]
    search(capsys, *options, short=("--set", "max_iter=6", "cluster_size=2"))
    rows = read_csv()
    assert [row["max_iter"] for row in rows] == ["6"] * 2 + ["2"] * 5
    means = [float(row["mean"]) for row in rows]
    assert means[0] >= means[1]
    assert means[2:] == sorted(means[2:], reverse=True)
    kept = {row["learning_rate"] for row in rows[:2]}
    assert min(float(row["mean"]) for row in rows[2:] if row["learning_rate"] in kept) >= means[4]
    model = acluster.load("m")
    assert (model.n_iter_, model.learning_rate) == (6, float(rows[0]["learning_rate"]))


def test_search_halving_trains_the_model_for_all_epochs(capsys):
    options = ["--param", "learning_rate", "0.001", "0.01", "0.03", "0.1", "--cv", "2"]
    # Rounds of 1 and 3 epochs; the next one would have 9.
    search(capsys, *options, "--halving", short=["--set", "max_iter=4"])
    assert acluster.load("m").n_iter_ == 4


def test_search_halving_counts_candidates_and_not_their_repetitions(capsys):
    values = ["--param", "learning_rate", "0.001", "0.01", "0.1"]
    short = ("--set", "max_iter=3", "cluster_size=2")
    assert "the best of 3 candidates:" in search(capsys, *values, "--halving", short=short)


def test_search_of_one_candidate_says_so(capsys):
    out = search(capsys, "--param", "cluster_size", "2", "--cv", "2")
    assert "the best of 1 candidate:" in out


def test_search_for_verbose_trains_the_best(capsys):
    search(capsys, "--param", "verbose", "false", "true", "--cv", "2")
    assert not acluster.load("m").verbose


def test_search_halving_of_the_default_candidates_gives_all_the_same_epochs(capsys):
    out = search(capsys, "--cv", "2", "--halving", "--json", "--set", "max_iter=3")
    assert {own["parameters"]["max_iter"] for own in json.loads(out)["candidates"]} == {1, 3}


def test_search_json_has_all_results_and_the_held_out_accuracy(capsys):
    out = search(
        capsys, *GRID, "--cv", "2", "--hold-out", "0.25", "--json", "--scoring", "neg_log_loss"
    )
    assert len(out.splitlines()) == 1
    found = json.loads(out)
    assert found["scoring"] == "neg_log_loss"
    assert found["keeps_groups_together"]
    means = [own["mean"] for own in found["candidates"]]
    assert means == sorted(means, reverse=True)
    assert max(means) < 0
    assert found["best_parameters"] == found["candidates"][0]["parameters"]
    model = acluster.load(found["model"])
    assert model.cluster_size == found["best_parameters"]["cluster_size"]
    # As `acluster fit` with the same split.
    settings = [f"{name}={value}" for name, value in found["best_parameters"].items()]
    assert main(["fit", "s.zarr", "--out", "m2", "--hold-out", "0.25", *SHORT, *settings]) == 0
    assert f"held-out items: {found['held_out_accuracy']:.4f}" in capsys.readouterr().out


def test_search_of_several_modalities_with_parameters_of_each(capsys):
    items = [{"rgb": own} | ({} if i % 5 == 1 else {"audio": own[:1, :2]})
             for i, own in enumerate(make_items())]  # fmt: skip
    acluster.save_feature_sets("both.zarr", items, label=LABELS)
    values = ["2", '{"rgb": 3, "audio": 1}']
    out = search(
        capsys, "--param", "cluster_size", *values, "--cv", "2", "--csv", "r.csv", store="both.zarr"
    )
    assert 'cluster_size={"rgb": 3, "audio": 1}' in out
    assert {row["cluster_size"] for row in read_csv()} == {*values}
    assert isinstance(acluster.load("m"), acluster.MultimodalAttentionClusterClassifier)
    error = search(
        capsys, "--param", "cluster_size", '{"rbg": 3}', "--cv", "2", store="both.zarr", status=1
    )
    assert "no candidate could be trained: " in error
    assert "rbg" in error
    assert len(error.splitlines()) == 1


def test_search_of_several_labels_keeps_their_names(capsys):
    y = np.stack([np.arange(48) // 4 % 2, np.arange(48) % 2], 1)
    with acluster.FeatureSetsWriter("multi.zarr", label_names=["bird", "rain"]) as writer:
        for own, label in zip(make_items(), y, strict=True):
            writer.append(own, label=label)
    search(capsys, "--param", "dropout", "0", "0.5", "--cv", "2", "--scoring", "f1_macro",
           store="multi.zarr")  # fmt: skip
    assert acluster.load("m").label_names_ == ["bird", "rain"]


@pytest.mark.parametrize("n_scored", [0, 3, 5])
def test_search_keeps_what_is_done_after_an_interrupt(capsys, monkeypatch, n_scored):
    score, calls = _search._Scores.__call__, []

    def interrupted(self, classifier, X, y, sample_weight=None):
        calls.append(classifier)
        if len(calls) > n_scored:
            raise KeyboardInterrupt
        return score(self, classifier, X, y)

    monkeypatch.setattr(_search._Scores, "__call__", interrupted)
    assert (
        main(["search", "s.zarr", "--out", "m", *GRID, "--cv", "2", "--csv", "r.csv", *SHORT])
        == 130
    )
    output = capsys.readouterr()
    assert "acluster search: interrupted" in output.err
    assert not Path("m").exists()
    n_complete = n_scored // 2
    assert Path("r.csv").exists() == bool(n_complete)
    if n_complete:
        assert len(read_csv()) == n_complete
        assert f"the best of {n_complete} candidate" in output.out
        command = output.err.split("Train the best so far: ")[1].splitlines()[0]
        assert main(shlex.split(command)[1:]) == 0
        assert f"learning_rate={acluster.load('m').learning_rate}" in output.out.splitlines()[1]


def test_search_interrupted_while_halving_suggests_a_fit_with_all_epochs(capsys, monkeypatch):
    together, calls = model_selection.fit_together, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) > 2:  # after both folds with few epochs
            raise KeyboardInterrupt
        return together(*args)

    values = ["--param", "learning_rate", "0.001", "0.01", "0.1"]
    short = ["--set", "max_iter=6", "cluster_size=2"]
    with monkeypatch.context() as patch:
        patch.setattr(model_selection, "fit_together", interrupted)
        options = [*values, "--halving", "--cv", "2", "--csv", "r.csv", *short]
        assert main(["search", "s.zarr", "--out", "m", *options]) == 130
    assert {row["max_iter"] for row in read_csv()} == {"2"}
    command = capsys.readouterr().err.split("Train the best so far: ")[1].splitlines()[0]
    assert main(shlex.split(command)[1:]) == 0
    assert acluster.load("m").n_iter_ == 6


@pytest.mark.parametrize("n_folds", [0, 2])
def test_search_keeps_the_folds_before_an_interrupt(capsys, monkeypatch, n_folds):
    together, calls = model_selection.fit_together, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) > n_folds:
            raise KeyboardInterrupt
        return together(*args)

    arguments = [*GRID, "--cv", "3", "--csv", "r.csv", *SHORT]
    with monkeypatch.context() as patch:
        patch.setattr(model_selection, "fit_together", interrupted)
        assert main(["search", "s.zarr", "--out", "m", *arguments]) == 130
    output = capsys.readouterr()
    assert Path("r.csv").exists() == bool(n_folds)
    if n_folds:
        assert "over 2 of 3 folds, which keep groups together; the best of 4 cand" in output.out
        assert "Train the best so far: acluster fit s.zarr" in output.err
        rows = {(row["learning_rate"], row["cluster_size"]): row for row in read_csv()}
        assert main(["search", "s.zarr", "--out", "m", *arguments]) == 0
        assert len(rows) == 4
        for row in read_csv():
            partial = rows[row["learning_rate"], row["cluster_size"]]
            assert [partial[f"fold {k}"] for k in (1, 2)] == [row[f"fold {k}"] for k in (1, 2)]


def test_search_reports_candidates_that_fail(capsys):
    arguments = ["--param", "optimizer", "rmsprop", "--param", "learning_rate", "0.01", "1e300"]
    assert main(["search", "s.zarr", "--out", "m", *arguments, "--cv", "2", *SHORT]) == 0
    output = capsys.readouterr()
    assert "warning: some fits failed: " in output.err
    assert "diverged" in output.err
    assert "nan ± nan  " in output.out.splitlines()[2]
    arguments = ["--param", "learning_rate", "1e300"]
    error = search(capsys, *arguments, "--cv", "2", status=1)
    assert error.startswith("acluster search: no candidate could be trained: ")
    assert len(error.splitlines()) == 1


@pytest.mark.filterwarnings("default:In the search")
def test_search_warns_that_early_stopping_divides_groups(capsys):
    arguments = ["--param", "early_stopping", "true", "false", "--cv", "2"]
    assert main(["search", "s.zarr", "--out", "m", *arguments, *SHORT]) == 0
    assert "early_stopping validates on single items" in capsys.readouterr().err
    assert main(["search", "plain.zarr", "--out", "m", *arguments, *SHORT]) == 0
    assert "early_stopping" not in capsys.readouterr().err


ERRORS = {
    "unknown parameter": (
        ["--param", "learning_rat", "1"], "--param learning_rat: there is no such parameter. Did "
        "you mean learning_rate? The parameters are batch_size, "),
    "the way of --set": (
        ["--param", "learning_rate=1"], "Write --param NAME VALUE VALUE"),
    "wrong type": (
        ["--param", "cluster_size", "2", "big"], "--param cluster_size: The 'cluster_size' param"),
    "wrong value": (["--param", "dropout", "1.5"], "--param dropout: The 'dropout' parameter of"),
    "no values": (["--param", "dropout"], "--param dropout: it has no values. Pass --param drop"),
    "twice": (["--param", "dropout", "0", "--param", "dropout", "1"], "dropout: it is given twice"),
    "fixed": (
        ["--param", "batch_size", "8"], "--param batch_size: it is given by --set as well. Leave"),
    "epochs of halving": (
        ["--halving", "--param", "max_epochs", "8"], "--param max_epochs: there is no such"),
    "wrong setting": (["--set", "dropout=2"], "The 'dropout' parameter of"),
    "unknown scorer": (
        ["--scoring", "balanced"], "--scoring 'balanced' is no scorer of scikit-learn. Choose one, "
        "such as balanced_accuracy"),
    "scorer of other labels": (
        [*GRID, "--scoring", "f1", "--cv", "2"], "--scoring f1 is not possible here: pos_label=1"),
    "one fold": (["--cv", "1"], "--cv must be at least 2 folds; got 1"),
    "few groups": (["--cv", "13"], "--cv 13 is not possible: there are 12 groups. Use at most 12"),
    "no such folder": (["--csv", "no/r.csv"], "r.csv cannot be written: the folder"),
    "a folder": (["--csv", "s.zarr"], "s.zarr is a folder; pass the name of a file"),
    "one file": (["--csv", "./m"], "--out and --csv both name './m'. Write to two files"),
    "hold-out": (["--hold-out", "1"], "--hold-out must be a fraction between 0 and 1"),
}  # fmt: skip


@pytest.mark.parametrize(("options", "message"), ERRORS.values(), ids=ERRORS)
def test_search_rejects(capsys, options, message):
    error = search(capsys, *options, status=1)
    assert message in error
    assert len(error.splitlines()) == 1
    assert not Path("m").exists()


def test_search_rejects_epochs_with_halving(capsys):
    options = ["--halving", "--param", "max_iter", "8"]
    error = search(capsys, *options, status=1, short=())
    assert "--param max_iter: it cannot be searched with --halving" in error
    assert "--set max_iter=60" in error


def test_search_needs_labels_and_groups(capsys):
    acluster.save_feature_sets("bare.zarr", make_items())
    assert "bare.zarr has no labels" in search(capsys, store="bare.zarr", status=1)
    assert "--group needs a store" in search(capsys, "--group", store="plain.zarr", status=1)
