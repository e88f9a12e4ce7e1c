"""Compare the bits of a fixed list of fits between two versions of acluster.

Run it with the old version, then with the new one, on the same machine::

    python tests/same_bits.py record bits.npz
    python tests/same_bits.py compare bits.npz

It exits with status 1 and names the arrays that differ. Bits depend on the processor and on
the version of torch, so that the file of one machine means nothing on another.
"""

import argparse
import json
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from acluster import (
    AttentionClusterClassifier,
    FeatureSets,
    MultimodalAttentionClusterClassifier,
    load,
    rivals,
    save_feature_sets,
)

N_ITEMS = 48
COMMON = {"max_iter": 4, "tol": None, "random_state": 0, "batch_size": 16}
# Parameters in which acluster differs from version to version say nothing about the fit.
NOT_COMPARED = {"versions"}


def make_data():
    """Items of one modality, and of two of which some items lack the second."""
    rng = np.random.default_rng(0)
    y = np.arange(N_ITEMS) % 3
    frames = [rng.normal(size=(rng.integers(1, 9), 5)) + (label == 1) for label in y]
    sounds = [rng.normal(size=(rng.integers(1, 5), 3)) + (label == 2) for label in y]
    sounds[::6] = [None] * len(sounds[::6])
    return frames, {"frames": frames, "sounds": sounds}, y


def fits(folder):
    """Yield a name, a fitted classifier and the items to predict."""
    frames, both, y = make_data()
    single = [x.astype(np.float32) for x in frames]
    store = folder / "frames.zarr"
    save_feature_sets(store, single)
    indicator = np.stack([y == 0, y > 0, y == 2], axis=1).astype(int)
    weight = np.random.default_rng(1).random(N_ITEMS).round(1)

    def one(**parameters):
        return AttentionClusterClassifier(**{"cluster_size": 4, **COMMON, **parameters})

    yield "single", one().fit(frames, y), frames
    yield "float32", one().fit(single, y), single
    for name, parameters in {
        "average": {"weighting": "average"},
        "fc2": {"weighting": "fc2", "hidden_size": 3, "shifting": False},
        "pyramid": {"pyramid_levels": 2, "n_attended": 2},
        "augmented": {"n_local_features": 3, "standardize": True},
        "rmsprop": {"optimizer": "rmsprop", "learning_rate": 1e-3, "max_grad_norm": 0.1},
        "adamw": {"optimizer": "adamw", "weight_decay": 0.1, "max_grad_norm": None},
        "balanced": {"class_weight": "balanced", "dropout": 0.0},
        "early_stopping": {"early_stopping": True, "validation_fraction": 0.25, "max_iter": 9},
        "patience": {"tol": 0.5, "n_iter_no_change": 2, "max_iter": 9},
    }.items():
        yield name, one(**parameters).fit(frames, y), frames
    yield "binary", one().fit(frames, y > 0), frames
    yield "multilabel", one(class_weight="balanced").fit(frames, indicator), frames
    yield "weighted", one().fit(frames, y, sample_weight=weight), frames
    yield (
        "validated",
        one(early_stopping=True).fit(frames, y, X_val=frames[:9], y_val=y[:9]),
        frames,
    )
    for cache in ("stream", "memory", "device"):
        yield f"store_{cache}", one(cache=cache).fit(store, y), store
    warm = one(warm_start=True).fit(frames, y)
    yield "warm_start", warm.fit(frames, y), frames
    partial = one(standardize=True)
    for part in (slice(0, 24), slice(24, None)):
        partial.partial_fit(frames[part], y[part], classes=[0, 1, 2])
    yield "partial_fit", partial, frames

    def several(**parameters):
        parameters = {"cluster_size": {"frames": 4, "sounds": 2}, **COMMON, **parameters}
        return MultimodalAttentionClusterClassifier(**parameters)

    yield "multimodal", several(modality_dropout=0.3).fit(both, y), both
    yield "masked", several(missing_modality="mask", standardize=True).fit(both, y), both
    each = several(n_local_features={"frames": 3, "sounds": None}, early_stopping=True)
    yield "per_modality", each.fit(both, y), both
    for name in rivals.__all__:
        if hasattr(getattr(rivals, name), "save"):
            kind = getattr(rivals, name)
            small = {"hidden_size": 8} if "hidden_size" in kind().get_params() else {}
            yield name, kind(**COMMON, **small).fit(both, y), both
    scores = rivals.AverageClassifier(fusion="scores", **COMMON)
    yield "score_fusion", scores.fit(both, y), both
    yield "pooled", rivals.PooledClassifier().fit(both, y), both


def flat_attention(weights):
    names = getattr(weights, "names", None)
    sets = [weights] if names is None else [weights[name] for name in names]
    return [FeatureSets.packed(one)[0] for one in sets]


def collect(folder):
    """All arrays of all fits, by name."""
    arrays = {}
    for name, clf, X in fits(folder):
        found = {"predict_proba": clf.predict_proba(X), "predict": clf.predict(X)}
        if hasattr(clf, "network_"):
            state = clf.network_.state_dict()
            found |= {f"network.{key}": value.numpy() for key, value in state.items()}
            found |= {"loss_curve": clf.loss_curve_, "transform": clf.transform(X)}
            found["scores"] = np.array(clf.validation_scores_ or [], dtype=float)
            clf.save(folder / "one.model")
            found["loaded"] = load(folder / "one.model").decision_function(X)
            found |= {f"file.{key}": value for key, value in read(folder / "one.model").items()}
        if hasattr(clf, "attention_weights"):
            parts = flat_attention(clf.attention_weights(X))
            found |= {f"attention{i}": part for i, part in enumerate(parts)}
        arrays |= {f"{name}/{key}": np.asarray(value) for key, value in found.items()}
    frames, both, y = make_data()
    for name, X, kind in (
        ("single", frames, AttentionClusterClassifier),
        ("multimodal", both, MultimodalAttentionClusterClassifier),
    ):
        run = folder / f"run_{name}"
        kind(**COMMON, early_stopping=True).fit(X, y, checkpoint_dir=run)
        found = read(run / "fit.checkpoint")
        arrays |= {f"checkpoint_{name}/{key}": value for key, value in found.items()}
    return arrays


def read(path):
    """The tensors of a model file or a checkpoint, and its description as text."""
    with safe_open(path, framework="np") as file:
        found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        description = json.loads(file.metadata()["acluster"])
    for key, value in description.items():
        if key not in NOT_COMPARED:
            found[f"description.{key}"] = np.array(json.dumps(value, sort_keys=True))
    return found


def differing(found, expected):
    """Names of arrays that one version lacks, or that differ in dtype, shape or bits."""
    return sorted(
        name
        for name in found.keys() | expected.keys()
        if name not in found
        or name not in expected
        or found[name].dtype != expected[name].dtype
        or found[name].tobytes() != expected[name].tobytes()
    )


def main():
    """Record the bits, or compare them with those recorded."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("action", choices=["record", "compare"])
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        found = collect(Path(folder))
    if arguments.action == "record":
        np.savez(arguments.file, **found)
        print(f"{len(found)} arrays recorded")
        return 0
    with np.load(arguments.file) as expected:
        names = differing(found, {name: expected[name] for name in expected.files})
    for name in names:
        print(f"differs: {name}")
    print(f"{len(found) - len(names)} of {len(found)} arrays are the same, to the bit")
    return 1 if names else 0


if __name__ == "__main__":
    raise SystemExit(main())
