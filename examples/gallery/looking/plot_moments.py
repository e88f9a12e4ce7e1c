"""
Evidence over time
==================

A recording has pictures and sound, sampled at different rates. Each event has a picture, a sound
or both. The evidence shows at which second which modality speaks for a class, and which speaks
against it. All evidence has one unit, so that the modalities can be compared.
"""

import numpy as np

from acluster import FeatureSets, MultimodalAttentionClusterClassifier, MultimodalFeatureSets
from acluster.inspection import AttentionDisplay, EvidenceDisplay

# %%
# Make recordings of 12 seconds with 5 pictures and 20 pieces of sound per second. Rain can be
# heard and seen for a few seconds, a dog barks in short bursts, and a car drives by: it can be seen
# before it can be heard.

rng = np.random.default_rng(0)
names = np.array(["car", "dog", "rain"])
patterns = {name: rng.normal(size=(2, 8)) for name in names}  # of pictures and of sounds
y = names[rng.integers(3, size=300)]
rates = {"pictures": 5, "sound": 20}


def events(label):
    """Return the seconds in which an event can be seen, and those in which it can be heard."""
    start = rng.uniform(1, 7)
    if label == "dog":
        return [(0, 0)], [(start + k, start + k + 0.3) for k in range(3)]
    if label == "car":
        return [(start, start + 1.5)], [(start + 1, start + 3)]
    return [(start, start + 4)], [(start, start + 4)]


def recording(label):
    """Return the local features of a recording, by modality, and the seconds of its events."""
    spans, item = dict(zip(rates, events(label), strict=True)), {}
    for (name, rate), pattern in zip(rates.items(), patterns[label], strict=True):
        seconds = np.arange(0, 12, 1 / rate)
        item[name] = rng.normal(size=(len(seconds), 8))
        for first, last in spans[name]:
            item[name][(first <= seconds) & (seconds < last)] += 1.5 * pattern
    return item, spans


items, spans = zip(*map(recording, y), strict=True)
X = MultimodalFeatureSets(
    {
        name: FeatureSets.from_arrays(
            [item[name] for item in items],
            places=[{"seconds": np.arange(0, 12, 1 / rate)}] * len(items),
        )
        for name, rate in rates.items()
    }
)

# %%
# Train on two thirds of the recordings. With ``n_attended=None``, units give a weight to all local
# features, and not only to the five that they need.

clf = MultimodalAttentionClusterClassifier(cluster_size=8, n_attended=None, random_state=0)
clf.fit(X[:200], y[:200])
print(f"accuracy on held-out recordings: {clf.score(X[200:], y[200:]):.2f}")

# %%
# Draw the evidence of a recording of a car. The vertical axis is the same in all rows, and so is
# the time. For the car, the pictures come first and the sound follows.

i = 200 + int(np.flatnonzero(y[200:] == "car")[0])
print({name: np.round(own, 1).tolist() for name, own in spans[i].items()})
display = EvidenceDisplay.from_estimator(clf, X[[i]])

# %%
# The attention weights of the same recording show where the units look, but not what for.

AttentionDisplay.from_estimator(clf, X[[i]])
