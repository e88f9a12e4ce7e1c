"""Fits in several processes beside fits in one, for `test_distributed.py`.

Started by torchrun with a folder: every rank writes what it found there as JSON.
"""

import hashlib
import json
import os
import signal
import sys
import threading
import traceback
import warnings
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
import zarr

from acluster import (
    AttentionClusterClassifier,
    FeatureSets,
    MultimodalAttentionClusterClassifier,
    MultimodalFeatureSets,
    open_feature_sets,
    rivals,
    save_feature_sets,
)
from acluster.estimators import _fitting, _split
from acluster.training import Ranks

N = 103
BASE = {"max_iter": 2, "tol": None, "random_state": 0, "cluster_size": 5, "dtype": "float64"}


def make_sets(n=N, width=12, longest=9, missing=0.0, seed=0):
    """Sets of different sizes, in float64; some are empty if a share is missing."""
    rng = np.random.default_rng(seed)
    arrays = []
    for i in range(n):
        length = 0 if rng.random() < missing else int(rng.integers(1, longest))
        values = rng.standard_normal((length, width))
        values[: length // 2, i % 5] += 2
        arrays.append(values)
    return FeatureSets.from_arrays(arrays)


X, y = make_sets(), np.arange(N) % 5
SEVERAL = MultimodalFeatureSets({"a": X, "b": make_sets(width=7, missing=0.4, seed=1)})
LABELS = (np.random.default_rng(2).random((N, 3)) < 0.4).astype(int)
LABELS[:3] |= np.eye(3, dtype=int)
WEIGHTS = np.random.default_rng(3).random(N)
WEIGHTS[::7] = 0


def save_compressed(path):
    """Write a store that is slow to read: blocks of 16 local features, compressed."""
    save_feature_sets(path, X, label=y)
    group = zarr.open_group(path)
    rows = group["features"]
    group.create_array(
        "features",
        data=rows[...],
        chunks=(16, rows.shape[1]),
        compressors=zarr.codecs.ZstdCodec(),
        dimension_names=rows.metadata.dimension_names,
        overwrite=True,
    )


def one(X=X, y=y, fit=None, **parameters):
    """Return a function that fits a classifier of one modality."""
    return lambda distributed: AttentionClusterClassifier(
        distributed=distributed, **{**BASE, **parameters}
    ).fit(X, y, **(fit or {}))


def several(**parameters):
    """Return a function that fits a classifier of two modalities."""
    return lambda distributed: MultimodalAttentionClusterClassifier(
        distributed=distributed, **{**BASE, **parameters}
    ).fit(SEVERAL, y)


def fused(distributed):
    """Fit a rival to two modalities, each of which has its own scores."""
    parameters = {name: value for name, value in BASE.items() if name != "cluster_size"}
    rival = rivals.AverageClassifier(fusion="scores", distributed=distributed, **parameters)
    return rival.fit(SEVERAL, y)


def twice(distributed):
    """Fit, and continue."""
    classifier = AttentionClusterClassifier(distributed=distributed, warm_start=True, **BASE)
    return classifier.fit(X, y).fit(X, y)


def partially(distributed):
    """Fit to the halves of the items, one after the other."""
    classifier = AttentionClusterClassifier(distributed=distributed, **BASE)
    for half in (slice(0, 50), slice(50, None)):
        classifier.partial_fit(X[half], y[half], classes=np.arange(5))
    return classifier


def rival(kind):
    """Return a function that fits a rival."""
    parameters = {name: value for name, value in BASE.items() if name != "cluster_size"}
    parameters |= {"max_iter": 1, "learning_rate": 1e-4}  # their rounding errors grow faster
    return lambda distributed: kind(distributed=distributed, **parameters).fit(X, y)


def fits(folder):
    """Return the fits that must be the same with one process and with several."""
    stored = open_feature_sets(folder / "plain.zarr")
    found = {
        "defaults": one(),
        "batches smaller than the ranks": one(X[:14], y[:14], batch_size=1, max_iter=1),
        "a last batch of one": one(X[:40], y[:40], batch_size=13),
        "all items in a batch": one(batch_size=999),
        "store, streamed": one(stored, cache="stream"),
        "store, in memory": one(stored, cache="memory"),
        "store, on the device": one(stored, cache="device"),
        "sampled": one(n_local_features=3),
        "not standardized": one(standardize=False),
        "class weights": one(class_weight="balanced"),
        "sample weights": one(fit={"sample_weight": WEIGHTS}),
        "binary": one(y=y > 2),
        "multilabel": one(y=LABELS),
        "early stopping": one(early_stopping=True),
        "validation": one(X[:80], y[:80], fit={"X_val": X[80:], "y_val": y[80:]}),
        "validation of one": one(X[:80], y[:80], fit={"X_val": X[80:81], "y_val": y[80:81]}),
        "fc2, pyramid": one(weighting="fc2", pyramid_levels=2, n_attended=2, cluster_size=4),
        "hidden features": one(hidden_features=5),
        "clipped": one(max_grad_norm=1e-2),
        "fc2": one(weighting="fc2"),
        "average, no shifting": one(weighting="average", shifting=False),
        "adamw": one(optimizer="adamw", weight_decay=0.1),
        "rmsprop": one(optimizer="rmsprop", learning_rate=1e-3),
        "cosine": one(learning_rate_schedule="cosine"),
        "a large last layer": one(cluster_size=256, y=np.arange(N) % 60, learning_rate=1e-4),
        "members": one(n_members=3),
        "mask": several(missing_modality="mask"),
        "mean": several(missing_modality="mean"),
        "other units per modality": several(cluster_size={"a": 5, "b": 3}, shifting=False),
        "clipped modalities": several(cluster_size={"a": 5, "b": 3}, max_grad_norm=1e-2),
        "dropped modalities": several(modality_dropout=0.5, batch_size=5, max_iter=1),
        "fused scores": fused,
        "warm start": twice,
        "partial_fit": partially,
    }
    for kind in networks():
        if not _has_batch_norm(kind):
            found[f"rival {kind.__name__}"] = rival(kind)
    return found


def networks():
    """Return the rivals that train a network."""
    kinds = [getattr(rivals, name) for name in rivals.__all__]
    return [one for one in kinds if hasattr(one, "get_params") and hasattr(one(), "distributed")]


def _has_batch_norm(kind):
    network = kind(random_state=0, max_iter=1, tol=None).fit(X[:10], y[:10]).network_
    return any("BatchNorm" in type(one).__name__ for one in network.modules())


class Failing:
    """A callback that fails after the first epoch."""

    def setup(self, *args, **kwargs):
        pass

    def teardown(self, *args, **kwargs):
        pass

    def on_fit_task_begin(self, *args, **kwargs):
        pass

    def on_fit_task_end(self, *args, **kwargs):
        raise OSError("the callback has no disk")


def failures(folder):
    """Return the fits that must fail on all ranks."""
    rank = dist.get_rank()
    damaged = open_feature_sets(folder / "damaged.zarr")
    bad = [np.full((2, 3), np.nan if i == 7 and rank == 1 else i % 3 / 2) for i in range(20)]

    def fit(X=X, y=y, **parameters):
        return lambda: AttentionClusterClassifier(distributed=True, **BASE | parameters).fit(X, y)

    def with_callback():
        classifier = AttentionClusterClassifier(distributed=True, **BASE)
        return classifier.set_callbacks(Failing()).fit(X, y)

    def without_classes():
        classifier = AttentionClusterClassifier(distributed=True, **BASE)
        return classifier.partial_fit(X, y, classes=np.unique(y) if rank == 0 else None)

    def unresumable():
        parameters = BASE | {"random_state": 0 if rank == 0 else None}
        classifier = AttentionClusterClassifier(distributed=True, **parameters)
        return classifier.fit(X, y, checkpoint_dir=folder / "unresumable")

    def with_units(fail):
        def failing():
            with sharing(True):
                fail()

        return failing

    damaged_on_one = damaged if rank == 1 else open_feature_sets(folder / "plain.zarr")
    one_bad = fit(damaged_on_one, cache="stream", standardize=False)
    moved = FeatureSets.from_arrays([values + rank for values in X])
    most = N - rank  # a rank with fewer items
    normalizing = next(kind for kind in networks() if _has_batch_norm(kind))
    return {
        "other features": fit(moved),
        "fewer items": fit(X[:most], y[:most]),
        "other labels": fit(y=(y + rank) % 5),
        "another learning rate": fit(learning_rate=0.01 + rank),
        "a wrong parameter on one rank": fit(learning_rate=0.01 - rank),
        "no classes on one rank": without_classes,
        "a seed that does not resume on one rank": unresumable,
        "a bad item on one rank": fit(bad, y[:20]),
        "a damaged store": fit(damaged, cache="stream", standardize=False),
        "a callback that fails": with_callback,
        "a callback that fails, units": with_units(with_callback),
        "a damaged store on one rank, units": with_units(one_bad),
        "batch normalization": lambda: normalizing(distributed=True).fit(X, y),
        "a second fit in a thread": _in_two_threads,
    }


def _in_two_threads():
    """Start a fit while another thread of the same process is in one."""
    entered, left, errors = threading.Event(), threading.Event(), []

    def hold():
        with Ranks(distributed=True):
            entered.set()
            left.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait()
    try:
        one()(True)
    except ValueError as error:
        errors.append(error)
    finally:
        left.set()
        thread.join()
    raise errors[0]


def compared(together, alone):
    """Return the largest relative difference of two networks, over their parameters."""
    a, b = together.network_.state_dict(), alone.network_.state_dict()
    scales = {name: b[name].abs().max().clamp(min=1e-30) for name in b}
    return max(float((a[name] - b[name]).abs().max() / scales[name]) for name in b)


@contextmanager
def sharing(units):
    """Share out units (True) or items (False); None: as the rule says. Yield the decisions."""
    decisions, decide = [], _fitting.splits_units

    def decided(*args):
        decisions.append(decide(*args))
        return decisions[-1]

    with patch.object(_split, "FORCED", units), patch.object(_fitting, "splits_units", decided):
        yield decisions


def resumed(folder):
    """Yield fits that were begun in one way and resumed in another, and how."""
    constant = {"learning_rate_schedule": "constant", "max_grad_norm": 1e-2}

    def fit(way, max_iter, folder=None):
        folder = None if folder is None else folder / str(dist.get_rank())
        with sharing(way == "units"):
            return AttentionClusterClassifier(
                distributed=way != "alone", **BASE | constant | {"max_iter": max_iter}
            ).fit(X, y, checkpoint_dir=folder)

    alone = fit("alone", 3)
    for ways in ("alone, units", "units, items", "items, units", "units, alone", "units, units"):
        first, second = ways.split(", ")
        of_ways = folder / ways
        if first != "alone" or dist.get_rank() == 0:
            fit(first, 1, of_ways)
        dist.barrier()
        found = {"digest": "of rank 0 only"}
        if second != "alone":
            together = fit(second, 3, of_ways)
            found["digest"] = digest(together)
        elif dist.get_rank() == 0:
            together = fit(second, 3, of_ways)
        yield ways, found | ({"gap": compared(together, alone)} if dist.get_rank() == 0 else {})
    with sharing(True):
        yield "undisturbed", {"digest": digest(fit("units", 3))}


def interrupted(units):
    """Return a fit that was interrupted on rank 1 in its second epoch, and one of one epoch."""
    parameters = BASE | {"learning_rate_schedule": "constant"}
    name = "total" if units else "sum_gradients"
    exchange, calls = getattr(Ranks, name), []

    def interrupt(self, given):
        calls.append(1)
        found = exchange(self, given)
        if dist.get_rank() == 1 and len(calls) == 6:  # an epoch has four steps
            os.kill(os.getpid(), signal.SIGINT)
        return found

    classifier = AttentionClusterClassifier(
        distributed=True, warm_start=True, **parameters | {"max_grad_norm": None}
    )
    with sharing(units), patch.object(Ranks, name, interrupt):
        try:
            classifier.fit(X, y)
            raise AssertionError("the fit was not interrupted")
        except KeyboardInterrupt:
            pass
    once = parameters | {"max_grad_norm": None, "max_iter": 1}
    return classifier, AttentionClusterClassifier(**once).fit(X, y)


def digest(classifier):
    """Return a digest of the bits of the network, of the curves and of the random state."""
    state = classifier.network_.state_dict().values()
    found = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in state))
    found.update(repr((classifier.loss_curve_, classifier.validation_scores_)).encode())
    found.update(repr(classifier._random_state.get_state()[1].tolist()).encode())
    return found.hexdigest()


def compared_fits(folder, names):
    """Yield what was found of fits, in both ways of sharing, beside fits in one process."""
    for name, fit in fits(folder).items():
        if name not in (names or [name]):
            continue
        with sharing(False):
            ways = {name: fit(True)}
        with sharing(True) as decisions:
            together = fit(True)
        if all(decisions):
            ways[f"{name}, units"] = together
        alone = fit(False) if dist.get_rank() == 0 else None
        for way, together in ways.items():
            found = {"digest": digest(together)}
            if alone is not None:
                found |= {
                    "gap": compared(together, alone),
                    "scores": [together.validation_scores_, alone.validation_scores_],
                }
            yield way, found


def other_fits(folder):
    """Yield what was found of fits that are not compared with one process, or in another way."""
    yield from resumed(folder)
    together, alone = interrupted(units=True)
    yield "interrupted, units", {"digest": digest(together), "gap": compared(together, alone)}
    together, _ = interrupted(units=False)
    yield "interrupted, items", {"digest": digest(together)}
    with sharing(None) as decisions:
        one()(True)
        one(cluster_size=256, y=np.arange(N) % 60, max_iter=1)(True)
    yield "decisions", {"digest": str(decisions)}
    packed = open_feature_sets(folder / "packed.zarr")
    for name, fit in {
        "no seed": one(random_state=None),
        "a random state per rank": one(random_state=np.random.RandomState(dist.get_rank())),
        "compressed store": one(packed, cache="stream"),
    }.items():
        yield name, {"digest": digest(fit(True))}
    for name, fail in failures(folder).items():
        try:
            fail()
        except Exception as error:
            yield name, {"error": type(error).__name__, "text": str(error)}


def main(folder, *names):
    """Run all fits, or some of the compared ones, and write what was found."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    if rank == 0:
        save_feature_sets(folder / "plain.zarr", X, label=y)
        save_compressed(folder / "packed.zarr")
        save_feature_sets(folder / "damaged.zarr", X, label=y)
        zarr.open_group(folder / "damaged.zarr")["features"][-1, 0] = np.nan
    dist.barrier()
    found = dict(compared_fits(folder, names))
    if not names:
        found |= dict(other_fits(folder))
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        main(Path(sys.argv[1]), *sys.argv[2:])
    except BaseException:
        traceback.print_exc()
        raise
