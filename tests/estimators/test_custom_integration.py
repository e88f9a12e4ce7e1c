"""Integrations written by users: their arguments, and mistakes in them."""

import pickle
from functools import partial

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from acluster import IntegrationClassifier
from acluster.nn import Integration
from acluster.nn.integrations import AttentionMIL
from tests.estimators.common import have_same_weights
from tests.estimators.integrations import Largest, Mean

quick = partial(IntegrationClassifier, max_iter=2, tol=None, random_state=0)


class TestParameters:
    def test_get_params_lists_the_arguments_of_the_integration(self):
        clf = quick(integration=Largest, integration_params={"hidden_size": 3})
        assert clf.get_params()["integration__hidden_size"] == 3
        assert "integration__hidden_size" not in clf.get_params(deep=False)

    def test_set_params_leaves_the_dict_of_the_caller_and_of_clones(self):
        given = {"hidden_size": 3}
        clf = quick(integration=Largest, integration_params=given)
        copy = clone(clf)
        clf.set_params(integration__hidden_size=4)
        assert given == copy.integration_params == {"hidden_size": 3}
        given["hidden_size"] = 5
        assert copy.integration_params == {"hidden_size": 3}

    def test_set_params_replaces_integration_params_that_are_not_a_dict(self):
        clf = quick(integration=Mean, integration_params=[1])
        assert clf.set_params(integration_params={}).integration_params == {}

    def test_grid_search_cv_over_integrations_and_their_arguments(self, sets_and_labels):
        X, y = sets_and_labels
        grid = [
            {"integrationclassifier__integration": [Mean]},
            {
                "integrationclassifier__integration": [Largest],
                "integrationclassifier__integration__hidden_size": [2, 3],
            },
        ]
        pipeline = make_pipeline(quick())
        search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(X, y)
        assert len(search.cv_results_["params"]) == 3

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({}, "integration=None is not a subclass of acluster.nn.Integration"),
            ({"integration": Mean(4)}, "pass the class, not an instance"),
            (
                {"integration": Largest, "integration_params": {"size": 3}},
                r"do not fit Largest\(n_features, .*\): got an unexpected keyword argument 'size'",
            ),
            (
                {"integration": Largest, "integration_params": {"n_features": 3}},
                r"\): got multiple values for keyword argument 'n_features'",
            ),
        ],
    )
    def test_fit_rejects(self, parameters, message, sets_and_labels):
        with pytest.raises(ValueError, match=message):
            quick(**parameters).fit(*sets_and_labels)


class TestAfterSetParams:
    """A fitted model keeps its network when `integration` is set to something else."""

    @pytest.mark.parametrize("other", [Mean, None])
    def test_pickle_keeps_the_fitted_network(self, other, sets_and_labels):
        X, y = sets_and_labels
        clf = quick(integration=Largest, integration_params={"hidden_size": 3}).fit(X, y)
        expected = clf.predict_proba(X)
        clf.set_params(integration=other, integration_params=None)
        again = pickle.loads(pickle.dumps(clf))
        np.testing.assert_array_equal(again.predict_proba(X), expected)
        assert again.integration is other

    def test_attention_weights_are_those_of_the_fitted_network(self, sets_and_labels):
        X, y = sets_and_labels
        clf = quick(integration=AttentionMIL, integration_params={"hidden_size": 3}).fit(X, y)
        clf.set_params(integration=Mean, integration_params=None)
        assert clf.attention_weights(X)[0].shape == (len(X[0]), 1)
        clf.fit(X, y)
        assert not hasattr(clf, "attention_weights")

    def test_warm_start_rejects_another_integration(self, sets_and_labels):
        X, y = sets_and_labels
        clf = quick(integration=Largest, warm_start=True).fit(X, y)
        with pytest.raises(ValueError, match=r"fitted with .*integration='Largest'"):
            clf.set_params(integration=Mean).fit(X, y)


class Weighted(Mean):
    """The mean, times a vector that is an argument."""

    def __init__(self, n_features, scale):
        super().__init__(n_features)
        self.scale = scale

    def forward(self, values, offsets):
        return super().forward(values, offsets) * torch.as_tensor(self.scale)


def test_partial_fit_compares_arguments_that_are_arrays(sets_and_labels, tmp_path):
    X, y = sets_and_labels
    clf = quick(integration=Weighted, integration_params={"scale": np.arange(4.0)}).fit(X, y)
    joblib.dump(clf, tmp_path / "clf")
    again = joblib.load(tmp_path / "clf").partial_fit(X, y)
    assert have_same_weights(again, clf.partial_fit(X, y))
    with pytest.raises(ValueError, match="cannot change the network"):
        clf.set_params(integration__scale=np.ones(4)).partial_fit(X, y)


class Activated(Mean):
    def __init__(self, n_features, activation):
        super().__init__(n_features)
        self.activation = activation

    def forward(self, values, offsets):
        return super().forward(self.activation(values), offsets)


def test_checkpoint_resumes_with_an_argument_that_is_a_function(sets_and_labels, tmp_path):
    X, y = sets_and_labels

    def make(max_iter):
        # A function at another address, as in another process.
        arguments = {"activation": lambda values: values.relu()}
        return quick(integration=Activated, integration_params=arguments, max_iter=max_iter)

    first = make(2).fit(X, y, checkpoint_dir=tmp_path)
    resumed = make(4).fit(X, y, checkpoint_dir=tmp_path)
    assert resumed.loss_curve_[:2] == first.loss_curve_
    assert have_same_weights(resumed, make(4).fit(X, y))


class WithIntegers(Mean):
    def __init__(self, n_features):
        super().__init__(n_features)
        self.register_buffer("positions", torch.arange(n_features))


class NotPersistent(Mean):
    def __init__(self, n_features):
        super().__init__(n_features)
        self.register_buffer("scale", torch.ones(n_features), persistent=False)


class TooNarrow(Mean):
    def forward(self, values, offsets):
        return super().forward(values, offsets)[:, 1:]


class OfOneSet(Mean):
    def forward(self, values, offsets):
        return super().forward(values, offsets)[:1]


class WithDetails(Mean):
    def forward(self, values, offsets):
        return super().forward(values, offsets), values


@pytest.mark.parametrize(
    ("integration", "message"),
    [
        (WithIntegers, "reset_parameters does not set 'integrations.0.positions'"),
        (NotPersistent, "The buffer 'integrations.0.scale' is not persistent"),
        (TooNarrow, r"TooNarrow.forward returned a result of shape \(32, 3\); .* \(32, 4\)"),
        (OfOneSet, r"OfOneSet.forward returned a result of shape \(1, 4\); expected .* \(32, 4\)"),
        (WithDetails, r"WithDetails.forward returned a result of type tuple; .* \(32, 4\)"),
    ],
)
def test_fit_rejects_mistakes_in_the_integration(integration, message, sets_and_labels):
    with pytest.raises(ValueError, match=message):
        quick(integration=integration).fit(*sets_and_labels)


def test_integration_sets_its_integer_buffers_itself(sets_and_labels):
    class Ordered(WithIntegers):
        def reset_parameters(self, generator=None):
            torch.arange(len(self.positions), out=self.positions)

    clf = quick(integration=Ordered).fit(*sets_and_labels)
    assert clf.network_.integrations[0].positions.tolist() == [0, 1, 2, 3]


def test_integration_is_abstract(sets_and_labels):
    with pytest.raises(TypeError, match="abstract"):
        quick(integration=Integration).fit(*sets_and_labels)


def test_save_rejects_the_fitted_integration(sets_and_labels, tmp_path):
    clf = quick(integration=Mean).fit(*sets_and_labels).set_params(integration=None)
    with pytest.raises(TypeError, match="cannot write the class Mean"):
        clf.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_checkpoint_of_a_slightly_different_array_is_refused(sets_and_labels, tmp_path):
    scale = np.ones(4)
    clf = quick(integration=Weighted, integration_params={"scale": scale})
    clf.fit(*sets_and_labels, checkpoint_dir=tmp_path)
    clf.fit(*sets_and_labels, checkpoint_dir=tmp_path)
    clf.set_params(integration__scale=scale + 1e-12)
    with pytest.raises(ValueError, match="checkpoint of a different fit"):
        clf.fit(*sets_and_labels, checkpoint_dir=tmp_path)
