"""
Compare the diversity of attention units
========================================

Do the units of a cluster attend to different local features? This example compares clusters with
and without the shifting operation. These local features have no common offset. On them, units
without shifting are more diverse and more accurate.
"""

import matplotlib.pyplot as plt
import numpy as np

from acluster import AttentionClusterClassifier
from acluster.inspection import UnitDiversityDisplay

# %%
# Every item contains some of six patterns among noise. Its labels say which.

rng = np.random.default_rng(0)
patterns = 3 * rng.normal(size=(6, 12))
shown = rng.random((400, 6)) < 0.4
X = []
for is_shown in shown:
    features = rng.normal(size=(15, 12))
    places = rng.permutation(15)[: is_shown.sum()]
    features[places] += patterns[is_shown]
    X.append(features)
y = shown.astype(int)

# %%
# Train both clusters, and plot the similarity of their units.

figure, axes = plt.subplots(1, 2, figsize=(13, 4.5))
figure.subplots_adjust(wspace=0.3)
for ax, shifting in zip(axes, (True, False), strict=True):
    clf = AttentionClusterClassifier(cluster_size=12, shifting=shifting, random_state=0)
    clf.fit(X[:300], y[:300])
    display = UnitDiversityDisplay.from_estimator(clf, X[300:], ax=ax)
    exact = (clf.predict(X[300:]) == y[300:]).all(axis=1).mean()
    ax.set_title(f"{'with' if shifting else 'without'} shifting: {100 * exact:.0f} % exact")
