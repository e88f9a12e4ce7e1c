"""Concatenation of a fixed number of local features in their order."""

from torch import Tensor

from acluster.nn._integration import Integration
from acluster.nn.integrations._sequences import resampled


class Flatten(Integration):
    """Concatenate a fixed number of local features, taken at even distances.

    Step k of K is the local feature at position ``floor((k + 1/2) L / K)``. Some local features of
    longer sets are therefore left out, and some of shorter sets are repeated.

    Parameters
    ----------
    n_features : int
        The width M of a local feature.

    n_steps : int
        The number K of local features to concatenate.

    Attributes
    ----------
    global_size : int
        ``n_steps * n_features``.

    References
    ----------
    Long et al., "Attention Clusters: Purely Attention Based Local Feature Integration for Video
    Classification", CVPR 2018, Table 4. The paper does not say how it handles sets of different
    sizes.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn.integrations import Flatten
    >>> Flatten(n_features=1, n_steps=2)(torch.arange(6.0)[:, None], torch.tensor([0, 2, 6]))
    tensor([[0., 1.],
            [3., 5.]])
    """

    def __init__(self, n_features: int, n_steps: int) -> None:
        super().__init__()
        self.n_steps = n_steps
        self.global_size = n_steps * n_features

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        return resampled(values, offsets, self.n_steps).flatten(1)
