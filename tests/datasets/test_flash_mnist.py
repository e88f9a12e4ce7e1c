import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from acluster.datasets import make_flash_mnist


def toy_digits(*, n_images=3, height=2, width=5):
    """Some random images per digit, in random order."""
    generator = np.random.default_rng(0)
    labels = generator.permutation(np.repeat(np.arange(10), n_images))
    images = generator.integers(0, 256, (len(labels), height, width), dtype=np.uint8)
    images[generator.random(images.shape) < 0.7] = 0
    return images, labels


def one_pixel_digits():
    """Ten images of 2 x 5 pixels, where pixel d of digit d is white."""
    return (np.eye(10, dtype=np.uint8) * 255).reshape(10, 2, 5), np.arange(10)


def error(**changes):
    images, labels = toy_digits()
    arguments = {"images": images, "labels": labels, "n_videos": 1, **changes}
    with pytest.raises(ValueError) as caught:
        make_flash_mnist(**arguments)
    return str(caught.value)


sizes = {
    "n_videos": st.integers(1, 2500),
    "n_frames": st.integers(20, 27),
    "seed": st.integers(0, 2**32 - 1),
}


@settings(deadline=None, max_examples=25)
@given(**sizes)
def test_classes_are_equally_frequent(n_videos, n_frames, seed):
    flash = make_flash_mnist(*toy_digits(), n_videos=n_videos, n_frames=n_frames, random_state=seed)
    counts = np.bincount(flash.target, minlength=1024)
    assert len(counts) == 1024
    assert set(counts) <= {n_videos // 1024, -(-n_videos // 1024)}
    assert counts.sum() == n_videos


@settings(deadline=None, max_examples=25)
@given(**sizes)
def test_only_digits_of_the_class_flash_once_or_twice(n_videos, n_frames, seed):
    flash = make_flash_mnist(*toy_digits(), n_videos=n_videos, n_frames=n_frames, random_state=seed)
    n_flashes = np.stack([(flash.frame_digits == digit).sum(axis=1) for digit in range(10)], axis=1)
    assert flash.frame_digits.min() >= -1
    assert flash.frame_digits.max() <= 9
    np.testing.assert_array_equal(n_flashes > 0, flash.digits == 1)
    assert n_flashes.max() <= 2
    np.testing.assert_array_equal(flash.target, flash.digits @ 2 ** np.arange(10))


@settings(deadline=None, max_examples=25)
@given(**sizes)
def test_shapes_and_types(n_videos, n_frames, seed):
    images, labels = toy_digits(height=4, width=3)
    flash = make_flash_mnist(
        images, labels, n_videos=n_videos, n_frames=n_frames, random_state=seed
    )
    described = {name: (array.shape, array.dtype) for name, array in flash.items()}
    assert described == {
        "videos": ((n_videos, n_frames, 4, 3), np.uint8),
        "target": ((n_videos,), np.int64),
        "digits": ((n_videos, 10), np.int64),
        "frame_digits": ((n_videos, n_frames), np.int8),
    }


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_frames_are_at_least_as_bright_as_an_image_of_their_digit(seed):
    images, labels = toy_digits()
    flash = make_flash_mnist(images, labels, n_videos=100, random_state=seed)
    for digit in range(10):
        frames = flash.videos[flash.frame_digits == digit]
        covers = (frames[:, None] >= images[labels == digit]).all(axis=(2, 3))
        assert covers.any(axis=1).all()


def test_overlay_keeps_the_noise_around_the_digit():
    flash = make_flash_mnist(*one_pixel_digits(), n_videos=2048, random_state=0)
    for digit in range(10):
        pixels = flash.videos[flash.frame_digits == digit].reshape(-1, 10)
        assert (pixels[:, digit] == 255).all()
        # A tenth of the pixels of the images is white, and therefore of the noise.
        around = np.delete(pixels, digit, axis=1) == 255
        assert around.mean() == pytest.approx(0.1, abs=0.01)


def test_noise_has_the_gray_levels_of_the_images():
    generator = np.random.default_rng(1)
    images, labels = toy_digits(n_images=40, height=28, width=28)
    images[generator.random(images.shape) < 0.2] = 255
    flash = make_flash_mnist(images, labels, n_videos=100, random_state=1)
    noise = flash.videos[flash.frame_digits == -1]
    observed = np.bincount(noise.ravel(), minlength=256)
    expected = np.bincount(images.ravel(), minlength=256) / images.size * noise.size
    assert not observed[expected == 0].any()
    possible = expected > 0
    assert stats.chisquare(observed[possible], expected[possible]).pvalue > 0.001


def test_noise_pixels_are_independent():
    flash = make_flash_mnist(*one_pixel_digits(), n_videos=4096, random_state=2)
    noise = flash.videos[flash.frame_digits == -1].reshape(-1, 10) == 255
    correlations = np.corrcoef(noise, rowvar=False)[np.triu_indices(10, k=1)]
    assert np.abs(correlations).max() < 4.5 / np.sqrt(len(noise))


def test_one_and_two_flashes_are_equally_likely():
    flash = make_flash_mnist(*one_pixel_digits(), n_videos=4096, random_state=3)
    n_flashes = (flash.frame_digits >= 0).sum()
    n_shown = flash.digits.sum()
    assert abs(n_flashes / n_shown - 1.5) < 4 * 0.5 / np.sqrt(n_shown)


def test_flashes_are_uniform_over_frames():
    flash = make_flash_mnist(*one_pixel_digits(), n_videos=4096, random_state=4)
    for digit in range(10):
        per_frame = (flash.frame_digits == digit).sum(axis=0)
        assert stats.chisquare(per_frame).pvalue > 0.0005


def test_flashes_are_uniform_over_images_of_a_digit():
    # Image i of every digit has one pixel of level i + 1, on black.
    labels = np.repeat(np.arange(10), 20)
    images = np.zeros((200, 40, 40), dtype=np.uint8)
    images[:, 0, 0] = np.tile(np.arange(1, 21), 10)
    flash = make_flash_mnist(images, labels, n_videos=2048, random_state=5)
    for digit in range(10):
        pixels = flash.videos[flash.frame_digits == digit][:, 0, 0]
        # The corner of a frame is noise, black except for 1 in 1,600 pixels.
        counts = np.bincount(pixels, minlength=21)[1:]
        assert stats.chisquare(counts, np.full(20, counts.mean())).pvalue > 0.0005


def test_videos_are_shuffled():
    flash = make_flash_mnist(*one_pixel_digits(), n_videos=2048, random_state=0)
    assert abs(np.corrcoef(flash.target, np.arange(2048))[0, 1]) < 0.1


@pytest.mark.parametrize("make_state", [lambda: 7, lambda: np.random.RandomState(7)])
def test_same_random_state_gives_the_same_videos(make_state):
    first, second = (
        make_flash_mnist(*toy_digits(), n_videos=50, random_state=make_state()) for _ in range(2)
    )
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])


def test_another_random_state_gives_other_videos():
    first, second = (
        make_flash_mnist(*toy_digits(), n_videos=50, random_state=seed).videos for seed in (7, 8)
    )
    assert (first != second).any()


def test_global_random_state_is_untouched():
    before = np.random.get_state()  # noqa: NPY002
    make_flash_mnist(*toy_digits(), n_videos=5, random_state=0)
    after = np.random.get_state()  # noqa: NPY002
    np.testing.assert_array_equal(before[1], after[1])
    assert before[2:] == after[2:]


def test_read_only_images_are_accepted():
    images, labels = toy_digits()
    images.flags.writeable = labels.flags.writeable = False
    make_flash_mnist(images, labels, n_videos=5, random_state=0)


@pytest.mark.parametrize(
    ("images", "described"),
    [
        (np.zeros((30, 10), dtype=np.uint8), "uint8 of shape (30, 10)"),
        (np.zeros((30, 2, 5)), "float64 of shape (30, 2, 5)"),
        (np.zeros((30, 1, 2, 5), dtype=np.uint8), "uint8 of shape (30, 1, 2, 5)"),
    ],
)
def test_rejects_images_of_another_kind(images, described):
    assert error(images=images) == (
        f"images must be an array of uint8 of shape (n_images, height, width), got {described}. "
        "Scale pixels to 0 to 255 and convert them with astype('uint8'); pass a single image as "
        "image[np.newaxis]."
    )


@pytest.mark.parametrize(
    ("labels", "described"),
    [
        (np.arange(10), "int64 of shape (10,)"),
        (np.zeros(30), "float64 of shape (30,)"),
        (np.array(["1"] * 30), "<U1 of shape (30,)"),
    ],
)
def test_rejects_labels_of_another_kind(labels, described):
    assert error(labels=labels) == (
        f"labels must be one int for each of the 30 images, got {described}. Convert strings with "
        "astype(int)."
    )


@pytest.mark.parametrize("wrong", [-1, 10])
def test_rejects_labels_that_are_not_digits(wrong):
    labels = toy_digits()[1]
    labels[4] = wrong
    assert error(labels=labels) == (
        f"labels[4] is {wrong}; labels must be digits, 0 to 9. Remove all other images."
    )


def test_rejects_labels_without_some_digits():
    labels = toy_digits()[1]
    labels[(labels == 3) | (labels == 8)] = 0
    assert error(labels=labels) == (
        "labels lack the digits [3, 8]; every digit from 0 to 9 needs at least one image. Pass "
        "images of all ten digits."
    )


def test_rejects_too_few_frames():
    assert error(n_frames=19) == (
        "n_frames=19 must be an int of 20 or more, because each of ten digits can flash in two "
        "frames. The paper uses n_frames=25."
    )


def test_rejects_zero_videos():
    assert error(n_videos=0) == (
        "n_videos=0 must be an int of 1 or more; a multiple of 1024 balances the classes."
    )


def test_frame_digits_do_not_depend_on_the_images():
    # studies/flash_mnist_beyond.py relies on this.
    images, labels = toy_digits()
    made = [
        make_flash_mnist(part, of_part, n_videos=50, random_state=3)
        for part, of_part in ((images, labels), one_pixel_digits())
    ]
    np.testing.assert_array_equal(made[0].frame_digits, made[1].frame_digits)
    np.testing.assert_array_equal(made[0].target, made[1].target)
