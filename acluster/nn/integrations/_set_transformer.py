"""Pooling by multihead attention, from the Set Transformer (Lee et al., 2019)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from acluster.nn._integration import Integration
from acluster.nn._weighting import uniform_
from acluster.nn.integrations._sequences import padded


class SetTransformer(Integration):
    """Pool by multihead attention from learned seed vectors to the local features.

    The local features are embedded by a linear layer with a ReLU. Only the pooling block of the
    Set Transformer is used, without its encoder.

    Parameters
    ----------
    n_features : int
        The width M of a local feature.

    n_seeds : int
        The number of seed vectors.

    hidden_size : int
        The size of the embedding; a multiple of `n_heads`.

    n_heads : int
        The number of attention heads.

    Attributes
    ----------
    global_size : int
        ``n_seeds * hidden_size``.

    Raises
    ------
    ValueError
        If `hidden_size` is not a multiple of `n_heads`.

    References
    ----------
    Lee et al., "Set Transformer: A Framework for Attention-based Permutation-Invariant Neural
    Networks", ICML 2019, equations 6, 7 and 11.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn.integrations import SetTransformer
    >>> pooling = SetTransformer(n_features=4, n_seeds=2, hidden_size=8, n_heads=4)
    >>> pooling(torch.randn(6, 4), torch.tensor([0, 2, 6])).shape
    torch.Size([2, 16])
    """

    def __init__(self, n_features: int, n_seeds: int, hidden_size: int, n_heads: int) -> None:
        super().__init__()
        if hidden_size % n_heads:
            raise ValueError(
                f"hidden_size={hidden_size} is not a multiple of n_heads={n_heads}. Change either."
            )
        self.n_heads = n_heads
        self.seeds = nn.Parameter(torch.empty(n_seeds, hidden_size))
        uniform_(self.seeds, self.seeds.shape[1], None)
        self.embed = nn.Linear(n_features, hidden_size)
        self.query, self.key, self.value, self.mix = (
            nn.Linear(hidden_size, hidden_size) for _ in range(4)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_size) for _ in range(2))
        self.layer = nn.Linear(hidden_size, hidden_size)
        self.global_size = n_seeds * hidden_size

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        embedded, inside = padded(functional.relu(self.embed(self.as_computed(values))), offsets)
        attended = functional.scaled_dot_product_attention(
            self._by_head(self.query(self.seeds).expand(len(embedded), -1, -1)),
            self._by_head(self.key(embedded)),
            self._by_head(self.value(embedded)),
            attn_mask=inside[:, None, None],
        )
        x = self.norms[0](self.seeds + self.mix(attended.transpose(1, 2).flatten(2)))
        return self.norms[1](x + functional.relu(self.layer(x))).flatten(1)

    def _by_head(self, x: Tensor) -> Tensor:
        """Reshape (n, L, H) to (n, n_heads, L, H / n_heads)."""
        return x.unflatten(2, (self.n_heads, -1)).transpose(1, 2)
