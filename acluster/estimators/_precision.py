"""What `precision="mixed"` computes in bfloat16: the operations that gain from it in this fit."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acluster._utils._operations import OPERATIONS, precision_of
from acluster.estimators._architecture import members_of
from acluster.estimators._parameters import value_per_modality
from acluster.nn import DropoutLinear, has_compiled_kernels
from acluster.sets import FeatureSets
from acluster.training import (
    MIN_GAIN,
    Optimizer,
    Ranks,
    Trial,
    bfloat16_gain,
    has_bfloat16,
    threads_for,
)

# What a trial may cost, for each thread: floating-point operations of a step, and local features.
_MAX_OPERATIONS, _MAX_NUMBERS = 5e8, 1 << 20
# A smaller weight than this might stay in the processor's cache, while the real one does not.
_MIN_WEIGHTS = 1 << 21

Step = tuple[Callable[[], Tensor], Callable[[Tensor], None]]

_SHOWN = {"integration": "weighting and pooling", "linear": "the linear layer"}


def operations_of(classifier: Any) -> tuple[str, ...]:
    """Return the operations that a classifier computes in bfloat16, in `fit` and predictions."""
    if classifier.precision == "full":
        return ()
    # A GPU gains from bfloat16 in all of them. On a CPU, a model from a GPU uses full precision.
    is_on_cpu = next(classifier.network_.parameters()).device.type == "cpu"
    chosen: tuple[str, ...] = classifier._in_bfloat16
    return chosen if is_on_cpu else OPERATIONS


def choose_operations(
    estimator: Any,
    modalities: Mapping[str, FeatureSets],
    ranks: Ranks,
    *,
    is_compiled: bool,
    n_operations: float,
) -> tuple[str, ...]:
    """Return the operations that the fit of an estimator on a CPU computes in bfloat16.

    Parameters
    ----------
    estimator : SetClassifier
        The estimator, with its network.

    modalities : dict of str to FeatureSets
        The training items.

    ranks : Ranks
        The processes of the fit. The first one measures for all.

    is_compiled : bool
        Whether the fit takes compiled steps. They compute in full precision, and are faster.

    n_operations : float
        The floating-point operations of a step, which determine the number of threads.
    """
    network = members_of(estimator.network_)[0]
    device = network.linear.weight.device
    if estimator.precision == "full" or device.type != "cpu":
        return ()
    if ranks.rank > 0:
        return ranks.same(())
    chosen: tuple[str, ...] = ()
    if is_compiled:
        line = "float32, because the compiled steps of a network of this size are the fastest"
    elif not has_bfloat16(device):
        line = "float32, because this CPU has no instructions for bfloat16"
    else:
        with threads_for(n_operations):
            trials = _trials(estimator, network, modalities, ranks)
            gains = {operation: bfloat16_gain(trial) for operation, trial in trials.items()}
        chosen = tuple(operation for operation, gain in gains.items() if gain >= MIN_GAIN)
        line = _line(gains)
    if estimator.verbose:
        print(f"precision: {line}")
    return ranks.same(chosen)


def _line(gains: Mapping[str, float]) -> str:
    """Return the choice and its reason, as text."""
    parts = []
    for operation, gain in gains.items():
        shown = _SHOWN[operation]
        if gain >= MIN_GAIN:
            parts.append(f"bfloat16 for {shown} ({gain:.2f} times as fast)")
        elif gain >= 1:
            parts.append(f"float32 for {shown} (bfloat16 would be {gain:.2f} times as fast)")
        else:
            parts.append(f"float32 for {shown} (bfloat16 would take {1 / gain:.2f} times as long)")
    return ", ".join(parts)


def _trials(
    estimator: Any, network: Any, modalities: Mapping[str, FeatureSets], ranks: Ranks
) -> dict[str, Trial]:
    """Return the operations of a network, with random inputs of about the sizes of the fit.

    Sizes are rounded to powers of two, so that similar fits share a measurement.
    """
    sampled = value_per_modality(estimator, "n_local_features", modalities)
    lengths = [_typical(sets.lengths, sampled[name]) for name, sets in modalities.items()]
    n_items = min(estimator.batch_size, len(next(iter(modalities.values()))))
    n = _rounded(max(1, n_items // ranks.size))
    n_inputs, n_outputs = network.linear.weight.shape
    architecture = estimator._architecture
    arguments = architecture.modalities.values()
    shared = {"items": n, "kernels": has_compiled_kernels()}
    integration = {
        "operation": _rounded(architecture.integration),
        "modalities": [{name: _rounded(one) for name, one in own.items()} for own in arguments],
        "lengths": lengths,
        "standardize": architecture.standardize,
    }
    linear = {
        "operation": "linear",
        "sizes": [_rounded(n_inputs), _rounded(n_outputs)],
        "drops": estimator.dropout > 0,
        "optimizer": estimator.optimizer,
        "is_factored": ranks.size == 1,
    }
    return {
        "integration": Trial(
            shared | integration, lambda: _integration(estimator, network, n, lengths)
        ),
        "linear": Trial(
            shared | linear, lambda: _linear(estimator, network, n, is_factored=ranks.size == 1)
        ),
    }


def _integration(estimator: Any, network: Any, n: int, lengths: Sequence[tuple[int, bool]]) -> Step:
    """Return the passes through the integrations, of a copy of a network on at most `n` items."""
    # The linear layer may be large, and takes no part.
    copied = copy.deepcopy(network, {id(network.linear): torch.nn.Identity()}).train()
    like = network.linear.weight
    widths = [*estimator._architecture.widths.values()]
    offsets = _offsets(copied.integrations, n, widths, lengths)
    generator = torch.Generator("cpu").manual_seed(0)
    sets = [
        (_random(int(own[-1]), width, like, generator), torch.from_numpy(own))
        for width, own in zip(widths, offsets, strict=True)
    ]
    gradient = _random(len(offsets[0]) - 1, len(like), like, generator)

    def forward() -> Tensor:
        output: Tensor = copied.global_feature(sets)
        return output

    def backward(output: Tensor) -> None:
        if output.requires_grad:  # an average has no parameters
            output.backward(gradient.to(output.dtype))
        copied.zero_grad()

    return forward, backward


def _linear(estimator: Any, network: Any, n: int, *, is_factored: bool) -> Step:
    """Return the passes through a linear layer like that of a network, but narrower if it is large.

    The backward pass includes the update, which forms the gradient from its factors.
    """
    like = network.linear.weight
    n_inputs, n_outputs = like.shape
    numbers = max(_MAX_OPERATIONS * torch.get_num_threads() / (6 * n), _MIN_WEIGHTS)
    n_inputs = max(1, min(n_inputs, int(numbers / n_outputs)))
    generator = torch.Generator("cpu").manual_seed(0)
    with torch.device("meta"):  # there, torch draws no random numbers
        linear = DropoutLinear(n_inputs, n_outputs, estimator.dropout).to(like.dtype)
    linear.to_empty(device="cpu").reset_parameters(generator)
    linear.factored_gradient = is_factored
    optimizer = Optimizer(
        linear.parameters(),
        estimator.optimizer,
        learning_rate=0.0,
        weight_decay=estimator.weight_decay,
        max_grad_norm=estimator.max_grad_norm,
    )
    g = _random(n, n_inputs, like, generator).requires_grad_()
    gradient = _random(n, n_outputs, like, generator)

    def forward() -> Tensor:
        with precision_of("linear", g.device):
            output: Tensor = linear(g, generator)
        return output

    def backward(output: Tensor) -> None:
        output.backward(gradient)
        g.grad = None
        optimizer.step()

    return forward, backward


def _offsets(
    integrations: Sequence[Any], n: int, widths: Sequence[int], lengths: Sequence[tuple[int, bool]]
) -> list[NDArray[np.int64]]:
    """Return the offsets of at most `n` sets per modality, as many as a trial may cost."""
    n_operations = n_numbers = 0.0  # of all items
    for one, width, (length, _) in zip(integrations, widths, lengths, strict=True):
        # Products with the parameters and for the output, once forward and twice backward.
        n_parameters = sum(parameter.numel() for parameter in one.parameters())
        n_operations += 6 * n * length * (n_parameters + one.global_size)
        n_numbers += n * length * width
    per_thread = max(n_operations / _MAX_OPERATIONS, n_numbers / _MAX_NUMBERS)
    share = min(1.0, torch.get_num_threads() / per_thread)
    n_kept = max(min(n, 2), int(n * share))  # batch normalization needs two items
    shortened = min(1.0, n * share / n_kept)  # less than 1 if these sets are too large
    offsets = []
    for length, is_ragged in lengths:
        mean = max(1.0, length * shortened)
        shortest = 1.0 if is_ragged and n_kept > 1 else mean
        sizes = np.linspace(shortest, 2 * mean - shortest, n_kept).round().astype(np.int64)
        offsets.append(np.concatenate([[0], np.cumsum(sizes)]))
    return offsets


def _random(n_rows: int, width: int, like: Tensor, generator: torch.Generator) -> Tensor:
    # Default dtypes and devices of torch must not matter.
    return torch.randn(n_rows, width, generator=generator, dtype=like.dtype, device=like.device)


def _typical(lengths: NDArray[np.int64], n_sampled: int | None) -> tuple[int, bool]:
    """Return the mean length of the sets that are not missing, rounded, and if lengths differ."""
    present = lengths[lengths > 0]
    if len(present) == 0:
        return 1, False
    used = present if n_sampled is None else np.minimum(present, n_sampled)
    return _rounded(round(used.mean())), bool(used.min() < used.max())


def _rounded(value: Any) -> Any:
    """Return an integer rounded to a power of two, and any other value as JSON holds it."""
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return 2 ** round(math.log2(value)) if value > 0 else int(value)
    # The address of an object is another one in the next process.
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
