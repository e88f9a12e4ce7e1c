"""Compare variants of the attention cluster by cross-validation on the training parts.

Each variant exchanges one part of the cluster:

- a learned projection of the local features before the cluster;
- sparsemax or entmax instead of softmax;
- batch normalization instead of the shifting operation;
- a slice of the values for each unit, so that the number of parameters does not grow with N·M
  (Psomas et al., arXiv 2506.10178);
- pyramids over channels and over time (after the abstract of Long et al., TPAMI 44(4), 2022);
- a time coordinate.

The time pyramid and the softmax over the highest logits have become options of the estimator. Data
sets, splits and command-line options are those of `defaults.py`. No test item is used.

    python studies/variants.py [--sets "spoken digits"] [--candidates "projection 32"] [--n-jobs 2]
"""

import math
from inspect import signature

import defaults
import torch
from torch import nn
from torch.nn import functional

from acluster import IntegrationClassifier
from acluster.nn import Integration, ShiftingOperation, attend
from acluster.nn._weighting import uniform_
from acluster.nn.integrations._batch_norm import BatchNorm
from acluster.nn.integrations._sequences import padded


class Variant(Integration):
    """An attention cluster with FC1 weighting (equation 4) and exchangeable parts."""

    def __init__(
        self,
        n_features,
        cluster_size=32,
        projection_size=0,
        activation="softmax",
        norm="shifting",
        slice_size=0,
        channel_levels=1,
        time_coordinate=0,
    ):
        super().__init__()
        self.project = nn.Linear(n_features, projection_size) if projection_size else None
        self.time_coordinate = time_coordinate
        width = (projection_size or n_features) + bool(time_coordinate)
        self.activation = activation
        self.parts = slices(width, channel_levels)
        self.unit_size = max(1, cluster_size // len(self.parts))
        widths = [part.stop - part.start for part in self.parts]
        self.units = nn.ParameterList(torch.empty(self.unit_size, own) for own in widths)
        self.slice_size = slice_size
        self.global_size = self.unit_size * sum(slice_size or own for own in widths)
        self.values = nn.ParameterList(
            torch.empty(self.unit_size, own, slice_size) for own in widths if slice_size
        )
        self.shifts = nn.ModuleList(
            ShiftingOperation(self.unit_size) for _ in self.parts if norm == "shifting"
        )
        self.norm = BatchNorm(self.global_size) if norm == "batch" else None

    def reset_parameters(self, generator=None):
        for parameter in (*self.units, *self.values):
            uniform_(parameter, parameter.shape[1], generator)
        if self.project is not None:
            for parameter in self.project.parameters():
                uniform_(parameter, self.project.in_features, generator)
        for shift in self.shifts:
            shift.reset_parameters(generator)
        if self.norm is not None:
            self.norm.reset_parameters()

    def forward(self, values, offsets):
        values = self.as_computed(values)
        if self.project is not None:
            values = functional.relu(self.project(values))
        if self.time_coordinate:
            values = torch.cat([values, time_of(offsets).to(values)[:, None]], dim=1)
        pooled = []
        for i, part in enumerate(self.parts):
            own = values[:, part]
            v = self.pool(own, offsets, own @ self.units[i].T)
            if self.slice_size:
                v = torch.einsum("nqm,qmd->nqd", v, self.values[i])
            if self.shifts:
                v = self.shifts[i](v) * len(self.parts) ** -0.5
            pooled.append(v.flatten(1))
        g = torch.cat(pooled, dim=1)
        return g if self.norm is None else self.norm(g)

    def pool(self, values, offsets, logits):
        if self.activation == "softmax":
            return attend(values, offsets, logits)
        x, inside = padded(values, offsets)
        scores, _ = padded(logits, offsets)
        scores = scores.masked_fill(~inside[..., None], -math.inf)
        weights = ACTIVATIONS[self.activation](scores)
        return weights.transpose(1, 2) @ x


def time_of(offsets):
    """Return the relative position of each local feature in its set, from -1 to 1."""
    lengths = offsets.diff()
    place = torch.arange(int(offsets[-1])) - offsets[:-1].repeat_interleave(lengths)
    return (2 * place + 1) / lengths.repeat_interleave(lengths) - 1


def slices(width, n_levels):
    """Return the slices of a channel pyramid: all channels, halves, quarters."""
    return [
        slice(width * number // 2**level, width * (number + 1) // 2**level)
        for level in range(n_levels)
        for number in range(2**level)
    ]


def sparsemax(scores):
    """Project the scores onto the simplex (Martins and Astudillo, 2016), along dimension 1."""
    ordered = scores.sort(dim=1, descending=True).values
    rank = torch.arange(1, scores.shape[1] + 1).to(scores)[:, None]
    finite = ordered.isfinite()
    sums = ordered.masked_fill(~finite, 0).cumsum(1)
    inside = finite & (1 + rank * ordered > sums)
    size = inside.sum(dim=1, keepdim=True)
    threshold = (sums.gather(1, size - 1) - 1) / size
    return (scores - threshold).clamp(min=0)


def entmax15(scores):
    """Compute 1.5-entmax along dimension 1 (Peters, Niculae and Martins, 2019, algorithm 2)."""
    half = (scores - scores.amax(dim=1, keepdim=True)) / 2
    ordered = half.sort(dim=1, descending=True).values
    finite = ordered.isfinite()
    known = ordered.masked_fill(~finite, 0)
    rank = torch.arange(1, scores.shape[1] + 1).to(scores)[:, None]
    mean, square = known.cumsum(1) / rank, (known**2).cumsum(1) / rank
    gap = ((1 - rank * (square - mean**2)) / rank).clamp(min=0)
    taus = mean - torch.where(gap > 0, gap, 1).sqrt() * (gap > 0)
    size = (finite & (taus <= ordered)).sum(dim=1, keepdim=True)
    return (half - taus.gather(1, size - 1)).clamp(min=0) ** 2


ACTIVATIONS = {"sparsemax": sparsemax, "entmax": entmax15}


CANDIDATES = {
    "as it is": {},
    "no shifting": {"norm": "none"},
    "batch norm": {"norm": "batch"},
    "projection 32": {"projection_size": 32},
    "projection 128": {"projection_size": 128},
    "projection 128, no shifting": {"projection_size": 128, "norm": "none"},
    "sparsemax": {"activation": "sparsemax"},
    "entmax": {"activation": "entmax"},
    "5 highest": {"n_attended": 5},
    "slices of 8": {"slice_size": 8},
    "slices of 8, batch norm": {"slice_size": 8, "norm": "batch"},
    "pyramid of channels": {"channel_levels": 3},
    "pyramid of time": {"pyramid_levels": 3},
    "time coordinate": {"time_coordinate": 1},
}


def variant(is_multimodal, seed, **parameters):
    """Return a variant, or the attention cluster with one of its own options."""
    if {"n_attended", "pyramid_levels"} & set(parameters):
        return defaults.attending_to_all(is_multimodal, seed, **parameters)
    own = {name: parameters.pop(name) for name in signature(Variant).parameters.keys() & parameters}
    return IntegrationClassifier(
        integration=Variant, integration_params=own, **parameters, random_state=seed
    )


VARIANTS = defaults.Study(CANDIDATES, variant, defaults.CSV.with_name("variants.csv"))

if __name__ == "__main__":
    defaults.main(VARIANTS, __doc__)
