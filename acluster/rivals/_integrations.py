"""Other ways from the local features of a set to one vector, each a torch module.

They take packed sets, as `acluster.nn.AttentionCluster` does. Those that know an order take local
features in the order in which they lie in their set.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from acluster.nn import Integration, attend

__all__ = [
    "TSLSTM",
    "AttentionMIL",
    "Average",
    "BiLSTM",
    "EfficientProbing",
    "Flatten",
    "GatedAttentionMIL",
    "NetVLAD",
    "SetTransformer",
    "TemporalInception",
]


class Average(Integration):
    """The mean of the local features."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.global_size = n_features

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        return attend(values, offsets, values.new_zeros(len(values), 1)).flatten(1)


class Flatten(Integration):
    """So many local features, taken at even distances in their order, side by side."""

    def __init__(self, n_features: int, n_steps: int) -> None:
        super().__init__()
        self.n_steps = n_steps
        self.global_size = n_steps * n_features

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        return resampled(values, offsets, self.n_steps).flatten(1)


class BiLSTM(Integration):
    """The last states of a long short-term memory that reads forwards, and of one backwards."""

    def __init__(self, n_features: int, hidden_size: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(n_features, hidden_size, batch_first=True, bidirectional=True)
        self.global_size = 2 * hidden_size

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        sequences, _ = padded(self.as_computed(values), offsets)
        packed = nn.utils.rnn.pack_padded_sequence(
            sequences, offsets.diff(), batch_first=True, enforce_sorted=False
        )
        _, (last, _) = self.lstm(packed)
        return torch.cat([last[0], last[1]], dim=1)


class TSLSTM(Integration):
    """Contiguous segments, normalised and pooled by the maximum; an LSTM reads them."""

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
            rows, own = (numbers.to(values.device) for numbers in segment(offsets, number, n))
            pooled.append(torch.segment_reduce(norm(values[rows]), "max", offsets=own, axis=0))
        _, (last, _) = self.lstm(torch.stack(pooled, dim=1))
        return self.last_norm(last[0])


class TemporalInception(Integration):
    """Four modules of two temporal convolutions each, alike for every feature; then a layer."""

    WIDTHS = (5, 7)
    CHANNELS = (1, 2, 4, 8)
    REDUCTION = (16, 4, 2, 1)

    def __init__(self, n_features: int, n_steps: int, hidden_size: int) -> None:
        super().__init__()
        self.n_steps = n_steps
        self.branches = nn.ModuleList(
            nn.ModuleList(
                nn.Conv2d(channels, channels, (width, 1), padding=(width // 2, 0))
                for width in self.WIDTHS
            )
            for channels in self.CHANNELS
        )
        self.branch_norms = nn.ModuleList(nn.BatchNorm2d(2 * n) for n in self.CHANNELS)
        self.reduce = nn.ModuleList(nn.Conv2d(*pair, 1) for pair in pairwise(self.REDUCTION))
        self.reduce_norms = nn.ModuleList(nn.BatchNorm2d(n) for n in self.REDUCTION[1:])
        self.layer = nn.Linear(n_features, hidden_size)
        self.layer_norm = BatchNorm(hidden_size)
        self.global_size = hidden_size

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        x = resampled(self.as_computed(values), offsets, self.n_steps)[:, None]  # (n, 1, T, M)
        for module, norm in zip(self.branches, self.branch_norms, strict=True):
            branches = cast(nn.ModuleList, module)
            x = functional.relu(norm(torch.cat([branch(x) for branch in branches], dim=1)))
            x = functional.max_pool2d(x, (2, 1), ceil_mode=True)
        x = x.amax(dim=2, keepdim=True)
        for convolution, norm in zip(self.reduce, self.reduce_norms, strict=True):
            x = functional.relu(norm(convolution(x)))
        return functional.relu(self.layer_norm(self.layer(x.flatten(1))))


class AttentionMIL(Integration):
    """One attention unit of two layers, with a tanh between them."""

    def __init__(self, n_features: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(n_features, hidden_size)
        self.unit = nn.Linear(hidden_size, 1, bias=False)  # softmax cancels a bias
        self.global_size = n_features

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        values = self.as_computed(values)
        return attend(values, offsets, self.attention_logits(values, offsets)).flatten(1)

    def attention_logits(self, values: Tensor, offsets: Tensor) -> Tensor:
        return self.unit(torch.tanh(self.hidden(values)))


class GatedAttentionMIL(AttentionMIL):
    """The same with a gate on the hidden cells."""

    def __init__(self, n_features: int, hidden_size: int) -> None:
        super().__init__(n_features, hidden_size)
        self.gate = nn.Linear(n_features, hidden_size)

    def attention_logits(self, values: Tensor, offsets: Tensor) -> Tensor:
        return self.unit(torch.tanh(self.hidden(values)) * torch.sigmoid(self.gate(values)))


class NetVLAD(Integration):
    """Residuals from learnt centres, summed by soft assignment; a layer; context gating."""

    def __init__(self, n_features: int, n_centres: int, hidden_size: int) -> None:
        super().__init__()
        self.assign = nn.Linear(n_features, n_centres, bias=False)
        self.assign_norm = BatchNorm(n_centres)
        self.centres = nn.Parameter(torch.empty(n_centres, n_features))
        self.layer = nn.Linear(n_centres * n_features, hidden_size)
        self.gate = nn.Linear(hidden_size, hidden_size)
        self.global_size = hidden_size

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        hidden = self.layer(self.residuals(self.as_computed(values), offsets).flatten(1))
        return hidden * torch.sigmoid(self.gate(hidden))

    def residuals(self, values: Tensor, offsets: Tensor) -> Tensor:
        """Normalised within each centre and as a whole, (n, K, M)."""
        assigned = self.assign_norm(self.assign(values)).softmax(dim=1)
        lengths = offsets.diff().tolist()
        by_set = zip(assigned.split(lengths), values.split(lengths), strict=True)
        sums = [a.T @ x - a.sum(dim=0)[:, None] * self.centres for a, x in by_set]
        residuals = functional.normalize(torch.stack(sums), dim=2)
        return functional.normalize(residuals.flatten(1), dim=1).view_as(residuals)


class SetTransformer(Integration):
    """Pooling by multihead attention: learnt seeds attend to the local features."""

    def __init__(self, n_features: int, n_seeds: int, hidden_size: int, n_heads: int) -> None:
        super().__init__()
        if hidden_size % n_heads:
            raise ValueError(
                f"hidden_size={hidden_size} is not a multiple of n_heads={n_heads}; change one."
            )
        self.n_heads = n_heads
        self.seeds = nn.Parameter(torch.empty(n_seeds, hidden_size))
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
        """(n, L, H) to (n, n_heads, L, H / n_heads)."""
        return x.unflatten(2, (self.n_heads, -1)).transpose(1, 2)


class EfficientProbing(Integration):
    """Queries without keys, each of which averages a slice of the values; batch norm."""

    def __init__(self, n_features: int, n_queries: int) -> None:
        super().__init__()
        width = max(1, n_features // n_queries)
        self.queries = nn.Linear(n_features, n_queries, bias=False)
        self.values = nn.Parameter(torch.empty(n_queries, n_features, width))
        self.norm = BatchNorm(n_queries * width, affine=False)
        self.global_size = n_queries * width

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        values = self.as_computed(values)
        pooled = attend(values, offsets, self.attention_logits(values, offsets))
        # The projection of an average is the average of projections, and there is one per unit.
        return self.norm(torch.einsum("nqm,qmd->nqd", pooled, self.values).flatten(1))

    def attention_logits(self, values: Tensor, offsets: Tensor) -> Tensor:
        return self.queries(values) * values.shape[1] ** -0.5


class BatchNorm(nn.BatchNorm1d):
    """torch's; a single row, which has no spread, is normalised as in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 1:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


def padded(values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Sets as (n, L, M), 0 beyond the last local feature of each, and (n, L): True up to it."""
    lengths = offsets.diff()
    places = torch.arange(int(lengths.max()))
    inside = (places < lengths[:, None]).to(values.device)
    rows = (offsets[:-1, None] + places).clamp(max=len(values) - 1).to(values.device)
    return values[rows].masked_fill(~inside[..., None], 0), inside


def resampled(values: Tensor, offsets: Tensor, n_steps: int) -> Tensor:
    """Of each set as many local features, at even distances, (n, n_steps, M).

    Step k of K is the local feature at ``floor((k + ½) L / K)``: some are taken more than once
    where there are fewer than K.
    """
    places = (2 * torch.arange(n_steps) + 1) * offsets.diff()[:, None] // (2 * n_steps)
    return values[(offsets[:-1, None] + places).to(values.device)]


def segment(offsets: Tensor, number: int, n_segments: int) -> tuple[Tensor, Tensor]:
    """The rows of one of several contiguous segments of every set, and their offsets.

    Segment s of S runs from ``floor(s L / S)`` to ``floor((s + 1) L / S)``, and has one local
    feature at least.
    """
    lengths = offsets.diff()
    starts = number * lengths // n_segments
    sizes = ((number + 1) * lengths // n_segments - starts).clamp(min=1)
    own = functional.pad(sizes.cumsum(0), (1, 0))
    rows = torch.arange(int(own[-1])) + (offsets[:-1] + starts - own[:-1]).repeat_interleave(sizes)
    return rows, own
