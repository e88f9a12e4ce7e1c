"""
When to stop
============

With `early_stopping` and a validation set, the weights of its best epoch stay. The curve shows what
that saves.
"""

import numpy as np

from acluster import AttentionClusterClassifier
from acluster.inspection import LearningCurveDisplay

# %%
# Few items, and labels of which a fifth is wrong: there is much to learn by heart.

rng = np.random.default_rng(0)
y = np.arange(240) % 2
X = [rng.normal(size=(rng.integers(3, 12), 16)) for _ in y]
for features, label in zip(X, y, strict=True):
    features[0, label] += 4
wrong = rng.random(len(y)) < 0.2
y_given = np.where(wrong, 1 - y, y)

# %%
clf = AttentionClusterClassifier(
    cluster_size=16,
    early_stopping=True,
    n_iter_no_change=60,
    random_state=0,
)
clf.fit(X[:120], y_given[:120], X_val=X[120:180], y_val=y_given[120:180])
print(f"{clf.n_iter_} epochs; the best was {np.argmax(clf.validation_scores_) + 1}")

# %%
display = LearningCurveDisplay.from_estimator(clf)

# %%
# On the last items, with their true labels, against training without a halt:

without = AttentionClusterClassifier(cluster_size=16, max_iter=200, tol=None, random_state=0)
without.fit(X[:120], y_given[:120])
for name, model in (("stopped", clf), ("200 epochs", without)):
    print(f"{name}: {model.score(X[180:], y[180:]):.3f}")
