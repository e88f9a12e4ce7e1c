"""Train networks of one architecture together: one compiled call for several batches.

A small network spends most of a training step on the overhead of its operations. The kernels of
`_members_kernels` compute the whole step of a network in one call: hidden features, scores,
softmax, pooling, shift, dropout, linear layer, loss, gradients, clipping and update. They take the
random numbers of the dropout from torch and follow the same equations, so that results agree with
those of torch to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from acluster.nn._attention_cluster import AttentionCluster
from acluster.nn._compiled import available_for, run_alone
from acluster.nn._linear import DropoutLinear, random_bytes
from acluster.nn._masks import pyramid
from acluster.nn._network import IntegrationNetwork, Packed
from acluster.nn._weighting import FC1Weighting

# The kernel keeps the highest scores sorted, which takes time in proportion to their number.
_MAX_ATTENDED = 32
# Of the weights of scores and of hidden features. OpenBLAS would start threads for larger products
# of a single row, and the gradient of the hidden weight has to stay in the cache.
_MAX_SCORE_WEIGHTS, _MAX_HIDDEN_WEIGHTS = 1 << 18, 1 << 16


class UpdateRule(Protocol):
    """An update rule as a variant of Adam's; see `acluster.training`."""

    @property
    def betas(self) -> tuple[float, float]:
        """The decay rates of the running means of the gradient and of its square."""

    @property
    def corrects_bias(self) -> bool:
        """Whether the means are divided by ``1 - βᵗ``."""

    @property
    def decouples_decay(self) -> bool:
        """Whether weight decay bypasses the means."""


class CompiledMembers:
    """Networks of one architecture that train together, in compiled calls.

    The parameters stay those of the networks: their data become views of one array, which the
    kernel updates in place, until `release`. Networks may predict, be copied and load states in
    between, but not change their dtype or device.

    Parameters
    ----------
    networks : sequence of IntegrationNetwork
        The members, which `supports` all accept. They share the shapes of their parameters, the
        dtype, `n_attended`, `pyramid_levels`, and the standardization.

    rule : UpdateRule
        The update rule.

    learning_rates, weight_decays : sequence of float
        Hyperparameters of the optimizer, one per member.

    max_grad_norms : sequence of (float or None)
        Gradients of a member are clipped to this l2 norm.

    is_softmax : bool
        Whether the loss is the cross-entropy of a softmax, or that of a sigmoid per output.

    Raises
    ------
    ValueError
        If the networks differ in their architecture or their standardization.
    """

    def __init__(
        self,
        networks: Sequence[IntegrationNetwork],
        *,
        rule: UpdateRule,
        learning_rates: Sequence[float],
        weight_decays: Sequence[float],
        max_grad_norms: Sequence[float | None],
        is_softmax: bool,
    ) -> None:
        _check_alike(networks)
        self.networks = list(networks)
        self.is_softmax = is_softmax
        self._linears = [network.linear for network in networks]
        parameters = list(networks[0].parameters())
        self._shapes = [parameter.shape for parameter in parameters]
        rows = [torch.cat([p.detach().reshape(-1) for p in one.parameters()]) for one in networks]
        self._theta = torch.stack(rows)
        for network, row in zip(self.networks, self._theta, strict=True):
            for parameter, part in zip(network.parameters(), self._by_parameter(row), strict=True):
                parameter.data = part
        self._mean, self._square_mean = (torch.zeros_like(self._theta) for _ in range(2))
        if rule.betas[0] == 0:  # the mean is the gradient itself
            self._mean = self._theta.new_empty(len(networks), 0)
        # The cluster does not learn from a batch without local features, and counts for itself.
        self._steps = torch.zeros(len(networks), 2, dtype=torch.int64, device="cpu")
        self._parts = [0] * (len(parameters) - 2) + [1, 1]
        self._corrects_bias = bool(rule.corrects_bias)
        norms = [np.inf if norm is None else norm for norm in max_grad_norms]
        self._rule = (
            *(np.array(values, np.float64) for values in (learning_rates, weight_decays, norms)),
            *map(float, rule.betas),
            self._corrects_bias,
            bool(rule.decouples_decay),
        )
        self.learning_rates = self._rule[0]  # may be changed between steps
        # Arrays that share the memory of tensors, made once: this takes time in every step.
        moments = self._theta, self._mean, self._square_mean, self._steps
        cluster: Any = networks[0].integrations[0]
        self._cluster = cluster
        self._n_hidden = 0 if cluster.hidden is None else len(cluster.hidden.bias)
        sizes = int(cluster.cluster_size), self._n_hidden
        self._arrays = *(one.numpy() for one in moments), *sizes
        parts, part_of_unit = pyramid(sizes[0], cluster.pyramid_levels, "cpu")
        self._parts_of_units = parts[:, part_of_unit].T.contiguous().numpy()
        self._dtype: np.dtype[Any] = self._theta.numpy().dtype
        buffers = [buffer.numpy() for buffer in networks[0].buffers()]
        self._standardization = tuple(buffers or [np.empty(0, self._dtype)] * 2)
        # Those of torch when the training begins; a small step of one network takes a single one.
        self._n_threads = torch.get_num_threads()
        self._rooms: dict[str, NDArray[Any]] = {}
        # It starts threads when it gets work, and ends them when it is deleted.
        self._threads = ThreadPoolExecutor(len(networks), thread_name_prefix="acluster-members")

    @property
    def bytes_per_draw(self) -> int:
        """The memory that the dropout of an item needs for every generator."""
        return 2 * int(self._cluster.global_size)  # its random bytes, in two orders

    @staticmethod
    def supports(network: nn.Module) -> bool:
        """Return whether the kernels can train a network.

        Parameters
        ----------
        network : nn.Module
            The network.

        Returns
        -------
        bool
        """
        if type(network) is not IntegrationNetwork or len(network.integrations) != 1:
            return False
        (cluster,), parameters = network.integrations, list(network.parameters())
        return (
            type(cluster) is AttentionCluster
            and type(cluster.weighting) is FC1Weighting
            and type(network.linear) is DropoutLinear
            and (cluster.n_attended or 1) <= _MAX_ATTENDED
            and cluster.weighting.weight.numel() <= _MAX_SCORE_WEIGHTS
            and (cluster.hidden is None or cluster.hidden.weight.numel() <= _MAX_HIDDEN_WEIGHTS)
            and all(parameter.requires_grad for parameter in parameters)
            and available_for(*parameters)
        )

    def step(
        self,
        active: Sequence[int],
        sets: Sequence[Packed],
        targets: Tensor,
        weights: Tensor,
        generators: Sequence[torch.Generator],
        batch_size: int | None = None,
    ) -> NDArray[np.floating]:
        """Take a gradient step per batch with some of the members.

        Parameters
        ----------
        active : sequence of int
            The members that train.

        sets : sequence of (values, offsets)
            The only modality of the batches, as `IntegrationNetwork.forward` takes it.

        targets : Tensor of shape (n,) or (n, C)
            Classes for a softmax; 0 and 1 for sigmoids.

        weights : Tensor
            The weights of the losses: (n,), or for sigmoids (n, 1) or (n, C). Another axis in
            front, of length P, holds those of every member.

        generators : sequence of Generator
            The generator of the dropout of every member. Members with the same generator share
            the random numbers of a batch, which are then drawn once.

        batch_size : int, optional
            The number of items per step; the last one takes the rest. By default, one step takes
            all items.

        Returns
        -------
        ndarray of shape (n_batches, P)
            The weighted mean loss of every member on each batch, before the step on it; NaN if
            the member is not active.
        """
        values, offsets = sets[0]
        values, n = values.to(self._theta.dtype).contiguous(), len(offsets) - 1
        starts = np.array([*range(0, n, batch_size or n), n])
        if self.is_softmax:
            classes, binary = targets.numpy(), np.empty((0, 0), self._dtype)
        else:
            classes, binary = np.empty(0, np.int64), targets.to(self._theta.dtype).numpy()
        draws = self._draw(active, starts, generators)
        losses = np.full((len(starts) - 1, len(self.networks)), np.nan, self._dtype)
        n_threads = min(self._n_threads, len(active))
        n_attended = min(self._cluster.n_attended or 0, len(values))
        of_items = offsets.numpy(), starts, classes, binary, self._by_item(weights, n)
        arguments = (
            np.array(active, np.int64),
            (values.detach().numpy(), *self._standardization, *of_items),
            (*self._arrays, n_attended, self._parts_of_units, self._cluster.shifting is not None),
            draws,
            self._rule,
            self._scratch(n_threads, of_items[0], starts, n_attended, draws[0].shape),
            losses,
        )
        run_alone("prepare_members", *arguments[1:4], arguments[5])
        others = [
            self._threads.submit(run_alone, "train_members", *arguments, thread, n_threads)
            for thread in range(1, n_threads)
        ]
        run_alone("train_members", *arguments, 0, n_threads)
        for other in others:
            other.result()
        return losses

    def is_finite(self, member: int) -> bool:
        """Return whether all parameters of a member are finite.

        Parameters
        ----------
        member : int
            The number of the member.

        Returns
        -------
        bool
        """
        # After `release`, the network has its own parameters.
        return all(bool(one.isfinite().all()) for one in self.networks[member].parameters())

    def state(self, member: int) -> list[dict[str, NDArray[Any]]]:
        """Return the moments of every parameter of a member, as the torch optimizer has them.

        Parameters
        ----------
        member : int
            The number of the member.

        Returns
        -------
        list of dict of ndarray
        """
        steps = self._steps[member].tolist() if self._corrects_bias else [1e9, 1e9]
        states = []
        for moments, part in zip(self._moments(member), self._parts, strict=True):
            arrays = {name: moment.numpy().copy() for name, moment in moments.items()}
            states.append({**arrays, "step": np.array(steps[part], np.float32)})
        return states

    def load_state(self, member: int, state: list[dict[str, NDArray[Any]]]) -> None:
        """Continue the training of a member from its `state` or that of the torch optimizer.

        Parameters
        ----------
        member : int
            The number of the member.

        state : list of dict of ndarray
            The moments of every parameter.
        """
        for moments, loaded, part in zip(self._moments(member), state, self._parts, strict=True):
            for name, moment in moments.items():
                moment.copy_(torch.from_numpy(loaded[name].copy()))
            self._steps[member, part] = int(loaded["step"])

    def release(self) -> None:
        """Give every network its own parameters again, and end the threads."""
        self._threads.shutdown()
        for network in self.networks:
            for parameter in network.parameters():
                parameter.data = parameter.data.clone()

    def _by_parameter(self, row: Tensor) -> list[Tensor]:
        """Return views of a row of theta, or of its moments, in the shapes of the parameters."""
        parts = row.split([shape.numel() for shape in self._shapes])
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def _moments(self, member: int) -> list[dict[str, Tensor]]:
        """Return views of the running means of every parameter."""
        moments = {"mean": self._mean, "square_mean": self._square_mean}
        if self._mean.shape[1] == 0:
            del moments["mean"]
        columns = [self._by_parameter(rows[member]) for rows in moments.values()]
        return [dict(zip(moments, views, strict=True)) for views in zip(*columns, strict=True)]

    def _by_item(self, weights: Tensor, n: int) -> NDArray[np.floating]:
        """Return the weights of the losses as (1 or P, n, 1 or C)."""
        if weights.ndim == 1 or self.is_softmax:
            weights = weights[..., None]
        weights = weights if weights.ndim == 3 else weights[None]
        return weights.to(self._theta.dtype).expand(-1, n, -1).contiguous().numpy()

    def _draw(
        self, active: Sequence[int], starts: NDArray[Any], generators: Sequence[torch.Generator]
    ) -> tuple[NDArray[Any], ...]:
        """Draw what the dropout of the batches needs, once for every generator."""
        dropout = np.array([linear.dropout for linear in self._linears], np.float64)
        dropping = [member for member in active if dropout[member] > 0]
        number_of = {generators[member]: 0 for member in dropping}
        number_of = {generator: number for number, generator in enumerate(number_of)}
        draw_of = np.zeros(len(dropout), np.int64)
        draw_of[dropping] = [number_of[generators[member]] for member in dropping]
        size, n = self._cluster.global_size, starts[-1]
        random = np.empty((len(number_of), n, size), np.uint8)
        between = np.empty((len(number_of), n), np.float32)
        for generator, number in number_of.items():
            for i, j in pairwise(starts.tolist()):
                drawn = random_bytes((j - i, size), self._theta, generator)
                random[number, i:j] = drawn[0].numpy()
                between[number, i:j] = drawn[1][:, 0].numpy()
        return random, between, draw_of, dropout

    def _scratch(
        self,
        n_threads: int,
        offsets: NDArray[np.int64],
        starts: NDArray[np.int64],
        n_attended: int,
        shape: tuple[int, ...],
    ) -> tuple[Any, ...]:
        """Return room for the features, the random bytes and every thread, kept for reuse."""
        n_units, size = self._cluster.cluster_size, shape[2]
        n, n_rows = (int(np.diff(one).max()) for one in (starts, offsets[starts]))
        n_outputs, n_features = len(self._linears[0].bias), size // n_units - self._n_hidden
        n_extended = n_features + 3 * self._n_hidden if self._n_hidden else 0
        per_thread = (
            n_rows * (2 * n_units + n_extended)
            + (n + 2 * n_outputs + 6) * size
            + n * (n_outputs + n_units)
            + (n_attended + 3) * n_units
            + self._theta.shape[1]
        )
        return (
            self._room("features", (int(offsets[-1]), n_features), self._dtype),
            self._room("bytes", shape, np.dtype(np.uint8)),
            self._room("threads", (n_threads, per_thread), self._dtype),
        )

    def _room(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return an uninitialized array in memory that the next call with this name reuses."""
        size = math.prod(shape)
        if name not in self._rooms or len(self._rooms[name]) < size:
            self._rooms[name] = np.empty(size + size // 8, dtype)
        return self._rooms[name][:size].reshape(shape)


def _check_alike(networks: Sequence[IntegrationNetwork]) -> None:
    """Check that networks differ in nothing but their parameters and their dropout."""
    first = networks[0]
    for i, network in enumerate(networks):
        if not CompiledMembers.supports(network):
            raise ValueError(f"The compiled step does not support network {i}: {network}.")
        states = first.state_dict(), network.state_dict()
        shapes = [{name: (t.shape, t.dtype) for name, t in one.items()} for one in states]
        clusters = [one.integrations[0] for one in (first, network)]
        attending = [(cluster.n_attended, cluster.pyramid_levels) for cluster in clusters]
        if shapes[0] != shapes[1] or attending[0] != attending[1]:
            raise ValueError(
                f"Network {i} differs from network 0 in its architecture; train it separately."
            )
        buffers = zip(first.buffers(), network.buffers(), strict=True)
        if not all(torch.equal(one, other) for one, other in buffers):
            raise ValueError(
                f"Network {i} standardizes differently from network 0; train it separately."
            )
