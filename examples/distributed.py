"""Train one model in several processes, each on its own part of every batch.

    torchrun --nproc-per-node 2 examples/distributed.py [FOLDER]

Rank 0 writes a store of synthetic sets, all processes train on it, and rank 0 saves the model. If
a process is killed, the same command resumes from the checkpoint. The items are classified by a
local feature that only some of them have; set sizes differ.
"""

import sys
from pathlib import Path

import numpy as np
import torch.distributed as dist

from acluster import AttentionClusterClassifier, FeatureSetsWriter, open_feature_sets

N_ITEMS, N_CLASSES, WIDTH = 600, 4, 32


def write_store(path):
    """Write sets of 5 to 30 local features; one of them has the pattern of the class."""
    rng = np.random.default_rng(0)
    patterns = rng.normal(scale=3, size=(N_CLASSES, WIDTH))
    with FeatureSetsWriter(path) as writer:
        for i in range(N_ITEMS):
            features = rng.normal(size=(rng.integers(5, 31), WIDTH))
            features[rng.integers(len(features))] += patterns[i % N_CLASSES]
            writer.append(features.astype(np.float16), id=f"item{i}", label=i % N_CLASSES)


def main(folder):
    """Train in all processes of the group."""
    dist.init_process_group("gloo")  # "nccl" on GPUs
    store = folder / "sets.zarr"
    if dist.get_rank() == 0 and not store.exists():
        write_store(store)
    dist.barrier()  # the store is complete

    X = open_feature_sets(store)  # all items, in every process
    train, test = slice(0, 500), slice(500, None)
    clf = AttentionClusterClassifier(distributed=True, max_iter=30, random_state=0)
    clf.fit(X[train], X.label[train], checkpoint_dir=folder / "checkpoint")

    if dist.get_rank() == 0:
        accuracy = clf.score(X[test], X.label[test])
        print(f"{dist.get_world_size()} processes, {clf.n_iter_} epochs: accuracy {accuracy:.3f}")
        clf.save(folder / "sets.model")
    dist.destroy_process_group()


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "output"
    out.mkdir(exist_ok=True)
    main(out)
