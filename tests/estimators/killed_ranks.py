"""A fit in several processes, one of which is killed after every start.

Started by torchrun for `test_distributed.py` and `benchmarks/ranks.py`, with a folder, the number
of kills, and what the processes share out: items or units. Rank 0 writes the digest of the model.
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
from acluster.estimators import _split
from acluster.training import Ranks
from tests.estimators.distributed_scenarios import X, digest, y

SECONDS_PER_STEP = 0.02  # so that there is time for the kills
EPOCHS_PER_KILL = 15


def kill_later(n_kills, rank, size):
    """Kill a random rank at a random moment, unless the processes were restarted often enough."""
    n_restarts = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    rng = np.random.default_rng([7, n_restarts])
    if n_restarts < n_kills and rank == rng.integers(size):
        # Of about 1.2 s of training per kill; the checkpoint is written in between.
        timer = threading.Timer(rng.uniform(0.1, 1.0), os.kill, [os.getpid(), signal.SIGKILL])
        timer.daemon = True
        timer.start()


def slowly(exchange, n_kills):
    """Return an exchange of every step that takes longer; its first call prepares the kill."""
    begun = []

    def exchange_slowly(self, given):
        if not begun:  # the training: imports take longer than it on a busy machine
            begun.append(True)
            kill_later(n_kills, self.rank, self.size)
        time.sleep(SECONDS_PER_STEP)
        return exchange(self, given)

    return exchange_slowly


def main(folder, n_kills, shared, n_epochs):
    """Fit, slowly."""
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    _split.FORCED = shared == "units"
    name = "total" if _split.FORCED else "sum_gradients"
    setattr(Ranks, name, slowly(getattr(Ranks, name), n_kills))
    classifier = AttentionClusterClassifier(
        distributed=True, random_state=0, max_iter=n_epochs, tol=None, early_stopping=True
    )
    classifier.fit(X, y, checkpoint_dir=folder / f"checkpoint {dist.get_rank()}")
    if dist.get_rank() == 0:
        (folder / "digest").write_text(digest(classifier))
        (folder / "restarts").write_text(os.environ["TORCHELASTIC_RESTART_COUNT"])
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
