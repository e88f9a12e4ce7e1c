"""A fit in several processes, one of which is killed after every start, for `test_distributed.py`.

Started by torchrun with a folder and the number of kills. Rank 0 writes the digest of the model.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from acluster import AttentionClusterClassifier
from acluster.training import Ranks
from tests.estimators.distributed_scenarios import X, digest, y

SECONDS_PER_STEP = 0.02  # so that there is time for the kills
MAX_ITER = 15


def kill_later(n_kills, rank, size):
    """Kill a random rank at a random moment, unless this process was restarted often enough."""
    n_restarts = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    rng = np.random.default_rng([7, n_restarts])
    if n_restarts < n_kills and rank == rng.integers(size):
        # Of about 1.2 s of training; the checkpoint is written in between.
        timer = threading.Timer(rng.uniform(0.1, 1.0), os.kill, [os.getpid(), signal.SIGKILL])
        timer.daemon = True
        timer.start()


def main(folder, n_kills):
    """Fit, slowly."""
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    summed = Ranks.sum_gradients

    def slowly(self, parameters):
        time.sleep(SECONDS_PER_STEP)
        summed(self, parameters)

    Ranks.sum_gradients = slowly
    kill_later(n_kills, dist.get_rank(), dist.get_world_size())
    classifier = AttentionClusterClassifier(
        distributed=True, random_state=0, max_iter=MAX_ITER, tol=None, early_stopping=True
    )
    classifier.fit(X, y, checkpoint_dir=folder / f"checkpoint {dist.get_rank()}")
    if dist.get_rank() == 0:
        (folder / "digest").write_text(digest(classifier))
        (folder / "restarts").write_text(os.environ["TORCHELASTIC_RESTART_COUNT"])
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
