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

from acluster import AttentionClusterClassifier, FeatureSets
from acluster.inspection import AttentionDisplay, AttentionMapDisplay

# %%
# Extract the 4 x 4 windows that contain ink. The places of the sets say where each window is: they
# follow the sets through the split, and no classifier reads them.


def patches(image, size=4):
    """Return the pixels and position of every window with ink, and the positions as places."""
    windows = sliding_window_view(image, (size, size))
    y, x = np.nonzero(windows.mean(axis=(2, 3)) > 4)
    pixels = windows[y, x].reshape(len(y), -1)
    return np.column_stack([pixels, y, x]).astype(np.float32), {"x": x, "y": y}


digits = load_digits()
arrays, places = zip(*map(patches, digits.images), strict=True)
X = FeatureSets.from_arrays(arrays, places=places)
X_train, X_test, y_train, y_test, _, images = train_test_split(
    X, digits.target, digits.images, random_state=0
)
print(X)

# %%
# Train. `fit` scales pixels and positions to unit variance. With ``n_attended=None`` a unit can
# give a weight to every patch; by default it attends to five at most, and a map is nearly empty.

clf = AttentionClusterClassifier(cluster_size=16, weighting="fc2", n_attended=None, random_state=0)
clf.fit(X_train, y_train)
print(f"accuracy on the test images: {clf.score(X_test, y_test):.3f}")

# %%
# Draw the attention of four units over four images. The patches overlap: a cell of the map is at
# the center of its patch.

figure, axes = plt.subplots(4, 5, figsize=(7, 6), layout="constrained")
for i, row in enumerate(axes):
    row[0].imshow(images[i], cmap="gray_r")
    row[0].set_axis_off()
    AttentionMapDisplay.from_estimator(
        clf, X_test[[i]], units=range(4), thumbnail=-images[i], tile_size=4,
        ax=row[1:], cmap="Reds", colorbar=False,
    )  # fmt: skip

# %%
# The mean over all units shows which strokes matter.

AttentionMapDisplay.from_estimator(clf, X_test[[0]], thumbnail=-images[0], tile_size=4)

# %%
# Draw the same weights as in Figure 5 of the paper: patches on top, one row per unit below.

windows = X_test[0][:, :16].reshape(-1, 4, 4)
display = AttentionDisplay.from_estimator(clf, X_test[0], thumbnails=-windows, units=range(8))
