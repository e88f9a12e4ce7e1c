"""
An evidence map over a picture
==============================

A region of another photo is pasted into half of the pictures. The classifier knows which pictures
these are, but not where to look. A map of the evidence shows the region.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_images
from sklearn.metrics import roc_auc_score

from acluster import AttentionClusterClassifier, FeatureSets
from acluster.inspection import EvidenceDisplay

# %%
# Cut pictures of 200 x 300 pixels from the photo of a temple, and paste 60 x 60 pixels of a flower
# into half of them. The local features are the quantiles of tiles of 20 x 20 pixels, and those of
# the steps between neighbors. The places say where a tile is.

rng, (SIZE, N_ROWS, N_COLUMNS) = np.random.default_rng(0), (20, 10, 15)
temple, flower = (photo.mean(axis=2) for photo in load_sample_images().images)
petals = flower[130:330, 130:510]


def crop(photo, height, width, is_train):
    """Return a random part of the left half of a photo, or of its right half for tests."""
    half = np.split(photo, 2, axis=1)[0 if is_train else 1]
    y, x = rng.integers(half.shape[0] - height + 1), rng.integers(half.shape[1] - width + 1)
    return half[y : y + height, x : x + width]


def picture(has_flower, is_train):
    """Return a picture, and which of its tiles are pasted."""
    found = crop(temple, 200, 300, is_train).copy()
    pasted = np.zeros((N_ROWS, N_COLUMNS), dtype=bool)
    if has_flower:
        row, column = rng.integers(N_ROWS - 2), rng.integers(N_COLUMNS - 2)
        pasted[row : row + 3, column : column + 3] = True
        corner = found[row * SIZE :, column * SIZE :]
        corner[:60, :60] = crop(petals, 60, 60, is_train)
    return found, pasted.ravel()


def describe(image):
    """Return the local features of a picture, (150, 15)."""
    tiles = image.reshape(N_ROWS, SIZE, N_COLUMNS, SIZE).swapaxes(1, 2).reshape(-1, SIZE, SIZE)
    found = tiles, np.abs(np.diff(tiles, axis=1)), np.abs(np.diff(tiles, axis=2))
    return np.hstack([np.quantile(one, np.arange(0.1, 1, 0.2), axis=(1, 2)).T for one in found])


places = dict(zip("yx", SIZE * np.indices((N_ROWS, N_COLUMNS)).reshape(2, -1), strict=True))
y = np.array(["original", "pasted"] * 200)
pairs = [picture(label == "pasted", is_train=i < 300) for i, label in enumerate(y)]
images, pasted = zip(*pairs, strict=True)
X = FeatureSets.from_arrays(list(map(describe, images)), places=[places] * len(images))

# For a map, units must give weights to more than a few tiles: n_attended=None.
options = {"cluster_size": 16, "hidden_features": 16, "random_state": 0}
clf = AttentionClusterClassifier(n_attended=None, **options).fit(X[:300], y[:300])
print(f"accuracy on test pictures: {clf.score(X[300:], y[300:]):.2f}")

# %%
# Draw the evidence for "pasted" over two test pictures: light orange is for it, dark blue against.

figure, axes = plt.subplots(2, 2, figsize=(10, 6.5), layout="constrained")
for above, below, i in zip(*axes, (323, 351), strict=True):
    above.imshow(images[i], cmap="gray")
    above.set_axis_off()
    EvidenceDisplay.from_estimator(clf, X[[i]], classes=["pasted"], thumbnail=images[i], ax=below)

# %%
# How well does the evidence tell pasted tiles from others? An AUC of 1 would be perfect.

found = [i for i in range(300, 400) if y[i] == "pasted"]
evidence = clf.local_evidence(X[found], ["pasted"])
aucs = [roc_auc_score(pasted[i], own[:, 0]) for i, own in zip(found, evidence, strict=True)]
print(f"mean AUC over the test pictures: {np.mean(aucs):.2f}")
