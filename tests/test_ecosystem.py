"""scikit-learn's tools on ragged FeatureSets: alone, in two processes, with array API dispatch."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.callback import ScoringMonitor
from sklearn.decomposition import PCA
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    permutation_test_score,
    train_test_split,
    validation_curve,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import resample, shuffle

from acluster import AttentionClusterClassifier, FeatureSets
from acluster.preprocessing import LocalFeatureTransformer
from tests.conftest import make_sets

pytestmark = pytest.mark.filterwarnings(
    # scikit-learn scores CalibratedClassifierCV and others with its own defaults.
    "ignore:.*will change from.*:FutureWarning"
)


@pytest.fixture(params=["1 process", "2 processes", "array API dispatch"])
def n_jobs(request):
    """Every tool runs here, in workers, and under array_api_dispatch."""
    with sklearn.config_context(array_api_dispatch=request.param == "array API dispatch"):
        yield 2 if request.param == "2 processes" else 1


@pytest.fixture
def data():
    return make_sets(n=60, n_classes=3)


def quick(**parameters):
    options = {"cluster_size": 4, "tol": None, "max_iter": 25, "learning_rate": 0.02}
    return AttentionClusterClassifier(**{**options, "random_state": 0, **parameters})


def test_grid_search(data, n_jobs):
    search = GridSearchCV(
        quick(), {"cluster_size": [2, 4]}, n_jobs=n_jobs, cv=2, error_score="raise"
    )
    search.fit(*data)
    assert search.best_score_ > 0.8
    assert search.predict(data[0]).shape == (60,)


def test_randomized_search_of_a_pipeline(data, n_jobs):
    pipeline = make_pipeline(LocalFeatureTransformer(StandardScaler()), quick())
    grid = {"attentionclusterclassifier__dropout": [0.0, 0.5]}
    search = RandomizedSearchCV(
        pipeline, grid, n_iter=2, n_jobs=n_jobs, cv=2, error_score="raise", random_state=0
    )
    assert search.fit(*data).best_score_ > 0.8


@pytest.mark.filterwarnings("ignore:n_samples_per_class")
def test_halving_search_over_epochs(data, n_jobs):
    search = HalvingGridSearchCV(
        quick(),
        {"learning_rate": [1e-4, 0.02]},
        resource="max_iter",
        min_resources=5,
        max_resources=20,
        factor=2,
        cv=2,
        n_jobs=n_jobs,
        error_score="raise",
        random_state=0,
    )
    search.fit(*data)
    assert search.best_params_["learning_rate"] == 0.02
    assert search.n_resources_[-1] > search.n_resources_[0]


@pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function"])
def test_cross_val_predict(method, data, n_jobs):
    predictions = cross_val_predict(quick(), *data, method=method, cv=3, n_jobs=n_jobs)
    assert len(predictions) == 60


def test_cross_validation_with_groups_and_weights(data, n_jobs):
    X, y = data
    result = cross_validate(
        quick(),
        X,
        y,
        groups=np.arange(60) // 6,
        cv=GroupKFold(3),
        params={"sample_weight": np.linspace(1, 2, 60)},
        n_jobs=n_jobs,
        return_train_score=True,
        error_score="raise",
    )
    assert (result["test_score"] > 0.6).all()


def test_curves(data, n_jobs):
    sizes, _, scores = learning_curve(
        quick(), *data, train_sizes=[0.5, 1.0], cv=3, n_jobs=n_jobs, shuffle=True, random_state=0
    )
    assert scores.shape == (2, 3)
    assert sizes.tolist() == [20, 40]
    assert not np.isnan(scores).any()
    train, _ = validation_curve(
        quick(), *data, param_name="cluster_size", param_range=[1, 4], cv=2, n_jobs=n_jobs
    )
    assert not np.isnan(train).any()


def test_permutation_test(data, n_jobs):
    score, permuted, _ = permutation_test_score(
        quick(), *data, n_permutations=3, cv=2, n_jobs=n_jobs, random_state=0
    )
    assert score > permuted.mean()


def test_train_test_split_keeps_the_type(data, n_jobs):
    X_train, X_test, y_train, y_test = train_test_split(*data, stratify=data[1], random_state=0)
    assert type(X_train) is type(X_test) is FeatureSets
    assert quick().fit(X_train, y_train).score(X_test, y_test) > 0.7


def test_stratified_folds_shuffle_and_resample(data, n_jobs):
    X, y = data
    for train, test in StratifiedKFold(3).split(X, y):
        assert len(X[train]) + len(X[test]) == 60
    X_mixed, y_mixed = shuffle(X, y, random_state=0)
    assert isinstance(X_mixed, FeatureSets)
    X_drawn, _ = resample(X, y, n_samples=10, random_state=0)
    assert len(X_drawn) == 10
    assert len(y_mixed) == 60


def test_pipeline_of_feature_transformers(data, n_jobs):
    pipeline = Pipeline(
        [
            ("scale", LocalFeatureTransformer(StandardScaler())),
            ("reduce", LocalFeatureTransformer(PCA(3, random_state=0))),
            ("classify", quick()),
        ]
    )
    scores = cross_val_score(pipeline, *data, cv=3, n_jobs=n_jobs, error_score="raise")
    assert scores.mean() > 0.7
    assert clone(pipeline).fit(*data).transform(data[0]).shape == (60, 12)


def test_transform_feeds_a_downstream_model(data, n_jobs):
    pipeline = make_pipeline(quick(), LogisticRegression())
    assert cross_val_score(pipeline, *data, cv=3, n_jobs=n_jobs, error_score="raise").mean() > 0.7


def test_stacking_and_voting(data, n_jobs):
    members = [("fc1", quick()), ("average", quick(weighting="average"))]
    stack = StackingClassifier(members, LogisticRegression(), cv=2, n_jobs=n_jobs)
    assert stack.fit(*data).score(*data) > 0.8
    vote = VotingClassifier(members, voting="soft", n_jobs=n_jobs)
    assert vote.fit(*data).score(*data) > 0.7


@pytest.mark.parametrize("ensemble", [True, False])
def test_calibration(ensemble, data, n_jobs):
    calibrated = CalibratedClassifierCV(quick(), cv=2, n_jobs=n_jobs, ensemble=ensemble)
    probabilities = calibrated.fit(*data).predict_proba(data[0])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_one_versus_rest(data, n_jobs):
    many = OneVsRestClassifier(quick(), n_jobs=n_jobs)
    assert many.fit(*data).score(*data) > 0.7


def test_one_classifier_per_output(data, n_jobs):
    X, y = data
    both = MultiOutputClassifier(quick(), n_jobs=n_jobs).fit(X, np.c_[y, y == 1])
    assert both.predict(X).shape == (60, 2)


@pytest.mark.parametrize("container", ["pandas"])
def test_set_output(container, data, n_jobs):
    X, y = data
    pipeline = make_pipeline(LocalFeatureTransformer(StandardScaler()), quick())
    frame = pipeline.set_output(transform=container).fit(X, y).transform(X)
    assert isinstance(frame, pd.DataFrame)
    assert frame.columns[:2].tolist() == ["unit0_x0", "unit0_x1"]
    with sklearn.config_context(transform_output=container):
        assert isinstance(quick().fit_transform(X, y), pd.DataFrame)


def test_data_frame_names_reach_the_global_feature():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(30, 2)), columns=["height", "weight"])
    clf = quick(cluster_size=2).fit(frame, np.arange(30) % 2)
    assert clf.feature_names_in_.tolist() == ["height", "weight"]
    assert clf.get_feature_names_out()[-1] == "unit1_weight"


class TestCallbacks:
    def test_a_callback_sees_every_epoch_and_stops_training(self, data):
        class StopAfterThree:
            ended = 0

            def setup(self, estimator, context):
                pass

            def teardown(self, estimator, context):
                pass

            def on_fit_task_begin(self, estimator, context):
                pass

            def on_fit_task_end(self, estimator, context):
                if context.task_name == "epoch":
                    assert context.parent.max_subtasks == 10  # what the bar counts up to
                    self.ended += 1
                    return self.ended == 3
                return False

        stopper = StopAfterThree()
        clf = quick(max_iter=10).set_callbacks(stopper).fit(*data)
        assert clf.n_iter_ == stopper.ended == 3

    def test_scoring_monitor_logs_every_epoch(self, data):
        monitor = ScoringMonitor(scoring="accuracy")
        clf = quick(max_iter=4).set_callbacks(monitor).fit(*data)
        scores = [row["accuracy"] for row in monitor.get_logs().data if row["task_name"] == "epoch"]
        assert len(scores) == 4
        assert scores[-1] == clf.score(*data)

    @pytest.mark.parametrize("nested", [False, True])
    def test_progress_bar_shows_epochs(self, nested):
        # In a process of its own: rich draws to the terminal that the process started with.
        program = f"""
import warnings
from sklearn.callback import ProgressBar
from sklearn.model_selection import GridSearchCV
from acluster import AttentionClusterClassifier
import numpy as np
X, y = np.random.default_rng(0).normal(size=(20, 3, 2)), np.arange(20) % 2
clf = AttentionClusterClassifier(cluster_size=2, max_iter=3, tol=None)
if {nested}:
    clf = GridSearchCV(clf, {{"dropout": [0.0, 0.5]}}, cv=2)
clf.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(X, y)
"""
        environment = {**os.environ, "COLUMNS": "160", "FORCE_COLOR": ""}
        shown = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environment
        )
        assert shown.returncode == 0, shown.stderr
        assert "AttentionClusterClassifier - fit" in shown.stdout
        assert "100%" in shown.stdout
        assert ("GridSearchCV" in shown.stdout) is nested


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_child_of_a_fork_trains_after_its_parent_has():
    program = """
import os
import numpy as np, torch
from acluster import AttentionClusterClassifier
torch.set_num_threads(2)
X, y = np.random.default_rng(0).normal(size=(200, 50, 64)), np.arange(200) % 3
clf = AttentionClusterClassifier(cluster_size=8, max_iter=2, tol=None, random_state=0)
expected = clf.fit(X, y).predict_proba(X)
if (child := os.fork()) == 0:
    found = clf.fit(X, y).predict_proba(X)
    os._exit(0 if np.allclose(found, expected, atol=1e-4) else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert torch.get_num_threads() == 2
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


@pytest.mark.parametrize("wrapper", [OneVsOneClassifier, ClassifierChain])
def test_wrappers_that_insist_on_one_array_name_the_remedy(wrapper, data):
    X, y = data
    y = y if wrapper is OneVsOneClassifier else np.c_[y == 0, y == 1].astype(int)
    with pytest.raises(TypeError, match=r"^FeatureSets cannot be converted to one array"):
        wrapper(quick()).fit(X, y)
