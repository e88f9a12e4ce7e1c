"""The parameters of training, which every set classifier has, and what docstrings say of them."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from acluster.training import CACHES, OPTIMIZERS

__all__ = ["TRAINING", "TrainingParameters"]


@dataclass(kw_only=True, eq=False, repr=False)
class TrainingParameters:
    """Each once; a dataclass makes the constructor, from which scikit-learn reads them."""

    standardize: bool = False
    dropout: float = 0.5
    optimizer: str = "adam"
    learning_rate: float = 1e-2
    weight_decay: float = 0.0
    max_grad_norm: float | None = 5.0
    batch_size: int = 32
    max_iter: int = 200
    tol: float | None = 1e-4
    n_iter_no_change: int = 10
    early_stopping: bool = False
    validation_fraction: float = 0.1
    class_weight: dict[Any, float] | str | None = None
    warm_start: bool = False
    device: str = "auto"
    dtype: str = "auto"
    precision: str = "full"
    cache: str = "auto"
    random_state: int | np.random.RandomState | None = None
    verbose: bool = False

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "standardize": ["boolean"],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "optimizer": [StrOptions(set(OPTIMIZERS))],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left"), None],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "class_weight": [StrOptions({"balanced"}), dict, None],
        "warm_start": ["boolean"],
        "device": [str],
        "dtype": [StrOptions({"auto", "float32", "float64"})],
        "precision": [StrOptions({"full", "mixed"})],
        "cache": [StrOptions(set(CACHES))],
        "random_state": ["random_state"],
        "verbose": ["boolean"],
    }


# Stands in docstrings in the place of "{training}".
TRAINING = """\
    standardize : bool, default=False
        Whether local features are centred and scaled, feature by feature, by their mean and
        standard deviation over all local features of the training set. The network does it, so
        that models that are saved or exported do it too. What the first `fit` or `partial_fit`
        has learnt of them stays for those that go on from it.

    dropout : float in [0, 1), default=0.5
        The share of the global feature that is zeroed at random in training, before the last
        layer.

    optimizer : {"rmsprop", "adam", "adamw"}, default="adam"
        The paper's choice for video is RMSprop; its toy experiment used Adam.

    learning_rate : float, default={learning_rate}
        Step size of the optimiser.

    weight_decay : float, default=0.0
        l2 penalty ("adamw": decoupled weight decay) on all parameters.

    max_grad_norm : float, default=5.0
        The l2 norm over all parameters to which gradients are scaled down. None: never.

    batch_size : int, default=32
        Items per step, and per block of a prediction.

    max_iter : int, default=200
        The number of epochs at most.

    tol : float, default=1e-4
        Training stops once the loss (with `early_stopping`, the validation score) has
        not improved by more than this for `n_iter_no_change` epochs. None: train for
        exactly `max_iter` epochs.

    n_iter_no_change : int, default=10
        Epochs to wait for an improvement.

    early_stopping : bool, default=False
        Whether to stop by the accuracy on a validation set (with an indicator y, the share
        of right entries), and return to the weights of the best epoch. The set is `X_val`
        of `fit`, else a part of X.

    validation_fraction : float in (0, 1), default=0.1
        The part of X set aside for early stopping, stratified by class.

    class_weight : dict or "balanced", default=None
        Weights of the classes. "balanced" is the paper's 1/S for a class of S items.

    warm_start : bool, default=False
        Whether `fit` goes on from the weights, the dtype and the optimiser of the last fit.
        A validation set drawn from X is drawn anew.

    device : str, default="auto"
        Where to compute: "auto" (a GPU when there is one), "cpu", "cuda", "cuda:1".

    dtype : {"auto", "float32", "float64"}, default="auto"
        The precision of the parameters. "auto": float32 for float16 and float32
        features, else float64.

    precision : {"full", "mixed"}, default="full"
        "mixed" multiplies in bfloat16 to fit and to predict, where that is faster (most GPUs,
        processors with AMX, AMD's with AVX512-BF16); the parameters and their updates stay
        float32. Elsewhere it is "full". `transform` and `attention_weights` are always "full".

    cache : {"auto", "device", "memory", "stream"}, default="auto"
        Where the local features live in training. "stream": where they are; those in a
        store are read batch by batch in a thread. "memory": a store is read once. "device":
        on the device, in `dtype`, or in float16 where float16 features are on a GPU. "auto":
        on a GPU when they take no more than half of its free memory; in memory when they
        take no more than scikit-learn's `working_memory` (1 GiB unless configured) and the
        process is not a worker of a parallel search; else "stream". On a processor all
        give the same model, to the bit, where the store is local and uncompressed.

    random_state : int, RandomState instance or None, default=None
        Draws the initial weights, the validation set, the order, the local features
        and the dropout. The same int gives the same bits on the same device.

    verbose : bool, default=False
        Whether to print a line per epoch, and to tell a terminal how far a prediction is, that of a
        validation set too. For a progress bar of the epochs, see `set_callbacks`.
"""
