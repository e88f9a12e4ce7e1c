"""The network over padded sets, in operations that can be exported."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from acluster.nn._attention_cluster import AttentionCluster
from acluster.nn._masks import below_top_k, mask_logits, outside_pyramid_part
from acluster.nn._network import IntegrationNetwork


class PaddedNetwork(nn.Module):
    """A network of attention clusters over padded sets and their lengths.

    It shares the parameters of `network`. It uses no compiled kernels, no loops over sets and no
    dropout, so that `torch.export` and `torch.onnx` can trace it. Every set costs as much as the
    longest one in the batch.

    Parameters
    ----------
    network : IntegrationNetwork
        The network to export. All its integrations must be attention clusters. Late fusion
        (`ScoreFusionNetwork`) is not supported.

    stand_ins : sequence of (Tensor of shape (M,), or None)
        For each modality, the local feature to use in place of a missing set. With None, a
        missing set contributes zeros, and the other modalities are scaled up.

    Raises
    ------
    TypeError
        If an integration of the network is not an attention cluster, or the network computes its
        logits in another way than `IntegrationNetwork`.

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
        if getattr(type(network), "forward", None) is not IntegrationNetwork.forward:
            raise TypeError(
                f"{type(network).__name__} does not compute logits as IntegrationNetwork does. "
                "Pass an IntegrationNetwork, or each member of an ensemble."
            )
        self.network = network
        for integration in network.integrations:
            if not isinstance(integration, AttentionCluster):
                raise TypeError(
                    f"{type(integration).__name__} is not an attention cluster. PaddedNetwork "
                    "supports no other integration."
                )
        for i, stand_in in enumerate(stand_ins):
            self.register_buffer(f"stand_in_{i}", stand_in)

    def forward(self, *sets: Tensor) -> Tensor:
        """Return the logits of every item.

        Parameters
        ----------
        *sets : Tensors
            For each modality in turn, local features of shape (n, L, M) and int64 lengths of
            shape (n,). The set of item i is the first ``lengths[i]`` of the L rows; the other
            rows are ignored. The modality of an item with length 0 is missing. L is at least 1.

        Returns
        -------
        Tensor of shape (n, n_outputs)
            Logits.
        """
        parts, present = [], []
        for i, cluster in enumerate(self.network.integrations):
            values, lengths = sets[2 * i], sets[2 * i + 1]
            is_missing = lengths == 0
            # A missing set becomes one row of zeros, since the softmax of no rows is NaN.
            lengths = lengths.clamp(min=1)
            is_padding = torch.arange(values.shape[1], device=values.device) >= lengths[:, None]
            # Clear the padding, which may hold anything: 0 · NaN would be NaN in the product.
            values = values.masked_fill((is_padding | is_missing[:, None])[..., None], 0)
            if (stand_in := getattr(self, f"stand_in_{i}")) is not None:
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
    """Compute equations 2 to 7 on (n, L, M), ignoring the padding."""
    values = cluster.extended(values)
    logits = cluster.weighting(values.flatten(0, 1)).unflatten(0, values.shape[:2])
    logits = logits.masked_fill(is_padding[..., None], -torch.inf)
    a = _restricted(cluster, logits, (~is_padding).sum(dim=1)).softmax(dim=1)
    v = a.transpose(1, 2) @ values
    return (v if cluster.shifting is None else cluster.shifting(v)).flatten(1)


def _restricted(cluster: AttentionCluster, logits: Tensor, lengths: Tensor) -> Tensor:
    """Return the logits (n, L, N), very low where a unit must not attend."""
    if cluster.pyramid_levels > 1:
        positions = torch.arange(logits.shape[1], device=logits.device)
        pyramid = cluster.cluster_size, cluster.pyramid_levels
        outside = outside_pyramid_part(positions, lengths[:, None], *pyramid)
        logits = mask_logits(logits, outside)
    if cluster.n_attended is not None:
        # L is symbolic during an export, and min(n_attended, L) cannot be computed. Padding
        # makes sure that there are at least n_attended rows.
        longer = functional.pad(logits, (0, 0, 0, cluster.n_attended), value=-torch.inf)
        below = below_top_k(longer, cluster.n_attended)[:, : logits.shape[1]]
        logits = mask_logits(logits, below)
    return logits
