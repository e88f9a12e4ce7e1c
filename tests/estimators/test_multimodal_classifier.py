"""MultimodalAttentionClusterClassifier: parameters per modality, forms of X, missing modalities."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from acluster import (
    AttentionClusterClassifier,
    FeatureSets,
    MultimodalAttentionClusterClassifier,
    MultimodalFeatureSets,
)
from acluster.nn import AttentionCluster, IntegrationNetwork
from acluster.preprocessing import LocalFeatureTransformer
from tests.conftest import make_sets

pytestmark = pytest.mark.numerical


def make_modalities(n=60, missing=(), seed=0):
    """Return two modalities of different widths; the items in `missing` lack the audio."""
    rgb, y = make_sets(n, seed=seed)
    rng = np.random.default_rng(seed + 1)
    audio = [
        np.empty((0, 3)) if i in missing else rng.normal(size=(rng.integers(2, 7), 3)) + label
        for i, label in enumerate(y)
    ]
    return MultimodalFeatureSets({"rgb": rgb, "audio": FeatureSets.from_arrays(audio)}), y


def make_classifier(**parameters):
    defaults = {"cluster_size": 4, "max_iter": 5, "tol": None, "dropout": 0.0, "random_state": 0}
    return MultimodalAttentionClusterClassifier(**{**defaults, **parameters})


X, y = make_modalities()
MISSING = [0, 1, 7, 20]
X_missing, _ = make_modalities(missing=MISSING)


class TestParametersPerModality:
    @pytest.mark.parametrize("options", [{"n_attended": 2}, {"pyramid_levels": 2}])
    @pytest.mark.parametrize("missing_modality", ["mean", "mask"])
    def test_attention_weights_of_an_absent_modality_are_empty(self, options, missing_modality):
        clf = make_classifier(missing_modality=missing_modality, **options).fit(X_missing, y)
        attention = clf.attention_weights({"rgb": X["rgb"][:3]})
        assert [weights.shape for weights in attention["audio"]] == [(0, 4)] * 3
        assert [len(weights) for weights in attention["rgb"]] == list(X["rgb"].lengths[:3])

    def test_parameters_accept_a_dict_per_modality(self):
        clf = make_classifier(
            cluster_size={"audio": 3, "rgb": 5},
            weighting={"rgb": "fc2", "audio": "average"},
            hidden_size={"rgb": 7, "audio": 1},
            shifting={"rgb": True, "audio": False},
            n_attended={"rgb": 2, "audio": None},
            pyramid_levels={"rgb": 2, "audio": 1},
            hidden_features={"rgb": 0, "audio": 2},
            n_local_features={"rgb": 2, "audio": None},
        ).fit(X, y)
        rgb, audio = clf.network_.integrations
        assert (rgb.n_attended, audio.n_attended) == (2, None)
        assert (rgb.pyramid_levels, audio.pyramid_levels) == (2, 1)
        assert (rgb.cluster_size, audio.cluster_size) == (5, 3)
        assert rgb.hidden is None
        assert audio.hidden.weight.shape == (3, 2)
        names = clf.get_feature_names_out()
        assert len(names) == clf.transform(X).shape[1] == 5 * 4 + 3 * (3 + 2)
        assert list(names[-3:]) == ["audio_unit2_x2", "audio_unit2_hidden0", "audio_unit2_hidden1"]
        assert rgb.weighting.weight2.shape == (5, 7)
        assert rgb.shifting is not None
        assert audio.shifting is None
        assert clf.modalities_ == ["rgb", "audio"]
        assert clf.n_features_in_ == 4 + 3

    def test_grid_search_over_a_dict_per_modality(self):
        grid = {"cluster_size": [1, {"rgb": 8, "audio": 2}]}
        search = GridSearchCV(make_classifier(max_iter=20), grid, cv=3).fit(X, y)
        assert search.best_score_ > 0.8
        assert [p["cluster_size"] for p in search.cv_results_["params"]] == grid["cluster_size"]

    def test_one_modality_equals_attention_cluster_classifier(self):
        clf = make_classifier().fit({"features": X["rgb"]}, y)
        sibling = AttentionClusterClassifier(
            cluster_size=4, max_iter=5, tol=None, dropout=0.0, random_state=0
        ).fit(X["rgb"], y)
        np.testing.assert_array_equal(clf.predict_proba(X["rgb"]), sibling.predict_proba(X["rgb"]))


FORMS = {
    "dict": {"rgb": X["rgb"], "audio": X["audio"]},
    "dict of lists": {"rgb": list(X["rgb"]), "audio": list(X["audio"])},
    "other order": {"audio": X["audio"], "rgb": X["rgb"]},
    "items": list(X),
}


class TestFormsOfX:
    @pytest.mark.parametrize("name", FORMS)
    def test_predict_proba_accepts_every_form_of_x(self, name):
        clf = make_classifier().fit(X, y)
        np.testing.assert_array_equal(clf.predict_proba(FORMS[name]), clf.predict_proba(X))

    def test_none_is_a_missing_modality(self):
        clf = make_classifier().fit(X_missing, y)
        audio = [None if i in MISSING else sets for i, sets in enumerate(X_missing["audio"])]
        with_none = clf.predict_proba({"rgb": X["rgb"], "audio": audio})
        np.testing.assert_array_equal(with_none, clf.predict_proba(X_missing))
        items = [
            {"rgb": a} if b is None else {"rgb": a, "audio": b}
            for a, b in zip(X["rgb"], audio, strict=True)
        ]
        np.testing.assert_array_equal(clf.predict_proba(items), with_none)

    def test_fit_on_a_subset_of_the_modalities(self):
        assert X[["audio"]].names == ["audio"]
        clf = make_classifier().fit(X[["rgb", "audio"]][5:], y[5:])
        assert clf.fit(X[["audio"]], y).modalities_ == ["audio"]

    def test_fit_names_an_item_that_is_not_a_mapping(self):
        with pytest.raises(ValueError, match=r"X\[1\]"):
            make_classifier().fit([{"rgb": np.ones((1, 2))}, None], [0, 1])

    def test_two_dimensional_tables_are_sets_of_one_local_feature(self):
        tables = {"rgb": np.eye(4)[y], "audio": np.eye(3)[y]}
        assert make_classifier(max_iter=100).fit(tables, y).score(tables, y) == 1.0


class TestTransformAndAttention:
    def test_transform_concatenates_the_modalities(self):
        clf = make_classifier(cluster_size={"rgb": 2, "audio": 5}, standardize=False).fit(X, y)
        g = clf.transform(X)
        assert g.shape == (60, 2 * 4 + 5 * 3)
        for columns, name, cluster in (
            (slice(0, 8), "rgb", clf.network_.integrations[0]),
            (slice(8, None), "audio", clf.network_.integrations[1]),
        ):
            values, offsets = map(torch.from_numpy, X[name].packed())
            alone = cluster(values, offsets).detach().numpy()
            np.testing.assert_allclose(g[:, columns], alone, atol=1e-12)
            np.testing.assert_allclose(np.linalg.norm(g[:, columns], axis=1), 1)

    def test_get_feature_names_out_names_modality_unit_and_feature(self):
        clf = make_classifier(cluster_size={"rgb": 1, "audio": 2}).fit(X, y)
        names = clf.get_feature_names_out()
        assert [*names[:4]] == [f"rgb_unit0_x{i}" for i in range(4)]
        assert [*names[4:]] == [f"audio_unit{k}_x{i}" for k in range(2) for i in range(3)]
        named = clf.get_feature_names_out([*"abcdefg"])
        assert (named[3], named[-1]) == ("rgb_unit0_d", "audio_unit1_g")
        table = clf.set_output(transform="pandas").transform(X)
        assert [*table.columns] == [*names]

    def test_attention_weights_sum_to_one_over_present_modalities(self):
        clf = make_classifier(cluster_size={"rgb": 1, "audio": 2}).fit(X_missing, y)
        weights = clf.attention_weights(X_missing)
        for name, n_units in (("rgb", 1), ("audio", 2)):
            np.testing.assert_array_equal(weights.lengths[name], X_missing.lengths[name])
            for a in weights[name]:
                assert a.shape[1] == n_units
                if len(a):
                    np.testing.assert_allclose(a.sum(axis=0), 1)

    def test_pickle_predicts_the_same_bits(self):
        clf = make_classifier().fit(X_missing, y)
        copy = pickle.loads(pickle.dumps(clf))
        np.testing.assert_array_equal(copy.predict_proba(X_missing), clf.predict_proba(X_missing))


class TestMissingModality:
    def test_mean_replaces_a_missing_modality_at_predict(self):
        clf = make_classifier().fit(X_missing, y)
        mean = X_missing["audio"].packed()[0].mean(axis=0)
        np.testing.assert_allclose(clf.feature_means_["audio"], mean)
        audio = [mean[None] if len(x) == 0 else x for x in X_missing["audio"]]
        filled = {"rgb": X["rgb"], "audio": audio}
        np.testing.assert_allclose(clf.predict_proba(X_missing), clf.predict_proba(filled))

    def test_mean_replaces_a_missing_modality_at_fit(self):
        mean = X_missing["audio"].packed()[0].mean(axis=0)
        audio = [mean[None] if len(x) == 0 else x for x in X_missing["audio"]]
        gaps = make_classifier(standardize=False).fit(X_missing, y)
        filled = make_classifier(standardize=False).fit({"rgb": X["rgb"], "audio": audio}, y)
        np.testing.assert_allclose(gaps.loss_curve_, filled.loss_curve_)

    def test_mask_zeroes_the_modality_and_scales_the_others(self):
        clf = make_classifier(missing_modality="mask").fit(X_missing, y)
        assert clf.feature_means_ is None
        g, whole = clf.transform(X_missing), clf.transform(X)
        there = np.setdiff1d(np.arange(60), MISSING)
        np.testing.assert_allclose(g[MISSING, :16], 2 * whole[MISSING, :16])
        assert (g[MISSING, 16:] == 0).all()
        complete = clf.transform(X_missing[there])
        np.testing.assert_array_equal(g[there], complete)

    def test_mask_passes_no_gradient_to_the_missing_cluster(self):
        network = IntegrationNetwork([AttentionCluster(2, 3), AttentionCluster(2, 3)], 1)
        there, gone = torch.tensor([0, 2, 3]), torch.tensor([0, 0, 0])
        sets = [(torch.randn(3, 2), there), (torch.randn(0, 2), gone)]
        network(sets).sum().backward()
        assert network.integrations[0].weighting.weight.grad.abs().sum() > 0
        assert network.integrations[1].weighting.weight.grad is None
        assert network.attention_weights(sets)[1].shape == (0, 3)

    @pytest.mark.parametrize("rule", ["mean", "mask"])
    def test_predict_accepts_x_without_a_modality(self, rule):
        clf = make_classifier(missing_modality=rule).fit(X, y)
        nothing = FeatureSets(np.empty((0, 3)), np.zeros(61, int))
        empty = clf.predict_proba({"rgb": X["rgb"], "audio": nothing})
        np.testing.assert_array_equal(clf.predict_proba({"rgb": X["rgb"]}), empty)

    def test_predict_accepts_a_modality_that_no_item_has(self):
        clf = make_classifier().fit(X, y)
        rgb = list(X["rgb"][:2])
        expected = clf.predict_proba({"rgb": rgb})
        as_objects = np.empty(2, object)
        for none in ([None, None], [np.nan, None], as_objects):
            np.testing.assert_array_equal(clf.predict_proba({"audio": none, "rgb": rgb}), expected)
        items = [{"audio": None, "rgb": rows} for rows in rgb]
        np.testing.assert_array_equal(clf.predict_proba(items), expected)
        with pytest.raises(ValueError, match=r"different numbers of items: .*'audio': 1"):
            clf.predict({"audio": [None], "rgb": rgb})
        with pytest.raises(ValueError, match="'smell': All 2 items are None, so the width"):
            clf.predict({"smell": [None, None], "rgb": rgb})

    def test_partial_fit_updates_the_means(self):
        clf = make_classifier()
        for part in (slice(0, 25), slice(25, 60)):
            clf.partial_fit(X_missing[part], y[part], classes=[0, 1])
        whole = X_missing["audio"].packed()[0].mean(axis=0)
        np.testing.assert_allclose(clf.feature_means_["audio"], whole)

    def test_warm_start_recomputes_the_means_after_a_mask(self):
        clf = make_classifier(warm_start=True).fit(X_missing, y)
        mean = clf.feature_means_["audio"]
        clf.set_params(missing_modality="mask").fit(X_missing, y)
        clf.set_params(missing_modality="mean").fit(X_missing, y)
        np.testing.assert_allclose(clf.feature_means_["audio"], mean)

    def test_modality_dropout_is_reproducible_and_only_for_training(self):
        a = make_classifier(modality_dropout=0.5).fit(X, y)
        b = make_classifier(modality_dropout=0.5).fit(X, y)
        np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X))
        np.testing.assert_array_equal(a.predict_proba(X), a.predict_proba(X))
        assert make_classifier().fit(X, y).loss_curve_ != a.loss_curve_


class TestLocalFeatureTransformer:
    def test_fit_transform_scales_each_modality_by_itself(self):
        scaled = LocalFeatureTransformer(StandardScaler()).fit_transform(X_missing)
        for name in X_missing.names:
            values = scaled[name].packed()[0]
            np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-12)
            np.testing.assert_allclose(values.std(axis=0), 1)
            np.testing.assert_array_equal(scaled[name].lengths, X_missing[name].lengths)

    def test_transformer_may_be_a_dict_with_passthrough(self):
        own = {"rgb": StandardScaler(), "audio": "passthrough"}
        scaled = LocalFeatureTransformer(own).fit_transform(X)
        np.testing.assert_array_equal(scaled["audio"].packed()[0], X["audio"].packed()[0])
        assert abs(scaled["rgb"].packed()[0].mean()) < 1e-12
        with pytest.raises(ValueError, match=r"has the modalities \['rgb'\], but X has"):
            LocalFeatureTransformer({"rgb": StandardScaler()}).fit(X)

    def test_pipeline_predicts_without_a_modality(self):
        model = make_pipeline(LocalFeatureTransformer(StandardScaler()), make_classifier())
        model.fit(X_missing, y)
        assert model.predict({"rgb": X["rgb"]}).shape == (60,)
        names = model[:-1].get_feature_names_out()
        assert [*names] == ["x0", "x1", "x2", "x3", "x0", "x1", "x2"]
