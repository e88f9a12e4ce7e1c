"""Attention pooling for multiple-instance learning, plain and gated (Ilse et al., 2018)."""

import torch
from torch import Tensor, nn

from acluster.nn._integration import Integration
from acluster.nn.pooling import attend


class AttentionMIL(Integration):
    """Average the local features with weights from a two-layer attention unit.

    The weights are ``a = softmax(wᵀ tanh(V x + b))`` over each set.

    Parameters
    ----------
    n_features : int
        The width M of a local feature.

    hidden_size : int
        The hidden layer size of the attention unit.

    Attributes
    ----------
    global_size : int
        M, the width of the weighted average.

    References
    ----------
    Ilse, Tomczak and Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018,
    equation 8.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn.integrations import AttentionMIL
    >>> pooling = AttentionMIL(n_features=4, hidden_size=8)
    >>> pooling(torch.randn(6, 4), torch.tensor([0, 2, 6])).shape
    torch.Size([2, 4])
    """

    def __init__(self, n_features: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(n_features, hidden_size)
        self.unit = nn.Linear(hidden_size, 1, bias=False)  # the softmax cancels a bias
        self.global_size = n_features

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        values = self.as_computed(values)
        return attend(values, offsets, self.attention_logits(values, offsets)).flatten(1)

    def attention_logits(self, values: Tensor, offsets: Tensor) -> Tensor:
        return self.unit(torch.tanh(self.hidden(values)))


class GatedAttentionMIL(AttentionMIL):
    """Average the local features with weights from a gated two-layer attention unit.

    The weights are ``a = softmax(wᵀ (tanh(V x + b) ∘ sigmoid(U x + c)))`` over each set.

    Parameters
    ----------
    n_features : int
        The width M of a local feature.

    hidden_size : int
        The hidden layer size of the attention unit, and the size of its gate.

    Attributes
    ----------
    global_size : int
        M, the width of the weighted average.

    References
    ----------
    Ilse, Tomczak and Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018,
    equation 9.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn.integrations import GatedAttentionMIL
    >>> pooling = GatedAttentionMIL(n_features=4, hidden_size=8)
    >>> pooling(torch.randn(6, 4), torch.tensor([0, 2, 6])).shape
    torch.Size([2, 4])
    """

    def __init__(self, n_features: int, hidden_size: int) -> None:
        super().__init__(n_features, hidden_size)
        self.gate = nn.Linear(n_features, hidden_size)

    def attention_logits(self, values: Tensor, offsets: Tensor) -> Tensor:
        return self.unit(torch.tanh(self.hidden(values)) * torch.sigmoid(self.gate(values)))
