"""Classifiers keep how their features were extracted, and reject those made otherwise."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import acluster
from acluster import (
    AttentionClusterClassifier,
    AttentionClusterClassifierCV,
    MultimodalAttentionClusterClassifier,
    MultimodalAttentionClusterClassifierCV,
    MultimodalFeatureSets,
    model_selection,
)
from acluster.rivals import PooledClassifier
from acluster.sets import with_extraction
from tests.conftest import make_sets

RGB = {"view": {"kind": "Frames", "n": 25, "fps": None}, "backbone": "package:rgb"}
AUDIO = {"view": {"kind": "LogMel", "hop": 96}, "backbone": "package:audio"}
OTHER = {"view": {"kind": "Frames", "n": 8, "fps": None}, "backbone": "package:rgb"}
MESSAGE = r"extracted in another way .*: view.n is 8, but in fit it was 25.* Or fit again"


@pytest.fixture(scope="module")
def sets():
    return make_sets(n=20, dtype=np.float32)


def quick(kind=AttentionClusterClassifier, **parameters):
    return kind(max_iter=2, random_state=0, **parameters)


def two(X, rgb=RGB, audio=AUDIO):
    return MultimodalFeatureSets(
        {"rgb": with_extraction(X, rgb), "audio": with_extraction(X, audio)}
    )


@pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function", "transform"])
def test_predictions_reject_features_extracted_otherwise(sets, method):
    X, y = sets
    clf = quick().fit(with_extraction(X, RGB), y)
    assert clf.extraction_ == {"features": RGB}
    expected = getattr(clf, method)(X)  # without a description, X is taken as before
    np.testing.assert_array_equal(getattr(clf, method)(with_extraction(X, RGB)), expected)
    with pytest.raises(ValueError, match=MESSAGE):
        getattr(clf, method)(with_extraction(X, OTHER))


def test_other_calls_reject_features_extracted_otherwise(sets):
    X, y = sets
    known, other = with_extraction(X, RGB), with_extraction(X, OTHER)
    clf = quick(warm_start=True).fit(known, y)
    weights = clf.decision_function(X)
    for call in (
        lambda: clf.score(other, y),
        lambda: clf.attention_weights(other),
        lambda: clf.partial_fit(other, y),
        lambda: clf.fit(other, y),
        lambda: clf.fit(known, y, X_val=other, y_val=y),
    ):
        with pytest.raises(ValueError, match=MESSAGE):
            call()
    np.testing.assert_array_equal(clf.decision_function(X), weights)
    clf.partial_fit(X, y).partial_fit(known, y)
    assert clf.extraction_ == {"features": RGB}
    assert clf.set_params(warm_start=False).fit(other, y).extraction_ == {"features": OTHER}
    assert clf.fit(X, y).extraction_ is None
    clf.predict(other)


def test_validation_items_of_a_first_fit_are_compared(sets):
    X, y = sets
    clf = quick()
    with pytest.raises(ValueError, match=f"In X_val and y_val: .*{MESSAGE}"):
        clf.fit(with_extraction(X, RGB), y, X_val=with_extraction(X, OTHER), y_val=y)
    assert not hasattr(clf, "extraction_")


def test_messages_name_the_modality(sets):
    X, y = sets
    clf = quick(MultimodalAttentionClusterClassifier).fit(two(X), y)
    assert clf.extraction_ == {"rgb": RGB, "audio": AUDIO}
    clf.predict(two(X, rgb=None))
    clf.predict(two(X)[["audio"]])
    with pytest.raises(ValueError, match=rf"In modality 'rgb': .*{MESSAGE}"):
        clf.predict(two(X, rgb=OTHER))
    with pytest.raises(
        ValueError, match=r"In modality 'audio': .*view.kind is 'Frames', .*'LogMel'"
    ):
        clf.predict(two(X, audio=RGB))


def test_extraction_may_be_known_of_some_modalities(sets):
    X, y = sets
    clf = quick(MultimodalAttentionClusterClassifier).fit(two(X, audio=None), y)
    assert clf.extraction_ == {"rgb": RGB, "audio": None}
    clf.predict(two(X))
    with pytest.raises(ValueError, match=MESSAGE):
        clf.predict(two(X, rgb=OTHER))


def test_later_changes_to_the_description_do_not_change_the_classifier(sets):
    X, y = sets
    described = copy.deepcopy(RGB)
    clf = quick().fit(with_extraction(X, described), y)
    described["view"]["n"] = 8
    assert clf.extraction_ == {"features": RGB}


def test_data_frames_with_other_columns_are_compared_too(sets):
    pd = pytest.importorskip("pandas")
    arrays = [pd.DataFrame(x, columns=list("abcd")) for x in sets[0]]
    swapped = [frame[list("badc")] for frame in arrays]
    X, Z = (acluster.FeatureSets.from_arrays(one) for one in (arrays, swapped))
    clf = quick().fit(with_extraction(X, RGB), sets[1])
    clf.predict(with_extraction(Z, RGB))
    with pytest.raises(ValueError, match=MESSAGE):
        clf.predict(with_extraction(Z, OTHER))


@pytest.mark.parametrize(
    "kind",
    [
        AttentionClusterClassifier,
        MultimodalAttentionClusterClassifier,
        AttentionClusterClassifierCV,
        MultimodalAttentionClusterClassifierCV,
    ],
)
def test_extraction_is_saved_and_loaded(sets, tmp_path, kind):
    X, y = sets
    given = two if kind._is_multimodal else with_extraction
    arguments = () if kind._is_multimodal else (RGB,)
    options = {"cv": 2, "n_configurations": 1} if kind.__name__.endswith("CV") else {}
    clf = quick(kind, **options).fit(given(X, *arguments), y)
    clf.save(tmp_path / "model")
    other = two(X, rgb=OTHER) if kind._is_multimodal else with_extraction(X, OTHER)
    for again in (acluster.load(tmp_path / "model"), pickle.loads(pickle.dumps(clf))):
        assert again.extraction_ == clf.extraction_
        again.predict(given(X, *arguments))
        with pytest.raises(ValueError, match=MESSAGE):
            again.predict(other)
    assert not hasattr(clone(clf), "extraction_")


@pytest.mark.parametrize("search", [GridSearchCV, model_selection.GridSearchCV])
def test_searches_keep_the_extraction(sets, search):
    X, y = sets
    found = search(quick(), {"cluster_size": [2, 3]}, cv=2).fit(with_extraction(X, RGB), y)
    assert found.best_estimator_.extraction_ == {"features": RGB}


def test_rivals_compare_the_extraction(sets):
    X, y = sets
    clf = PooledClassifier().fit(with_extraction(X, RGB), y)
    assert clf.extraction_ == {"features": RGB}
    with pytest.raises(ValueError, match=MESSAGE):
        clf.predict(with_extraction(X, OTHER))


def test_a_store_is_compared(sets, tmp_path):
    X, y = sets
    clf = quick().fit(with_extraction(X, RGB), y)
    for name, described in (("same", RGB), ("other", OTHER)):
        acluster.save_feature_sets(tmp_path / name, with_extraction(X, described))
    clf.predict(tmp_path / "same")
    with pytest.raises(ValueError, match=MESSAGE):
        clf.predict(Path(tmp_path / "other"))
