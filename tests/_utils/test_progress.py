"""Progress lines appear on a terminal only and are erased at the end."""

import io
from types import SimpleNamespace

import numpy as np
import pytest

import acluster._utils._progress
from acluster import AttentionClusterClassifier, save_feature_sets
from acluster._utils._progress import progress
from acluster.model_selection import GridSearchCV


@pytest.fixture
def terminal(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    # Replacing sys.stderr itself has no effect: pytest replaces it again.
    monkeypatch.setattr(acluster._utils._progress, "sys", SimpleNamespace(stderr=terminal))
    return terminal


def sets(n_items=10):
    return [np.full((2, 3), i, dtype=float) for i in range(n_items)]


def test_progress_yields_items_and_erases_the_line(terminal):
    assert list(progress("abc", "letters", 3)) == ["a", "b", "c"]
    shown = terminal.getvalue().split("\r")
    assert shown[1:4] == ["letters: 1 of 3", "letters: 2 of 3", "letters: 3 of 3"]
    assert shown[4:] == [" " * len("letters: 3 of 3"), ""]


def test_progress_erases_the_line_after_an_error(terminal):
    def stop():
        yield 1
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        list(progress(stop(), "steps"))
    assert terminal.getvalue() == "\rsteps: 1\r        \r"


def test_progress_prints_nothing_without_a_terminal(capsys):
    assert list(progress(range(3), "numbers", 3)) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("verbose", [False, True])
def test_verbose_predict_and_save_feature_sets_show_progress(terminal, tmp_path, verbose):
    clf = AttentionClusterClassifier(cluster_size=2, max_iter=1, tol=None, batch_size=4)
    clf.fit(sets(), [0, 1] * 5).set_params(verbose=verbose)
    clf.predict(sets())
    save_feature_sets(tmp_path / "a.zarr", sets(), verbose=verbose)
    shown = terminal.getvalue()
    assert ("batches: 3 of 3" in shown) == ("a.zarr: items: 10" in shown) == verbose


@pytest.mark.parametrize("method", ["predict_proba", "transform", "attention_weights"])
def test_verbose_does_not_change_results(terminal, method):
    clf = AttentionClusterClassifier(cluster_size=2, max_iter=1, tol=None, batch_size=4)
    clf.fit(sets(), [0, 1] * 5)
    quiet = getattr(clf, method)(sets())
    verbose = getattr(clf.set_params(verbose=True), method)(sets())
    np.testing.assert_array_equal(np.vstack([*quiet]), np.vstack([*verbose]))


def test_save_feature_sets_erases_the_line_before_an_error(terminal, tmp_path):
    items = [np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 4))]
    with pytest.raises(ValueError, match="4") as raised:
        save_feature_sets(tmp_path / "a.zarr", items, verbose=True)
    assert raised.traceback
    assert "items: 2" in terminal.getvalue()
    assert terminal.getvalue().endswith(" \r")


def test_progress_without_stderr(monkeypatch):
    monkeypatch.setattr(acluster._utils._progress, "sys", SimpleNamespace(stderr=None))
    assert list(progress("ab", "letters")) == ["a", "b"]


@pytest.mark.parametrize("verbose", [0, 1])
def test_search_counts_folds_if_verbose(terminal, verbose):
    clf = AttentionClusterClassifier(cluster_size=2, max_iter=2, random_state=0)
    search = GridSearchCV(clf, {"dropout": [0.0, 0.5, 0.8]}, cv=2, refit=False, verbose=verbose)
    search.fit(sets(), np.arange(10) % 2)
    shown = [line for line in terminal.getvalue().split("\r") if line.strip()]
    both = [f"3 candidates, 0 to come: folds: {number} of 2" for number in (1, 2)]
    assert shown == (both if verbose else [])
