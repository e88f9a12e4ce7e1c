"""AttentionClusterClassifier: what it learns, and the methods of a fitted model."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from acluster import AttentionClusterClassifier, FeatureSets, MultimodalAttentionClusterClassifier
from acluster.training import OPTIMIZERS
from tests.conftest import make_sets
from tests.estimators.common import have_same_weights, quick

pytestmark = pytest.mark.numerical


@pytest.fixture(scope="module")
def data():
    return make_sets()


@pytest.fixture(scope="module")
def fitted(data):
    """A classifier whose `fit` has converged; tests must not change it."""
    return quick().fit(*data)


class TestFit:
    @pytest.mark.parametrize(
        ("n_classes", "weighting", "shifting"),
        [(2, "fc1", True), (3, "fc1", False), (3, "fc2", True), (2, "fc2", False)],
    )
    def test_fit_generalizes_to_new_items(self, n_classes, weighting, shifting):
        X, y = make_sets(n=150, n_classes=n_classes)
        X_new, y_new = make_sets(n=60, n_classes=n_classes, seed=1)
        options = {"max_iter": 30, "learning_rate": 0.03}
        clf = quick(weighting=weighting, shifting=shifting, **options).fit(X, y)
        assert clf.score(X_new, y_new) >= 0.9

    @pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
    def test_every_optimizer_lowers_the_loss(self, optimizer, data):
        clf = quick(optimizer=optimizer, max_iter=30, learning_rate=0.02).fit(*data)
        assert clf.loss_curve_[-1] < 0.5 * clf.loss_curve_[0]

    def test_attention_beats_average_when_one_local_feature_is_informative(self):
        rng = np.random.default_rng(0)
        y = np.arange(200) % 2
        X = rng.normal(size=(200, 40, 4))
        X[np.arange(200), rng.integers(40, size=200), y] += 6
        X = X - X.mean(axis=1, keepdims=True)  # The average of a set carries no information.
        attention = quick(max_iter=30).fit(X[:150], y[:150]).score(X[150:], y[150:])
        average = quick(max_iter=10, weighting="average").fit(X[:150], y[:150])
        assert attention >= 0.95
        assert average.score(X[150:], y[150:]) <= 0.7

    def test_pyramid_levels_distinguish_the_position_in_a_set(self):
        rng = np.random.default_rng(0)
        y = np.arange(350) % 2
        X = rng.normal(size=(350, 20, 4))
        # The class is the half with the large value; the gap keeps items off the boundary.
        X[np.arange(350), 10 * y + rng.integers(10, size=350), 0] += 10
        options = {"max_iter": 25, "learning_rate": 0.03}
        for sampling in ({}, {"n_local_features": 15}):
            clf = quick(pyramid_levels=2, **options, **sampling).fit(X[:150], y[:150])
            assert clf.score(X[150:], y[150:]) >= 0.95
        assert quick(**options).fit(X[:150], y[:150]).score(X[150:], y[150:]) <= 0.7

    def test_pyramid_levels_rejects_more_parts_than_units(self):
        X, y = make_sets(n=20)
        with pytest.raises(ValueError, match=r"pyramid_levels=4 has 2\^4 - 1 parts"):
            quick(pyramid_levels=4).fit(X, y)

    def test_hidden_features_separate_sets_of_equal_means(self):
        # The classes differ in the distance from the center, which no linear function shows.
        rng = np.random.default_rng(0)
        y = np.arange(200) % 2
        X = rng.normal(size=(200, 1, 2))
        X *= (1 + 2 * y[:, None, None]) / np.linalg.norm(X, axis=2, keepdims=True)
        options = {"max_iter": 60, "learning_rate": 0.03, "shifting": False}
        assert quick(**options).fit(X, y).score(X, y) < 0.75
        assert quick(**options, hidden_features=16).fit(X, y).score(X, y) > 0.95

    def test_n_attended_limits_the_attention(self):
        X, y = make_sets(n=150, n_classes=3)
        X_new, y_new = make_sets(n=60, n_classes=3, seed=1)
        clf = quick(n_attended=2, max_iter=30, learning_rate=0.03).fit(X, y)
        assert clf.score(X_new, y_new) >= 0.9
        for attention in clf.attention_weights(X_new):
            assert ((attention > 0).sum(axis=0) == min(2, len(attention))).all()

    def test_fit_with_an_indicator_predicts_several_labels(self):
        X, y = make_sets(n=200, n_classes=3)
        indicator = np.eye(3, dtype=int)[y]
        indicator[:, 2] = 1 - indicator[:, 2]
        clf = quick(max_iter=30, learning_rate=0.03).fit(X, indicator)
        predicted = clf.predict(X)
        assert predicted.shape == (200, 3)
        assert set(np.unique(predicted)) <= {0, 1}
        assert (predicted == indicator).mean() > 0.95
        probabilities = clf.predict_proba(X)
        assert probabilities.shape == (200, 3)
        np.testing.assert_array_equal(probabilities > 0.5, predicted.astype(bool))
        np.testing.assert_array_equal(clf.classes_, [0, 1, 2])
        assert clf.score(X, indicator) == (predicted == indicator).all(axis=1).mean()

    def test_indicator_with_equal_columns_predicts_like_the_binary_classifier(self, data):
        X, y = data
        options = {"dropout": 0.0, "batch_size": 1000, "max_grad_norm": None, "n_attended": None}
        options["learning_rate_schedule"] = "constant"
        one = quick(**options).fit(X, y)
        two = quick(**options).fit(X, np.c_[y, y])
        # Two copies of the label double the gradient of the attention and keep its direction.
        np.testing.assert_array_equal(one.predict(X), two.predict(X)[:, 0])

    def test_label_columns_of_data_frames_are_matched_by_name(self, data):
        X, y = data
        labels = pd.DataFrame({"a": y, "b": 1 - y, "c": y | (np.arange(len(y)) % 3 == 0)})
        other = labels[["c", "a", "b"]]
        options = {"max_iter": 2, "warm_start": True}
        one, two = (
            quick(**options).fit(X, labels).fit(X, y, X_val=X, y_val=y).partial_fit(X, y)
            for y in (labels, other)
        )
        assert have_same_weights(one, two)
        assert two.label_names_ == ["a", "b", "c"]
        assert two.validation_scores_[2:4] == one.validation_scores_[2:4]
        assert two.score(X, other) == two.score(X, labels) == two.score(X, labels.to_numpy())
        for call in (two.score, two.fit):
            with pytest.raises(ValueError, match=r"label columns \['a', 'b', 'z'\]"):
                call(X, labels.rename(columns={"c": "z"}))

    def test_labels_may_be_strings_of_variable_width(self, data):
        X, y = data
        names = np.array(["cat", "hound"], np.dtypes.StringDType())[y]
        clf = quick(max_iter=1).fit(X, names)
        assert clf.classes_.tolist() == ["cat", "hound"]
        assert clf.score(X, names) == clf.score(X, names.tolist())

    def test_fit_keeps_the_dtype_of_string_labels(self, data):
        X, y = data
        labels = np.array(["wave", "clap"])[y]
        clf = quick(max_iter=30, learning_rate=0.02).fit(X, labels)
        assert clf.classes_.tolist() == ["clap", "wave"]
        assert clf.predict(X).dtype == labels.dtype
        assert clf.score(X, labels) > 0.9

    def test_average_weighting_equals_logistic_regression_on_means(self):
        """With N = 1, no shifting and no dropout, an independent solver finds the same optimum."""
        X, y = make_sets(n=100, gap=2.0)
        X = FeatureSets(X.packed()[0] / 3, X.packed()[1])
        means = np.stack([x.mean(axis=0) for x in X])
        clf = AttentionClusterClassifier(
            cluster_size=1,
            weighting="average",
            shifting=False,
            dropout=0.0,
            learning_rate=0.2,
            max_grad_norm=None,
            batch_size=1000,
            max_iter=400,
            tol=None,
            random_state=0,
        ).fit(X, y)
        exact = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(means, y)
        np.testing.assert_allclose(clf.predict_proba(X), exact.predict_proba(means), atol=1e-4)


class TestFormsOfX:
    @pytest.mark.parametrize("form", ["list", "object", "tensors", "nested", "tuple", "reversed"])
    def test_every_form_of_x_gives_the_same_bits(self, form, data):
        X, y = data
        arrays = list(X)
        as_objects = np.empty(len(arrays), dtype=object)
        as_objects[:] = arrays
        forms = {
            "list": arrays,
            "object": as_objects,
            "tensors": [torch.from_numpy(array.copy()) for array in arrays],
            "nested": [array.tolist() for array in arrays],
            "tuple": tuple(arrays),
            "reversed": FeatureSets(X.packed()[0][:, ::-1].copy()[:, ::-1], X.packed()[1]),
        }
        expected = quick(max_iter=2).fit(X, y)
        assert have_same_weights(quick(max_iter=2).fit(forms[form], y), expected)

    def test_two_dimensional_x_means_sets_of_one_local_feature(self):
        rng = np.random.default_rng(0)
        X, y = rng.normal(size=(40, 3)), np.arange(40) % 2
        flat, sets = quick(max_iter=3).fit(X, y), quick(max_iter=3).fit(X[:, None, :], y)
        assert have_same_weights(flat, sets)
        np.testing.assert_array_equal(flat.predict_proba(X), sets.predict_proba(X[:, None, :]))

    @pytest.mark.parametrize(
        ("dtype_in", "dtype", "dtype_out"),
        [
            (np.float64, "auto", np.float64),
            (np.float32, "auto", np.float32),
            (np.float16, "auto", np.float32),
            (np.uint8, "auto", np.float64),
            (np.float64, "float32", np.float32),
            (np.float32, "float64", np.float64),
        ],
    )
    @pytest.mark.filterwarnings("ignore:The local features of X have a spread")  # as uint8
    def test_dtype_follows_x_or_the_parameter(self, dtype_in, dtype, dtype_out):
        X, y = make_sets(dtype=dtype_in)
        clf = quick(dtype=dtype, max_iter=1).fit(X, y)
        assert clf.transform(X).dtype == dtype_out


class TestPredict:
    @pytest.mark.parametrize("n_classes", [2, 4])
    def test_predict_proba_and_decision_function_agree_with_predict(self, n_classes):
        X, y = make_sets(n_classes=n_classes)
        clf = quick(max_iter=5).fit(X, y)
        logits, probabilities = clf.decision_function(X), clf.predict_proba(X)
        assert logits.shape == ((60,) if n_classes == 2 else (60, n_classes))
        np.testing.assert_allclose(probabilities.sum(axis=1), 1)
        np.testing.assert_array_equal(clf.classes_[probabilities.argmax(1)], clf.predict(X))

    @pytest.mark.parametrize("batch_size", [1, 7, 1000])
    def test_predictions_do_not_depend_on_batch_size(self, batch_size, data):
        X, y = data
        clf = quick(max_iter=10).fit(X, y)
        expected = clf.decision_function(X), clf.transform(X)
        clf.set_params(batch_size=batch_size)
        np.testing.assert_allclose(clf.decision_function(X), expected[0], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(clf.transform(X), expected[1], rtol=1e-10, atol=1e-12)

    def test_predict_ignores_the_order_of_local_features(self, fitted, data):
        X, _ = data
        rng = np.random.default_rng(0)
        changed = [rng.permutation(x) for x in X]
        np.testing.assert_allclose(fitted.predict_proba(changed), fitted.predict_proba(X))

    def test_predict_ignores_repetition_if_units_attend_to_all_local_features(self, data):
        X, y = data
        clf = quick(n_attended=None, max_iter=10).fit(X, y)
        changed = [np.repeat(x, 3, axis=0) for x in X]
        np.testing.assert_allclose(clf.predict_proba(changed), clf.predict_proba(X))


class TestTransform:
    def test_linear_layer_on_the_transform_is_the_decision_function(self, fitted, data):
        X, _ = data
        linear = fitted.network_.linear
        weight, bias = linear.weight.detach().numpy(), linear.bias.detach().numpy()
        expected = fitted.transform(X) @ weight + bias
        np.testing.assert_allclose(fitted.decision_function(X), expected[:, 0])

    def test_transform_returns_named_global_features_of_unit_norm(self, data):
        X, y = data
        clf = quick(cluster_size=3, max_iter=5).fit(X, y)
        g = clf.transform(X)
        np.testing.assert_allclose(np.linalg.norm(g, axis=1), 1)
        names = clf.get_feature_names_out()
        assert names.tolist()[:5] == ["unit0_x0", "unit0_x1", "unit0_x2", "unit0_x3", "unit1_x0"]
        assert len(names) == g.shape[1] == 12
        assert clf.get_feature_names_out(["a", "b", "c", "d"])[4] == "unit1_a"

    def test_hidden_features_follow_the_given_ones_of_each_unit(self, data):
        X, y = data
        clf = quick(cluster_size=3, max_iter=5, hidden_features=2, standardize=True).fit(X, y)
        g, names = clf.transform(X), clf.get_feature_names_out()
        np.testing.assert_allclose(np.linalg.norm(g, axis=1), 1)
        assert len(names) == g.shape[1] == 3 * (4 + 2)
        assert names.tolist()[3:7] == ["unit0_x3", "unit0_hidden0", "unit0_hidden1", "unit1_x0"]
        again = pickle.loads(pickle.dumps(clf))
        np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))


class TestAttentionWeights:
    def test_attention_weights_are_distributions_over_each_set(self, data):
        X, y = data
        clf = quick(weighting="fc2", batch_size=7, max_iter=5).fit(X, y)
        weights = clf.attention_weights(X)
        assert isinstance(weights, FeatureSets)
        np.testing.assert_array_equal(weights.lengths, X.lengths)
        for features, a in zip(X, weights, strict=True):
            assert a.shape == (len(features), 8)
            np.testing.assert_allclose(a.sum(axis=0), 1)

    def test_attention_weights_average_to_the_transform(self, data):
        X, y = data
        clf = quick(shifting=False, max_iter=5, standardize=False).fit(X, y)
        averages = [(a.T @ x).ravel() for x, a in zip(X, clf.attention_weights(X), strict=True)]
        np.testing.assert_allclose(clf.transform(X), averages)

    def test_attention_weights_peak_at_the_informative_local_feature(self):
        X, y = make_sets(n=200)
        clf = quick(max_iter=30).fit(X, y)
        hits = [
            x.max(axis=1).argmax() in a.argmax(axis=0)
            for x, a in zip(X, clf.attention_weights(X), strict=True)
        ]
        assert np.mean(hits) > 0.9


class TestNLocalFeatures:
    def test_training_sees_a_sample_and_prediction_every_local_feature(self, data):
        X, y = data
        clf = quick(n_local_features=2, max_iter=2)
        seen = []

        def remember(module, inputs):
            if type(module).__name__ == "IntegrationNetwork":
                seen.append((module.training, inputs[0][0][1].diff()))

        handle = torch.nn.modules.module.register_module_forward_pre_hook(remember)
        try:
            clf.fit(X, y).predict(X)
        finally:
            handle.remove()
        assert all((lengths <= 2).all() for training, lengths in seen if training)
        assert any((lengths > 2).any() for training, lengths in seen if not training)

    def test_n_local_features_beyond_the_largest_set_changes_nothing(self, data):
        X, y = data
        whole, all_kept = quick(max_iter=3), quick(max_iter=3, n_local_features=100)
        assert have_same_weights(whole.fit(X, y), all_kept.fit(X, y))


@pytest.mark.parametrize(
    "changed",
    [{"batch_size": 0}, {"batch_size": -3}, {"batch_size": 2.5}, {"precision": "half"}],
    ids=str,
)
def test_outputs_reject_parameters_that_were_set_after_fit(changed):
    X, y = make_sets()
    clf = AttentionClusterClassifier(max_iter=1).fit(X, y).set_params(**changed)
    [(name, value)] = changed.items()
    outputs = ["predict", "predict_proba", "decision_function", "transform"]
    for method in [*outputs, "attention_weights", "local_evidence"]:
        with pytest.raises(ValueError, match=rf"'{name}' parameter .* Got {value!r} instead"):
            getattr(clf, method)(X)
    both = {"a": X, "b": X}
    clf = MultimodalAttentionClusterClassifier(max_iter=1).fit(both, y).set_params(**changed)
    with pytest.raises(ValueError, match=rf"'{name}' parameter .* Got {value!r} instead"):
        clf.local_evidence(both)
