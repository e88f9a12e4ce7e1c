"""A part of a network for one of several processes: some attention units of every modality.

Attention units are independent of each other, and each has its own rows of the last layer. A
process that owns some of the units computes its part of the logits, and the parts add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from acluster._utils._generator import PartGenerator
from acluster._utils._operations import precision_of
from acluster.nn._attention_cluster import AttentionCluster
from acluster.nn._integration import Integration
from acluster.nn._network import IntegrationNetwork, Packed
from acluster.nn._weighting import WEIGHTINGS


class _Place(NamedTuple):
    """Where the numbers of a rank are in a parameter of the full network."""

    axis: int
    slices: Sequence[slice]  # along the axis; the rank has them end to end


class UnitsNetwork(IntegrationNetwork):
    """The part of a network that one of several ranks owns: some attention units.

    Rank r of W owns about N/W consecutive units of the attention cluster of every modality, and
    their rows of the last layer. It returns the logits of the full network.

    Parameters
    ----------
    network : IntegrationNetwork
        The full network, for which `supports` is True. Its parameters are copied, and its
        standardization is shared.

    rank, size : int
        The number of this rank, and the number W of ranks.

    total : callable
        ``total(tensor)`` returns the sum of the tensors of all ranks.

    Attributes
    ----------
    full_shapes : dict of str to torch.Size
        The shapes of the parameters of the full network. The parameters of both networks have the
        same names and the same order.

    uncounted : frozenset of str
        The parameters that all ranks have, on all ranks but the first: the bias. Sums over ranks
        leave them out, so that they count once.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn import AttentionCluster, IntegrationNetwork, UnitsNetwork
    >>> full = IntegrationNetwork([AttentionCluster(4, cluster_size=3)], n_outputs=5)
    >>> part = UnitsNetwork(full, rank=0, size=2, total=lambda logits: logits)
    >>> {name: tuple(parameter.shape) for name, parameter in part.named_parameters()}
    {'integrations.0.weighting.weight': (4, 1), 'integrations.0.shifting.alpha': (1, 1), \
'integrations.0.shifting.beta': (1, 1), 'linear.weight': (4, 5), 'linear.bias': (5,)}
    """

    def __init__(
        self, network: IntegrationNetwork, rank: int, size: int, total: Callable[[Tensor], Tensor]
    ) -> None:
        clusters = _clusters(network)
        sizes = [cluster.cluster_size for cluster in clusters]
        units = [slice(n * rank // size, n * (rank + 1) // size) for n in sizes]
        linear = network.linear
        # On the meta device torch draws no random numbers, so its global state does not change.
        with torch.device("meta"):
            owned = [
                _OwnUnits(cluster, one.stop - one.start)
                for cluster, one in zip(clusters, units, strict=True)
            ]
            super().__init__(owned, len(linear.bias), linear.dropout)
        self.to(linear.weight.dtype).to_empty(device=linear.weight.device)
        self.standardizations = network.standardizations
        self._total = total
        self._scale = owned[0].scale
        for cluster in owned:  # the common factor is applied to the logits, which are smaller
            cluster.scale /= self._scale
        full = dict(network.named_parameters())
        self.full_shapes = {name: parameter.shape for name, parameter in full.items()}
        self._places = self._find_places(clusters, units)
        shared = (name for name in full if name not in self._places)
        self.uncounted = frozenset(shared if rank > 0 else ())
        self.restrict(full, dict(self.named_parameters()))

    @staticmethod
    def supports(network: IntegrationNetwork, size: int) -> bool:
        """Return whether the units of a network can be shared out to this number of ranks.

        Parameters
        ----------
        network : IntegrationNetwork
            The full network.

        size : int
            The number of ranks.

        Returns
        -------
        bool
            True for attention clusters with a weighting function of the paper, without a pyramid
            and without hidden features, if every rank gets a unit of each.
        """
        return type(network) is IntegrationNetwork and all(
            type(one) is AttentionCluster
            and type(one.weighting) in WEIGHTINGS.values()
            and one.pyramid_levels == 1
            and one.hidden is None
            and one.cluster_size >= size
            for one in network.integrations
        )

    def forward(self, sets: Sequence[Packed], generator: torch.Generator | None = None) -> Tensor:
        """Return the logits of every item, which need all ranks.

        Parameters
        ----------
        sets : sequence of (values, offsets)
            One pair per modality, as in `IntegrationNetwork.forward`.

        generator : torch.Generator, optional
            Source of randomness for dropout, which is drawn for the global feature of the full
            network.

        Returns
        -------
        Tensor of shape (n, n_outputs)
        """
        g = self.global_feature(sets)
        drawn = PartGenerator(generator, len(g), slice(None), *self._columns)
        with precision_of("linear", g.device):
            product, scale = self.linear.unscaled_product(g, drawn)
        logits: Tensor = _Total.apply(product * (scale * self._scale), self._total)
        return logits + self.linear.bias

    @torch.no_grad()
    def restrict(self, full: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
        """Copy the numbers of this rank from tensors like the parameters of the full network.

        Parameters
        ----------
        full : dict of str to Tensor
            Tensors with the names and shapes of parameters of the full network.

        own : dict of str to Tensor
            Tensors of the same names with the shapes of this network, which are overwritten.
        """
        for name, tensor in own.items():
            for of_full, of_own in self._pairs(name, full[name], tensor):
                of_own.copy_(of_full)

    @torch.no_grad()
    def expand(self, own: Mapping[str, Tensor], full: Mapping[str, Tensor]) -> None:
        """Invert `restrict`, with zeros for the numbers of other ranks.

        The sum over all ranks has the numbers of all: those that all ranks have are written by
        the first one only.

        Parameters
        ----------
        own : dict of str to Tensor
            Tensors with the names and shapes of parameters of this network.

        full : dict of str to Tensor
            Tensors of the same names with the shapes of the full network, which are overwritten.
        """
        for name, tensor in own.items():
            full[name].zero_()
            if name not in self.uncounted:
                for of_full, of_own in self._pairs(name, full[name], tensor):
                    of_full.copy_(of_own)

    def _pairs(self, name: str, full: Tensor, own: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield views of the same numbers in a tensor of the full network and in an own one."""
        if name not in self._places:
            yield full, own
            return
        axis, slices = self._places[name]
        sizes = [one.stop - one.start for one in slices]
        for one, of_own in zip(slices, own.split(sizes, dim=axis), strict=True):
            yield full.narrow(axis, one.start, one.stop - one.start), of_own

    def _find_places(
        self, clusters: Sequence[AttentionCluster], units: Sequence[slice]
    ) -> dict[str, _Place]:
        places, rows, first = {}, [], 0
        for i, (cluster, one) in enumerate(zip(clusters, units, strict=True)):
            prefix = f"integrations.{i}."
            for name, parameter in self.integrations[i].named_parameters(prefix=prefix[:-1]):
                # A parameter of the units has them along the only axis that is shorter here. It
                # may have several numbers per unit.
                shape = self.full_shapes[name]
                for axis, (n_full, n_own) in enumerate(zip(shape, parameter.shape, strict=True)):
                    if n_own < n_full:
                        places[name] = _Place(axis, [_scaled(one, n_full // cluster.cluster_size)])
            own_rows = _scaled(one, cluster.global_size // cluster.cluster_size)
            rows.append(slice(first + own_rows.start, first + own_rows.stop))
            first += cluster.global_size
        if len(self.linear.weight) < first:
            places["linear.weight"] = _Place(0, rows)
        self._columns = first, rows
        return places


class _OwnUnits(AttentionCluster):
    """Some units of a larger attention cluster, on the meta device.

    Parameters
    ----------
    full : AttentionCluster
        The larger cluster.

    n_units : int
        The number of units.
    """

    def __init__(self, full: AttentionCluster, n_units: int) -> None:
        weighting: Any = full.weighting
        hidden_size = weighting.weight2.shape[1] if hasattr(weighting, "weight2") else 1
        super().__init__(
            full.global_size // full.cluster_size,
            n_units,
            type(weighting),
            hidden_size,
            shifting=full.shifting is not None,
            n_attended=full.n_attended,
        )
        # The shifting operation divides by the square root of its own number of units.
        is_shifted = full.shifting is not None
        self.scale = (n_units / full.cluster_size) ** 0.5 if is_shifted else 1.0

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        """Return the columns of these units in the global feature of the larger cluster."""
        g = super().forward(values, offsets)
        return g if self.scale == 1 else g * self.scale


class _Total(torch.autograd.Function):
    """The sum over ranks.

    Every rank computes the same loss from the sum, so the gradient of the sum is that of each of
    its terms.
    """

    @staticmethod
    def forward(ctx: Any, part: Tensor, total: Callable[[Tensor], Tensor]) -> Tensor:
        return total(part)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def _clusters(network: IntegrationNetwork) -> list[AttentionCluster]:
    integrations: Sequence[Integration] = network.integrations
    return [one for one in integrations if isinstance(one, AttentionCluster)]


def _scaled(units: slice, n: int) -> slice:
    """Return the slice of numbers, `n` per unit, of a slice of units."""
    return slice(units.start * n, units.stop * n)
