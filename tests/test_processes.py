"""Estimators in other processes: joblib's workers, forked children, and a terminal of its own."""

import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV, cross_val_score

from acluster import (
    AttentionClusterClassifier,
    IntegrationClassifier,
    open_feature_sets,
    save_feature_sets,
)
from tests.conftest import make_sets
from tests.estimators.integrations import Largest

OPTIONS = {"max_iter": 4, "tol": None, "random_state": 0}


class TestJoblibWorkers:
    """The tests are neighbors, so that they share joblib's two workers."""

    @pytest.mark.parametrize(
        "clf",
        [
            AttentionClusterClassifier(cluster_size=4, **OPTIONS),
            IntegrationClassifier(integration=Largest, **OPTIONS),
        ],
        ids=lambda clf: type(clf).__name__,
    )
    def test_grid_search_cv_in_processes_equals_one_process(self, clf):
        X, y = make_sets()
        search = GridSearchCV(clf, {"dropout": [0.0, 0.5]}, cv=2, error_score="raise")
        alone = search.fit(X, y).cv_results_["mean_test_score"]
        together = search.set_params(n_jobs=2).fit(X, y).cv_results_["mean_test_score"]
        np.testing.assert_array_equal(alone, together)

    def test_cross_val_score_in_processes_opens_the_store_by_path(self, tmp_path):
        X, y = make_sets(dtype=np.float32)
        save_feature_sets(tmp_path / "store.zarr", X, label=y)
        stored = open_feature_sets(tmp_path / "store.zarr")
        clf = AttentionClusterClassifier(cluster_size=4, **OPTIONS)
        alone = cross_val_score(clf, stored, stored.label, cv=2)
        together = cross_val_score(clf, stored, stored.label, cv=2, n_jobs=2)
        np.testing.assert_array_equal(alone, together)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fit_in_a_forked_child_after_a_fit_in_the_parent():
    program = """
import os
import numpy as np, torch
from acluster import AttentionClusterClassifier
torch.set_num_threads(2)
X, y = np.random.default_rng(0).normal(size=(64, 50, 64)), np.arange(64) % 3
clf = AttentionClusterClassifier(cluster_size=8, max_iter=1, tol=None, random_state=0)
expected = clf.fit(X, y).predict_proba(X)
if (child := os.fork()) == 0:
    found = clf.fit(X, y).predict_proba(X)
    os._exit(0 if np.allclose(found, expected, atol=1e-4) else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert torch.get_num_threads() == 2
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


def test_progress_bar_shows_epochs_also_inside_a_search():
    # rich draws to the terminal that the process started with, so it needs one of its own.
    program = """
from sklearn.callback import ProgressBar
from sklearn.model_selection import GridSearchCV
from acluster import AttentionClusterClassifier
import numpy as np
X, y = np.random.default_rng(0).normal(size=(20, 3, 2)), np.arange(20) % 2
clf = AttentionClusterClassifier(cluster_size=2, max_iter=3, tol=None)
clf.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(X, y)
print("-- search --", flush=True)
clf = AttentionClusterClassifier(cluster_size=2, max_iter=3, tol=None)
search = GridSearchCV(clf, {"dropout": [0.0, 0.5]}, cv=2)
search.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(X, y)
"""
    environment = {**os.environ, "COLUMNS": "160", "FORCE_COLOR": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    alone, search = done.stdout.split("-- search --")
    for shown in (alone, search):
        assert "AttentionClusterClassifier - fit" in shown
        assert "100%" in shown
    assert "GridSearchCV" in search
    assert "GridSearchCV" not in alone
