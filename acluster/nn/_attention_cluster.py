"""The attention cluster (equation 6) and the shifting operation (equation 7)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from acluster.nn import _attended
from acluster.nn._integration import Integration
from acluster.nn._weighting import WEIGHTINGS, Weighting
from acluster.nn.pooling import attend, shifted

__all__ = ["AttentionCluster", "ShiftingOperation"]


class ShiftingOperation(nn.Module):
    """Shift every unit's output by a learnt scalar pair and normalise it (equation 7).

    ``v = (α·Xa + β) / (√N · ‖α·Xa + β‖₂)``, with one α and one β per unit. The factor
    1/√N gives the concatenated global feature unit norm.

    Parameters
    ----------
    cluster_size : int
        The number N of attention units.

    Notes
    -----
    α and β start from a normal distribution of standard deviation N^(-1/4), as in the
    authors' published code: units that start alike would stay alike. The norm is bounded
    below by 1e-12, so a zero vector stays zero.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn import ShiftingOperation
    >>> shifted = ShiftingOperation(4)(torch.ones(2, 4, 3))
    >>> torch.allclose(shifted.flatten(1).norm(dim=1), torch.ones(2))
    True
    """

    def __init__(self, cluster_size: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(cluster_size, 1))
        self.beta = nn.Parameter(torch.empty(cluster_size, 1))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw α and β from N(0, N^(-1/4))."""
        std = len(self.alpha) ** -0.25
        with torch.no_grad():
            self.alpha.normal_(0, std, generator=generator)
            self.beta.normal_(0, std, generator=generator)

    def forward(self, pooled: Tensor) -> Tensor:
        """The outputs of the units, shifted and normalised (equation 7).

        Parameters
        ----------
        pooled : Tensor of shape (n, N, M)
            The weighted average of each set by each unit.

        Returns
        -------
        Tensor of shape (n, N, M)
            Each unit's of norm 1/√N.
        """
        return shifted(pooled, self.alpha, self.beta)


class AttentionCluster(Integration):
    """N attention units over one set of local features, concatenated (equation 6).

    Parameters
    ----------
    n_features : int
        The width M of a local feature.

    cluster_size : int
        The number N of attention units.

    weighting : {"average", "fc1", "fc2"} or subclass of Weighting, default="fc1"
        The weighting function (equations 3, 4 and 5, or one of your own).

    hidden_size : int, default=10
        The number H of hidden cells per unit of "fc2".

    shifting : bool, default=True
        Whether each unit's output is shifted and normalised (equation 7).

    n_attended : int, optional
        Each unit attends to the so many local features of a set that have its highest logits, by a
        softmax over these; logits that are equal to the lowest of them count too (with "average"
        all are equal). None: to all.

    pyramid_levels : int, default=1
        The levels of a temporal pyramid, for sets in an order that matters: level l = 0, 1, ...
        cuts a set into 2^l parts, and each of all parts (with 3 levels 7) has its share of the
        units, one at least, which attend to its local features only. A part of a short set has one
        local feature at least. 1: all units attend to the whole set, whose order does not matter.

    Raises
    ------
    ValueError
        If `weighting` is neither one of the three nor a subclass of Weighting, or if there are
        fewer units than parts.

    References
    ----------
    Long et al., "Attention Clusters: Purely Attention Based Local Feature Integration for
    Video Classification", CVPR 2018, sections 3.2 to 3.4. The pyramid follows the abstract of
    Long et al., "Purely Attention Based Local Feature Integration for Video Classification",
    IEEE TPAMI 44(4), 2022, doi 10.1109/TPAMI.2020.3029554.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn import AttentionCluster
    >>> cluster = AttentionCluster(n_features=3, cluster_size=8)
    >>> cluster(torch.ones(5, 3), torch.tensor([0, 2, 5])).shape
    torch.Size([2, 24])
    """

    def __init__(
        self,
        n_features: int,
        cluster_size: int,
        weighting: str | type[Weighting] = "fc1",
        hidden_size: int = 10,
        shifting: bool = True,
        n_attended: int | None = None,
        pyramid_levels: int = 1,
    ) -> None:
        super().__init__()
        kind = WEIGHTINGS.get(weighting) if isinstance(weighting, str) else weighting
        if not (isinstance(kind, type) and issubclass(kind, Weighting)):
            raise ValueError(
                f"weighting={weighting!r} is not one of {sorted(WEIGHTINGS)}, nor a subclass of "
                "acluster.nn.Weighting."
            )
        most_levels = (int(cluster_size) + 1).bit_length() - 1
        if pyramid_levels > most_levels:
            raise ValueError(
                f"pyramid_levels={pyramid_levels} has 2^{pyramid_levels} - 1 parts, each of which "
                f"needs a unit, and there are {cluster_size}. Raise cluster_size, or lower "
                f"pyramid_levels to {most_levels}."
            )
        self.n_attended = None if n_attended is None else int(n_attended)
        self.pyramid_levels = int(pyramid_levels)
        self.weighting = kind(n_features, cluster_size, hidden_size)
        self.shifting = ShiftingOperation(cluster_size) if shifting else None
        self.cluster_size = cluster_size
        self.global_size = cluster_size * n_features

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all parameters anew."""
        self.weighting.reset_parameters(generator)
        if self.shifting is not None:
            self.shifting.reset_parameters(generator)

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        """The global feature g of every set.

        Parameters
        ----------
        values : Tensor of shape (R, M)
            The local features of all sets, end to end.

        offsets : Tensor of int64, shape (n + 1,)
            Set i is ``values[offsets[i]:offsets[i + 1]]``; no set is empty.

        Returns
        -------
        Tensor of shape (n, N·M)
            Unit by unit: the first M columns are the first unit's.
        """
        values = self.as_computed(values)
        shift = None if self.shifting is None else (self.shifting.alpha, self.shifting.beta)
        return attend(values, offsets, self.attention_logits(values, offsets), shift).flatten(1)

    def attention_logits(self, values: Tensor, offsets: Tensor) -> Tensor:
        """The logits of the weighting function, (R, N), very low where a unit may not attend."""
        logits = self.weighting(values)
        if self.pyramid_levels > 1:
            places, lengths = _attended.places_and_lengths(offsets.to(logits.device))
            is_out = _attended.is_outside(places, lengths, self.cluster_size, self.pyramid_levels)
            logits = _attended.masked(logits, is_out)
        if self.n_attended is not None and len(logits):
            n, sets = self.n_attended, logits.split(offsets.diff().tolist())
            are_out = [_attended.is_below_highest(one, min(n, len(one))) for one in sets]
            logits = _attended.masked(logits, torch.cat(are_out))
        return logits
