"""Compare mixed and full precision on equal weights.

Two fits from the same seed, one in each precision, diverge by more than any bound that follows
from bfloat16: training amplifies rounding. In a network with kinks (ReLU, maximum), a change of
0.1 % in the initial weights can turn the gradient by 20 degrees.
"""

import copy
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import torch
from sklearn.base import clone

from acluster._utils._operations import OPERATIONS, choosing_bfloat16
from acluster.estimators import _fitting, _precision

UNIT_ROUNDOFF = 2.0**-8  # of bfloat16, which keeps 8 bits of a significand


@contextmanager
def gains(max_operations=0, **of_operations):
    """A processor with bfloat16, on which the operations gain this much, 2 by default.

    Nothing is timed. Networks take no compiled steps, unless their steps have at most
    `max_operations`: else the networks of tests would be too small for bfloat16.
    """
    by_operation = {"linear": 2.0, "integration": 2.0, **of_operations}

    def gain(trial):
        return by_operation["linear" if trial.key["operation"] == "linear" else "integration"]

    with (
        patch.object(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}),
        patch.object(_precision, "bfloat16_gain", gain),
        patch.object(_fitting, "_MAX_OPERATIONS", max_operations),
    ):
        yield


def assert_agree_on_equal_weights(clf, X, y, n_products):
    """Assert that both precisions give the same logits and gradient, up to rounding.

    A product rounds both of its operands to bfloat16, which changes the result by up to two unit
    roundoffs. The logits come from `n_products` products in sequence, so their error is at most
    about 2 `n_products` roundoffs. The gradient takes each product twice, forward and backward.

    Batch norm is in evaluation mode. With the statistics of the batch it divides by spreads that
    are themselves near zero at first, so the gradient is ill-conditioned in any precision. For
    the same reason `clf` must not have converged: the gradient of a fit without residuals is
    rounding only.
    """
    clf = copy.deepcopy(clf).set_params(batch_size=len(y))
    full, mixed = (_logits_and_gradient(clf, X, y, precision) for precision in ("full", "mixed"))
    for what, n, one, other in zip(
        ("logits", "gradient"), (n_products, 2 * n_products), full, mixed, strict=True
    ):
        error = np.linalg.norm(other - one) / np.linalg.norm(one)
        # Rounding to bfloat16 cannot cancel this well in so many numbers; float32's is smaller.
        assert error > UNIT_ROUNDOFF / 64, f"the {what} are not computed in bfloat16"
        assert error <= 2 * n * UNIT_ROUNDOFF, what
        # A relative error of e turns a vector by up to arcsin(e) and scales it by up to 1 ± e:
        # the bound holds for direction and norm as well.


def assert_both_learn(clf, X, y, accuracy):
    """Assert that fits in both precisions reach `accuracy` on their training data."""
    full, mixed = (
        clone(clf).set_params(precision=precision).fit(X, y) for precision in ("full", "mixed")
    )
    assert full.score(X, y) >= accuracy
    assert mixed.score(X, y) >= accuracy
    assert mixed.loss_curve_ != full.loss_curve_, "training does not use bfloat16"


def _logits_and_gradient(clf, X, y, precision):
    """Return the logits of all items, and the gradient of their mean loss."""
    operations = OPERATIONS if precision == "mixed" else ()
    clf.set_params(precision=precision)._in_bfloat16 = operations
    network, batches = copy.deepcopy(clf.network_).eval(), []
    hook = clf.network_.register_forward_pre_hook(lambda _, arguments: batches.append(*arguments))
    logits = clf.decision_function(X)
    hook.remove()
    (batch,) = batches  # autograd needs copies of tensors made in inference mode
    batch = [(values.clone(), offsets.clone()) for values, offsets in batch]
    with choosing_bfloat16(operations):
        outputs = network(batch)
    torch.nn.functional.cross_entropy(outputs, torch.from_numpy(y)).backward()
    return logits, np.concatenate([p.grad.numpy().ravel() for p in network.parameters()])
