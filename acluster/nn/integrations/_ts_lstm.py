"""TS-LSTM: max-pooled temporal segments, read by an LSTM (Ma et al., 2017)."""

import torch
from torch import Tensor, nn

from acluster.nn._integration import Integration
from acluster.nn.integrations._batch_norm import BatchNorm
from acluster.nn.integrations._sequences import segment


class TSLSTM(Integration):
    """Max-pool contiguous segments of each set and read them with an LSTM.

    The local features of each segment are batch-normalized before the pooling, and the final state
    of the LSTM afterwards. The authors' code normalizes each time step with its own statistics,
    which is impossible for sets of different sizes. Here, each segment has one normalization.

    Parameters
    ----------
    n_features : int
        The width M of a local feature.

    n_segments : int
        The number of segments. Segments overlap in shorter sets.

    hidden_size : int
        The hidden size of the LSTM.

    Attributes
    ----------
    global_size : int
        ``hidden_size``.

    References
    ----------
    Ma et al., "TS-LSTM and Temporal-Inception: Exploiting Spatiotemporal Dynamics for Activity
    Recognition", arXiv 1703.10667, 2017.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn.integrations import TSLSTM
    >>> lstm = TSLSTM(n_features=4, n_segments=2, hidden_size=8)
    >>> lstm(torch.randn(6, 4), torch.tensor([0, 2, 6])).shape
    torch.Size([2, 8])
    """

    module_counts = ("n_segments",)

    def __init__(self, n_features: int, n_segments: int, hidden_size: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(BatchNorm(n_features) for _ in range(n_segments))
        self.lstm = nn.LSTM(n_features, hidden_size, batch_first=True)
        self.last_norm = BatchNorm(hidden_size)
        self.global_size = hidden_size

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        values, n = self.as_computed(values), len(self.norms)
        pooled = []
        for number, norm in enumerate(self.norms):
            rows, own = (index.to(values.device) for index in segment(offsets, number, n))
            pooled.append(torch.segment_reduce(norm(values[rows]), "max", offsets=own, axis=0))
        _, (last, _) = self.lstm(torch.stack(pooled, dim=1))
        return self.last_norm(last[0])
