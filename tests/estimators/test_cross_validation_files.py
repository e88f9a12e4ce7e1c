"""Model files and ONNX files of the classifiers that choose for themselves."""

import copy
import json
from itertools import chain

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import KFold
from sklearn.utils import get_tags

import acluster
from acluster import (
    AttentionClusterClassifier,
    AttentionClusterClassifierCV,
    ModelFileError,
    MultimodalAttentionClusterClassifierCV,
)
from acluster.estimators import _cross_validation
from tests.conftest import make_sets
from tests.test_load import changed, read, with_tensor, without, write

KINDS = ["binary", "text", "labels", "modalities"]
FITTED = ("weights_", "oof_proba_", "oof_score_", "n_iter_", "classes_", "n_features_in_")


def fitted(kind):
    """Return items of a kind, and a classifier that was fitted to them."""
    X, y = make_sets(n=36, n_classes=3, dtype=np.float32)
    options = {"cv": 2, "random_state": 0}
    if kind == "modalities":
        sounds = [np.full((1 + i % 3, 2), i, np.float32) if i % 5 else None for i in range(36)]
        X = {"frames": list(X), "sounds": sounds}
        return X, MultimodalAttentionClusterClassifierCV(**options).fit(X, y)
    y = {"binary": y > 0, "labels": np.eye(3, dtype=int)[y]}.get(kind, np.array([*"bac"])[y])
    return X, AttentionClusterClassifierCV(**options).fit(X, y)


@pytest.fixture(scope="module", autouse=True)
def _small_portfolio():
    small = {"cluster_size": 2, "max_iter": 2, "tol": None}
    portfolio = ({**small}, {**small, "n_attended": 2}, {**small, "hidden_features": 2})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cross_validation, "PORTFOLIO", portfolio)
        yield


@pytest.fixture(scope="module")
def fits(_small_portfolio):
    """Items and classifiers of every kind. Of their three configurations, one has no weight."""
    found = {kind: fitted(kind) for kind in KINDS}
    for _, clf in found.values():
        clf.weights_ = np.array([0.3, 0.0, 0.7])
    return found


@pytest.fixture
def model(fits, tmp_path):
    """The path of a model file."""
    fits["text"][1].save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("kind", KINDS)
def test_load_predicts_the_same_bits(fits, tmp_path, kind):
    X, clf = fits[kind]
    clf.save(tmp_path / "model")
    again = acluster.load(tmp_path / "model")
    assert type(again) is type(clf)
    assert again.get_params() == clf.get_params()
    assert vars(again).keys() == vars(clf).keys()
    assert again.portfolio_ == clf.portfolio_
    for name in FITTED:
        assert np.array_equal(getattr(again, name), getattr(clf, name)), name
        assert type(getattr(again, name)) is type(getattr(clf, name)), name
    for method in ("predict_proba", "decision_function", "predict"):
        expected, got = getattr(clf, method)(X), getattr(again, method)(X)
        assert got.dtype == expected.dtype
        assert np.array_equal(got, expected)
    for old, new in zip(chain(*clf.estimators_), chain(*again.estimators_), strict=True):
        assert new.get_params() == old.get_params()
        assert new.loss_curve_ == old.loss_curve_
        assert np.array_equal(new.predict_proba(X), old.predict_proba(X))
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]
    again.save(tmp_path / "again")
    assert read(tmp_path / "again")[0] == read(tmp_path / "model")[0]


def test_load_predicts_items_that_lack_a_modality(fits, tmp_path):
    X, clf = fits["modalities"]
    clf.save(tmp_path / "model")
    again = acluster.load(tmp_path / "model")
    assert again.estimators_[0][1].modalities_ == ["frames", "sounds"]
    frames = {"frames": X["frames"]}
    assert np.array_equal(again.predict_proba(frames), clf.predict_proba(frames))


def test_load_restores_names_of_features_and_labels(tmp_path):
    pd = pytest.importorskip("pandas")
    X, y = make_sets(n=24, n_features=2)
    frames = [pd.DataFrame(rows, columns=["width", "height"]) for rows in X]
    labels = pd.DataFrame({"cat": y, "dog": 1 - y})
    clf = AttentionClusterClassifierCV(cv=2, n_configurations=1, max_iter=1).fit(frames, labels)
    clf.save(tmp_path / "model")
    again = acluster.load(tmp_path / "model")
    assert list(again.feature_names_in_) == ["width", "height"]
    assert again.label_names_ == again.estimators_[0][0].label_names_ == ["cat", "dog"]
    with pytest.raises(ValueError, match="has no column 'width'"):
        again.predict([one.rename(columns={"width": "depth"}) for one in frames])


def test_load_replaces_splitters_and_random_states_by_none(tmp_path):
    X, y = make_sets(n=24, dtype=np.float32)
    options = {
        "cv": KFold(2),
        "random_state": np.random.RandomState(0),
        "class_weight": {0: 1, 1: 2},
    }
    clf = AttentionClusterClassifierCV(**options).fit(X, y)
    clf.save(tmp_path / "model")
    again = acluster.load(tmp_path / "model")
    assert again.get_params() == clf.get_params() | {"cv": None, "random_state": None}
    assert again.fit(X, y).n_iter_.shape == (3, 5)


def test_loaded_model_has_the_same_tags(model):
    assert get_tags(acluster.load(model)) == get_tags(AttentionClusterClassifierCV())


def test_save_rejects_what_load_would_not_find_or_read(fits, tmp_path, monkeypatch):
    with pytest.raises(NotFittedError):
        AttentionClusterClassifierCV().save(tmp_path / "model")
    _, clf = fits["text"]

    class Own(AttentionClusterClassifierCV):
        pass

    own = Own()
    own.__dict__ = clf.__dict__
    with pytest.raises(TypeError, match=r"not one of them.*joblib"):
        own.save(tmp_path / "model")
    monkeypatch.setattr("acluster.estimators._saved_model._MAX_NETWORKS", 5)
    with pytest.raises(ValueError, match=r"at most 5 networks; this model has 6.*joblib"):
        clf.save(tmp_path / "model")
    monkeypatch.undo()
    monkeypatch.setattr("acluster.estimators._saved_model._MAX_INTEGRATIONS", 5)
    with pytest.raises(ValueError, match=r"at most 5 modalities in all; .* have 6\. .*joblib"):
        clf.save(tmp_path / "model")
    monkeypatch.undo()
    monkeypatch.setattr(clf.estimators_[1][0], "max_iter", -1)
    with pytest.raises(ValueError, match="max_iter"):
        clf.save(tmp_path / "model")
    assert not [*tmp_path.iterdir()]


def test_load_refuses_too_many_modalities_in_all(fits, tmp_path, monkeypatch):
    _, clf = fits["text"]
    clf.save(tmp_path / "model")
    monkeypatch.setattr("acluster.estimators._saved_model._MAX_INTEGRATIONS", 5)
    with pytest.raises(ModelFileError, match="more than 5 modalities in all"):
        acluster.load(tmp_path / "model")


# Damaged and hostile files


def with_description(change):
    """Change the description in place."""

    def apply(path):
        description, tensors = read(path)
        change(description)
        write(path, description, tensors)

    return apply


def in_networks(change):
    """Change the description of one network in place."""
    return with_description(lambda description: change(description["networks"][1][1]))


GROUP = "configuration1/fold1"
BIAS = f"{GROUP}/network.linear.bias"
HOSTILE = {
    "no portfolio": without("portfolio"),
    "another portfolio": changed(portfolio=[{}, {}]),
    "a portfolio of unknown parameters": changed(portfolio=[{}, {}, {"more": 1}]),
    "a portfolio of wrong parameters": changed(portfolio=[{}, {}, {"max_iter": -1}]),
    "a portfolio of text": changed(portfolio="abc"),
    "no weights": changed(weights=[]),
    "weights of more configurations": changed(weights=[0.25] * 4),
    "weights of text": changed(weights=["1", "0", "0"]),
    "weights that are negative": changed(weights=[-1.0, 1.0, 1.0]),
    "weights without end": changed(weights=[float("inf"), 0.0, 0.0]),
    "weights of NaN": changed(weights=[float("nan"), 0.0, 1.0]),
    "weights that do not add up to 1": changed(weights=[0.5, 0.25, 0.0]),
    "a score of text": changed(oof_score="1"),
    "no networks": changed(networks=[]),
    "configurations without networks": changed(networks=[[], [], []]),
    "networks as text": changed(networks="abc"),
    "networks as numbers": changed(networks=[1, 2, 3]),
    "networks of numbers": changed(networks=[[1], [2], [3]]),
    "a configuration without a fold": with_description(lambda one: one["networks"][1].pop()),
    "a fold more": with_description(lambda one: [own.append(own[0]) for own in one["networks"]]),
    "a fold less": with_description(lambda one: [own.pop() for own in one["networks"]]),
    "a million networks": changed(networks=[[0] * 300_000] * 3),
    "many networks": with_description(
        lambda one: one.update(networks=[own * 100 for own in one["networks"]])
    ),
    "a parameter of a network": in_networks(lambda one: one["parameters"].update(max_iter=-1)),
    "another width": in_networks(lambda one: one["modalities"]["features"].update(n_features=5)),
    "10^12 units": in_networks(
        lambda one: one["modalities"]["features"].update(cluster_size=10**12)
    ),
    "another dtype": in_networks(lambda one: one.update(dtype="float64")),
    "an older class": changed(**{"class": "AttentionClusterClassifier"}),
    "other modalities": changed(**{"class": "MultimodalAttentionClusterClassifierCV"}),
    "other classes": changed(labels__classes=["a", "b"]),
    "names of other features": changed(feature_names=["x"]),
    "a cv of text": changed(parameters__cv="os.system"),
    "no out-of-fold predictions": with_tensor("oof_proba", None),
    "out-of-fold predictions of other classes": with_tensor("oof_proba", np.zeros((36, 2))),
    "flat out-of-fold predictions": with_tensor("oof_proba", np.zeros(36)),
    "out-of-fold predictions of NaN": with_tensor("oof_proba", np.full((36, 3), np.nan)),
    "one more tensor": with_tensor("more", np.zeros(1)),
    "one more tensor of a network": with_tensor(f"{GROUP}/network.more", np.zeros(1)),
    "one more network": with_tensor("configuration3/fold0/network.more", np.zeros(1)),
    "no tensor": with_tensor(f"{GROUP}/network.linear.weight", None),
    "a tensor of NaN": with_tensor(BIAS, lambda tensors: tensors[BIAS] * np.nan),
}


@pytest.mark.usefixtures("within_limits")
@pytest.mark.parametrize("name", HOSTILE)
def test_load_rejects_hostile_files(model, name):
    HOSTILE[name](model)
    with pytest.raises(ModelFileError, match="model"):
        acluster.load(model)


def test_load_rejects_networks_of_other_features(fits, tmp_path, model):
    X, y = make_sets(n=36, n_features=5, n_classes=3, dtype=np.float32)
    own = fits["text"][1].estimators_[1][1].get_params()
    AttentionClusterClassifier(**own).fit(X, y).save(tmp_path / "other")
    other, others = read(tmp_path / "other")
    description, tensors = read(model)
    description["networks"][1][1] |= {name: other[name] for name in ("modalities", "network")}
    write(model, description, tensors | {f"{GROUP}/{name}": own for name, own in others.items()})
    with pytest.raises(ModelFileError, match="its networks differ in the features"):
        acluster.load(model)


def test_load_rejects_truncated_and_damaged_files(model):
    whole = model.read_bytes()
    for length in np.linspace(0, len(whole) - 1, 20).astype(int):
        model.write_bytes(whole[:length])
        with pytest.raises(ModelFileError):
            acluster.load(model)
    start = 8 + int.from_bytes(whole[:8], "little")
    for number, place in enumerate(np.linspace(start, len(whole) - 1, 40).astype(int)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << number % 8
        model.write_bytes(damaged)
        with pytest.raises(ModelFileError, match="differs from its checksum"):
            acluster.load(model)


# ONNX


@pytest.mark.parametrize("kind", KINDS)
def test_to_onnx_gives_the_probabilities_of_the_ensemble(fits, tmp_path, kind):
    pytest.importorskip("onnxruntime")
    from tests.estimators.test_onnx import onnxruntime, padded, run

    X, clf = fits[kind]
    clf = copy.copy(clf)
    if kind != "text":  # an export takes seconds per network
        clf.weights_ = np.array([0.0, 0.0, 1.0])
    clf.to_onnx(tmp_path / "model.onnx")
    widths = {"frames": 4, "sounds": 2} if kind == "modalities" else {"features": 4}
    sets = X if kind == "modalities" else {"features": list(X)}
    inputs = {name: padded(sets[name], width, 9.0) for name, width in widths.items()}
    got = run(tmp_path / "model.onnx", np.float32, **inputs)
    np.testing.assert_allclose(got, clf.predict_proba(X), atol=1e-5)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == clf.classes_.tolist()


def test_to_onnx_before_fit_raises_not_fitted_error(tmp_path):
    with pytest.raises(NotFittedError):
        AttentionClusterClassifierCV().to_onnx(tmp_path / "model.onnx")
