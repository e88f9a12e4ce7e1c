"""
Measure the importance of modalities
====================================

The items have three modalities. One of them is noise, and one is missing from some items. Shuffling
the sets of a modality among the items shows how much accuracy depends on it.
"""

import matplotlib.pyplot as plt
import numpy as np

from acluster import MultimodalAttentionClusterClassifier, MultimodalFeatureSets
from acluster.inspection import modality_importance

# %%
# Frames identify the first class, sound the last. A tenth of the items lacks sound.

rng = np.random.default_rng(0)
y = np.arange(300) % 3


def item(label):
    """Return the local features of one item, by modality."""
    frames = rng.normal(size=(rng.integers(5, 20), 8))
    frames[rng.integers(len(frames)), 0] += 6 * (label == 0)
    sound = rng.normal(size=(rng.integers(2, 9), 4)) + 1.5 * (label == 2)
    noise = rng.normal(size=(rng.integers(2, 9), 4))
    found = {"frames": frames, "sound": sound, "noise": noise}
    return found if rng.random() > 0.1 else {**found, "sound": None}


X = MultimodalFeatureSets.from_items([item(label) for label in y])
print(X)

# %%
# Train on two thirds of the items.

clf = MultimodalAttentionClusterClassifier(cluster_size=8, random_state=0)
clf.fit(X[:200], y[:200])
print(f"accuracy on held-out items: {clf.score(X[200:], y[200:]):.3f}")

# %%
# Shuffle each modality 20 times, and plot the decrease in accuracy.

found = modality_importance(clf, X[200:], y[200:], n_repeats=20, random_state=0)
figure, ax = plt.subplots(figsize=(6, 2.5), layout="constrained")
ax.boxplot(list(found.importances.values()), orientation="horizontal", tick_labels=X.names)
ax.set_xlabel("decrease in accuracy")
figure.show()
