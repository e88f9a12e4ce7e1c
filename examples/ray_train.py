"""Train one model in the workers of Ray Train.

    python examples/ray_train.py [FOLDER] [WORKERS]

Ray starts the workers, on one machine or many, and they form the process group that
``distributed=True`` uses. If a worker is killed, Ray starts all of them again, and the fit resumes
from its checkpoint. It needs ``pip install "ray[train]"``. All machines must see FOLDER.
"""

import sys
from pathlib import Path

import ray
from distributed import write_store
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from acluster import AttentionClusterClassifier, load, open_feature_sets


def train(config):
    """Train in one worker; all workers call this function."""
    folder = Path(config["folder"])
    X = open_feature_sets(folder / "sets.zarr")[:500]
    clf = AttentionClusterClassifier(distributed=True, max_iter=30, random_state=0, device="cpu")
    clf.fit(X, X.label, checkpoint_dir=folder / "checkpoint")
    if ray.train.get_context().get_world_rank() == 0:
        clf.set_params(distributed=False).save(folder / "sets.model")


def main(folder, n_workers):
    """Write the store, train, and score the model on held-out items."""
    if not (folder / "sets.zarr").exists():
        write_store(folder / "sets.zarr")
    trainer = TorchTrainer(
        train,
        train_loop_config={"folder": str(folder.resolve())},
        scaling_config=ScalingConfig(num_workers=n_workers),  # use_gpu=True on GPUs
        run_config=RunConfig(
            storage_path=str((folder / "ray").resolve()),
            failure_config=FailureConfig(max_failures=3),
        ),
    )
    trainer.fit()
    X = open_feature_sets(folder / "sets.zarr")[500:]
    accuracy = load(folder / "sets.model").score(X, X.label)
    print(f"{n_workers} workers: accuracy {accuracy:.3f}")


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "output"
    out.mkdir(exist_ok=True)
    main(out, int(sys.argv[2]) if len(sys.argv) > 2 else 2)
