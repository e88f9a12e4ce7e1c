"""Searches that train their candidates together give what scikit-learn's give."""

import pickle
import warnings

import numpy as np
import pytest
import sklearn
from scipy.stats import uniform
from sklearn import model_selection as sk
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import KFold, ShuffleSplit
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import make_pipeline

from acluster import (
    AttentionClusterClassifier,
    FeatureSets,
    model_selection,
    open_feature_sets,
    save_feature_sets,
)
from acluster.estimators import _fitting
from acluster.nn import FC1Weighting
from acluster.preprocessing import LocalFeatureTransformer
from tests.conftest import make_sets

CLF = AttentionClusterClassifier(cluster_size=3, max_iter=4, tol=None, random_state=0)
GRIDS = {
    "rates": {"learning_rate": [0.01, 0.003], "dropout": [0.0, 0.5]},
    "sizes": {"cluster_size": [2, 5], "weighting": ["fc1", "average"], "n_members": [1, 2]},
    "batches": {"batch_size": [8, 64], "n_local_features": [None, 2], "standardize": [True]},
    "failing": {"learning_rate": [0.01, 1e30, -1.0], "class_weight": [None, "balanced"]},
}


def assert_same_results(found, expected):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        if "time" in name:
            assert found[name].shape == values.shape
            continue
        assert type(found[name]) is type(values)
        if name.startswith(("mean", "std", "split", "rank")):
            np.testing.assert_allclose(found[name], values, atol=1e-5, err_msg=name)
        else:
            assert list(found[name]) == list(values), name


def run_both(name, *args, fit=(), **options):
    searches = []
    for module in (model_selection, sk):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            searches.append(getattr(module, name)(*args, **options).fit(*fit))
    found, expected = searches
    assert_same_results(found.cv_results_, expected.cv_results_)
    return found, expected


@pytest.mark.parametrize("grid", sorted(GRIDS))
@pytest.mark.parametrize("n_classes", [2, 3])
def test_grid_search_gives_the_results_of_scikit_learn(grid, n_classes):
    X, y = make_sets(n_classes=n_classes)
    options = {"cv": 3, "return_train_score": True}
    found, expected = run_both("GridSearchCV", CLF, GRIDS[grid], fit=(X, y), **options)
    assert found.best_params_ == expected.best_params_
    np.testing.assert_array_equal(found.predict_proba(X), expected.predict_proba(X))


def test_two_metrics_and_multilabel():
    X, y = make_sets(n_classes=3)
    options = {"cv": KFold(3), "scoring": ["accuracy", "f1_macro"], "refit": "f1_macro"}
    run_both("GridSearchCV", CLF, GRIDS["rates"], fit=(X, np.eye(3, dtype=int)[y]), **options)


@pytest.mark.parametrize("resource", ["max_iter", "n_samples"])
def test_halving_gives_the_results_of_scikit_learn(resource):
    X, y = make_sets(n=80)
    limits = {"min_resources": 2, "max_resources": 8} if resource == "max_iter" else {}
    options = {"cv": 2, "resource": resource, "random_state": 0, "factor": 2, **limits}
    grid = GRIDS["rates"]
    run_both("HalvingGridSearchCV", CLF, grid, fit=(X, y), **options)
    options["n_candidates"] = 4
    run_both("HalvingRandomSearchCV", CLF, {"dropout": uniform(0, 0.9)}, fit=(X, y), **options)


def test_random_search_and_a_splitter_that_shuffles():
    X, y = make_sets()
    cv = ShuffleSplit(2, random_state=np.random.RandomState(0))
    for_sklearn = pickle.loads(pickle.dumps(cv))
    options = {"n_iter": 3, "random_state": 0}
    distributions = {"dropout": uniform(0, 0.9)}
    found = model_selection.RandomizedSearchCV(CLF, distributions, cv=cv, **options).fit(X, y)
    expected = sk.RandomizedSearchCV(CLF, distributions, cv=for_sklearn, **options).fit(X, y)
    assert_same_results(found.cv_results_, expected.cv_results_)


def test_pipelines_are_searched_together(monkeypatch):
    X, y = make_sets()
    n_fits = count_groups(monkeypatch)
    pipeline = make_pipeline(LocalFeatureTransformer(PCA(2)), CLF)
    grid = {
        "attentionclusterclassifier__dropout": [0.0, 0.5],
        "localfeaturetransformer__transformer__n_components": [2, 3],
    }
    run_both("GridSearchCV", pipeline, grid, fit=(X, y), cv=2)
    # Two folds with two transformers each, then a refit; scikit-learn fits 8 times and refits.
    assert n_fits == [2, 2, 2, 2, 1, *[1] * 9]


def count_groups(monkeypatch):
    """Return a list that grows by the number of estimators of each call of `fit_together`."""
    sizes, fit_together = [], _fitting.fit_together

    def counted(estimators, *args):
        sizes.append(len(estimators))
        return fit_together(estimators, *args)

    for module in ("acluster.model_selection", "acluster.estimators._set_classifier"):
        monkeypatch.setattr(f"{module}.fit_together", counted)
    return sizes


def test_candidates_of_a_fold_are_fitted_in_one_call(monkeypatch):
    X, y = make_sets()
    sizes = count_groups(monkeypatch)
    model_selection.GridSearchCV(CLF, GRIDS["rates"], cv=3).fit(X, y)
    assert sizes == [4, 4, 4, 1]


def test_groups_are_cut_to_the_working_memory(monkeypatch):
    X, y = make_sets()
    sizes = count_groups(monkeypatch)
    grid = {"learning_rate": [0.01, 0.003], "cluster_size": [400, 500]}
    expected = sk.GridSearchCV(CLF, grid, cv=2).fit(X, y)
    del sizes[:]
    with sklearn.config_context(working_memory=0.05):
        found = model_selection.GridSearchCV(CLF, grid, cv=2).fit(X, y)
    assert_same_results(found.cv_results_, expected.cv_results_)
    assert max(sizes) < 4


def test_callbacks_see_every_epoch_of_every_candidate(monkeypatch):
    from sklearn.callback import ScoringMonitor

    X, y = make_sets()
    sizes = count_groups(monkeypatch)
    search = model_selection.GridSearchCV(CLF, GRIDS["rates"], cv=2)
    search.set_callbacks(ScoringMonitor(scoring="accuracy")).fit(X, y)
    assert sizes == [1] * 9


def test_searches_without_a_seed_differ_from_candidate_to_candidate():
    X, y = make_sets()
    clf = AttentionClusterClassifier(cluster_size=3, max_iter=2, tol=None)
    search = model_selection.GridSearchCV(
        clf, {"dropout": [0.5, 0.5]}, cv=2, scoring="neg_log_loss"
    )
    scores = search.fit(X, y).cv_results_["split0_test_score"]
    assert scores[0] != scores[1]


def test_sample_weights_reach_the_candidates():
    X, y = make_sets()
    weight = np.linspace(0, 2, len(X))
    searches = [
        module.GridSearchCV(CLF, GRIDS["rates"], cv=2).fit(X, y, sample_weight=weight)
        for module in (model_selection, sk)
    ]
    assert_same_results(*[search.cv_results_ for search in searches])


def test_folds_of_a_store_are_told_apart(tmp_path):
    # Sets of one length and sorted labels: most neighbouring folds differ in a single item.
    rng, y = np.random.default_rng(0), np.repeat([0, 1], 20)
    save_feature_sets(tmp_path / "X", FeatureSets.from_arrays(rng.normal(size=(40, 3, 2))))
    scoring = {"of_item": lambda clf, X, y: clf.decision_function(X)[0]}
    options = {"cv": sk.LeaveOneOut(), "scoring": scoring, "refit": False}
    X = open_feature_sets(tmp_path / "X")
    run_both("GridSearchCV", CLF, {"dropout": [0.0, 0.5]}, fit=(X, y), **options)


def test_candidates_of_one_text_are_told_apart():
    def weighting(factor):
        class Weighting(FC1Weighting):
            def forward(self, values):
                return factor * super().forward(values)

        return Weighting

    X, y = make_sets()
    options = {"cv": 2, "scoring": "neg_log_loss"}
    for grid in (
        {"weighting": [weighting(0.0), weighting(9.0)]},
        {"random_state": [np.random.RandomState(seed) for seed in range(3)]},
    ):
        found, _ = run_both("GridSearchCV", CLF, grid, fit=(X, y), **options)
        assert len(set(found.cv_results_["mean_test_score"])) > 1


@pytest.mark.parametrize(
    "grid", [{"pyramid_levels": [9, 1, 2]}, {"device": ["nowhere", "cpu"], "dropout": [0.0, 0.5]}]
)
def test_candidates_without_a_network_leave_the_others_alone(monkeypatch, grid):
    X, y = make_sets()
    sizes = count_groups(monkeypatch)
    for n_jobs in (1, 2):
        run_both("GridSearchCV", CLF, grid, fit=(X, y), cv=2, n_jobs=n_jobs)
    assert sizes[:2] == [2, 2]


def test_candidates_that_fail_together_are_fitted_alone(monkeypatch):
    fit_together = model_selection.fit_together

    def failing(estimators, data):
        if len(estimators) > 1:
            raise RuntimeError("out of memory")
        return fit_together(estimators, data)

    monkeypatch.setattr(model_selection, "fit_together", failing)
    X, y = make_sets()
    run_both("GridSearchCV", CLF, GRIDS["rates"], fit=(X, y), cv=2)


class CountingPCA(PCA):
    n_fits = 0

    def fit(self, X, y=None):
        CountingPCA.n_fits += 1
        return super().fit(X, y)

    def fit_transform(self, X, y=None):
        return self.fit(X).transform(X)


def test_transformers_are_fitted_once_for_the_sizes_of_all_networks():
    X, y = make_sets()
    pipeline = make_pipeline(LocalFeatureTransformer(CountingPCA(2)), CLF)
    grid = {"localfeaturetransformer__transformer__n_components": [1, 2, 3, 4]}
    search = model_selection.GridSearchCV(pipeline, grid, cv=2, refit=False)
    with sklearn.config_context(working_memory=1e-9):
        search.fit(X, y)
    # In one fold for the sizes, then in each of two here and by scikit-learn.
    assert CountingPCA.n_fits == 4 * (1 + 2 + 2)


def test_error_score_raise_raises_the_error_of_the_candidate():
    X, y = make_sets()
    search = model_selection.GridSearchCV(CLF, GRIDS["failing"], cv=2, error_score="raise")
    with pytest.raises(ValueError, match="learning_rate"):
        search.fit(X, y)


def test_search_is_picklable_and_keeps_no_data():
    X, y = make_sets()
    search = model_selection.GridSearchCV(CLF, GRIDS["rates"], cv=2).fit(X, y)
    loaded = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(loaded.predict(X), search.predict(X))
    assert not {"_given", "_seconds"} & vars(search).keys()


def test_candidates_that_gain_nothing_together_are_fitted_in_processes(monkeypatch):
    X, y = make_sets()
    sizes = count_groups(monkeypatch)
    grid = {"weighting": ["fc1", "fc2"], "dropout": [0.0, 0.5], "learning_rate": [0.01, 1e308]}
    found, _ = run_both("GridSearchCV", CLF, grid, fit=(X, y), cv=2, n_jobs=2)
    pytest.importorskip("numba")
    assert sizes[:2] == [4, 4]  # the others are counted in their own processes
    assert not {"_parallel"} & vars(found).keys()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("kind", ["GridSearchCV", "HalvingGridSearchCV"])
def test_a_search_that_fails_keeps_no_results_of_an_earlier_fit(monkeypatch, kind, error):
    X, y = make_sets(n=30)
    clf = AttentionClusterClassifier(cluster_size=2, max_iter=2, random_state=0)
    search = getattr(model_selection, kind)(clf, {"dropout": [0.0, 0.5]}, cv=3).fit(X, y)
    parameters = search.get_params()

    def failing(*_, **__):
        raise error

    monkeypatch.setattr(BaseSearchCV, "fit", failing)
    with pytest.raises(error):
        search.fit(X, y)
    assert search.get_params() == parameters
    for name in ("best_score_", "best_params_", "best_estimator_", "cv_results_", "classes_"):
        assert not hasattr(search, name)
    with pytest.raises(NotFittedError):
        search.predict(X)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
@pytest.mark.filterwarnings("ignore:One or more of the test scores")
@pytest.mark.parametrize("n_folds", [0, 1])
def test_interrupted_search_has_the_scores_of_the_folds_before(monkeypatch, n_folds):
    original, calls = model_selection.fit_together, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) > n_folds:
            raise KeyboardInterrupt
        return original(*args)

    X, y = make_sets(n=30)
    clf = AttentionClusterClassifier(cluster_size=2, max_iter=3, random_state=0)
    search = model_selection.GridSearchCV(clf, {"dropout": [0.0, 0.5]}, cv=3)
    with monkeypatch.context() as patch:
        patch.setattr(model_selection, "fit_together", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search.fit(X, y)
    if not n_folds:
        assert not hasattr(search, "cv_results_")
        return
    partial = search.cv_results_
    search.fit(X, y)
    for k in range(3):
        found = partial[f"split{k}_test_score"]
        expected = search.cv_results_[f"split{k}_test_score"] if k < n_folds else [np.nan] * 2
        np.testing.assert_array_equal(found, expected)
