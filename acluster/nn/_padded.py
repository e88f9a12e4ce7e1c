"""The same network over padded sets, in operations that other runtimes know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from acluster.nn._attended import is_below_highest, is_outside, masked
from acluster.nn._attention_cluster import AttentionCluster
from acluster.nn._network import IntegrationNetwork

__all__ = ["PaddedNetwork"]


class PaddedNetwork(nn.Module):
    """A network of attention clusters that takes padded sets with their lengths.

    It shares the parameters of `network`; it has no kernels, no loops over sets and no dropout,
    so that `torch.export` and `torch.onnx` can follow it. Padded sets cost what the longest costs.

    Parameters
    ----------
    network : IntegrationNetwork
        Its integrations are attention clusters.

    stand_ins : sequence of (Tensor of shape (M,), or None)
        For every modality, the local feature that stands for a missing set. None: nothing does,
        and the other modalities count for more.

    Raises
    ------
    TypeError
        If a modality is integrated in another way than by an attention cluster.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn import AttentionCluster, IntegrationNetwork, PaddedNetwork
    >>> network = IntegrationNetwork([AttentionCluster(4, cluster_size=3)], n_outputs=5)
    >>> PaddedNetwork(network, [None])(torch.ones(2, 6, 4), torch.tensor([6, 1])).shape
    torch.Size([2, 5])
    """

    def __init__(self, network: IntegrationNetwork, stand_ins: Sequence[Tensor | None]) -> None:
        super().__init__()
        self.network = network
        for integration in network.integrations:
            if not isinstance(integration, AttentionCluster):
                raise TypeError(
                    f"{type(integration).__name__} is no attention cluster; only these can be had "
                    "over padded sets."
                )
        for i, stand_in in enumerate(stand_ins):
            self.register_buffer(f"stand_in_{i}", stand_in)

    def forward(self, *sets: Tensor) -> Tensor:
        """Logits of every item.

        Parameters
        ----------
        *sets : Tensors
            For every modality, local features of shape (n, L, M) and int64 lengths (n,): item i
            has the first ``lengths[i]`` of L rows, and the others do not matter. An item of length
            0 lacks the modality. L is at least 1.

        Returns
        -------
        Tensor of shape (n, n_outputs)
            Logits.
        """
        parts, present = [], []
        for i, cluster in enumerate(self.network.integrations):
            values, lengths = sets[2 * i], sets[2 * i + 1]
            is_missing = lengths == 0
            lengths = lengths.clamp(min=1)
            is_padding = torch.arange(values.shape[1], device=values.device) >= lengths[:, None]
            values = values.masked_fill((is_padding | is_missing[:, None])[..., None], 0)
            stand_in = getattr(self, f"stand_in_{i}")
            if stand_in is not None:
                values = torch.where(is_missing[:, None, None], stand_in, values)
                is_missing = torch.zeros_like(is_missing)
            values = self.network.standardized(i, values)
            g = _global_feature(cast(AttentionCluster, cluster), values, is_padding)
            parts.append(torch.where(is_missing[:, None], 0.0, g))
            present.append(~is_missing)
        n_present = torch.stack(present, dim=1).sum(dim=1, keepdim=True).clamp(min=1)
        g = torch.cat(parts, dim=1)
        g = g * (len(parts) / n_present.to(g.dtype))
        return g @ self.network.linear.weight + self.network.linear.bias


def _global_feature(cluster: AttentionCluster, values: Tensor, is_padding: Tensor) -> Tensor:
    """Equations 2 to 7 on (n, L, M), without the padding."""
    logits = cluster.weighting(values.flatten(0, 1)).unflatten(0, values.shape[:2])
    logits = logits.masked_fill(is_padding[..., None], -torch.inf)
    a = _restricted(cluster, logits, (~is_padding).sum(dim=1)).softmax(dim=1)
    v = a.transpose(1, 2) @ values
    return (v if cluster.shifting is None else cluster.shifting(v)).flatten(1)


def _restricted(cluster: AttentionCluster, logits: Tensor, lengths: Tensor) -> Tensor:
    """Logits (n, L, N), very low where a unit may not attend."""
    if cluster.pyramid_levels > 1:
        places = torch.arange(logits.shape[1], device=logits.device)
        is_out = is_outside(places, lengths[:, None], cluster.cluster_size, cluster.pyramid_levels)
        logits = masked(logits, is_out)
    if cluster.n_attended is not None:
        # So that there are enough, without asking for L, which is not known to an export.
        more = functional.pad(logits, (0, 0, 0, cluster.n_attended), value=-torch.inf)
        is_out = is_below_highest(more, cluster.n_attended)[:, : logits.shape[1]]
        logits = masked(logits, is_out)
    return logits
