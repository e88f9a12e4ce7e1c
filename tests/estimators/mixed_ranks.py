"""Fits in mixed precision on ranks that measure different gains, for `test_distributed.py`.

Alone, networks this small would take compiled steps.

Started by torchrun with a folder: every rank writes what it chose, and its weights' digest.
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist

from acluster import AttentionClusterClassifier
from acluster.estimators import _split
from tests.conftest import make_sets
from tests.mixed_precision import gains

OPTIONS = {"max_iter": 2, "random_state": 0, "cluster_size": 4, "standardize": False}


def found(splits_units):
    """Fit, and return the operations in bfloat16 and the digest of the weights."""
    X, y = make_sets(n=24, dtype=np.float32)
    of_rank = {"integration": 0.5} if dist.get_rank() == 0 else {"linear": 0.5}
    with patch.object(_split, "FORCED", splits_units), gains(1e8, **of_rank):
        clf = AttentionClusterClassifier(precision="mixed", distributed=True, **OPTIONS).fit(X, y)
    weights = [parameter.detach().numpy().tobytes() for parameter in clf.network_.parameters()]
    return [clf._in_bfloat16, hashlib.sha256(b"".join(weights)).hexdigest(), clf.loss_curve_]


def main():
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    report = {name: found(splits) for name, splits in (("items", False), ("units", True))}
    path = Path(sys.argv[1]) / f"{os.environ['RANK']}.json"
    path.write_text(json.dumps(report))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
