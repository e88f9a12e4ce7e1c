"""The network: integrate each modality into a vector, concatenate, dropout, one linear layer."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from acluster._utils._no_empty_sets import promises_no_empty_sets
from acluster._utils._operations import precision_of
from acluster.nn._attention_cluster import AttentionCluster
from acluster.nn._integration import Integration
from acluster.nn._linear import DropoutLinear
from acluster.nn._standardization import Standardization
from acluster.nn._weighting import WEIGHTINGS
from acluster.nn.pooling import drop_empty_sets, runs_triton

Packed = tuple[Tensor, Tensor]  # values (R, M) and offsets (n + 1,) of one modality


class IntegrationNetwork(nn.Module):
    """Integrate each modality into a vector and classify their concatenation (section 3.5).

    Parameters
    ----------
    integrations : sequence of Integration
        One per modality: attention clusters, or other ways to integrate local features.

    n_outputs : int
        The number of logits per item.

    dropout : float, default=0.0
        The probability of zeroing a component of the global feature in training mode.

    widths : sequence of int, optional
        The width of a local feature in each modality. If given, local features are standardized
        first; set their mean and standard deviation with ``standardizations[i].learn``.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn import AttentionCluster, IntegrationNetwork
    >>> rgb, audio = AttentionCluster(4, cluster_size=3), AttentionCluster(2, cluster_size=1)
    >>> network = IntegrationNetwork([rgb, audio], n_outputs=5)
    >>> two_sets = torch.tensor([0, 2, 6])
    >>> network([(torch.ones(6, 4), two_sets), (torch.ones(6, 2), two_sets)]).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        integrations: Sequence[Integration],
        n_outputs: int,
        dropout: float = 0.0,
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.standardizations: Sequence[Standardization] | None = (
            None if widths is None else nn.ModuleList(map(Standardization, widths))  # type: ignore[assignment]
        )
        self.integrations: Sequence[Integration] = nn.ModuleList(integrations)  # type: ignore[assignment]
        global_size = sum(integration.global_size for integration in integrations)
        self.linear = DropoutLinear(global_size, n_outputs, dropout)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Initialize all parameters, and reset the standardization.

        Parameters
        ----------
        generator : torch.Generator, optional
            Source of randomness; by default torch's global generator.
        """
        for standardization in self.standardizations or ():
            standardization.reset_parameters()
        for integration in self.integrations:
            integration.reset_parameters(generator)
        self.linear.reset_parameters(generator)

    def standardized(self, modality: int, values: Tensor) -> Tensor:
        """Return the local features of a modality, standardized if the network does so.

        Parameters
        ----------
        modality : int
            The position of the modality.

        values : Tensor of shape (..., M)
            Local features of this modality.

        Returns
        -------
        Tensor of the same shape
        """
        return values if self.standardizations is None else self.standardizations[modality](values)

    def global_feature(self, sets: Sequence[Packed]) -> Tensor:
        """Return the concatenated global features g of all modalities, before dropout.

        If a modality of an item is missing (its set is empty), its part of the global feature is
        zero. The other parts are scaled up by the number of modalities divided by the number
        present, as dropout does.

        Parameters
        ----------
        sets : sequence of (values, offsets)
            One pair per modality, as in `forward`.

        Returns
        -------
        Tensor of shape (n, Σ N·M)
        """
        present = [_present(offsets) for _, offsets in sets]
        modalities = zip(self.integrations, sets, present, strict=True)
        parts = [
            _part(integration, self.standardized(i, values), offsets, has)
            for i, (integration, (values, offsets), has) in enumerate(modalities)
        ]
        g = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        missing = [~has for has in present if has is not None]
        if not missing:
            return g
        n_present = len(parts) - torch.stack(missing, dim=1).sum(dim=1, keepdim=True)
        return g * (len(parts) / n_present.clamp(min=1)).to(g)

    def attention_weights(self, sets: Sequence[Packed]) -> list[Tensor]:
        """Return the attention weights a of every modality (equations 3 to 5).

        Parameters
        ----------
        sets : sequence of (values, offsets)
            One pair per modality, as in `forward`.

        Returns
        -------
        list of Tensor of shape (R, N)
            One per modality, with its sets end to end.
        """
        return [self.attention_weights_of(i, *packed) for i, packed in enumerate(sets)]

    def attention_weights_of(self, modality: int, values: Tensor, offsets: Tensor) -> Tensor:
        """Return the attention weights a of one modality (equations 3 to 5).

        Parameters
        ----------
        modality : int
            The position of the modality.

        values, offsets : Tensor
            The packed local features of this modality, as in `forward`.

        Returns
        -------
        Tensor of shape (R, N)
        """
        values = self.standardized(modality, values)
        return self.integrations[modality].attention_weights(values, offsets)

    def local_evidence(
        self, sets: Sequence[Packed], contrasts: Tensor
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Return what each local feature adds to linear combinations of the logits.

        Only networks of attention clusters have evidence; see `AttentionCluster.local_evidence`.

        Parameters
        ----------
        sets : sequence of (values, offsets)
            One pair per modality, as in `forward`.

        contrasts : Tensor of shape (n_outputs, C)
            The combinations; those of the identity are the logits.

        Returns
        -------
        list of Tensor of shape (R, C)
            The evidence of the local features of every modality.

        list of Tensor of shape (n, C)
            The constant of every modality; 0 where an item lacks the modality.

        Tensor of shape (C,)
            The bias. All three add up to ``logits @ contrasts``.
        """
        weight, bias = self.linear.weight @ contrasts, self.linear.bias @ contrasts
        weights = weight.split([integration.global_size for integration in self.integrations])
        present = torch.stack([offsets.diff() > 0 for _, offsets in sets])
        # As in `global_feature`, the others make up for modalities that are missing.
        scale = len(sets) / present.sum(dim=0).clamp(min=1)
        evidence, constants = [], []
        for i, (values, offsets) in enumerate(sets):
            own = values.new_zeros(0, len(bias))
            constant = bias.new_zeros(len(scale), len(bias))
            if len(values):
                cluster: Any = self.integrations[i]
                filled = present[i].nonzero().flatten()
                own, of_filled = cluster.local_evidence(
                    self.standardized(i, values), drop_empty_sets(offsets), weights[i]
                )
                constant[filled.to(bias.device)] = of_filled
            by_row = scale.repeat_interleave(offsets.diff())
            evidence.append(own * by_row[:, None].to(own))
            constants.append(constant * scale[:, None].to(constant))
        return evidence, constants, bias

    def forward(self, sets: Sequence[Packed], generator: torch.Generator | None = None) -> Tensor:
        """Return the logits of every item.

        Parameters
        ----------
        sets : sequence of (values, offsets)
            One pair per modality: packed local features (R, M) and int64 offsets (n + 1,). With
            several modalities, an empty set means that the modality of the item is missing.

        generator : torch.Generator, optional
            Source of randomness for dropout in training mode; by default torch's global
            generator.

        Returns
        -------
        Tensor of shape (n, n_outputs)
        """
        return self._classify(self.global_feature(sets), generator)

    def _classify(self, g: Tensor, generator: torch.Generator | None) -> Tensor:
        with precision_of("linear", g.device):
            return self.linear(g, generator)


def reads_nothing_back(network: nn.Module) -> bool:
    """Return whether a step on sets, none of them empty, never waits for the device.

    Parameters
    ----------
    network : nn.Module
        The network.

    Returns
    -------
    bool
        True on a GPU with Triton, for attention clusters with a weighting function of the paper.
        The offsets must be on the device, under `no_empty_sets`. Only such steps can be CUDA
        graphs.
    """
    if not isinstance(network, IntegrationNetwork) or type(network.linear) is not DropoutLinear:
        return False
    if type(network) not in (IntegrationNetwork, ScoreFusionNetwork):  # a user's class
        return False
    clusters = [one for one in network.integrations if type(one) is AttentionCluster]
    return len(clusters) == len(network.integrations) and all(
        type(cluster.weighting) in WEIGHTINGS.values()
        and all(parameter.requires_grad for parameter in cluster.parameters())
        and runs_triton(network.linear.weight)
        for cluster in clusters
    )


class ScoreFusionNetwork(IntegrationNetwork):
    """Average the class probabilities of the modalities (late fusion).

    Each modality has its own rows of the linear layer; the bias is shared. The network returns
    the logits of the averaged probabilities and is trained as a whole.

    Parameters
    ----------
    integrations : sequence of Integration
        One per modality.

    n_outputs : int
        The number of logits per item.

    dropout : float, default=0.0
        The probability of zeroing a component of the global feature in training mode.

    widths : sequence of int, optional
        The width of a local feature in each modality. If given, local features are standardized
        first.

    is_softmax : bool
        Whether probabilities are the softmax of the logits (one class per item), or their
        sigmoid (binary and multilabel targets).

    Examples
    --------
    >>> import torch
    >>> from acluster.nn import ScoreFusionNetwork
    >>> from acluster.nn.integrations import Average
    >>> network = ScoreFusionNetwork([Average(4), Average(2)], n_outputs=5, is_softmax=True)
    >>> two_sets = torch.tensor([0, 2, 6])
    >>> network([(torch.ones(6, 4), two_sets), (torch.ones(6, 2), two_sets)]).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        integrations: Sequence[Integration],
        n_outputs: int,
        dropout: float = 0.0,
        widths: Sequence[int] | None = None,
        *,
        is_softmax: bool,
    ) -> None:
        super().__init__(integrations, n_outputs, dropout, widths)
        self.is_softmax = is_softmax

    def local_evidence(
        self, sets: Sequence[Packed], contrasts: Tensor
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Raise an error: these logits are not sums over the local features.

        Parameters
        ----------
        sets, contrasts
            As for `IntegrationNetwork.local_evidence`.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError("The logits of averaged probabilities have no local evidence.")

    def forward(self, sets: Sequence[Packed], generator: torch.Generator | None = None) -> Tensor:
        """Return the logits of the averaged probabilities; see `IntegrationNetwork.forward`."""
        g = self.global_feature(sets)
        parts = g.split([integration.global_size for integration in self.integrations], dim=1)
        logits, before = [], 0
        for part in parts:
            after = g.shape[1] - before - part.shape[1]
            # The linear layer sees one modality at a time, with zeros in place of the others.
            logits.append(self._classify(functional.pad(part, (before, after)), generator))
            before += part.shape[1]
        return logits_of_mean(torch.stack(logits), is_softmax=self.is_softmax)


def logits_of_mean(logits: Tensor, *, is_softmax: bool) -> Tensor:
    """Return the logits of the probabilities averaged over the first axis.

    Parameters
    ----------
    logits : Tensor of shape (P, n, n_outputs)
        The logits of P networks.

    is_softmax : bool
        Whether probabilities are the softmax of the logits, or their sigmoid.

    Returns
    -------
    Tensor of shape (n, n_outputs)
    """
    # Averages are taken of logarithms, since probabilities close to 0 underflow.
    if is_softmax:
        return _log_mean(functional.log_softmax(logits, dim=-1))
    return _log_mean(functional.logsigmoid(logits)) - _log_mean(functional.logsigmoid(-logits))


def _log_mean(logarithms: Tensor) -> Tensor:
    """Return the logarithm of the mean of the numbers over the first axis."""
    return logarithms.logsumexp(dim=0) - math.log(len(logarithms))


def _present(offsets: Tensor) -> Tensor | None:
    """Return which sets are not empty; None for all."""
    if promises_no_empty_sets():
        return None
    present = offsets.diff() > 0
    return None if bool(present.all()) else present


def _part(
    integration: Integration, values: Tensor, offsets: Tensor, present: Tensor | None
) -> Tensor:
    """Return the part of one modality in the global features; zero where the set is missing."""
    if present is None:
        return _integrate(integration, values, offsets)
    if len(values) == 0:  # the modality of every item is missing
        return values.new_zeros(len(present), integration.global_size)
    g = _integrate(integration, values, drop_empty_sets(offsets))
    items = torch.nonzero(present).flatten().to(g.device)
    return g.new_zeros(len(present), integration.global_size).index_copy(0, items, g)


def _integrate(integration: Integration, values: Tensor, offsets: Tensor) -> Tensor:
    """Integrate non-empty sets, and check the result: the class may be a user's."""
    with precision_of("integration", values.device):
        g = integration(values, offsets)
    expected = (len(offsets) - 1, integration.global_size)
    if not isinstance(g, Tensor) or g.shape != expected:
        found = f"shape {tuple(g.shape)}" if isinstance(g, Tensor) else f"type {type(g).__name__}"
        raise ValueError(
            f"{type(integration).__name__}.forward returned a result of {found}; expected a "
            f"tensor of shape {expected}, (number of sets, global_size)."
        )
    return g
