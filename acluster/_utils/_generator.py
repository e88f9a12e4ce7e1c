"""Random numbers for some items of a batch, the same as if drawn for the whole batch."""

from __future__ import annotations

from typing import NamedTuple

import torch


class PartGenerator(NamedTuple):
    """A generator for those items of a batch that one of several processes trains on.

    All processes draw for the whole batch, so that their generators stay equal to that of a
    single process.

    Parameters
    ----------
    generator : torch.Generator
        Draws for the whole batch.

    n_items : int
        The number of items of the batch.

    items : slice
        The items of this process.
    """

    generator: torch.Generator
    n_items: int
    items: slice
