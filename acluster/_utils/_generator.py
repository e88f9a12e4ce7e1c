"""Random numbers for a part of a batch, the same as if drawn for the whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class PartGenerator(NamedTuple):
    """A generator for those items or columns of a batch that one of several processes has.

    All processes draw for the whole batch, so that their generators stay equal to that of a
    single process.

    Parameters
    ----------
    generator : torch.Generator or None
        Draws for the whole batch; None: torch's global generator.

    n_items : int
        The number of items of the batch.

    items : slice
        The items of this process.

    n_columns : int, optional
        The number of columns of the batch; by default, all are those of this process.

    columns : sequence of slice
        The columns of this process, if they are not all.
    """

    generator: torch.Generator | None
    n_items: int
    items: slice
    n_columns: int | None = None
    columns: Sequence[slice] = ()

    def whole(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the whole batch, of which this process has a part of `shape`."""
        columns = shape[1:] if self.n_columns is None else (self.n_columns,)
        return self.n_items, *columns

    def part(self, drawn: Tensor) -> Tensor:
        """Return the part of this process, of what was drawn for the whole batch."""
        own = drawn[self.items]
        if self.n_columns is None:
            return own
        return torch.cat([own[:, columns] for columns in self.columns], dim=1)
