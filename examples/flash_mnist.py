"""
Flash-MNIST: which digits flashed up in a noisy video?
======================================================

Real handwritten digits become videos of 25 noisy frames in which some digits flash up; a
small CNN makes a local feature of every frame; an attention cluster finds the frames that
count and tells the set of digits. Its accuracy stands beside the Average baseline (the
same network with every frame weighing the same), and a picture shows what each attention
unit looked at and how both learnt.

    python examples/flash_mnist.py [--videos 20480] [--epochs 15] [--output FILE.png]

With the MNIST files in the data home (``$ACLUSTER_DATA/mnist`` or ``~/acluster_data/mnist``)
the digits are MNIST's; else they are the digits bundled with scikit-learn.
"""

import argparse
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # the picture goes to a file, on machines without a screen too

import matplotlib.pyplot as plt
import numpy as np
from sklearn.callback import ProgressBar

from acluster import AttentionClusterClassifier
from acluster.datasets import (
    FrameExtractor,
    fetch_mnist,
    get_data_home,
    load_digits_28,
    make_flash_mnist,
)

CLUSTER_SIZE = 8


def load_digit_images():
    """MNIST where it is at hand, the small digits of scikit-learn elsewhere."""
    if (get_data_home() / "mnist").is_dir():
        return "MNIST", fetch_mnist()
    return "scikit-learn's digits", load_digits_28()


class EpochAccuracy:
    """A scikit-learn callback: the share of held-out items with all labels right, per epoch."""

    def __init__(self, X, y):
        self.X, self.y, self.scores = X, y, []

    def setup(self, estimator, context):
        """Part of the protocol; nothing to set up."""

    def teardown(self, estimator, context):
        """Part of the protocol; nothing to clear away."""

    def on_fit_task_begin(self, estimator, context):
        """Part of the protocol; nothing to do."""

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        if context.task_name == "epoch":
            self.scores.append(fitted_estimator.score(self.X, self.y))


def make_extractor(n_images, n_frames, seed):
    """The paper's network without the authors' log-softmax, on fewer frames than theirs."""
    return FrameExtractor(
        log_softmax=False,
        n_noisy_copies=max(1, n_frames // n_images),
        n_noise_images=n_frames // 10,
        random_state=seed,
    )


def make_classifier(weighting, epochs, seed):
    """A sigmoid per digit on a cluster of 8 units; larger steps than the paper's, fewer epochs."""
    return AttentionClusterClassifier(
        cluster_size=CLUSTER_SIZE,
        weighting=weighting,
        optimizer="adam",
        learning_rate=0.01,
        dropout=0.0,
        batch_size=256,
        max_iter=epochs,
        tol=None,
        random_state=seed,
    )


def attention_map(frames, weights):
    """Frames on top; then a row per unit, the frames in its colour, as bright as its weights."""
    rows = [np.hstack(frames)[..., None].repeat(3, axis=2) / 255]
    colours = plt.get_cmap("hsv")(np.arange(weights.shape[1]) / weights.shape[1])[:, :3]
    for unit, colour in enumerate(colours):
        shown = weights[:, unit] / weights[:, unit].max()
        tinted = [
            (0.35 + 0.65 * frame[..., None] / 255) * colour * weight
            for frame, weight in zip(frames, shown, strict=True)
        ]
        rows.append(np.hstack(tinted))
    return np.vstack(rows)


def draw(videos, digits, weights, curves, path):
    """The attention maps of some videos above the accuracy per epoch."""
    figure, axes = plt.subplots(len(videos) + 1, figsize=(11, 4 * len(videos) + 3.5))
    for axis, frames, shown, a in zip(axes, videos, digits, weights, strict=False):
        axis.imshow(attention_map(frames, a), aspect="equal")
        axis.set_title(f"digits {', '.join(map(str, np.flatnonzero(shown)))}", loc="left")
        height = frames.shape[1]
        axis.set_yticks(height * (np.arange(CLUSTER_SIZE + 1) + 0.5))
        axis.set_yticklabels(["frames", *(f"unit {unit}" for unit in range(CLUSTER_SIZE))])
        axis.set_xticks([])
    for name, scores in curves.items():
        axes[-1].plot(np.arange(1, len(scores) + 1), 100 * np.array(scores), ".-", label=name)
    axes[-1].set(xlabel="epoch", ylabel="test videos with all digits right (%)", ylim=(0, 100))
    axes[-1].legend()
    axes[-1].grid(alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[2])
    parser.add_argument("--videos", type=int, default=20_480, help="training videos")
    parser.add_argument(
        "--extractor-frames", type=int, default=60_000, help="frames to train the extractor on"
    )
    parser.add_argument("--epochs", type=int, default=15, help="epochs of each classifier")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--output", type=Path, default=Path("examples/output/flash_mnist.png"))
    options = parser.parse_args()
    seed = options.seed

    name, images = load_digit_images()
    print(f"Making {options.videos:,} training videos from {name}.")
    train = make_flash_mnist(
        images.train_images, images.train_labels, n_videos=options.videos, random_state=seed
    )
    test = make_flash_mnist(
        images.test_images, images.test_labels, n_videos=2048, random_state=seed + 1
    )

    print("Training the extractor of local features.")
    extractor = make_extractor(len(images.train_images), options.extractor_frames, seed)
    extractor.set_callbacks(ProgressBar()).fit(images.train_images, images.train_labels)
    frames, frame_digits = test.videos.reshape(-1, 28, 28), test.frame_digits.ravel()
    with_digit = frame_digits >= 0
    accuracy = extractor.score(frames[with_digit], frame_digits[with_digit])
    print(f"It names the digit on {100 * accuracy:.1f} % of the test frames that show one.")
    X_train, X_test = extractor.transform(train.videos), extractor.transform(test.videos)

    fitted, curves = {}, {}
    for title, weighting in [("Average", "average"), ("attention cluster", "fc1")]:
        print(f"Training with {title}, N = {CLUSTER_SIZE}.")
        clf = make_classifier(weighting, options.epochs, seed)
        # The test videos are only watched, for the learning curve: nothing is chosen by them.
        watched = EpochAccuracy(X_test, test.digits)
        fitted[title] = clf.set_callbacks(ProgressBar(), watched).fit(X_train, train.digits)
        curves[title] = watched.scores

    print("\nTest videos with all their digits right:")
    for title, clf in fitted.items():
        print(f"  {title:18} {100 * clf.score(X_test, test.digits):5.1f} %")
    shown = np.flatnonzero(test.digits.sum(axis=1) == 4)[:2]
    weights = fitted["attention cluster"].attention_weights(X_test[shown])
    draw(test.videos[shown], test.digits[shown], weights, curves, options.output)
    print(f"Attention maps and learning curves: {options.output}")


if __name__ == "__main__":
    main()
