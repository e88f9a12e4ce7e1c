"""`checkpoint_dir`: a killed fit resumes bit for bit. Ctrl-C: an interrupted fit is usable."""

import json
import multiprocessing
import os
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.calibration import CalibratedClassifierCV
from sklearn.callback import ProgressBar
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

from acluster import (
    AttentionClusterClassifier,
    FeatureSets,
    ModelFileError,
    MultimodalAttentionClusterClassifier,
    MultimodalFeatureSets,
    save_feature_sets,
)
from acluster._utils._model_file import open_model
from acluster.estimators._adoption import identity_of
from acluster.rivals import TSLSTMClassifier
from tests.conftest import before_steps, make_sets

KINDS = {
    "plain": {},
    "sampled": {"n_local_features": 2, "optimizer": "adamw", "weight_decay": 0.01},
    "stopped early": {"early_stopping": True, "tol": 1e-4, "n_iter_no_change": 1000},
    "float32": {"dtype": "float32", "weighting": "fc2"},
    "hidden": {"hidden_features": 5},
    "cosine": {"learning_rate_schedule": "cosine"},
}


def make(max_iter=40, **changes):
    parameters = {"cluster_size": 4, "batch_size": 16, "tol": None, "random_state": 0}
    # With a cosine decay, a fit of other length is another fit.
    parameters |= {"learning_rate_schedule": "constant"} | changes
    return AttentionClusterClassifier(max_iter=max_iter, **parameters)


def bits(clf, X):
    """Return the weights, the probabilities and the curves of a fit."""
    weights = [parameter.detach().numpy() for parameter in clf.network_.parameters()]
    return [*weights, clf.predict_proba(X), clf.loss_curve_, clf.validation_scores_ or []]


def assert_same_bits(clf, other, X):
    for one, another in zip(bits(clf, X), bits(other, X), strict=True):
        assert np.array_equal(one, another)


class Killed(BaseException):
    """Raised in the place of the end of the process."""


def killed_after(n_epochs, monkeypatch):
    """Raise `Killed` once `n_epochs` epochs are in the checkpoint."""
    from acluster.training import _checkpoint

    keep = _checkpoint.Checkpoint.keep
    kept = []

    def keep_and_die(self, *args, **more):
        self._not_before = 0
        keep(self, *args, **more)
        kept.append(1)
        if len(kept) == n_epochs:
            raise Killed

    monkeypatch.setattr(_checkpoint.Checkpoint, "keep", keep_and_die)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fit_resumes_to_the_same_bits(tmp_path, monkeypatch, kind):
    X, y = make_sets()
    whole = make(8, **KINDS[kind]).fit(X, y)
    for n_epochs in (1, 3, 2):
        with monkeypatch.context() as patch:
            killed_after(n_epochs, patch)
            with pytest.raises(Killed):
                make(8, **KINDS[kind]).fit(X, y, checkpoint_dir=tmp_path)
    resumed = make(8, **KINDS[kind]).fit(X, y, checkpoint_dir=tmp_path)
    assert_same_bits(resumed, whole, X)
    assert resumed.n_iter_ == 8


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", [AttentionClusterClassifier, TSLSTMClassifier])
def test_identity_lacks_parameters_that_the_first_checkpoints_do_not_know(kind):
    later = {"n_members": 2, "hidden_features": 2, "learning_rate_schedule": "cosine"}
    later = {name: value for name, value in later.items() if name in kind().get_params()}
    assert not set(later) & set(identity_of(kind(learning_rate_schedule="constant"), {}))
    assert set(later) <= set(identity_of(kind(**later), {}))


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_max_iter_is_in_the_identity_if_the_learning_rate_depends_on_it(schedule):
    identity = identity_of(AttentionClusterClassifier(learning_rate_schedule=schedule), {})
    assert ("max_iter" in identity) == (schedule == "cosine")


def test_fit_resumes_with_its_patience(tmp_path, monkeypatch):
    X, y = make_sets()
    parameters = {"tol": 0.01, "n_iter_no_change": 3, "learning_rate": 0.01}
    whole = make(300, **parameters).fit(X, y)
    assert 5 < whole.n_iter_ < 300
    killed_after(whole.n_iter_ - 2, monkeypatch)
    with pytest.raises(Killed):
        make(300, **parameters).fit(X, y, checkpoint_dir=tmp_path)
    monkeypatch.undo()
    assert_same_bits(make(300, **parameters).fit(X, y, checkpoint_dir=tmp_path), whole, X)


def test_fit_resumes_with_several_modalities_and_buffers(tmp_path, monkeypatch):
    frames, y = make_sets()
    sounds = [np.ones((1 + i % 2, 3)) * i for i in range(60)]
    sounds[0] = np.empty((0, 3))
    lengths = [len(sound) for sound in sounds]
    sounds = FeatureSets(np.concatenate(sounds) / 30, np.cumsum([0, *lengths]))
    X = MultimodalFeatureSets({"frames": frames, "a.b": sounds})
    for kind, parameters in (
        (MultimodalAttentionClusterClassifier, {"modality_dropout": 0.3}),
        (TSLSTMClassifier, {"hidden_size": 4}),
    ):
        clf = kind(max_iter=5, tol=None, random_state=0, batch_size=16, **parameters)
        whole = kind(**clf.get_params()).fit(X, y)
        with monkeypatch.context() as patch:
            killed_after(2, patch)
            with pytest.raises(Killed):
                clf.fit(X, y, checkpoint_dir=tmp_path / kind.__name__)
        assert_same_bits(clf.fit(X, y, checkpoint_dir=tmp_path / kind.__name__), whole, X)


def fit_and_report(folder, n_epochs):
    torch.set_num_threads(1)
    X, y = make_sets()
    (folder / "begun").touch()
    clf = make(n_epochs, n_local_features=2, early_stopping=True)
    np.savez(folder / "bits.npz", *bits(clf.fit(X, y, checkpoint_dir=folder), X))


def n_kept(folder):
    """Return the number of epochs in the checkpoint."""
    path = folder / "fit.checkpoint"
    if not path.exists():
        return 0
    with open_model(path) as (description, _):
        return len(description["loss_curve"])


def test_fit_resumes_after_sigkill_to_the_same_bits(tmp_path):
    context = multiprocessing.get_context("forkserver")
    rng = np.random.default_rng(0)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()

    def begin(folder, n_epochs):
        (folder / "begun").unlink(missing_ok=True)
        process = context.Process(target=fit_and_report, args=(folder, n_epochs))
        process.start()
        while not (folder / "begun").exists():
            assert process.is_alive()
            time.sleep(0.001)
        return process

    for number in range(4):
        before = n_kept(killed)
        process = begin(killed, 10**6)
        while number % 2 and n_kept(killed) == before:  # Even ones may be killed before it.
            assert process.is_alive()
            time.sleep(0.001)
        process.join(rng.uniform(0, 0.2))
        process.kill()
        process.join()
        assert n_kept(killed) >= before + number % 2
    n_epochs = n_kept(killed) + 10
    # Both run in forked children, which compute without Numba's kernels.
    for folder in (killed, whole):
        begin(folder, n_epochs).join()
    resumed, expected = (np.load(folder / "bits.npz") for folder in (killed, whole))
    assert len(expected) > 5
    assert all(np.array_equal(resumed[name], expected[name]) for name in expected)
    assert sorted(os.listdir(killed)) == ["begun", "bits.npz", "fit.checkpoint"]


def test_fit_with_a_finished_checkpoint_returns_at_once_or_continues(tmp_path, monkeypatch):
    X, y = make_sets()
    first = make(5).fit(X, y, checkpoint_dir=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("acluster.training._members.run_epoch", lambda *_: pytest.fail("trains"))
        assert_same_bits(make(5).fit(X, y, checkpoint_dir=tmp_path), first, X)
    longer = make(9).fit(X, y, checkpoint_dir=tmp_path)
    assert_same_bits(longer, make(9).fit(X, y), X)


def test_fit_on_a_store_resumes_to_the_same_bits(tmp_path, monkeypatch):
    X, y = make_sets(dtype=np.float32)
    save_feature_sets(tmp_path / "store.zarr", X)
    with monkeypatch.context() as patch:
        killed_after(2, patch)
        with pytest.raises(Killed):
            make(4).fit(tmp_path / "store.zarr", y, checkpoint_dir=tmp_path / "run")
    resumed = make(4).fit(tmp_path / "store.zarr", y, checkpoint_dir=tmp_path / "run")
    assert_same_bits(resumed, make(4).fit(X, y), X)


def test_fit_rejects_the_checkpoint_of_another_fit(tmp_path):
    X, y = make_sets()
    make(2).fit(X, y, checkpoint_dir=tmp_path)
    before = (tmp_path / "fit.checkpoint").read_bytes()
    for clf, data, message in (
        (make(2, learning_rate=0.1), (X, y), r"learning_rate was '0.01', now '0.1'"),
        (make(2, random_state=1), (X, y), r"random_state was '0', now '1'"),
        (make(2), (X, 1 - y), r"data was"),
        (make(2), (X[1:], y[1:]), r"data was"),
        (make(2), (FeatureSets.from_arrays([2 * x for x in X]), y), r"data was"),
        (make(2), (FeatureSets.from_arrays([*X[:57], 2 * X[57], *X[58:]]), y), r"data was"),
    ):
        with pytest.raises(ValueError, match=rf"(?s)of a different fit: {message}.*or delete that"):
            clf.fit(*data, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match=r"validation data was unset, now"):
        make(2).fit(X, y, X_val=X, y_val=y, checkpoint_dir=tmp_path)
    assert (tmp_path / "fit.checkpoint").read_bytes() == before


@pytest.mark.usefixtures("within_limits")
def test_fit_rejects_a_damaged_checkpoint(tmp_path):
    X, y = make_sets()
    clf = make(2).fit(X, y, checkpoint_dir=tmp_path)
    whole = (tmp_path / "fit.checkpoint").read_bytes()
    (tmp_path / "fit.checkpoint").write_bytes(whole[:-10])
    with pytest.raises(ModelFileError, match=r"fit.checkpoint is not a model file, or is damaged"):
        clf.fit(X, y, checkpoint_dir=tmp_path)
    for broken in (b"patience", b"trainer.network.linear/bias", b"trainer.generator"):
        assert broken in whole
        (tmp_path / "fit.checkpoint").write_bytes(whole.replace(broken, b"x" * len(broken)))
        with pytest.raises(ModelFileError, match=r"fit.checkpoint is (a )?damaged"):
            clf.fit(X, y, checkpoint_dir=tmp_path)
    clf.save(tmp_path / "fit.checkpoint")
    with pytest.raises(ModelFileError, match=r"is a model file, not a checkpoint"):
        clf.fit(X, y, checkpoint_dir=tmp_path)


def rewritten(path, change):
    """Rewrite a checkpoint without its checksums, as somebody who means harm would."""
    with safe_open(path, "np") as file:
        description = json.loads(file.metadata()["acluster"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(description, tensors)
    save_file(tensors, path, metadata={"acluster": json.dumps(description)})


def of_random_state(i, value):
    return lambda description, _: description["random_state"].__setitem__(i, value)


def of_description(name, value):
    return lambda description, _: description.__setitem__(name, value)


def of_tensor(name, value):
    return lambda _, tensors: tensors.__setitem__(name, value(tensors[name]))


NETWORK, MOMENTS = "trainer.network.linear/weight", "trainer.optimizer.0.square_mean"
DAMAGED = {
    **{f"position {n}": of_random_state(2, n) for n in (625, 10**5, -1, 10**8, 2**31, 2**70)},
    "position 1.5": of_random_state(2, 1.5),
    "position true": of_random_state(2, True),
    "position text": of_random_state(2, "1"),
    "another generator": of_random_state(0, "PCG64"),
    "a short key": of_random_state(1, [1] * 623),
    "a long key": of_random_state(1, [1] * 625),
    "a key of zeros": of_random_state(1, [0] * 624),
    "a key of wide numbers": of_random_state(1, [2**32] * 624),
    "a key of negative numbers": of_random_state(1, [-1] * 624),
    "a key of floats": of_random_state(1, [0.5] * 624),
    "a gauss that is NaN": of_random_state(4, float("nan")),
    "two gauss": of_random_state(3, 2),
    "no random state": of_description("random_state", None),
    "a random state without its end": of_description("random_state", ["MT19937"]),
    "a curve of text": of_description("loss_curve", "12"),
    "an empty curve": of_description("loss_curve", []),
    "a curve of NaN": of_description("loss_curve", [float("nan")] * 2),
    "a curve of infinity": of_description("loss_curve", [float("inf")] * 2),
    "a curve of integers": of_description("loss_curve", [1, 2]),
    "a curve of lists": of_description("loss_curve", [[1.0], [2.0]]),
    "a curve of other numbers": of_description("loss_curve", [0.1, 0.2]),
    "scores of other epochs": of_description("validation_scores", [0.5]),
    "scores of text": of_description("validation_scores", "no"),
    "another patience": of_description("patience", [0.0, 0]),
    "a patience of text": of_description("patience", "ab"),
    "stopped is text": of_description("stopped", "no"),
    "unknown operations": of_description("in_bfloat16", ["dropout"]),
    "operations are text": of_description("in_bfloat16", "linear"),
    "no patience": lambda description, _: description.pop("patience"),
    "an identity of numbers": lambda description, _: description["identity"].update(dtype=1),
    "weights of another shape": of_tensor(NETWORK, lambda w: w[:, :0].copy()),
    "weights that would be broadcast": of_tensor(MOMENTS, lambda w: w[:1].copy()),
    "weights of another dtype": of_tensor(NETWORK, lambda w: w.astype("f4")),
    "weights of NaN": of_tensor(NETWORK, lambda w: w * np.nan),
    "a moment of infinity": of_tensor(MOMENTS, lambda w: w + np.inf),
    "a negative moment": of_tensor(MOMENTS, lambda w: -w - 1),
    "a negative step": of_tensor("trainer.optimizer.0.step", lambda step: np.asarray(-step)),
    "no step": lambda _, tensors: tensors.pop("trainer.optimizer.0.step"),
    "a generator of other numbers": of_tensor("trainer.generator", lambda state: state + 256),
    "a generator of zeros": of_tensor("trainer.generator", lambda state: state * 0),
    "a short generator": of_tensor("trainer.generator", lambda state: state[:-8].copy()),
    "one more moment": lambda _, t: t.update({"trainer.optimizer.9.step": np.ones(())}),
    "best weights": lambda _, t: t.update({"best.linear/weight": t[NETWORK].copy()}),
    "a name that clashes": lambda _, t: t.update({NETWORK + ".more": np.ones(1)}),
}


@pytest.fixture(scope="module")
def checkpoint_of_two_epochs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    make(2).fit(*make_sets(), checkpoint_dir=folder)
    return (folder / "fit.checkpoint").read_bytes()


@pytest.mark.usefixtures("within_limits")
@pytest.mark.parametrize("name", DAMAGED)
def test_fit_rejects_checkpoint_values_that_it_never_writes(
    tmp_path, checkpoint_of_two_epochs, name
):
    path = tmp_path / "fit.checkpoint"
    path.write_bytes(checkpoint_of_two_epochs)
    rewritten(path, DAMAGED[name])
    with pytest.raises(ModelFileError, match=r"fit.checkpoint is a damaged checkpoint"):
        make(3).fit(*make_sets(), checkpoint_dir=tmp_path)


def test_fit_resumes_checkpoints_without_checksums(tmp_path, checkpoint_of_two_epochs):
    X, y = make_sets()
    (tmp_path / "fit.checkpoint").write_bytes(checkpoint_of_two_epochs)
    rewritten(tmp_path / "fit.checkpoint", lambda *_: None)
    assert_same_bits(make(4).fit(X, y, checkpoint_dir=tmp_path), make(4).fit(X, y), X)


def test_fit_rejects_an_early_stopping_checkpoint_without_its_best_weights(tmp_path):
    X, y = make_sets()
    options = {"early_stopping": True, "validation_fraction": 0.5}
    make(2, **options).fit(X, y, checkpoint_dir=tmp_path)
    rewritten(tmp_path / "fit.checkpoint", lambda _, tensors: tensors.pop("best.linear/bias"))
    with pytest.raises(ModelFileError, match=r"'best.linear/bias' is missing"):
        make(3, **options).fit(X, y, checkpoint_dir=tmp_path)


def test_fit_rejects_a_checkpoint_with_a_flipped_bit(tmp_path, checkpoint_of_two_epochs):
    X, y = make_sets()
    rng = np.random.default_rng(0)
    content = np.frombuffer(checkpoint_of_two_epochs, np.uint8)
    start = 8 + int.from_bytes(checkpoint_of_two_epochs[:8], "little")
    numbers = checkpoint_of_two_epochs.index(b"loss_curve")
    for place in [*rng.integers(start, len(content), 20), *range(numbers, numbers + 60, 5)]:
        flipped = content.copy()
        flipped[place] ^= 1
        (tmp_path / "fit.checkpoint").write_bytes(flipped.tobytes())
        with pytest.raises(ModelFileError, match=r"checksum|damaged"):
            make(3).fit(X, y, checkpoint_dir=tmp_path)


def test_checkpoint_dir_requires_an_int_seed_and_no_warm_start(tmp_path):
    X, y = make_sets()
    with pytest.raises(ValueError, match=r"needs an int as random_state.*it is None"):
        make(random_state=None).fit(X, y, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match=r"cannot be combined with warm_start=True"):
        make(warm_start=True).fit(X, y, checkpoint_dir=tmp_path)
    assert not os.listdir(tmp_path)


def test_checkpoints_take_a_small_share_of_the_time(tmp_path, monkeypatch):
    from acluster.training import _checkpoint, _members

    seconds, written_after = [0], []
    run_epoch, write = _members.run_epoch, _checkpoint.write_model

    def run_epoch_in_a_second(*args):
        seconds[0] += 1
        return run_epoch(*args)

    def write_in_a_second(path, description, tensors):
        seconds[0] += 1
        written_after.append(len(description["loss_curve"]))
        write(path, description, tensors)

    monkeypatch.setattr(_members, "run_epoch", run_epoch_in_a_second)
    monkeypatch.setattr(_checkpoint, "write_model", write_in_a_second)
    # A clock of its own: under load, a real one would let the checkpoint be written less often.
    monkeypatch.setattr(_checkpoint, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    X, y = make_sets()
    make(50).fit(X, y, checkpoint_dir=tmp_path)
    assert written_after == [1, 11, 21, 31, 41, 50]  # A tenth of the time, and the last epoch.


class StopInEpoch3:
    """A callback that stops the training in the third epoch."""

    max_propagation_depth = 0
    requires_fit_info = ()

    def setup(self, *args, **kwargs):
        self.n_epochs = 0

    teardown = on_fit_task_begin = lambda self, *args, **kwargs: None

    def on_fit_task_end(self, *args, **kwargs):
        self.n_epochs += 1
        return self.n_epochs == 3


def interrupted_in(epoch, monkeypatch):
    n_steps = []

    def interrupt(networks):
        n_steps.append(1)
        if len(n_steps) == 4 * epoch - 1:  # There are four batches in an epoch.
            raise KeyboardInterrupt

    monkeypatch.setattr("acluster.training._batches._BYTES_TOGETHER", 0)  # a batch at a time
    before_steps(interrupt, monkeypatch)


@pytest.mark.parametrize("callbacks", [[], [ProgressBar()]])
def test_keyboard_interrupt_keeps_the_epochs_so_far(monkeypatch, callbacks):
    X, y = make_sets()
    clf = make(100, warm_start=True)
    if callbacks:
        clf.set_callbacks(*callbacks)
    with monkeypatch.context() as patch:
        interrupted_in(5, patch)
        with pytest.raises(KeyboardInterrupt, match=r"after 4 epochs.*With checkpoint_dir") as seen:
            clf.fit(X, y)
    assert type(seen.value) is KeyboardInterrupt  # for a subclass, Python would exit with 1
    assert clf.n_iter_ == len(clf.loss_curve_) == 4
    assert clf.predict_proba(X).shape == (60, 2)
    assert clf.set_params(max_iter=2).fit(X, y).n_iter_ == 6


def test_keyboard_interrupt_restores_the_best_epoch(monkeypatch):
    X, y = make_sets()
    clf = make(100, early_stopping=True, validation_fraction=0.2)
    interrupted_in(4, monkeypatch)
    with pytest.raises(KeyboardInterrupt, match="interrupted"):
        clf.fit(X, y, X_val=X, y_val=y)
    assert clf.score(X, y) == clf.best_validation_score_


class InterruptsEnd(StopInEpoch3):
    """A callback during whose last call the user presses Ctrl-C."""

    def on_fit_task_end(self, estimator, context, **data):
        if context.task_name == "fit":
            raise KeyboardInterrupt
        return False


def test_keyboard_interrupt_after_the_last_epoch_keeps_the_fit():
    X, y = make_sets()
    clf = make(3).set_callbacks(InterruptsEnd())
    with pytest.raises(KeyboardInterrupt, match="after 3 epochs"):
        clf.fit(X, y)
    assert_same_bits(clf, make(3).fit(X, y), X)


def test_keyboard_interrupt_drops_weights_that_are_not_finite(monkeypatch):
    X, y = make_sets()
    clf = make(9)

    def interrupt(networks):
        with torch.no_grad():
            next(networks[0].parameters()).fill_(torch.nan)
        raise KeyboardInterrupt

    clf.set_callbacks(CallsInEpoch2(lambda: before_steps(interrupt, monkeypatch)))
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, y)
    assert not hasattr(clf, "network_")


class CallsInEpoch2(StopInEpoch3):
    """A callback that calls a function after the second epoch."""

    def __init__(self, function):
        self.function = function

    def on_fit_task_end(self, *args, **kwargs):
        self.n_epochs += 1
        if self.n_epochs == 2:
            self.function()
        return False


@pytest.mark.parametrize(
    "run",
    [
        lambda clf, X, y: cross_val_score(clf, X, y, cv=2),
        lambda clf, X, y: GridSearchCV(clf, {"dropout": [0.0, 0.5]}, cv=2).fit(X, y),
        lambda clf, X, y: GridSearchCV(make_pipeline(clf), {}, cv=2).fit(X, y),
        lambda clf, X, y: CalibratedClassifierCV(clf, cv=2).fit(X, y),
        lambda clf, X, y: StackingClassifier([("a", clf), ("b", clf)], cv=2).fit(X, y),
        lambda clf, X, y: VotingClassifier([("a", clf), ("b", clf)]).fit(X, y),
        lambda clf, X, y: make_pipeline(clf).fit(X, y),
    ],
)
def test_keyboard_interrupt_ends_what_runs_the_fit(monkeypatch, run):
    from acluster.training import _members

    X, y = make_sets()
    n_epochs, run_epoch = [], _members.run_epoch

    def interrupt(fits):
        n_epochs.append(1)
        if len(n_epochs) == 3:
            raise KeyboardInterrupt
        return run_epoch(fits)

    monkeypatch.setattr(_members, "run_epoch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(make(9), X, y)
    assert len(n_epochs) == 3  # no other fit began


def test_keyboard_interrupt_in_the_first_epoch_leaves_nothing_fitted(monkeypatch):
    X, y = make_sets()
    clf = make()
    interrupted_in(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, y)
    assert not hasattr(clf, "network_")


def test_fit_rejects_a_checkpoint_of_more_epochs_than_max_iter(tmp_path):
    X, y = make_sets()
    make(5).fit(X, y, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match=r"fit.checkpoint has 5 epochs, but max_iter=3"):
        make(3).fit(X, y, checkpoint_dir=tmp_path)


class NotesEpochs(StopInEpoch3):
    """A callback that notes the epochs that an estimator has had before each one."""

    def __init__(self):
        self.n_iter = []

    def on_fit_task_begin(self, estimator, context):
        if context.task_name == "epoch":
            self.n_iter.append((estimator.n_iter_, len(estimator.loss_curve_)))

    def on_fit_task_end(self, estimator, context):
        return False


def test_callbacks_of_a_resumed_fit_see_the_epochs_before(tmp_path):
    X, y = make_sets()
    make(2).fit(X, y, checkpoint_dir=tmp_path)
    callback = NotesEpochs()
    make(4).set_callbacks(callback).fit(X, y, checkpoint_dir=tmp_path)
    assert callback.n_iter == [(2, 2), (3, 3)]


def test_checkpoint_keeps_the_stop_by_a_callback(tmp_path):
    X, y = make_sets()
    first = make(9).set_callbacks(StopInEpoch3()).fit(X, y, checkpoint_dir=tmp_path)
    assert first.n_iter_ == 3
    again = make(9).set_callbacks(StopInEpoch3()).fit(X, y, checkpoint_dir=tmp_path)
    assert_same_bits(again, first, X)


def test_checkpoint_matches_parameters_of_numpy_types(tmp_path):
    X, y = make_sets()
    make(2, learning_rate=0.01, random_state=0).fit(X, y, checkpoint_dir=tmp_path)
    clf = make(2, learning_rate=np.float64(0.01), random_state=np.int64(0))
    assert clf.fit(X, y, checkpoint_dir=tmp_path).n_iter_ == 2


def test_fit_continues_if_the_disk_is_full(tmp_path, monkeypatch):
    def full(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr("acluster.training._checkpoint.write_model", full)
    X, y = make_sets()
    with pytest.warns(UserWarning, match=r"could not be written.*no space left") as warned:
        clf = make(3).fit(X, y, checkpoint_dir=tmp_path)
    assert warned[0].filename == __file__
    assert_same_bits(clf, make(3).fit(X, y), X)


def test_fit_removes_temporary_files_of_dead_processes_only(tmp_path):
    X, y = make_sets()
    (tmp_path / f".fit.checkpoint.{os.getppid()}.abc.tmp").touch()
    (
        tmp_path / f".fit.checkpoint.{os.getpid()}.abc.tmp"
    ).touch()  # In a container, of a process before.
    (tmp_path / ".fit.checkpoint.999999999.abc.tmp").touch()
    make(2).fit(X, y, checkpoint_dir=tmp_path)
    assert sorted(os.listdir(tmp_path)) == [
        f".fit.checkpoint.{os.getppid()}.abc.tmp",
        "fit.checkpoint",
    ]


def test_keyboard_interrupt_in_validation_drops_the_epoch(monkeypatch):
    from acluster.estimators import _fitting

    X, y = make_sets()
    clf = make(9)
    outputs, n_calls = _fitting.outputs, []

    def interrupt(*args):
        n_calls.append(1)
        if len(n_calls) == 3:
            raise KeyboardInterrupt
        return outputs(*args)

    monkeypatch.setattr(_fitting, "outputs", interrupt)
    with pytest.raises(KeyboardInterrupt, match="interrupted after 2 epochs"):
        clf.fit(X, y, X_val=X, y_val=y)
    assert clf.n_iter_ == len(clf.loss_curve_) == len(clf.validation_scores_) == 2


def test_checkpoint_matches_object_labels_by_value(tmp_path):
    X, y = make_sets()
    names = ["".join(["so", "und" if label else "lent"]) for label in y]  # Distinct string objects.
    for _ in range(2):
        labels = np.array(["".join(name) for name in names], dtype=object)
        clf = make(2).fit(X, labels, X_val=X, y_val=labels, checkpoint_dir=tmp_path)
        assert clf.n_iter_ == 2


def test_fit_rejects_checkpoint_dir_in_object_storage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X, y = make_sets(6)
    classifier = AttentionClusterClassifier(max_iter=1, random_state=0)
    with pytest.raises(ValueError, match="checkpoint_dir is the address of object storage"):
        classifier.fit(X, y, checkpoint_dir="s3://bucket/checkpoint")
    assert not list(tmp_path.iterdir())


def test_fit_rejects_checkpoint_dir_that_is_no_folder(tmp_path):
    X, y = make_sets(6)
    classifier = AttentionClusterClassifier(max_iter=1, random_state=0)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"checkpoint_dir='.*file' is a file\. Pass a"):
        classifier.fit(X, y, checkpoint_dir=tmp_path / "file")
    with pytest.raises(TypeError, match="checkpoint_dir=3 is not the path of a folder"):
        classifier.fit(X, y, checkpoint_dir=3)
