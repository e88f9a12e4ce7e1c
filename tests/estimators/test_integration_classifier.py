"""IntegrationClassifier: a user's integration with searches, stores, checkpoints and pickles."""

import pickle

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from acluster import (
    AttentionClusterClassifier,
    FeatureSets,
    IntegrationClassifier,
    MultimodalFeatureSets,
    save_feature_sets,
)
from acluster.nn import AttentionCluster, Integration
from acluster.nn.integrations import AttentionMIL, Average
from acluster.training import Checkpoint
from tests.conftest import make_sets
from tests.estimators.common import have_same_weights
from tests.estimators.integrations import Largest, Mean
from tests.estimators.test_callbacks import StopAfterThreeEpochs


def make(integration=Largest, **parameters):
    options = {"max_iter": 4, "tol": None, "batch_size": 16, "random_state": 0}
    return IntegrationClassifier(integration=integration, **{**options, **parameters})


def make_modalities():
    """Return two modalities of different widths; every fourth item lacks the second."""
    frames, y = make_sets(dtype=np.float32)
    sounds = [x[: 0 if i % 4 == 0 else None, :2] for i, x in enumerate(frames)]
    return MultimodalFeatureSets({"frames": frames, "sounds": FeatureSets.from_arrays(sounds)}), y


class TestFit:
    def test_fit_learns_with_a_custom_integration(self, sets_and_labels):
        X, y = sets_and_labels
        clf = make(max_iter=40, learning_rate=0.03).fit(X, y)
        assert clf.score(X, y) > 0.9
        assert isinstance(clf.network_.integrations[0], Largest)
        assert clf.transform(X).shape == (60, 8)
        names = clf.get_feature_names_out()
        assert (len(names), names[-1]) == (8, "integrationclassifier7")

    def test_fit_passes_integration_params_to_every_modality(self):
        X, y = make_modalities()
        clf = make(integration_params={"hidden_size": 5, "n_largest": 1}).fit(X, y)
        for integration, width in zip(clf.network_.integrations, (4, 2), strict=True):
            assert (integration.layer.in_features, integration.layer.out_features) == (width, 5)
            assert integration.n_largest == 1

    def test_fit_with_an_attention_cluster_equals_the_classifier_of_the_paper(self):
        X, y = make_sets()
        options = {"max_iter": 4, "random_state": 0}
        cluster = {"cluster_size": 3, "n_attended": 2, "pyramid_levels": 2}
        clf = IntegrationClassifier(
            integration=AttentionCluster,
            integration_params=cluster,
            learning_rate_schedule="cosine",
            **options,
        )
        expected = AttentionClusterClassifier(**cluster, **options).fit(X, y)
        assert have_same_weights(clf.fit(X, y), expected)

    @pytest.mark.parametrize("integration", [Largest, Mean])
    def test_fit_on_modalities_with_missing_ones(self, integration):
        X, y = make_modalities()
        clf = make(integration, max_iter=30, learning_rate=0.03).fit(X, y)
        assert clf.modalities_ == ["frames", "sounds"]
        assert clf.score(X, y) > 0.7
        np.testing.assert_array_equal(
            clf.predict_proba({"frames": X["frames"]}).shape, clf.predict_proba(X).shape
        )
        mean = X["sounds"].packed()[0].mean(axis=0, dtype=np.float64)
        np.testing.assert_allclose(clf.feature_means_["sounds"], mean, rtol=1e-6)

    def test_fit_streams_from_a_store_to_the_same_bits(self, tmp_path):
        X, y = make_modalities()
        save_feature_sets(tmp_path / "store.zarr", X)
        expected = make().fit(X, y)
        streamed = make(cache="stream").fit(tmp_path / "store.zarr", y)
        assert have_same_weights(streamed, expected)
        np.testing.assert_array_equal(
            streamed.predict_proba(tmp_path / "store.zarr"), expected.predict_proba(X)
        )

    def test_fit_resumes_from_a_checkpoint_to_the_same_bits(
        self, tmp_path, monkeypatch, sets_and_labels
    ):
        keep, n_kept = Checkpoint.keep, []

        def keep_and_interrupt(self, *args, **options):
            self._not_before = 0.0
            keep(self, *args, **options)
            n_kept.append(1)
            if len(n_kept) == 2:
                raise InterruptedError

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoint, "keep", keep_and_interrupt)
            with pytest.raises(InterruptedError):
                make().fit(*sets_and_labels, checkpoint_dir=tmp_path)
        resumed = make().fit(*sets_and_labels, checkpoint_dir=tmp_path)
        expected = make().fit(*sets_and_labels)
        assert have_same_weights(resumed, expected)
        assert resumed.loss_curve_ == expected.loss_curve_
        with pytest.raises(ValueError, match="of a different fit"):
            make(integration_params={"hidden_size": 5}).fit(
                *sets_and_labels, checkpoint_dir=tmp_path
            )

    def test_callback_stops_training(self, sets_and_labels):
        clf = make(max_iter=10).set_callbacks(StopAfterThreeEpochs())
        assert clf.fit(*sets_and_labels).n_iter_ == 3

    def test_warm_start_rejects_another_integration(self, sets_and_labels):
        clf = make(warm_start=True).fit(*sets_and_labels)
        with pytest.raises(ValueError, match=r"cannot change the network.*integration="):
            clf.set_params(integration=Mean).fit(*sets_and_labels)

    def test_attention_weights_exist_only_with_attention_units(self, sets_and_labels):
        X, y = sets_and_labels
        assert not hasattr(make(), "attention_weights")
        clf = make(AttentionMIL, integration_params={"hidden_size": 4}).fit(X, y)
        np.testing.assert_array_equal(clf.attention_weights(X).lengths, X.lengths)


class TestParameters:
    def test_get_params_deep_lists_the_integration_params(self):
        clf = make(integration_params={"hidden_size": 5})
        assert clf.get_params()["integration__hidden_size"] == 5
        assert "integration__hidden_size" not in clf.get_params(deep=False)
        assert "integration__hidden_size" not in make().get_params()

    def test_set_params_sets_integration_params_in_a_new_dict(self):
        given = {"hidden_size": 5}
        clf = make(integration_params=given)
        assert clf.set_params(integration__n_largest=1, max_iter=2) is clf
        assert clf.integration_params == {"hidden_size": 5, "n_largest": 1}
        assert clf.max_iter == 2
        assert given == {"hidden_size": 5}
        assert make().set_params(integration__n_largest=1).integration_params == {"n_largest": 1}
        with pytest.raises(ValueError, match="Invalid parameter 'hidden_size'"):
            clf.set_params(hidden_size=5)

    def test_clone_trains_to_the_same_bits(self, sets_and_labels):
        clf = make(integration_params={"hidden_size": 5}, dropout=0.5).fit(*sets_and_labels)
        copy = clone(clf)
        assert copy.integration is Largest
        assert copy.integration_params == clf.integration_params
        assert have_same_weights(copy.fit(*sets_and_labels), clf)

    @pytest.mark.parametrize(
        "grid", [{"integration__n_largest": [1, 3]}, {"integration": [Mean, Average]}], ids=str
    )
    def test_grid_search_cv_over_the_integration(self, grid, sets_and_labels):
        search = GridSearchCV(make(max_iter=2), grid, cv=2, error_score="raise")
        search.fit(*sets_and_labels)
        (name, values), *_ = grid.items()
        assert [params[name] for params in search.cv_results_["params"]] == values
        assert search.best_estimator_.get_params()[name] == search.best_params_[name]


class TestPersistence:
    def test_pickle_and_joblib_predict_the_same_bits(self, tmp_path, sets_and_labels):
        X, y = sets_and_labels
        clf = make(integration_params={"hidden_size": 5}).fit(X, y)
        joblib.dump(clf, tmp_path / "model")
        for copy in (pickle.loads(pickle.dumps(clf)), joblib.load(tmp_path / "model")):
            np.testing.assert_array_equal(copy.predict_proba(X), clf.predict_proba(X))
            assert copy.integration_params == {"hidden_size": 5}

    def test_save_rejects_a_custom_class(self, tmp_path, sets_and_labels):
        clf = make().fit(*sets_and_labels)
        with pytest.raises(TypeError, match="joblib"):
            clf.save(tmp_path / "model")
        assert not (tmp_path / "model").exists()


class Forgetful(Mean):
    """An integration whose `reset_parameters` does not set its parameter."""

    def __init__(self, n_features):
        super().__init__(n_features)
        self.scale = torch.nn.Parameter(torch.ones(n_features))

    def reset_parameters(self, generator=None):
        pass


class TestErrors:
    @pytest.mark.parametrize("integration", [None, torch.nn.Linear, lambda n_features: None])
    def test_fit_rejects_what_is_not_an_integration_class(self, integration, sets_and_labels):
        with pytest.raises(
            ValueError,
            match=r"integration=.* is not a subclass of acluster\.nn\.Integration\. Derive a class",
        ):
            make(integration).fit(*sets_and_labels)

    def test_fit_rejects_an_instance(self, sets_and_labels):
        with pytest.raises(ValueError, match=r"pass the class, not an instance"):
            make(Mean(n_features=4)).fit(*sets_and_labels)

    @pytest.mark.parametrize(
        ("integration_params", "message"),
        [
            ({"n_units": 3}, r"do not fit Largest\(n_features.*unexpected keyword.*'n_units'"),
            ({"n_features": 3}, r"multiple values for keyword argument 'n_features'"),
        ],
    )
    def test_fit_rejects_unknown_integration_params(
        self, integration_params, message, sets_and_labels
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            make(integration_params=integration_params).fit(*sets_and_labels)

    def test_fit_rejects_reset_parameters_that_forgets_a_parameter(self, sets_and_labels):
        with pytest.raises(
            ValueError, match=r"reset_parameters does not set 'integrations\.0\.scale'"
        ):
            make(Forgetful).fit(*sets_and_labels)

    def test_predict_before_fit(self):
        with pytest.raises(NotFittedError):
            make().predict([np.zeros((2, 3))])

    def test_integration_is_abstract(self):
        with pytest.raises(TypeError, match="abstract"):
            Integration()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(
    [
        IntegrationClassifier(
            integration=Average,
            dropout=0.0,
            batch_size=10**6,
            learning_rate=0.1,
            max_iter=20,
            random_state=0,
        )
    ]
)
def test_scikit_learn_check(estimator, check):
    check(estimator)
