"""LocalFeatureTransformer treats each local feature as one sample; SetLookup finds sets."""

import numpy as np
import pytest
import sklearn
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import StandardScaler

from acluster import FeatureSets, MultimodalFeatureSets
from acluster.preprocessing import LocalFeatureTransformer, SetLookup
from acluster.sets import with_extraction
from tests.conftest import make_sets


def test_fit_transform_equals_transformer_on_packed_rows():
    X, _ = make_sets()
    lifted = LocalFeatureTransformer(PCA(2, random_state=0))
    values, offsets = X.packed()
    expected = PCA(2, random_state=0).fit_transform(values)
    transformed = lifted.fit_transform(X)
    assert isinstance(transformed, FeatureSets)
    np.testing.assert_allclose(transformed.packed()[0], expected)
    np.testing.assert_array_equal(transformed.packed()[1], offsets)
    assert lifted.get_feature_names_out().tolist() == ["pca0", "pca1"]


def test_fit_repeats_labels_for_each_local_feature():
    X, y = make_sets()
    lifted = LocalFeatureTransformer(LinearDiscriminantAnalysis()).fit(X, y)
    expected = LinearDiscriminantAnalysis().fit(X.packed()[0], np.repeat(y, X.lengths))
    np.testing.assert_allclose(lifted.transformer_.coef_, expected.coef_)


def test_fit_does_not_fit_the_given_transformer():
    scaler = StandardScaler()
    LocalFeatureTransformer(scaler).fit(make_sets()[0])
    assert not hasattr(scaler, "mean_")


def test_transform_uses_the_statistics_of_fit():
    X, _ = make_sets()
    lifted = LocalFeatureTransformer(StandardScaler()).fit(X[:40])
    values = X[:40].packed()[0]
    np.testing.assert_allclose(
        lifted.transform(X[40:])[0], (X[40] - values.mean(axis=0)) / values.std(axis=0)
    )


def test_set_params_reaches_the_transformer():
    lifted = LocalFeatureTransformer(PCA(2)).set_params(transformer__n_components=3)
    assert clone(lifted).fit_transform(make_sets()[0]).n_features == 3


class DropsRows(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def transform(self, X):
        return X[::2]


def test_transform_rejects_transformer_that_drops_rows():
    with pytest.raises(ValueError, match="Use a transformer that keeps the number of rows"):
        LocalFeatureTransformer(DropsRows()).fit_transform(make_sets()[0])


@pytest.mark.parametrize("transformer", ["pass_through", PCA, None, {"rgb": "scale"}])
def test_fit_rejects_what_is_no_transformer(transformer):
    X = make_sets()[0]
    given = MultimodalFeatureSets({"rgb": X}) if isinstance(transformer, dict) else X
    with pytest.raises(TypeError, match=r"^transformer=.* is neither a transformer, such as"):
        LocalFeatureTransformer(transformer).fit(given)


def test_fit_rejects_a_dict_of_transformers_for_sets_without_a_name():
    with pytest.raises(ValueError, match=r"modalities \['rgb'\], but X is one modality without"):
        LocalFeatureTransformer({"rgb": PCA(2)}).fit(make_sets()[0])


def test_fit_passes_missing_values_to_an_imputer():
    X = [np.array([[1.0, np.nan], [3.0, 4.0]]), np.array([[5.0, 6.0]])]
    imputed = LocalFeatureTransformer(SimpleImputer()).fit_transform(X)
    np.testing.assert_array_equal(imputed[0], [[1, 5], [3, 4]])


def test_failed_fit_keeps_the_fitted_transformer():
    two = {"rgb": np.ones((3, 2, 2)), "audio": np.zeros((3, 1, 1))}
    lifted = LocalFeatureTransformer(StandardScaler()).fit(two)
    with pytest.raises(ValueError, match="minimum of 1 is required"):
        lifted.fit({"rgb": np.ones((0, 2, 2)), "audio": np.zeros((0, 1, 1))})
    assert lifted.transform(two).names == ["rgb", "audio"]
    assert lifted.fit(np.ones((3, 2, 4))).transform(np.ones((3, 2, 4))).n_features == 4


def test_subclass_may_choose_and_inherits_no_wrapped_output():
    class Plain(LocalFeatureTransformer):
        pass

    class Chosen(LocalFeatureTransformer, auto_wrap_output_keys=None):
        pass

    X, _ = make_sets()
    with sklearn.config_context(transform_output="pandas"):
        for kind in (Plain, Chosen):
            assert isinstance(kind(StandardScaler()).fit(X).transform(X), FeatureSets)


class Clips:
    """A dataset in the form of torch: items by number, here dicts of two modalities."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return {"frames": np.full((2, 2), 1.0 * index), "sounds": np.full((1, 1), 2.0 * index)}


def test_fit_transform_of_a_dataset_of_modalities():
    scaled = LocalFeatureTransformer(StandardScaler()).fit_transform(Clips())
    assert scaled.names == ["frames", "sounds"]
    np.testing.assert_allclose(scaled["sounds"].packed()[0].ravel(), [-(1.5**0.5), 0, 1.5**0.5])


def test_transform_rejects_features_extracted_otherwise():
    rgb, audio = (
        {"view": {"kind": kind}, "backbone": {"module": "a:Net", "weights": "0f"}}
        for kind in ("Frames", "LogMel")
    )
    X, _ = make_sets()
    sets = {"rgb": with_extraction(X, rgb), "audio": with_extraction(X, audio)}
    transformer = LocalFeatureTransformer({"rgb": StandardScaler(), "audio": "passthrough"})
    transformer.fit(MultimodalFeatureSets(sets))
    assert transformer.extraction_ == {"rgb": rgb, "audio": audio}
    assert transformer.transform(MultimodalFeatureSets(sets)).extraction == {
        "rgb": None,
        "audio": audio,
    }
    other = {"view": {"kind": "Frames"}, "backbone": {"module": "a:Net", "weights": "ff"}}
    with pytest.raises(ValueError, match=r"'rgb': .*backbone.weights is 'ff', but in fit .*'0f'"):
        transformer.transform(MultimodalFeatureSets(sets | {"rgb": with_extraction(X, other)}))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("row", [0.5, -1, 60, 1e300])
def test_lookup_rejects_what_is_no_row_number(row):
    X, _ = make_sets(n=60)
    lookup = SetLookup(X).fit([[0], [59]])
    assert lookup.transform(np.array([[3.0], [3.0]])).lengths.tolist() == [len(X[3])] * 2
    with pytest.raises(ValueError, match=r"X\[1\] is .*, which is not a row number; sets has 60"):
        lookup.transform([[3], [row]])
