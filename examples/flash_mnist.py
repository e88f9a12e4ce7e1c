"""Find the digits that flash up in a noisy video.

Handwritten digits become videos of 25 noisy frames. A small CNN turns every frame into a local
feature; an attention cluster predicts which digits appear. The script prints the test accuracy of
the cluster and of the Average baseline, and draws attention maps and learning curves.

    python examples/flash_mnist.py [--quick] [--output FILE.png]

It uses MNIST if ``$ACLUSTER_DATA/mnist`` holds it, and the digits bundled with scikit-learn if not.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.callback import ProgressBar

from acluster import AttentionClusterClassifier, datasets
from acluster.inspection import AttentionDisplay

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--quick", action="store_true", help="few videos and epochs, to try it out")
parser.add_argument("--output", type=Path, default=Path("examples/output/flash_mnist.png"))
options = parser.parse_args()
n_videos, n_frames, n_epochs = (512, 3000, 2) if options.quick else (20_480, 60_000, 15)

# %% Make videos. Each has a 10-digit indicator of the digits that appear in it.
has_mnist = (datasets.get_data_home() / "mnist").is_dir()
images = datasets.fetch_mnist() if has_mnist else datasets.load_digits_28()
print(f"Making {n_videos:,} videos from {'MNIST' if has_mnist else 'scikit-learn digits'}.")
make_videos = datasets.make_flash_mnist
train = make_videos(images.train_images, images.train_labels, n_videos=n_videos, random_state=0)
test = make_videos(images.test_images, images.test_labels, n_videos=2048, random_state=1)

# %% Train the feature extractor on single frames, then extract one local feature per frame.
extractor = datasets.FrameExtractor(
    log_softmax=False,
    n_noisy_copies=max(1, n_frames // len(images.train_images)),
    n_noise_images=n_frames // 10,
    random_state=0,
).set_callbacks(ProgressBar())
extractor.fit(images.train_images, images.train_labels)
frames, frame_digits = test.videos.reshape(-1, 28, 28), test.frame_digits.ravel()
shows = frame_digits >= 0
accuracy = extractor.score(frames[shows], frame_digits[shows])
print(f"It recognizes the digit on {100 * accuracy:.1f} % of the test frames that show one.")
X_train, X_test = extractor.transform(train.videos), extractor.transform(test.videos)

# %% Train the same network twice: with equal weights for all frames, and with learned weights.
fitted = {}
for name, weighting in (("Average", "average"), ("attention cluster", "fc1")):
    clf = AttentionClusterClassifier(
        cluster_size=8,
        weighting=weighting,
        n_attended=None,  # all frames, as in the paper
        dropout=0.0,
        batch_size=256,
        max_iter=n_epochs,
        random_state=0,
    )
    # The test videos are only scored after every epoch. No choice depends on these scores.
    clf.set_callbacks(ProgressBar())
    fitted[name] = clf.fit(X_train, train.digits, X_val=X_test, y_val=test.digits)
print("\nTest videos with all their digits right:")
for name, clf in fitted.items():
    print(f"  {name:18} {100 * clf.score(X_test, test.digits):5.1f} %")

# %% Draw the attention maps of a video with four digits, and the learning curves.
figure, (map_axes, curve_axes) = plt.subplots(2, figsize=(11, 10), layout="constrained")
item = np.flatnonzero(test.digits.sum(axis=1) == 4)[0]
AttentionDisplay.from_estimator(clf, X_test[item], thumbnails=test.videos[item], ax=map_axes)
map_axes.set_title(f"digits {', '.join(map(str, np.flatnonzero(test.digits[item])))}")
for name, clf in fitted.items():
    curve_axes.plot(range(1, n_epochs + 1), clf.validation_scores_, ".-", label=name)
curve_axes.set(xlabel="epoch", ylabel="share of correct digit labels, test videos")
curve_axes.legend()
options.output.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(options.output)
print(f"Attention maps and learning curves: {options.output}")
