"""A bidirectional LSTM over the local features in their order."""

import torch
from torch import Tensor, nn

from acluster.nn._integration import Integration
from acluster.nn.integrations._sequences import padded


class BiLSTM(Integration):
    """Concatenate the final states of a forward and a backward LSTM.

    Parameters
    ----------
    n_features : int
        The width M of a local feature.

    hidden_size : int
        The hidden size of the LSTM in each direction.

    Attributes
    ----------
    global_size : int
        ``2 * hidden_size``.

    References
    ----------
    Long et al., "Attention Clusters: Purely Attention Based Local Feature Integration for Video
    Classification", CVPR 2018, Table 4, "Bi-directional LSTM".

    Examples
    --------
    >>> import torch
    >>> from acluster.nn.integrations import BiLSTM
    >>> lstm = BiLSTM(n_features=4, hidden_size=8)
    >>> lstm(torch.randn(6, 4), torch.tensor([0, 2, 6])).shape
    torch.Size([2, 16])
    """

    def __init__(self, n_features: int, hidden_size: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(n_features, hidden_size, batch_first=True, bidirectional=True)
        self.global_size = 2 * hidden_size

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        sequences, _ = padded(self.as_computed(values), offsets)
        # Packing makes the backward LSTM start at the last local feature, not in the padding.
        packed = nn.utils.rnn.pack_padded_sequence(
            sequences, offsets.diff(), batch_first=True, enforce_sorted=False
        )
        _, (last, _) = self.lstm(packed)
        return torch.cat([last[0], last[1]], dim=1)
