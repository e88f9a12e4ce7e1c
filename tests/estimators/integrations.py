"""Integrations as users write them, in a module that other processes can import."""

import os
import signal

import torch
from torch import nn

from acluster.nn import Integration


class Largest(Integration):
    """The mean of the `n_largest` largest values of every feature, after a linear layer."""

    def __init__(self, n_features, hidden_size=8, n_largest=2):
        super().__init__()
        self.n_largest = n_largest
        self.layer = nn.Linear(n_features, hidden_size)
        self.global_size = hidden_size

    def forward(self, values, offsets):
        hidden = self.layer(self.as_computed(values)).tanh()
        tops = [
            x.topk(min(self.n_largest, len(x)), dim=0).values
            for x in hidden.split(offsets.diff().tolist())
        ]
        return torch.stack([top.mean(dim=0) for top in tops])


class Mean(Integration):
    """The mean of the local features; it has no parameters."""

    def __init__(self, n_features):
        super().__init__()
        self.global_size = n_features

    def forward(self, values, offsets):
        return torch.stack([x.mean(dim=0) for x in values.split(offsets.diff().tolist())])


class KillsProcess(Largest):
    """Kills its process when it meets a value for the first time, before there is a file."""

    sentinel = 12345.0

    def __init__(self, n_features, flag):
        super().__init__(n_features)
        self.flag = flag

    def forward(self, values, offsets):
        if self.sentinel in values and not os.path.exists(self.flag):
            with open(self.flag, "w"):
                os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(values, offsets)
