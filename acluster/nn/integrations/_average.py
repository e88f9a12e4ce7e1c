"""Average pooling: the mean of the local features."""

from torch import Tensor

from acluster.nn._integration import Integration
from acluster.nn.pooling import attend


class Average(Integration):
    """Average the local features of each set.

    Parameters
    ----------
    n_features : int
        The width M of a local feature.

    Attributes
    ----------
    global_size : int
        M, the width of the mean.

    References
    ----------
    Long et al., "Attention Clusters: Purely Attention Based Local Feature Integration for Video
    Classification", CVPR 2018, equation 3 and Table 4.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn.integrations import Average
    >>> values, offsets = torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 2, 3])
    >>> Average(n_features=1)(values, offsets)
    tensor([[2.],
            [5.]])
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.global_size = n_features

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        # Equal logits give every local feature the same weight.
        return attend(values, offsets, values.new_zeros(len(values), 1)).flatten(1)
