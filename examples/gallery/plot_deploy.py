"""
Deploy a fitted model
=====================

Save a model to a file that cannot execute code, or export it to ONNX, which needs neither torch nor
acluster for predictions.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import onnxruntime

import acluster
from acluster import AttentionClusterClassifier

# %%
# Train a classifier. One local feature of every wren is shifted.

rng = np.random.default_rng(0)
y = np.array(["wren", "robin"])[np.arange(200) % 2]
X = [rng.normal(size=(rng.integers(2, 9), 4)).astype(np.float32) for _ in y]
for features, label in zip(X, y, strict=True):
    features[0] += 4 if label == "wren" else 0
clf = AttentionClusterClassifier(cluster_size=4, max_iter=50)
clf.fit(X, y)

# %%
# Save the model and load it again. The probabilities are bitwise identical.

folder = Path(tempfile.mkdtemp())
clf.save(folder / "birds.model")
again = acluster.load(folder / "birds.model")
print(np.array_equal(again.predict_proba(X), clf.predict_proba(X)))

# %%
# Export it to ONNX. The exported model takes padded sets and their lengths.

clf.to_onnx(folder / "birds.onnx")
session = onnxruntime.InferenceSession(folder / "birds.onnx")
lengths = np.array([len(features) for features in X])
padded = np.zeros((len(X), lengths.max(), 4), dtype=np.float32)
for row, features in zip(padded, X, strict=True):
    row[: len(features)] = features
(proba,) = session.run(None, {"features": padded, "features_lengths": lengths})
classes = session.get_modelmeta().custom_metadata_map["classes"]
print(classes, proba[:3].round(3))

# %%
# Both models agree to five digits.

here = clf.predict_proba(X)
print(np.abs(proba - here).max() < 1e-5)
figure, ax = plt.subplots(figsize=(4, 4), layout="constrained")
ax.plot(here[:, 1], proba[:, 1], ".")
ax.set(xlabel="probability of a wren, acluster", ylabel="onnxruntime", aspect="equal")
