"""NetVLAD with context gating (Arandjelović et al., 2016; Miech et al., 2017)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from acluster.nn._integration import Integration
from acluster.nn._weighting import uniform_
from acluster.nn.integrations._batch_norm import BatchNorm


class NetVLAD(Integration):
    """Sum residuals from learned cluster centers, then apply a linear layer and context gating.

    Each local feature is softly assigned to the centers. The sums of its residuals are normalized
    per center and as a whole, mapped to a hidden layer, and multiplied by a gate,
    ``h ∘ sigmoid(W h + b)``.

    The gate after the classifier, the mixture of experts, and the batch normalization of the
    layer and the gate in Miech et al. are left out.

    Parameters
    ----------
    n_features : int
        The width M of a local feature.

    n_centres : int
        The number K of cluster centers.

    hidden_size : int
        The size of the hidden layer.

    Attributes
    ----------
    global_size : int
        ``hidden_size``.

    References
    ----------
    Arandjelović et al., "NetVLAD: CNN Architecture for Weakly Supervised Place Recognition",
    CVPR 2016.

    Miech, Laptev and Sivic, "Learnable Pooling with Context Gating for Video Classification",
    arXiv 1706.06905, 2017.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn.integrations import NetVLAD
    >>> net_vlad = NetVLAD(n_features=4, n_centres=3, hidden_size=8)
    >>> net_vlad(torch.randn(6, 4), torch.tensor([0, 2, 6])).shape
    torch.Size([2, 8])
    """

    def __init__(self, n_features: int, n_centres: int, hidden_size: int) -> None:
        super().__init__()
        self.assign = nn.Linear(n_features, n_centres, bias=False)
        self.assign_norm = BatchNorm(n_centres)
        self.centres = nn.Parameter(torch.empty(n_centres, n_features))
        uniform_(self.centres, self.centres.shape[1], None)
        self.layer = nn.Linear(n_centres * n_features, hidden_size)
        self.gate = nn.Linear(hidden_size, hidden_size)
        self.global_size = hidden_size

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        hidden = self.layer(self.residuals(self.as_computed(values), offsets).flatten(1))
        return hidden * torch.sigmoid(self.gate(hidden))

    def residuals(self, values: Tensor, offsets: Tensor) -> Tensor:
        """Return the normalized sums of residuals from each center.

        Parameters
        ----------
        values : Tensor of shape (R, M)
            The local features of all sets, end to end.

        offsets : Tensor of int64, shape (n + 1,), on the CPU
            Set i is ``values[offsets[i]:offsets[i + 1]]``; no set is empty.

        Returns
        -------
        Tensor of shape (n, K, M)
        """
        assigned = self.assign_norm(self.assign(values)).softmax(dim=1)
        lengths = offsets.diff().tolist()
        by_set = zip(assigned.split(lengths), values.split(lengths), strict=True)
        # Σ a (x - c) = aᵀX - (Σ a) c, without forming all R·K residuals.
        sums = [a.T @ x - a.sum(dim=0)[:, None] * self.centres for a, x in by_set]
        residuals = functional.normalize(torch.stack(sums), dim=2)
        return functional.normalize(residuals.flatten(1), dim=1).view_as(residuals)
