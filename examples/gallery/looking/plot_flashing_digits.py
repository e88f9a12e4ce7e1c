"""
Which frames hold the digits?
=============================

A video shows noise, and a digit flashes in a few of its frames. The classifier knows only which
digits a video contains, not where. Its evidence finds the frames: every frame adds a number to the
logit of every digit.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from acluster import AttentionClusterClassifier
from acluster.inspection import EvidenceDisplay

# %%
# Make videos of 25 frames from scikit-learn's digits. Each of five digits is in half of the videos,
# in one or two frames. All other frames are noise. Test videos show other images than training
# videos.

rng = np.random.default_rng(0)
digits = load_digits(n_class=5)
is_train = np.arange(len(digits.images)) % 2 == 0


def video(images, labels):
    """Return the frames of a video, and the digit in each frame, which is -1 for noise."""
    frames, shown = rng.choice(digits.images.ravel(), size=(25, 8, 8)), np.full(25, -1)
    free = list(rng.permutation(25))
    for digit in np.flatnonzero(rng.random(5) < 0.5):
        for place in [free.pop() for _ in range(rng.integers(1, 3))]:
            shown[place] = digit
            frames[place] = images[rng.choice(np.flatnonzero(labels == digit))]
    return frames, shown


def videos(n, keep):
    """Return the frames of n videos, the digit in each frame, and the labels of the videos."""
    pairs = [video(digits.images[keep], digits.target[keep]) for _ in range(n)]
    frames, shown = map(np.stack, zip(*pairs, strict=True))
    return frames, shown, (shown[:, :, None] == np.arange(5)).any(axis=1).astype(int)


frames, shown, y = videos(400, is_train)
test_frames, test_shown, y_test = videos(100, ~is_train)

# %%
# Train on the pixels of the frames: a frame is a local feature of 64 numbers.

clf = AttentionClusterClassifier(
    cluster_size=16, weighting="fc2", hidden_features=32, max_iter=30, random_state=0
)
clf.fit(frames.reshape(400, 25, 64), y)
X_test = test_frames.reshape(100, 25, 64)
print(f"correct labels of test videos: {(clf.predict(X_test) == y_test).mean():.3f}")

# %%
# Draw the evidence of a test video, by default for the labels that the model predicts. This video
# has no 1: a 3 misleads the model, and the evidence tells which.

i = int(np.flatnonzero(y_test.sum(axis=1) == 3)[0])
for place in np.flatnonzero(test_shown[i] >= 0):
    print(f"frame {place} shows a {test_shown[i, place]}")
EvidenceDisplay.from_estimator(clf, X_test[i])

# %%
# With the frames as thumbnails, the display ranks them.

EvidenceDisplay.from_estimator(clf, X_test[i], thumbnails=-test_frames[i])

# %%
# Does the evidence name the right frames in all test videos? The AUC compares the frames that hold
# a digit with all other frames of the videos that contain this digit.

evidence = np.stack(list(clf.local_evidence(X_test)))
for digit in range(5):
    has = y_test[:, digit] == 1
    auc = roc_auc_score((test_shown[has] == digit).ravel(), evidence[has, :, digit].ravel())
    print(f"digit {digit}: AUC {auc:.3f}")
