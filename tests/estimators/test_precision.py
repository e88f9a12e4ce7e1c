"""`precision="mixed"`: bfloat16 in the operations that gain from it, and only in those."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import ClassVar
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

import acluster
from acluster import (
    AttentionClusterClassifier,
    FeatureSets,
    IntegrationClassifier,
    MultimodalAttentionClusterClassifier,
    rivals,
)
from acluster._utils._model_file import ModelFileError
from acluster._utils._operations import _IN_BFLOAT16, OPERATIONS
from acluster.estimators import _fitting, _precision
from acluster.nn import (
    WEIGHTINGS,
    DropoutLinear,
    Integration,
    IntegrationNetwork,
    ScoreFusionNetwork,
)
from acluster.training import Fit
from acluster.training import _precision as timing
from tests.conftest import make_sets
from tests.mixed_precision import assert_agree_on_equal_weights, assert_both_learn, gains

pytestmark = pytest.mark.numerical

# Matrix products in sequence: those of the weighting function, then the last layer.
N_PRODUCTS = {"average": 1, "fc1": 2, "fc2": 3}

# The operations that gain, for each choice.
CHOICES = {
    (): {"linear": 0.5, "integration": 0.5},
    ("linear",): {"integration": 0.5},
    ("integration",): {"linear": 0.5},
    OPERATIONS: {},
}


@pytest.fixture(params=["float32", "float64"])
def X_y(request):
    return make_sets(n=150, n_classes=3, dtype=np.dtype(request.param).type)


@pytest.fixture
def able():
    """A processor that gains from bfloat16; one that emulates it gives the same, more slowly."""
    with gains():
        yield


def make(precision, **changes):
    # Rounded scores may have another order, so that other local features are attended to.
    parameters = {"cluster_size": 8, "max_iter": 30, "n_attended": None, "learning_rate": 0.01}
    return AttentionClusterClassifier(
        precision=precision, dtype="float32", random_state=0, **{**parameters, **changes}
    )


@pytest.mark.parametrize("weighting", sorted(WEIGHTINGS))
@pytest.mark.parametrize("shifting", [True, False])
def test_mixed_precision_equals_full_up_to_rounding(able, X_y, weighting, shifting):
    X, y = X_y
    clf = make("full", weighting=weighting, shifting=shifting, max_iter=1).fit(X, y)
    assert_agree_on_equal_weights(clf, X, y, n_products=N_PRODUCTS[weighting])


@pytest.mark.parametrize("weighting", sorted(WEIGHTINGS))
@pytest.mark.parametrize("shifting", [True, False])
def test_fit_learns_in_both_precisions(able, X_y, weighting, shifting):
    X, y = X_y
    assert_both_learn(make("full", weighting=weighting, shifting=shifting), X, y, accuracy=0.8)


def test_mixed_precision_keeps_parameters_and_results_in_float32(able):
    X, y = make_sets()
    clf = make("mixed").set_params(dtype="auto").fit(X, y)  # X is float64
    assert {p.dtype for p in clf.network_.parameters()} == {torch.float32}
    assert clf.predict_proba(X).dtype == clf.transform(X).dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(clf.transform(X), axis=1), 1, rtol=1e-6)
    again = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))


def test_predict_uses_weights_changed_in_place(able):
    X, y = make_sets()
    clf = make("mixed", max_iter=2).fit(X, y)
    before = clf.decision_function(X)
    with torch.no_grad():
        clf.network_.linear.weight.mul_(0)
    assert not np.allclose(clf.decision_function(X), before)


def test_validation_scores_and_predict_use_the_latest_weights(able):
    X, y = make_sets()
    clf = make("mixed", max_iter=4).fit(X, y, X_val=X, y_val=y)
    again = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(clf.decision_function(X), again.decision_function(X))
    assert clf.validation_scores_[-1] == clf.score(X, y)


def test_mixed_precision_with_missing_modalities(able):
    X, y = make_sets(n=90, n_classes=3)
    some_missing = [x if i % 4 else x[:0] for i, x in enumerate(X)]
    sets = {"one": list(X), "other": some_missing}
    clf = MultimodalAttentionClusterClassifier(
        cluster_size=4, max_iter=30, tol=None, learning_rate=0.01, missing_modality="mask",
        dtype="float32", modality_dropout=0.2, random_state=0,
    )  # fmt: skip
    assert_both_learn(clf, sets, y, accuracy=0.8)
    clf.set_params(max_iter=1).fit(sets, y)
    assert_agree_on_equal_weights(clf, sets, y, n_products=N_PRODUCTS["fc1"])


def test_mixed_precision_rejects_float64():
    X, y = make_sets()
    message = r"precision='mixed' needs parameters in float32, but these are float64\. Use"
    with pytest.raises(ValueError, match=message):
        make("mixed").set_params(dtype="float64").fit(X, y)
    fitted = make("full", max_iter=1).set_params(dtype="float64").fit(X, y)
    fitted.set_params(precision="mixed", warm_start=True)
    for call in (lambda: fitted.predict(X), lambda: fitted.fit(X, y)):
        with pytest.raises(ValueError, match=message):
            call()


class Mean(Integration):
    """The mean of a linear map of the local features; records what dtype it computes in."""

    dtypes: ClassVar[set[torch.dtype]] = set()

    def __init__(self, n_features):
        super().__init__()
        self.map = torch.nn.Linear(n_features, 5)
        self.global_size = 5

    def forward(self, values, offsets):
        values = self.as_computed(values)
        self.dtypes.add(values.dtype)
        mapped = self.map(values)
        return torch.stack([one.mean(dim=0) for one in mapped.split(offsets.diff().tolist())])


@pytest.fixture
def dtypes(monkeypatch):
    """The dtypes in which a fit or a prediction of `Mean` computes, by operation."""
    found = {"integration": set(), "linear": set()}
    monkeypatch.setattr(Mean, "dtypes", found["integration"])
    cast = DropoutLinear._weight_as

    def record(self, dtype):
        found["linear"].add(dtype)
        return cast(self, dtype)

    monkeypatch.setattr(DropoutLinear, "_weight_as", record)
    return found


def expected_dtypes(chosen):
    return {one: {torch.bfloat16 if one in chosen else torch.float32} for one in OPERATIONS}


def clear(dtypes):
    for found in dtypes.values():
        found.clear()


@pytest.mark.parametrize("chosen", CHOICES)
def test_only_operations_that_gain_run_in_bfloat16(chosen, dtypes):
    X, y = make_sets(dtype=np.float32)
    clf = IntegrationClassifier(
        integration=Mean, precision="mixed", max_iter=2, tol=None, random_state=0
    )
    with gains(**CHOICES[chosen]):
        clf.fit(X, y)
        assert dtypes == expected_dtypes(chosen)
        # Batches of other sizes, and a copy, compute as in `fit`.
        for one, sets in ((clf, X), (clf, X[:24]), (pickle.loads(pickle.dumps(clf)), X)):
            clear(dtypes)
            one.set_params(batch_size=30).predict(sets)
            assert dtypes == expected_dtypes(chosen)
        clear(dtypes)
        clf.transform(X)  # always in full precision
        assert dtypes["integration"] == {torch.float32}


@pytest.mark.parametrize("chosen", CHOICES)
@pytest.mark.parametrize(
    ("lengths", "is_multimodal", "gaining"),
    [
        ([1] * 24, False, OPERATIONS),
        ([11] * 22 + [14], False, ["integration"]),
        ([11] * 22 + [13], False, []),
        ([10] * 22 + [13], True, ["integration"]),  # with one of the other modality for each
        ([10] * 22 + [12], True, []),
        ([256], False, ["integration"]),
    ],
)
def test_predictions_of_few_items_are_in_float32(chosen, lengths, is_multimodal, gaining, dtypes):
    # Casting a weight would take longer than the product of so few rows.
    X, y = make_sets(dtype=np.float32)
    few, _ = make_counts(lengths)
    if is_multimodal:
        X = {"one": X, "other": X}
        few = {"one": few, "other": make_counts([1] * len(lengths))[0]}
    with gains(**CHOICES[chosen]):
        clf = IntegrationClassifier(integration=Mean, precision="mixed", max_iter=1, tol=None)
        clf.fit(X, y)
        clear(dtypes)
        clf.predict(few)
    assert dtypes == expected_dtypes({*chosen} & {*gaining})


def test_score_fusion_runs_its_linear_layer_in_bfloat16(dtypes):
    X, y = make_sets(dtype=np.float32)
    with gains(integration=0.5):
        clf = rivals.AverageClassifier(
            fusion="scores", precision="mixed", max_iter=1, tol=None, random_state=0
        ).fit({"one": X, "other": X}, y)
        assert type(clf.network_) is ScoreFusionNetwork
        assert dtypes["linear"] == {torch.bfloat16}
        clear(dtypes)
        clf.predict({"one": X, "other": X})
        assert dtypes["linear"] == {torch.bfloat16}


@pytest.mark.parametrize("chosen", CHOICES)
def test_logits_equal_a_reference_that_casts_in_the_chosen_operations(chosen):
    X, y = make_sets(dtype=np.float32)
    with gains(**CHOICES[chosen]):
        clf = make("mixed", max_iter=2, shifting=False, standardize=False).fit(X, y)
        found = clf.decision_function(X)

    def product(a, b, operation):
        dtype = torch.bfloat16 if operation in chosen else torch.float32
        return a.to(dtype) @ b.to(dtype)

    network, expected = clf.network_, []
    [cluster] = network.integrations
    for rows in map(torch.from_numpy, map(np.asarray, X)):
        scores = product(rows, cluster.weighting.weight, "integration").softmax(dim=0)
        g = product(scores.T, rows, "integration").flatten()
        logit = product(g[None], network.linear.weight, "linear").float() + network.linear.bias
        expected.append(logit.item())
    # The reference may round to the other neighbour. Full precision is further from bfloat16.
    tolerance = 2e-3 if chosen else 1e-6
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("chosen", CHOICES)
def test_weights_of_fit_equal_steps_under_autocast_of_the_chosen_operations(chosen):
    X, y = make_sets(n=20, dtype=np.float32)
    options = {"max_iter": 3, "batch_size": 20, "dropout": 0.0, "optimizer": "rmsprop"}
    options |= {"learning_rate_schedule": "constant", "tol": None, "standardize": False}
    with gains(**CHOICES[chosen]):
        clf = make("mixed", max_grad_norm=None, **options).fit(X, y)
        network = make("mixed", **{**options, "max_iter": 1, "learning_rate": 1e-30}).fit(X, y)
    network = network.network_.train()
    values = torch.from_numpy(np.concatenate([*X]))
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(X.lengths)]))
    squares = [torch.zeros_like(p) for p in network.parameters()]
    for _ in range(3):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled="integration" in chosen):
            g = network.integrations[0](values, offsets)
        with torch.autocast("cpu", torch.bfloat16, enabled="linear" in chosen):
            logits = network.linear(g)
        targets = torch.from_numpy(y).float()[:, None]
        functional.binary_cross_entropy_with_logits(logits, targets).backward()
        with torch.no_grad():
            for p, square in zip(network.parameters(), squares, strict=True):
                square.mul_(0.99).addcmul_(p.grad, p.grad, value=0.01)
                p -= 0.01 * p.grad / (square.sqrt() + 1e-8)
    for own, other in zip(clf.network_.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


def test_save_and_load_keep_the_operations(tmp_path, monkeypatch):
    X, y = make_sets(dtype=np.float32)
    with gains(integration=0.9):
        clf = make("mixed", max_iter=2).fit(X, y)
        clf.save(tmp_path / "model")
        loaded = acluster.load(tmp_path / "model")
        assert loaded._in_bfloat16 == ("linear",)
        np.testing.assert_array_equal(loaded.decision_function(X), clf.decision_function(X))
        mixed = clf.decision_function(X)
    # Another machine, without bfloat16, does not emulate it.
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    full = clf.set_params(precision="full").decision_function(X)
    np.testing.assert_array_equal(loaded.decision_function(X), full)
    assert not np.array_equal(mixed, full)


@pytest.mark.parametrize("operations", [[1], ["dropout"], ["linear"] * 2])
def test_load_rejects_unknown_operations(operations, tmp_path):
    X, y = make_sets(dtype=np.float32)
    clf = make("mixed", max_iter=1).fit(X, y)
    clf._in_bfloat16 = operations
    clf.save(tmp_path / "model")
    with pytest.raises(ModelFileError, match="operations in bfloat16"):
        acluster.load(tmp_path / "model")


def test_pickle_of_a_model_without_operations_predicts_in_full_precision(able):
    X, y = make_sets(dtype=np.float32)
    clf = make("mixed", max_iter=2).fit(X, y)
    del clf.__dict__["_in_bfloat16"]  # as in pickles of earlier versions
    old = pickle.loads(pickle.dumps(clf))
    full = copy.deepcopy(old).set_params(precision="full")
    np.testing.assert_array_equal(old.decision_function(X), full.decision_function(X))


def test_fit_on_a_processor_without_bfloat16_equals_full_precision(monkeypatch, capsys, X_y):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True})
    monkeypatch.setattr(_precision, "bfloat16_gain", lambda trial: pytest.fail("is measured"))
    monkeypatch.setattr(_fitting, "_MAX_OPERATIONS", 0)
    X, y = X_y
    full, mixed = make("full", max_iter=5).fit(X, y), make("mixed", max_iter=5, verbose=True)
    mixed.fit(X, y)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "precision: float32, because this CPU has no instructions for bfloat16"
    np.testing.assert_array_equal(mixed.predict_proba(X), full.predict_proba(X))


def test_small_networks_take_compiled_steps_in_mixed_precision(capsys):
    pytest.importorskip("numba")
    X, y = make_sets(dtype=np.float32)
    with gains(max_operations=1e8):
        full, mixed = (make(one, max_iter=3).fit(X, y) for one in ("full", "mixed"))
        make("mixed", max_iter=1, verbose=True).fit(X, y)
        assert "compiled steps of a network of this size" in capsys.readouterr().out
        assert mixed._in_bfloat16 == ()
        np.testing.assert_array_equal(mixed.predict_proba(X), full.predict_proba(X))


@pytest.mark.parametrize(
    ("of_operations", "expected"),
    [
        (
            {"linear": 1.93, "integration": 0.77},
            "precision: float32 for weighting and pooling (bfloat16 would take 1.30 times as "
            "long), bfloat16 for the linear layer (1.93 times as fast)",
        ),
        (
            {"linear": 1.05, "integration": 2.5},
            "precision: bfloat16 for weighting and pooling (2.50 times as fast), float32 for the "
            "linear layer (bfloat16 would be 1.05 times as fast)",
        ),
    ],
)
def test_verbose_fit_says_what_is_in_bfloat16(capsys, of_operations, expected):
    X, y = make_sets(dtype=np.float32)
    with gains(**of_operations):
        make("mixed", max_iter=1, verbose=True).fit(X, y)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == expected
    assert shown[1].startswith("epoch 1")
    make("full", max_iter=1, verbose=True).fit(X, y)
    assert "precision" not in capsys.readouterr().out


def test_threads_predict_with_their_own_operations():
    X, y = make_sets(dtype=np.float32)
    models = []
    for of_operations in CHOICES.values():
        with gains(**of_operations):
            models.append(make("mixed", max_iter=2).fit(X, y))
    with gains():
        expected = [clf.decision_function(X) for clf in models]
        assert len({one.tobytes() for one in expected}) == len(models)
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(lambda i: models[i % 4].decision_function(X), range(80))
            for i, one in enumerate(found):
                np.testing.assert_array_equal(one, expected[i % 4])


def test_ensembles_and_warm_starts_choose_too(dtypes):
    X, y = make_sets(dtype=np.float32)
    clf = IntegrationClassifier(
        integration=Mean, precision="mixed", max_iter=1, tol=None, n_members=2, warm_start=True
    )
    with gains(integration=0.5):
        clf.fit(X, y)
        assert dtypes == expected_dtypes(("linear",))
    clear(dtypes)
    with gains(linear=0.5):  # for example, with other items
        clf.fit(X, y)
        assert dtypes == expected_dtypes(("integration",))
        clear(dtypes)
        clf.partial_fit(X, y)
        clf.predict(X)
        assert dtypes == expected_dtypes(("integration",))


def test_a_gpu_runs_all_operations_in_bfloat16_and_its_model_none_on_a_cpu():
    X, y = make_sets(dtype=np.float32)
    clf = make("mixed", max_iter=1).fit(X, y)
    assert _precision.operations_of(clf) == ()
    clf.network_ = clf.network_.to("meta")  # a device that is not a CPU
    assert _precision.operations_of(clf) == OPERATIONS
    assert _precision.operations_of(clf.set_params(precision="full")) == ()


def test_record_keeps_no_operations_of_a_fit_on_a_gpu():
    X, y = make_sets(dtype=np.float32)
    clf = make("mixed", max_iter=1).fit(X, y)
    fit = SimpleNamespace(loss_curve=[1.0], validation_scores=None, in_bfloat16=OPERATIONS)
    clf._record(fit)
    assert clf._in_bfloat16 == OPERATIONS
    clf.network_ = clf.network_.to("meta")  # a device that is not a CPU
    clf._record(fit)
    assert clf._in_bfloat16 == ()


@pytest.mark.parametrize("max_operations", [0, 1e8], ids=["autograd", "could be compiled"])
def test_resumed_fit_keeps_the_operations_of_its_checkpoint(tmp_path, monkeypatch, max_operations):
    X, y = make_sets(dtype=np.float32)
    options = {"max_iter": 6, "early_stopping": True, "validation_fraction": 0.3}
    with gains(integration=0.5):
        whole = make("mixed", **options).fit(X, y)
        with monkeypatch.context() as patch:
            ended, end_epoch = [], Fit.end_epoch

            def end(fit, loss):
                if len(ended) == 3:
                    raise RuntimeError("killed")
                ended.append(end_epoch(fit, loss))

            patch.setattr(Fit, "end_epoch", end)
            with pytest.raises(RuntimeError, match="killed"):
                make("mixed", **options).fit(X, y, checkpoint_dir=tmp_path)
    with gains(max_operations, linear=0.5):  # another measurement, after the cache was deleted
        resumed = make("mixed", **options).fit(X, y, checkpoint_dir=tmp_path)
        assert resumed._in_bfloat16 == ("linear",)
        assert resumed.loss_curve_ == whole.loss_curve_
        assert resumed.validation_scores_ == whole.validation_scores_
        np.testing.assert_array_equal(resumed.decision_function(X), whole.decision_function(X))
        assert resumed.loss_curve_ != make("mixed", **options).fit(X, y).loss_curve_


@pytest.mark.parametrize(
    ("of_checkpoint", "line"),
    [
        ({}, "bfloat16 for weighting and pooling and for the linear layer, as in the checkpoint"),
        ({"integration": 0.5}, "bfloat16 for the linear layer, as in the checkpoint"),
        ({"integration": 0.5, "linear": 0.5}, "float32, as in the checkpoint"),
    ],
    ids=["both", "linear", "none"],
)
def test_resumed_fit_measures_nothing_and_says_what_it_does(
    tmp_path, monkeypatch, capsys, of_checkpoint, line
):
    X, y = make_sets(dtype=np.float32)
    options = {"learning_rate_schedule": "constant", "tol": None}
    with gains(**of_checkpoint):
        first = make("mixed", max_iter=2, **options).fit(X, y, checkpoint_dir=tmp_path)
    with gains(), patch.object(_precision, "bfloat16_gain", lambda _: pytest.fail("is measured")):
        resumed = make("mixed", max_iter=3, verbose=True, **options)
        resumed.fit(X, y, checkpoint_dir=tmp_path)
        assert capsys.readouterr().out.splitlines()[0] == f"precision: {line}"
        assert resumed._in_bfloat16 == first._in_bfloat16
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    make("mixed", max_iter=4, verbose=True, **options).fit(X, y, checkpoint_dir=tmp_path)
    shown = capsys.readouterr().out.splitlines()[0]
    assert shown.startswith("precision: float32, ")
    assert ("no instructions" in shown) == bool(first._in_bfloat16)


def test_resumed_fit_measures_if_its_checkpoint_is_older(tmp_path, monkeypatch):
    X, y = make_sets(dtype=np.float32)
    options = {"learning_rate_schedule": "constant", "tol": None}
    state = Fit.state

    def older_state(fit):
        description, arrays = state(fit)
        del description["in_bfloat16"]
        return description, arrays

    with gains(integration=0.5):
        with monkeypatch.context() as patched:
            patched.setattr(Fit, "state", older_state)
            make("mixed", max_iter=2, **options).fit(X, y, checkpoint_dir=tmp_path)
        resumed = make("mixed", max_iter=3, **options).fit(X, y, checkpoint_dir=tmp_path)
        assert resumed._in_bfloat16 == ("linear",)


def test_fit_in_divided_batches_may_use_bfloat16(monkeypatch, capsys):
    pytest.importorskip("numba")
    X, y = make_sets(dtype=np.float32)
    compiled = []
    monkeypatch.setattr(_fitting, "_compile", lambda *pairs: compiled.append(pairs))
    monkeypatch.setattr(_fitting, "bytes_per_part", lambda network: 300)
    with gains(max_operations=1e8, integration=0.5):
        clf = make("mixed", max_iter=1, verbose=True).fit(X, y)
    assert clf._in_bfloat16 == ("linear",)
    assert "bfloat16 for the linear layer" in capsys.readouterr().out.splitlines()[0]
    assert not compiled


def test_fit_in_full_precision_computes_no_choice(monkeypatch):
    def fail(*arguments, **options):
        pytest.fail("is computed")

    monkeypatch.setattr(_fitting, "choose_operations", fail)
    X, y = make_sets(dtype=np.float32)
    make("full", max_iter=1).fit(X, y)


class Convolution(Mean):
    """The mean of a convolution, which needs at least three local features."""

    def __init__(self, n_features):
        super().__init__(n_features)
        self.map = torch.nn.Conv1d(n_features, 5, 3)

    def forward(self, values, offsets):
        sets = self.as_computed(values).split(offsets.diff().tolist())
        return torch.stack([self.map(one.T).mean(dim=1) for one in sets])


class Counts(Mean):
    """An integration of counts."""

    def forward(self, values, offsets):
        if (values < 0).any():
            raise ValueError("counts must not be\nnegative")
        return super().forward(values, offsets)


class Locked(Mean):
    """An integration that cannot be copied."""

    def __init__(self, n_features):
        super().__init__(n_features)
        self.lock = threading.Lock()


class Broken(Mean):
    """An integration that fails on any data."""

    def forward(self, values, offsets):
        raise RuntimeError("is broken")


@pytest.fixture
def able_processor(monkeypatch, tmp_path):
    """A processor with bfloat16, on which each operation is timed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(timing, "_gains", {})
    monkeypatch.setattr(_fitting, "_MAX_OPERATIONS", 0)
    return tmp_path


def make_counts(lengths):
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 9, (length, 4)).astype(np.float32) for length in lengths]
    return FeatureSets.from_arrays(arrays), np.arange(len(lengths)) % 2


@pytest.mark.parametrize("lengths", [[3, 4, 5, 17] * 6, [3] * 24], ids=["ragged", "equal"])
def test_trials_have_as_many_local_features_as_the_sets_of_the_fit(able_processor, capsys, lengths):
    X, y = make_counts(lengths)
    options = {"max_iter": 1, "tol": None, "verbose": True, "random_state": 0}
    IntegrationClassifier(integration=Convolution, precision="mixed", **options).fit(X, y)
    assert "could not be timed" not in capsys.readouterr().out
    assert len([*able_processor.rglob("*.json")]) == 2


@pytest.mark.parametrize(
    ("integration", "reason"),
    [
        (Counts, "ValueError: counts must not be negative"),
        (Locked, "TypeError: cannot pickle '_thread.lock' object"),
    ],
)
def test_operations_that_cannot_be_timed_stay_in_float32(
    able_processor, capsys, integration, reason
):
    X, y = make_counts([3, 4, 5, 17] * 6)
    options = {"max_iter": 2, "tol": None, "random_state": 0, "standardize": False}
    clf = IntegrationClassifier(
        integration=integration, precision="mixed", verbose=True, **options
    ).fit(X, y)
    shown = capsys.readouterr().out.splitlines()[0]
    start = "precision: float32 for weighting and pooling (bfloat16 could not be timed: "
    assert shown.startswith(f"{start}{reason}), ")
    assert "integration" not in clf._in_bfloat16
    assert len([*able_processor.rglob("*.json")]) == 1  # that of the linear layer
    if "linear" not in clf._in_bfloat16:
        full = IntegrationClassifier(integration=integration, **options).fit(X, y)
        np.testing.assert_array_equal(clf.decision_function(X), full.decision_function(X))


def test_training_raises_the_error_of_an_integration_that_is_wrong(able_processor):
    X, y = make_counts([3, 4] * 6)
    with pytest.raises(RuntimeError, match="is broken"):
        IntegrationClassifier(integration=Broken, precision="mixed").fit(X, y)


def test_trials_use_as_many_threads_as_the_steps(able):
    X, y = make_sets(dtype=np.float32)
    n_outside, found = torch.get_num_threads(), []

    def gain(trial):
        found.append(torch.get_num_threads())
        return 2.0

    torch.set_num_threads(2)
    try:
        with patch.object(_precision, "bfloat16_gain", gain):
            make("mixed", max_iter=1).fit(X, y)
            assert found == [1, 1]  # a small step
            with patch.object(_fitting, "_n_operations", lambda *arguments: 1e9):
                make("mixed", max_iter=1).fit(X, y)
            assert found[2:] == [2, 2]
    finally:
        torch.set_num_threads(n_outside)


def test_trials_begin_without_gradients_as_training_steps_do():
    X, y = make_sets(dtype=np.float32)
    clf = IntegrationClassifier(integration=Mean, max_iter=1, tol=None).fit(X, y)
    gradients, forward = [], Mean.forward

    def recording(self, values, offsets):
        gradients.append(self.map.weight.grad)
        return forward(self, values, offsets)

    lengths = [_precision._Lengths.of(X.lengths, None)]
    with patch.object(Mean, "forward", recording):
        run, backward = _precision._integration(clf, clf.network_, 8, lengths)
        for _ in range(3):
            backward(run())
    assert gradients == [None] * 3


@pytest.mark.parametrize(
    ("parameter", "value"), [("max_grad_norm", None), ("weight_decay", 0.01), ("optimizer", "adam")]
)
def test_trials_of_other_updates_are_measured_separately(parameter, value):
    X, y = make_sets(dtype=np.float32)
    options = {"max_grad_norm": 5.0, "weight_decay": 0.0, "optimizer": "rmsprop"}
    keys = []

    def gain(trial):
        keys.append(trial.key)
        return 2.0

    with gains(), patch.object(_precision, "bfloat16_gain", gain):
        make("mixed", max_iter=1, **options).fit(X, y)
        make("mixed", max_iter=1, **options | {parameter: value}).fit(X, y)
    assert keys[0] == keys[2]  # of the integration, which does not depend on it
    assert keys[1] != keys[3]


class Clock:
    """A clock that moves by as much as an operation takes, in each precision."""

    def __init__(self, monkeypatch, seconds):
        self.now, self.n_measured = 0.0, 0
        self.seconds = seconds
        monkeypatch.setattr(timing, "_now", lambda: self.now)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
        monkeypatch.setattr(timing, "_gains", {})
        monkeypatch.setattr(_fitting, "_MAX_OPERATIONS", 0)
        forward = DropoutLinear.forward
        global_feature = IntegrationNetwork.global_feature

        def linear(module, x, generator=None):
            self.pass_time("linear")
            return forward(module, x, generator)

        def integration(network, sets):
            self.pass_time("integration")
            return global_feature(network, sets)

        monkeypatch.setattr(DropoutLinear, "forward", linear)
        monkeypatch.setattr(IntegrationNetwork, "global_feature", integration)

    def pass_time(self, operation):
        self.n_measured += 1
        self.now += self.seconds[operation][operation in _IN_BFLOAT16.get()]


def test_fit_times_the_operations_of_its_own_network_once(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    clock = Clock(monkeypatch, {"integration": (0.01, 0.02), "linear": (0.03, 0.01)})
    X, y = make_sets(dtype=np.float32)
    state = torch.get_rng_state()
    clf = make("mixed", max_iter=1, verbose=True).fit(X, y)
    assert capsys.readouterr().out.splitlines()[0] == (
        "precision: float32 for weighting and pooling (bfloat16 would take 2.00 times as long), "
        "bfloat16 for the linear layer (3.00 times as fast)"
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in clf.network_.parameters())
    n_first, clock.n_measured = clock.n_measured, 0
    # Later fits, of this process and of others, do not measure again.
    clock.seconds = {"integration": (0.02, 0.01), "linear": (0.01, 0.03)}
    again = make("mixed", max_iter=1).fit(X, y)
    n_of_training, clock.n_measured = clock.n_measured, 0
    monkeypatch.setattr(timing, "_gains", {})
    third = make("mixed", max_iter=1).fit(X, y)
    assert clf._in_bfloat16 == again._in_bfloat16 == third._in_bfloat16 == ("linear",)
    assert clock.n_measured == n_of_training < n_first
    assert len([*tmp_path.rglob("*.json")]) == 2
    # Other sizes are other measurements.
    assert make("mixed", max_iter=1, cluster_size=64).fit(X, y)._in_bfloat16 == ("integration",)


def test_measurement_leaves_the_statistics_of_batch_norm_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    X, y = make_sets(dtype=np.float32)
    options = {"max_iter": 1, "tol": None, "random_state": 0}
    clf = rivals.NetVLADClassifier(precision="mixed", **options)
    full = rivals.NetVLADClassifier(dtype="float32", **options)
    Clock(monkeypatch, {"integration": (1.0, 2.0), "linear": (1.0, 2.0)})
    clf.fit(X, y)
    for own, other in zip(clf.network_.buffers(), full.fit(X, y).network_.buffers(), strict=True):
        assert torch.equal(own, other)
    np.testing.assert_array_equal(clf.predict_proba(X), full.predict_proba(X))


def sizes_of_trial(lengths, n=10_000, width=1000):
    [offsets] = _precision._offsets([Mean(width)], n, [width], [lengths])
    return np.diff(offsets)


@pytest.mark.parametrize("lengths", [(4.0, 4, 4), (4.0, 1, 7), (4.1, 3, 90)])
def test_trials_are_bounded(lengths):
    lengths = _precision._Lengths(*lengths)
    sizes = sizes_of_trial(lengths)
    assert 100 < sizes.sum() <= 1.1 * _precision._MAX_NUMBERS / 1000 * torch.get_num_threads()
    assert sizes.min() == lengths.shortest
    assert sizes.max() <= lengths.longest
    assert (sizes.min() < sizes.max()) == lengths.are_ragged
    assert abs(sizes.mean() - lengths.mean) < 0.3
    assert len(sizes_of_trial(lengths, n=16)) == 16
    # A trial of sets that are too large for a part of a batch has shorter ones.
    huge = _precision._Lengths(*(one * (1 << 20) for one in lengths))
    sizes = sizes_of_trial(huge, n=3)
    assert len(sizes) == 2
    assert sizes.sum() <= 1.1 * _precision._MAX_NUMBERS_OF_TWO / 1000


@given(
    lengths=st.lists(st.integers(0, 3000), min_size=1, max_size=40),
    n_sampled=st.none() | st.integers(1, 50),
    n=st.sampled_from([1, 2, 16, 1024]),
    width=st.sampled_from([1, 30, 2048]),
)
def test_sets_of_a_trial_are_as_long_as_those_of_the_fit(lengths, n_sampled, n, width):
    used = np.array(lengths)[np.array(lengths) > 0]
    used = used if n_sampled is None else np.minimum(used, n_sampled)
    found = _precision._Lengths.of(np.array(lengths), n_sampled)
    sizes = sizes_of_trial(found, n, width)
    assert 1 <= len(sizes) <= n
    shortest, longest = (used.min(), used.max()) if len(used) else (1, 1)
    assert shortest <= sizes.min() <= sizes.max() <= longest
    if len(sizes) > 1:
        assert (sizes.min() < sizes.max()) == (shortest < longest)
