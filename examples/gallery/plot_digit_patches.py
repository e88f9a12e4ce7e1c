"""
Handwritten digits as sets of patches
=====================================

An image becomes a set of patches: small windows that contain ink, each with its position. Sets
differ in size, and patches have no natural order. The attention weights show which patches the
classifier uses.
"""

import matplotlib.pyplot as plt
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from acluster import AttentionClusterClassifier
from acluster.inspection import AttentionDisplay

# %%
# Extract the 4 x 4 windows that contain ink, and their positions.


def patches(image, size=4):
    """Return the pixels and position of every window with ink, and the positions alone."""
    windows = sliding_window_view(image, (size, size))
    places = np.argwhere(windows.mean(axis=(2, 3)) > 4)
    pixels = windows[tuple(places.T)].reshape(len(places), -1)
    return np.hstack([pixels, places]).astype(np.float32), places


digits = load_digits()
X = [patches(image)[0] for image in digits.images]
X_train, X_test, y_train, y_test, _, images = train_test_split(
    X, digits.target, digits.images, random_state=0
)
print(f"{min(map(len, X))} to {max(map(len, X))} patches of {X[0].shape[1]} features per image")

# %%
# Train. `fit` scales pixels and positions to unit variance.

clf = AttentionClusterClassifier(cluster_size=16, weighting="fc2", random_state=0)
clf.fit(X_train, y_train)
print(f"accuracy on the test images: {clf.score(X_test, y_test):.3f}")

# %%
# Draw the attention of four units over the image. Darker patches have larger weights.

figure, axes = plt.subplots(4, 5, figsize=(7, 6), layout="constrained")
attention = clf.attention_weights(X_test[:4])
for row, image, a in zip(axes, images, attention, strict=False):
    row[0].imshow(image, cmap="gray_r")
    for unit, ax in enumerate(row[1:]):
        brightness = np.zeros_like(image)
        for (top, left), weight in zip(patches(image)[1], a[:, unit], strict=True):
            brightness[top : top + 4, left : left + 4] += weight
        ax.imshow(image, cmap="gray_r", alpha=0.3)
        ax.imshow(brightness, cmap="Reds", alpha=0.7)
for unit, ax in enumerate(axes[0, 1:]):
    ax.set_title(f"unit {unit}")
for ax in axes.flat:
    ax.set_axis_off()

# %%
# Draw the same weights as in Figure 5 of the paper: patches on top, one row per unit below.

windows = X_test[0][:, :16].reshape(-1, 4, 4)
display = AttentionDisplay.from_estimator(clf, X_test[0], thumbnails=-windows, units=range(8))
