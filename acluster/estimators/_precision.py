"""What `precision="mixed"` computes in bfloat16: the operations that gain from it in this fit."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acluster._utils._operations import OPERATIONS, precision_of
from acluster.estimators._architecture import members_of
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
# Of two sets of the trial together: 64 MiB in float32, the limit of a part of a batch.
_MAX_NUMBERS_OF_TWO = 1 << 24
# A smaller weight than this might stay in the processor's cache, while the real one does not.
_MIN_WEIGHTS = 1 << 21

Step = tuple[Callable[[], Tensor], Callable[[Tensor], None]]

_SHOWN = {"integration": "weighting and pooling", "linear": "the linear layer"}
_WITHOUT_BFLOAT16 = "float32, because this CPU has no instructions for bfloat16"


class _Lengths(NamedTuple):
    """The lengths of the sets of a modality that are not missing, as far as a trial has them."""

    mean: float
    shortest: int
    longest: int

    @classmethod
    def of(cls, lengths: NDArray[np.int64], n_sampled: int | None) -> Self:
        """Return those of sets from which local features are sampled, if a number is given."""
        present = lengths[lengths > 0]
        if len(present) == 0:
            return cls(1.0, 1, 1)
        used = present if n_sampled is None else np.minimum(present, n_sampled)
        return cls(float(used.mean()), int(used.min()), int(used.max()))

    @property
    def are_ragged(self) -> bool:
        return self.shortest < self.longest


def operations_of(classifier: Any) -> tuple[str, ...]:
    """Return the operations that a classifier computes in bfloat16, in `fit` and predictions."""
    if classifier.precision == "full":
        return ()
    # A GPU gains from bfloat16 in all of them. On a CPU, a model from a GPU uses full precision.
    is_on_cpu = next(classifier.network_.parameters()).device.type == "cpu"
    return tuple(classifier._in_bfloat16) if is_on_cpu else OPERATIONS


def choose_operations(
    estimator: Any,
    modalities: Sequence[FeatureSets],
    n_local_features: Sequence[int | None],
    ranks: Ranks,
    *,
    is_compiled: bool,
    n_operations: float,
) -> tuple[str, ...]:
    """Return the operations that a fit in mixed precision computes in bfloat16 on a CPU.

    Parameters
    ----------
    estimator : SetClassifier
        The estimator, with its network.

    modalities : sequence of FeatureSets
        The training items.

    n_local_features : sequence of (int or None)
        For every modality, the number of local features that are drawn from each set.

    ranks : Ranks
        The processes of the fit. The first one measures for all.

    is_compiled : bool
        Whether the fit takes compiled steps. They compute in full precision, and are faster.

    n_operations : float
        The floating-point operations of a step, which determine the number of threads.

    Returns
    -------
    tuple of str
        Names in `OPERATIONS`; empty on a GPU, which needs no choice.
    """
    network = members_of(estimator.network_)[0]
    device = network.linear.weight.device
    if device.type != "cpu":
        return ()
    if ranks.rank > 0:
        return ranks.same(())
    chosen: tuple[str, ...] = ()
    if is_compiled:
        line = "float32, because the compiled steps of a network of this size are the fastest"
    elif not has_bfloat16(device):
        line = _WITHOUT_BFLOAT16
    else:
        with threads_for(n_operations):
            trials = _trials(estimator, network, modalities, n_local_features, ranks)
            gains = {operation: _gain(trial) for operation, trial in trials.items()}
        chosen = tuple(name for name, gain in gains.items() if _is_gain(gain))
        line = ", ".join(_reason(_SHOWN[name], gain) for name, gain in gains.items())
    if estimator.verbose:
        print(f"precision: {line}")
    return ranks.same(chosen)


def show_kept_operations(estimator: Any, operations: Sequence[str], ranks: Ranks) -> None:
    """Print the operations of a resumed fit on a CPU, if its estimator is verbose."""
    device = next(estimator.network_.parameters()).device
    if not estimator.verbose or ranks.rank > 0 or device.type != "cpu":
        return
    line = "float32, as in the checkpoint"
    if operations:
        shown = " and for ".join(_SHOWN[operation] for operation in operations)
        line = f"bfloat16 for {shown}, as in the checkpoint"
    if operations and not has_bfloat16(device):
        line = _WITHOUT_BFLOAT16
    print(f"precision: {line}")


def _gain(trial: Trial) -> float | Exception:
    """Return the gain of an operation, or why it could not be timed.

    A trial has other values than the data. A custom integration may reject them, or may be
    impossible to copy. If it is wrong in itself, the training raises its error.
    """
    try:
        return bfloat16_gain(trial)
    except Exception as error:
        return error


def _is_gain(gain: float | Exception) -> bool:
    return isinstance(gain, float) and gain >= MIN_GAIN


def _reason(shown: str, gain: float | Exception) -> str:
    """Return the precision of an operation and its reason, as text."""
    if isinstance(gain, Exception):
        error = " ".join(f"{type(gain).__name__}: {gain}".split())
        return f"float32 for {shown} (bfloat16 could not be timed: {error:.200})"
    if _is_gain(gain):
        return f"bfloat16 for {shown} ({gain:.2f} times as fast)"
    times = f"be {gain:.2f} times as fast" if gain >= 1 else f"take {1 / gain:.2f} times as long"
    return f"float32 for {shown} (bfloat16 would {times})"


def _trials(
    estimator: Any,
    network: Any,
    modalities: Sequence[FeatureSets],
    n_local_features: Sequence[int | None],
    ranks: Ranks,
) -> dict[str, Trial]:
    """Return the operations of a network, with random inputs of about the sizes of the fit.

    In their keys, sizes are rounded to powers of two, so that similar fits share a measurement.
    """
    pairs = zip(modalities, n_local_features, strict=True)
    lengths = [_Lengths.of(sets.lengths, n) for sets, n in pairs]
    n = _rounded(max(1, min(estimator.batch_size, len(modalities[0])) // ranks.size))
    n_inputs, n_outputs = network.linear.weight.shape
    architecture = estimator._architecture
    arguments = architecture.modalities.values()
    shared = {"items": n, "kernels": has_compiled_kernels()}
    integration = {
        "operation": _rounded(architecture.integration),
        "modalities": [{name: _rounded(one) for name, one in own.items()} for own in arguments],
        "lengths": [[_rounded(round(one.mean)), one.are_ragged] for one in lengths],
        "standardize": architecture.standardize,
    }
    linear = {
        "operation": "linear",
        "sizes": [_rounded(n_inputs), _rounded(n_outputs)],
        "drops": estimator.dropout > 0,
        "optimizer": estimator.optimizer,
        "clips": estimator.max_grad_norm is not None,
        "decays": estimator.weight_decay > 0,
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


def _integration(estimator: Any, network: Any, n: int, lengths: Sequence[_Lengths]) -> Step:
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
    integrations: Sequence[Any], n: int, widths: Sequence[int], lengths: Sequence[_Lengths]
) -> list[NDArray[np.int64]]:
    """Return the offsets of at most `n` sets per modality, as many as a trial may cost.

    No set is shorter than the shortest one of the fit, because an integration may need as many
    local features, unless two such sets would take more memory than a part of a batch does.
    """
    n_operations = n_numbers = n_least = 0.0
    for one, width, own in zip(integrations, widths, lengths, strict=True):
        # Products with the parameters and for the output, once forward and twice backward.
        n_parameters = sum(parameter.numel() for parameter in one.parameters())
        n_operations += 6 * n * own.mean * (n_parameters + one.global_size)
        n_numbers += n * own.mean * width
        n_least += 2 * own.shortest * width
    per_thread = max(n_operations / _MAX_OPERATIONS, n_numbers / _MAX_NUMBERS)
    share = min(1.0, torch.get_num_threads() / per_thread)
    n_kept = max(min(n, 2), int(n * share))  # batch normalization needs two items
    shortened = min(1.0, n * share / n_kept)  # less than 1 if these sets are too large
    of_shortest = min(1.0, _MAX_NUMBERS_OF_TWO / n_least)
    offsets = []
    for own in lengths:
        shortest = own.shortest * of_shortest
        mean = max(own.mean * shortened, shortest)
        sizes = np.linspace(shortest if n_kept > 1 else mean, 2 * mean - shortest, n_kept)
        sizes = sizes.round().astype(np.int64).clip(1, own.longest)
        if own.are_ragged and n_kept > 1:  # also after rounding: kernels differ
            sizes[-1] = max(sizes[-1], sizes[0] + 1)
        offsets.append(np.concatenate([[0], np.cumsum(sizes)]))
    return offsets


def _random(n_rows: int, width: int, like: Tensor, generator: torch.Generator) -> Tensor:
    # Default dtypes and devices of torch must not matter.
    return torch.randn(n_rows, width, generator=generator, dtype=like.dtype, device=like.device)


def _rounded(value: Any) -> Any:
    """Return an integer rounded to a power of two, and any other value as text.

    The text has no addresses of objects, which are others in the next process.
    """
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return 2 ** round(math.log2(value)) if value > 0 else int(value)
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
