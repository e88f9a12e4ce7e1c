import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.exceptions import NotFittedError
from sklearn.utils._param_validation import InvalidParameterError
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR

from acluster import FeatureSets
from acluster.datasets import FrameExtractor, load_digits_28, make_flash_mnist
from acluster.datasets._frame_network import FrameNetwork, _convolve_and_pool, draw_weights
from acluster.training._optimizer import Optimizer

pytestmark = pytest.mark.numerical


@pytest.fixture(scope="module")
def digits():
    return load_digits_28()


@pytest.fixture(scope="module")
def extractor(digits):
    extractor = FrameExtractor(
        n_noisy_copies=4, n_noise_images=1000, batch_size=32, n_epochs=2, random_state=0
    )
    return extractor.fit(digits.train_images, digits.train_labels)


@pytest.fixture(scope="module")
def flash(digits):
    return make_flash_mnist(
        digits.test_images, digits.test_labels, n_videos=60, n_frames=22, random_state=0
    )


def quick(**parameters):
    """An extractor with too few training frames to learn anything."""
    return FrameExtractor(
        **{"n_noisy_copies": 1, "n_noise_images": 20, "random_state": 0, **parameters}
    )


def small_images(n_images=100, *, height=16, width=17):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (n_images, height, width), dtype=np.uint8)
    return images, np.arange(n_images) % 10


class Recorder:
    """A callback that records the tasks, and may stop the fit at the end of one."""

    def __init__(self, stop_at=None):
        self.stop_at = stop_at
        self.begun, self.ended = [], []

    def setup(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        self.begun.append(context.task_name)

    def on_fit_task_end(self, estimator, context):
        self.ended.append(context.task_name)
        return context.task_name == self.stop_at

    def teardown(self, estimator, context):
        pass


def reference_features(weights, frames, *, log_softmax):
    """The network of the paper, written with torch's own layers in double precision."""
    w = {name: torch.tensor(weight, dtype=torch.float64) for name, weight in weights.items()}
    x = (torch.tensor(frames[:, None], dtype=torch.float64) / 255 - 0.1307) / 0.3081
    x = functional.relu(
        functional.max_pool2d(functional.conv2d(x, w["kernel1"], w["kernel1_bias"]), 2)
    )
    x = functional.relu(
        functional.max_pool2d(functional.conv2d(x, w["kernel2"], w["kernel2_bias"]), 2)
    )
    x = functional.relu(x.flatten(1) @ w["hidden"].T + w["hidden_bias"])
    return (functional.log_softmax(x, dim=1) if log_softmax else x).numpy()


def test_fit_learns_digits_and_noise(extractor, flash):
    frames, frame_digits = flash.videos.reshape(-1, 28, 28), flash.frame_digits.ravel()
    shows_digit = frame_digits >= 0
    # Chance is 0.1.
    assert extractor.score(frames[shows_digit], frame_digits[shows_digit]) > 0.7
    assert extractor.score(frames[~shows_digit], frame_digits[~shows_digit]) > 0.95
    assert len(extractor.loss_curve_) == 2
    assert extractor.loss_curve_[1] < 0.7 * extractor.loss_curve_[0]


def test_score_is_the_accuracy_of_predict(extractor, flash):
    frames = flash.videos[:3].reshape(-1, 28, 28)
    predicted = extractor.predict(frames)
    assert predicted.dtype == np.int64
    assert set(predicted) <= set(range(-1, 10))
    assert extractor.score(frames, predicted) == 1.0
    wrong = np.where(np.arange(len(frames)) < 11, predicted, -2)
    assert extractor.score(frames, wrong) == 11 / len(frames)


def test_transform_equals_reference_network(extractor, flash):
    features = extractor.transform(flash.videos)
    assert isinstance(features, FeatureSets)
    assert features.dtype == np.float32
    assert features.n_features == 50
    np.testing.assert_array_equal(features.lengths, np.full(60, 22))
    for i in (0, 17, 59):
        expected = reference_features(extractor.weights_, flash.videos[i], log_softmax=True)
        np.testing.assert_allclose(features[i], expected, rtol=1e-4, atol=1e-4)


def test_transform_without_log_softmax_equals_reference(digits):
    extractor = quick(log_softmax=False, n_features=7)
    extractor.fit(digits.train_images[:200], digits.train_labels[:200])
    videos = digits.test_images[:6].reshape(2, 3, 28, 28)
    features = extractor.transform(videos)
    for i in (0, 1):
        expected = reference_features(extractor.weights_, videos[i], log_softmax=False)
        np.testing.assert_allclose(features[i], expected, rtol=1e-4, atol=1e-5)
        assert features[i].min() >= 0


def test_transform_returns_log_probabilities(extractor, flash):
    for features in extractor.transform(flash.videos[:5]):
        np.testing.assert_allclose(np.exp(features).sum(axis=1), 1, rtol=1e-5)


def test_transform_of_one_video_equals_that_of_many(extractor, flash):
    together = extractor.transform(flash.videos)  # more than one block of frames
    for i in (0, 46, 59):
        alone = extractor.transform(flash.videos[i : i + 1])
        np.testing.assert_allclose(alone[0], together[i], rtol=1e-5, atol=1e-5)


def test_convolve_and_pool_equals_separate_operations():
    generator = torch.Generator().manual_seed(0)
    for height, width in ((12, 12), (13, 16)):
        arguments = [
            torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
            for shape in ((3, 4, height, width), (6, 4, 5, 5), (6,))
        ]
        folded = _convolve_and_pool(*arguments)
        plain = functional.relu(functional.max_pool2d(functional.conv2d(*arguments), 2))
        torch.testing.assert_close(folded, plain)
        direction = torch.randn(plain.shape, dtype=torch.float64, generator=generator)
        torch.testing.assert_close(
            torch.autograd.grad(folded, arguments, direction),
            torch.autograd.grad(plain, arguments, direction),
        )


def test_fit_is_reproducible_with_int_random_state():
    images, labels = small_images()
    weights = [quick().fit(images, labels).weights_ for _ in range(2)]
    for name, weight in weights[0].items():
        np.testing.assert_array_equal(weight, weights[1][name])
    other = quick(random_state=1).fit(images, labels).weights_
    assert (weights[0]["hidden"] != other["hidden"]).any()


def test_fit_draws_new_noise_each_epoch(monkeypatch):
    seen = []
    make = FrameExtractor._make_training_frames

    def remember(*args):
        seen.append(make(*args))
        return seen[-1]

    monkeypatch.setattr(FrameExtractor, "_make_training_frames", remember)
    images, labels = small_images()
    quick(n_epochs=2).fit(images // 2, labels)
    (first, first_classes), (second, second_classes) = seen
    np.testing.assert_array_equal(first_classes, second_classes)
    assert (first != second).mean() > 0.2
    for frames in (first, second):
        assert (frames[:100] >= images // 2).all()


@pytest.mark.parametrize("schedule", ["constant", "one-cycle"])
def test_learning_rate_follows_the_schedule(monkeypatch, schedule):
    seen = []
    step = Optimizer.step

    def remember(optimizer, *args):
        seen.append(optimizer.learning_rate)
        step(optimizer, *args)

    monkeypatch.setattr(Optimizer, "step", remember)
    quick(n_epochs=2, batch_size=6, learning_rate=0.01, learning_rate_schedule=schedule).fit(
        *small_images()
    )
    assert len(seen) == 40  # 2 epochs of 20 batches of 6
    if schedule == "constant":
        assert set(seen) == {0.01}
        return
    largest = np.argmax(seen)
    assert seen[largest] == pytest.approx(0.01)
    assert largest == 11  # after three tenths of the steps
    assert seen[0] == pytest.approx(0.01 / 25)
    assert seen[-1] < 1e-5
    assert (np.diff(seen[: largest + 1]) > 0).all()
    assert (np.diff(seen[largest:]) < 0).all()


@pytest.mark.parametrize("n_steps", [1, 3, 10, 237])
def test_one_cycle_schedule_equals_torch(n_steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    schedule = OneCycleLR(optimizer, 0.03, total_steps=n_steps, cycle_momentum=False)
    extractor = FrameExtractor(learning_rate=0.03, learning_rate_schedule="one-cycle")
    learning_rates = list(extractor._learning_rates(n_steps))
    assert len(learning_rates) == n_steps
    for learning_rate in learning_rates:
        assert learning_rate == schedule.get_last_lr()[0]  # the same bits
        optimizer.step()
        schedule.step()


def test_frame_network_applies_dropout_in_training_mode_only():
    weights = draw_weights((16, 16), 40, np.random.default_rng(0))
    network = FrameNetwork(weights, log_softmax=False, dropout=0.25)
    frames = torch.from_numpy(small_images(50, width=16)[0])
    dropped, again = (network(frames, np.random.default_rng(0)) for _ in range(2))
    assert torch.equal(dropped, again)
    plain = network.eval()(frames)
    assert not torch.equal(dropped, plain)
    assert torch.equal(plain, FrameNetwork(weights, log_softmax=False).eval()(frames))


def test_frame_network_dropout_drops_units_or_whole_channels():
    network = FrameNetwork({}, log_softmax=False, dropout=0.25)
    for shape in ((30, 40), (30, 40, 2, 3)):
        scales = network._drop(torch.ones(shape), np.random.default_rng(0)).reshape(30, 40, -1)
        assert (scales == scales[..., :1]).all()
        torch.testing.assert_close(scales.unique(), torch.tensor([0, 1 / 0.75]))
        assert (scales == 0).float().mean() == pytest.approx(0.25, abs=0.05)


def test_fit_leaves_global_random_states_untouched():
    images, labels = small_images()
    numpy_before, torch_before = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    quick().fit(images, labels).transform(images.reshape(10, 10, 16, 17))
    numpy_after = np.random.get_state()  # noqa: NPY002
    np.testing.assert_array_equal(numpy_before[1], numpy_after[1])
    assert numpy_before[2:] == numpy_after[2:]
    assert torch.equal(torch_before, torch.get_rng_state())


def test_fit_under_no_grad_gives_the_same_weights():
    images, labels = small_images()
    with torch.no_grad():
        without = quick().fit(images, labels)
    np.testing.assert_array_equal(
        without.weights_["hidden"], quick().fit(images, labels).weights_["hidden"]
    )


def test_fit_and_predict_accept_read_only_arrays():
    images, labels = small_images()
    images.flags.writeable = labels.flags.writeable = False
    quick().fit(images, labels).predict(images)


def test_pickle_contains_no_torch(extractor, flash):
    content = pickle.dumps(extractor)
    assert b"torch" not in content
    copy = pickle.loads(content)
    np.testing.assert_array_equal(
        copy.transform(flash.videos[:2])[1], extractor.transform(flash.videos[:2])[1]
    )


def test_clone_keeps_parameters_and_is_not_fitted(extractor):
    copy = clone(extractor)
    assert copy.get_params() == extractor.get_params()
    with pytest.raises(NotFittedError):
        copy.transform(np.zeros((1, 1, 28, 28), dtype=np.uint8))
    with pytest.raises(NotFittedError):
        copy.predict(np.zeros((1, 28, 28), dtype=np.uint8))


def test_fit_adapts_to_the_frame_size():
    images, labels = small_images(height=20, width=33)
    extractor = quick(n_features=3).fit(images, labels)
    assert extractor.frame_shape_ == (20, 33)
    features = extractor.transform(images[:4].reshape(2, 2, 20, 33))
    expected = reference_features(extractor.weights_, images[:2], log_softmax=True)
    np.testing.assert_allclose(features[0], expected, rtol=1e-4, atol=1e-4)


def test_transform_of_no_videos(extractor):
    features = extractor.transform(np.zeros((0, 25, 28, 28), dtype=np.uint8))
    assert len(features) == 0
    assert features.n_features == 50


@pytest.mark.parametrize(("n_noise_images", "n_steps"), [(20, 15), (300, 50), (301, 26)])
def test_callbacks_are_called_at_most_fifty_times_per_epoch(n_noise_images, n_steps):
    recorder = Recorder()
    extractor = quick(n_epochs=2, batch_size=8, n_noise_images=n_noise_images)
    extractor.set_callbacks(recorder).fit(*small_images(100))
    one_epoch = ["batches"] * n_steps + ["epoch"]
    assert recorder.ended == [*one_epoch, *one_epoch, "fit"]
    assert recorder.begun == ["fit", *2 * ["epoch", *["batches"] * n_steps]]


def test_callback_stops_the_epoch_or_the_fit():
    images, labels = small_images()
    extractor = quick(n_epochs=3, batch_size=8)
    recorder = Recorder(stop_at="epoch")
    extractor.set_callbacks(recorder).fit(images, labels)
    assert recorder.ended == ["batches"] * 15 + ["epoch", "fit"]
    assert len(extractor.loss_curve_) == 1
    recorder = Recorder(stop_at="batches")
    extractor.set_callbacks(recorder).fit(images, labels)
    assert recorder.ended == ["batches", "epoch"] * 3 + ["fit"]


def test_callbacks_of_sklearn_run(capsys):
    pytest.importorskip("rich")
    images, labels = small_images()
    monitor = ScoringMonitor(scoring="accuracy")
    extractor = quick().set_callbacks(ProgressBar(), monitor).fit(images, labels)
    assert "FrameExtractor - fit" in capsys.readouterr().out
    (entry,) = monitor.get_logs().data
    assert entry["accuracy"] == extractor.score(images, labels)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("n_features", 0),
        ("log_softmax", "yes"),
        ("n_epochs", 0),
        ("batch_size", 1.5),
        ("learning_rate", 0.0),
        ("learning_rate_schedule", "cosine"),
        ("n_noisy_copies", 0),
        ("n_noise_images", -1),
        ("dropout", 1.0),
        ("device", 0),
        ("random_state", "seed"),
    ],
)
def test_fit_rejects_invalid_parameters(parameter, value):
    with pytest.raises(InvalidParameterError, match=f"The '{parameter}' parameter of FrameExtract"):
        FrameExtractor(**{parameter: value}).fit(*small_images())


def test_fit_rejects_labels_beyond_nine():
    images, labels = small_images()
    with pytest.raises(ValueError) as caught:
        quick().fit(images, labels + 1)
    assert str(caught.value) == (
        "labels[9] is 10; labels must be digits, 0 to 9. Remove all other images."
    )


def test_fit_rejects_images_too_small_for_the_network():
    with pytest.raises(ValueError) as caught:
        quick().fit(*small_images(height=15, width=28))
    assert str(caught.value) == (
        "images of 15 x 28 pixels are too small for two 5 x 5 convolutions with pooling; they "
        "need 16 x 16 pixels or more. Enlarge or pad them."
    )


def test_transform_rejects_a_single_video(extractor, flash):
    with pytest.raises(ValueError) as caught:
        extractor.transform(flash.videos[0])
    assert str(caught.value) == (
        "videos must have shape (n_videos, n_frames, height, width), got (22, 28, 28). Pass a "
        "single video as video[np.newaxis]."
    )


@pytest.mark.parametrize(
    ("frames", "described"),
    [
        (np.zeros((3, 28, 29), dtype=np.uint8), "uint8 in an array of shape (3, 28, 29)"),
        (np.zeros((3, 28, 28)), "float64 in an array of shape (3, 28, 28)"),
        (np.zeros((28, 28), dtype=np.uint8), "uint8 in an array of shape (28, 28)"),
    ],
)
def test_predict_rejects_frames_of_another_kind(extractor, frames, described):
    with pytest.raises(ValueError) as caught:
        extractor.predict(frames)
    assert str(caught.value) == (
        f"frames must be uint8 of 28 x 28 pixels, like the images in fit, got {described}. "
        "Convert the frames, or fit the extractor on such images."
    )


def test_score_rejects_frame_digits_of_another_shape(extractor, flash):
    with pytest.raises(ValueError) as caught:
        extractor.score(flash.videos[0], flash.frame_digits[:1])
    assert str(caught.value) == (
        "frame_digits must have shape (22,), one digit or -1 per frame, got (1, 22). Flatten "
        "frames and frame_digits alike."
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_transform_on_gpu_equals_cpu(extractor, flash):
    on_gpu = clone(extractor).set_params(device="cuda")
    on_gpu.weights_, on_gpu.frame_shape_ = extractor.weights_, extractor.frame_shape_
    np.testing.assert_allclose(
        on_gpu.transform(flash.videos)[0], extractor.transform(flash.videos)[0], atol=1e-4
    )
