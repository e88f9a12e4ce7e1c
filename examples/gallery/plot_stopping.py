"""
Stop training early
===================

With `early_stopping` and a constant learning rate, training ends when the validation score no
longer improves, and the classifier keeps the weights of the best epoch. The learning curve shows
where overfitting begins.
"""

import numpy as np
from sklearn.base import clone

from acluster import AttentionClusterClassifier
from acluster.inspection import LearningCurveDisplay

# %%
# A small data set with a fifth of the labels wrong invites overfitting.

rng = np.random.default_rng(0)
y = np.arange(240) % 2
X = [rng.normal(size=(rng.integers(3, 12), 16)) for _ in y]
for features, label in zip(X, y, strict=True):
    features[0, label] += 4
wrong = rng.random(len(y)) < 0.2
y_given = np.where(wrong, 1 - y, y)

# %%
# Train with a validation set.

constant = AttentionClusterClassifier(
    cluster_size=16, learning_rate_schedule="constant", max_iter=200, random_state=0
)
clf = clone(constant).set_params(early_stopping=True, n_iter_no_change=60)
clf.fit(X[:120], y_given[:120], X_val=X[120:180], y_val=y_given[120:180])
print(f"{clf.n_iter_} epochs; the best was epoch {np.argmax(clf.validation_scores_) + 1}")

# %%
# Plot the learning curve.

display = LearningCurveDisplay.from_estimator(clf)

# %%
# Compare with 200 epochs of training, on held-out items with their true labels.

without = clone(constant).set_params(tol=None)
without.fit(X[:120], y_given[:120])
for name, model in (("early stopping", clf), ("200 epochs", without)):
    print(f"{name}: {model.score(X[180:], y[180:]):.3f}")
