"""scikit-learn's searches, splitters and ensembles on ragged FeatureSets."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
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
from acluster.preprocessing import LocalFeatureTransformer, SetLookup
from tests.conftest import make_sets

pytestmark = pytest.mark.filterwarnings(
    # scikit-learn scores CalibratedClassifierCV and others with its own defaults.
    "ignore:.*will change from.*:FutureWarning"
)


@pytest.fixture(params=["numpy", "array API dispatch"], autouse=True)
def array_api_dispatch(request):
    """Run every test as usual, and under scikit-learn's `array_api_dispatch`."""
    with sklearn.config_context(array_api_dispatch=request.param == "array API dispatch"):
        yield


@pytest.fixture(scope="module")
def data():
    return make_sets(n=60, n_classes=3)


def quick(**parameters):
    options = {"cluster_size": 4, "tol": None, "max_iter": 15, "learning_rate": 0.03}
    return AttentionClusterClassifier(**{**options, "random_state": 0, **parameters})


def test_grid_search_cv(data):
    search = GridSearchCV(quick(), {"cluster_size": [2, 4]}, cv=2, error_score="raise")
    search.fit(*data)
    assert search.best_score_ > 0.8
    assert search.predict(data[0]).shape == (60,)


def test_randomized_search_cv_of_a_pipeline(data):
    pipeline = make_pipeline(LocalFeatureTransformer(StandardScaler()), quick())
    grid = {"attentionclusterclassifier__dropout": [0.0, 0.5]}
    search = RandomizedSearchCV(pipeline, grid, n_iter=2, cv=2, error_score="raise", random_state=0)
    assert search.fit(*data).best_score_ > 0.8


@pytest.mark.filterwarnings("ignore:n_samples_per_class")
def test_halving_grid_search_cv_over_max_iter(data):
    search = HalvingGridSearchCV(
        quick(),
        {"learning_rate": [1e-4, 0.02]},
        resource="max_iter",
        min_resources=5,
        max_resources=20,
        factor=2,
        cv=2,
        error_score="raise",
        random_state=0,
    )
    search.fit(*data)
    assert search.best_params_["learning_rate"] == 0.02
    assert search.n_resources_[-1] > search.n_resources_[0]


@pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function"])
def test_cross_val_predict(method, data):
    predictions = cross_val_predict(quick(), *data, method=method, cv=3)
    assert len(predictions) == 60


def test_cross_validate_with_groups_and_sample_weight(data):
    X, y = data
    result = cross_validate(
        quick(),
        X,
        y,
        groups=np.arange(60) // 6,
        cv=GroupKFold(3),
        params={"sample_weight": np.linspace(1, 2, 60)},
        return_train_score=True,
        error_score="raise",
    )
    assert (result["test_score"] > 0.6).all()


def test_learning_curve_and_validation_curve(data):
    sizes, _, scores = learning_curve(
        quick(), *data, train_sizes=[0.5, 1.0], cv=3, shuffle=True, random_state=0
    )
    assert scores.shape == (2, 3)
    assert sizes.tolist() == [20, 40]
    assert not np.isnan(scores).any()
    train, _ = validation_curve(quick(), *data, param_name="cluster_size", param_range=[1, 4], cv=2)
    assert not np.isnan(train).any()


def test_permutation_test_score(data):
    score, permuted, _ = permutation_test_score(
        quick(), *data, n_permutations=3, cv=2, random_state=0
    )
    assert score > permuted.mean()


def test_train_test_split_returns_feature_sets(data):
    X_train, X_test, y_train, y_test = train_test_split(*data, stratify=data[1], random_state=0)
    assert type(X_train) is type(X_test) is FeatureSets
    assert quick().fit(X_train, y_train).score(X_test, y_test) > 0.7


def test_stratified_k_fold_shuffle_and_resample(data):
    X, y = data
    for train, test in StratifiedKFold(3).split(X, y):
        assert len(X[train]) + len(X[test]) == 60
    X_mixed, y_mixed = shuffle(X, y, random_state=0)
    assert isinstance(X_mixed, FeatureSets)
    X_drawn, _ = resample(X, y, n_samples=10, random_state=0)
    assert len(X_drawn) == 10
    assert len(y_mixed) == 60


def test_pipeline_of_local_feature_transformers(data):
    pipeline = Pipeline(
        [
            ("scale", LocalFeatureTransformer(StandardScaler())),
            ("reduce", LocalFeatureTransformer(PCA(3, random_state=0))),
            ("classify", quick()),
        ]
    )
    scores = cross_val_score(pipeline, *data, cv=3, error_score="raise")
    assert scores.mean() > 0.7
    assert clone(pipeline).fit(*data).transform(data[0]).shape == (60, 12)


def test_transform_in_a_pipeline_with_another_classifier(data):
    pipeline = make_pipeline(quick(), LogisticRegression())
    assert cross_val_score(pipeline, *data, cv=3, error_score="raise").mean() > 0.7


def test_stacking_and_voting_classifier(data):
    members = [("fc1", quick()), ("average", quick(weighting="average"))]
    stack = StackingClassifier(members, LogisticRegression(), cv=2)
    assert stack.fit(*data).score(*data) > 0.8
    vote = VotingClassifier(members, voting="soft")
    assert vote.fit(*data).score(*data) > 0.7


@pytest.mark.parametrize("ensemble", [True, False])
def test_calibrated_classifier_cv(ensemble, data):
    calibrated = CalibratedClassifierCV(quick(), cv=2, ensemble=ensemble)
    probabilities = calibrated.fit(*data).predict_proba(data[0])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_one_vs_rest_classifier(data):
    many = OneVsRestClassifier(quick())
    assert many.fit(*data).score(*data) > 0.7


def test_multi_output_classifier(data):
    X, y = data
    both = MultiOutputClassifier(quick()).fit(X, np.c_[y, y == 1])
    assert both.predict(X).shape == (60, 2)


def test_set_output_pandas(data):
    X, y = data
    pipeline = make_pipeline(LocalFeatureTransformer(StandardScaler()), quick())
    frame = pipeline.set_output(transform="pandas").fit(X, y).transform(X)
    assert isinstance(frame, pd.DataFrame)
    assert frame.columns[:2].tolist() == ["unit0_x0", "unit0_x1"]
    with sklearn.config_context(transform_output="pandas"):
        assert isinstance(quick().fit_transform(X, y), pd.DataFrame)
        # The transformers return sets all the same.
        assert isinstance(clone(pipeline).fit(X, y).transform(X), pd.DataFrame)
        rows = np.arange(len(X))[:, None]
        assert isinstance(SetLookup(X).fit_transform(rows), FeatureSets)


def test_get_feature_names_out_uses_data_frame_columns():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(30, 2)), columns=["height", "weight"])
    clf = quick(cluster_size=2).fit(frame, np.arange(30) % 2)
    assert clf.feature_names_in_.tolist() == ["height", "weight"]
    assert clf.get_feature_names_out()[-1] == "unit1_weight"


@pytest.mark.parametrize("wrapper", [OneVsOneClassifier, ClassifierChain])
def test_wrappers_that_need_one_array_raise_with_the_remedy(wrapper, data):
    X, y = data
    y = y if wrapper is OneVsOneClassifier else np.c_[y == 0, y == 1].astype(int)
    with pytest.raises(TypeError, match=r"^FeatureSets cannot be converted to one array"):
        wrapper(quick()).fit(X, y)
