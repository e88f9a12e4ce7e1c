"""The attention cluster (equation 6) and the shifting operation (equation 7)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from acluster.nn import _masks
from acluster.nn._integration import Integration
from acluster.nn._weighting import WEIGHTINGS, Weighting, uniform_
from acluster.nn.pooling import attend, attention_weights, shifted

_NUMBERS_PER_CHUNK = 1 << 22  # of an intermediate result, R x N x C


class ShiftingOperation(nn.Module):
    """Scale and shift each unit's output by learned scalars, then normalize it (equation 7).

    ``v = (α·Xa + β) / (√N · ‖α·Xa + β‖₂)``, with one α and one β per unit. The factor 1/√N gives
    the concatenated global feature unit norm.

    Parameters
    ----------
    cluster_size : int
        The number N of attention units.

    Notes
    -----
    α and β are initialized from a normal distribution with standard deviation N^(-1/4), as in the
    authors' published code: units that start identical would stay identical. The norm is bounded
    below by 1e-12, so that a zero vector stays zero.

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
        """Initialize α and β from a normal distribution with standard deviation N^(-1/4).

        Parameters
        ----------
        generator : torch.Generator, optional
            Source of randomness; by default torch's global generator.
        """
        for parameter in (self.alpha, self.beta):
            if not parameter.is_meta:  # torch would import its compiler to fill nothing
                nn.init.normal_(parameter, 0, len(parameter) ** -0.25, generator)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return the outputs of the units, shifted and normalized (equation 7).

        Parameters
        ----------
        pooled : Tensor of shape (n, N, M)
            The weighted average of each set by each unit.

        Returns
        -------
        Tensor of shape (n, N, M)
            The output of each unit has the norm 1/√N.
        """
        return shifted(pooled, self.alpha, self.beta)


class HiddenFeatures(nn.Module):
    """Append learned nonlinear features to every local feature: ``[x, relu(Wᵀx + b)]``.

    Parameters
    ----------
    n_features : int
        The width M of a local feature.

    hidden_features : int
        The number of learned features.
    """

    def __init__(self, n_features: int, hidden_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_features, hidden_features))
        self.bias = nn.Parameter(torch.empty(hidden_features))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Initialize W and b uniformly within ±1/√M."""
        for parameter in (self.weight, self.bias):
            uniform_(parameter, len(self.weight), generator)

    def forward(self, values: Tensor) -> Tensor:
        """Return the features (..., M) followed by the learned ones."""
        hidden = functional.linear(values, self.weight.T, self.bias).relu()
        return torch.cat([values, hidden], dim=-1)


class AttentionCluster(Integration):
    """N attention units over a set of local features, concatenated (equation 6).

    Parameters
    ----------
    n_features : int
        The width M of a local feature.

    cluster_size : int
        The number N of attention units.

    weighting : {"average", "fc1", "fc2"} or subclass of Weighting, default="fc1"
        The weighting function (equations 3, 4 and 5, or your own).

    hidden_size : int, default=10
        The hidden layer size H of each unit of "fc2". Other weighting functions of the paper
        ignore it.

    shifting : bool, default=True
        Whether to apply the shifting operation to each unit's output (equation 7).

    n_attended : int, optional
        Each unit attends only to its `n_attended` highest-scoring local features (ties included;
        with "average", all are tied). By default, each unit attends to all local features.

    pyramid_levels : int, default=1
        The number of levels of a temporal pyramid, for sets whose order matters. Level
        l = 0, 1, ... divides a set into 2^l parts, and each unit attends only to the local
        features of one part. The units are distributed evenly over the parts of all levels; 3
        levels have 7 parts. In a short set, each part has at least one local feature. With 1, all
        units attend to the whole set, and the order of local features does not matter.

    hidden_features : int, default=0
        The number of learned nonlinear features ``relu(Wᵀx + b)`` beside the M given ones. Units
        score and pool both.

    Raises
    ------
    ValueError
        If `weighting` is neither one of the three names nor a subclass of Weighting, or if the
        pyramid has more parts than there are units.

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
        hidden_features: int = 0,
    ) -> None:
        super().__init__()
        weighting_class = WEIGHTINGS.get(weighting) if isinstance(weighting, str) else weighting
        if not (isinstance(weighting_class, type) and issubclass(weighting_class, Weighting)):
            raise ValueError(
                f"weighting={weighting!r} is not one of {sorted(WEIGHTINGS)}, nor a subclass of "
                "acluster.nn.Weighting."
            )
        max_levels = (int(cluster_size) + 1).bit_length() - 1
        if pyramid_levels > max_levels:
            raise ValueError(
                f"pyramid_levels={pyramid_levels} has 2^{pyramid_levels} - 1 parts, more than the "
                f"cluster_size={cluster_size} units. Increase cluster_size, or reduce "
                f"pyramid_levels to {max_levels}."
            )
        self.n_attended = None if n_attended is None else int(n_attended)
        self.pyramid_levels = int(pyramid_levels)
        hidden_features = int(hidden_features)
        width = n_features + hidden_features
        self.weighting = weighting_class(width, cluster_size, hidden_size)
        self.shifting = ShiftingOperation(cluster_size) if shifting else None
        self.hidden = HiddenFeatures(n_features, hidden_features) if hidden_features else None
        self.cluster_size = cluster_size
        self.global_size = cluster_size * width

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Initialize all parameters.

        Parameters
        ----------
        generator : torch.Generator, optional
            Source of randomness; by default torch's global generator.
        """
        for module in (self.weighting, self.shifting, self.hidden):
            if module is not None:
                module.reset_parameters(generator)

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        """Return the global feature g of every set.

        Parameters
        ----------
        values : Tensor of shape (R, M)
            The local features of all sets, end to end.

        offsets : Tensor of int64, shape (n + 1,)
            Set i is ``values[offsets[i]:offsets[i + 1]]``; no set is empty.

        Returns
        -------
        Tensor of shape (n, N·(M + H))
            The outputs of the units, concatenated: the first M + H columns are the first unit's,
            where H is `hidden_features`.
        """
        values = self.as_computed(values)
        shift = None if self.shifting is None else (self.shifting.alpha, self.shifting.beta)
        if self.hidden is None:
            return attend(values, offsets, self.attention_logits(values, offsets), shift).flatten(1)
        extended = self.extended(values)
        n_learned = None if values.requires_grad else extended.shape[1] - values.shape[1]
        logits = self._logits(extended, offsets)
        return attend(extended, offsets, logits, shift, n_learned).flatten(1)

    def extended(self, values: Tensor) -> Tensor:
        """Return the local features followed by the learned ones, if there are any.

        Parameters
        ----------
        values : Tensor of shape (..., M)
            Local features.

        Returns
        -------
        Tensor of shape (..., M + H)
        """
        return values if self.hidden is None else self.hidden(values)

    def attention_logits(self, values: Tensor, offsets: Tensor) -> Tensor:
        """Return the logits of the weighting function, very low where a unit must not attend.

        Parameters
        ----------
        values : Tensor of shape (R, M)
            The local features of all sets, end to end.

        offsets : Tensor of int64, shape (n + 1,)
            Set i is ``values[offsets[i]:offsets[i + 1]]``.

        Returns
        -------
        Tensor of shape (R, N)
        """
        return self._logits(self.extended(values), offsets)

    def local_evidence(
        self, values: Tensor, offsets: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what each local feature adds to linear functions of the global feature.

        With ``s_k = 1 / (√N · ‖α_k·v_k + β_k‖₂)`` for the average ``v_k`` of unit k, the columns
        of ``g W`` are sums over the local features ``x_l``:
        ``g W = Σ_l Σ_k s_k·α_k·a_kl·(x_l W_k) + Σ_k s_k·β_k·(1 W_k)``, where ``W_k`` has the rows
        of unit k. The terms of l are its evidence, and the last sum is the constant. Without the
        shifting operation, ``s_k·α_k = 1`` and the constant is 0.

        Parameters
        ----------
        values : Tensor of shape (R, M)
            The local features of all sets, end to end.

        offsets : Tensor of int64, shape (n + 1,)
            Set i is ``values[offsets[i]:offsets[i + 1]]``; no set is empty.

        weight : Tensor of shape (N·(M + H), C)
            The functions W of the global feature.

        Returns
        -------
        Tensor of shape (R, C)
            The evidence.

        Tensor of shape (n, C)
            The constant of each set. The evidence of a set and its constant add up to ``g W``.

        Examples
        --------
        >>> import torch
        >>> from acluster.nn import AttentionCluster
        >>> cluster = AttentionCluster(n_features=3, cluster_size=8)
        >>> values, offsets, weight = torch.rand(5, 3), torch.tensor([0, 2, 5]), torch.rand(24, 4)
        >>> evidence, constant = cluster.local_evidence(values, offsets, weight)
        >>> sums = torch.stack([evidence[:2].sum(0), evidence[2:].sum(0)])
        >>> torch.allclose(sums + constant, cluster(values, offsets) @ weight, atol=1e-5)
        True
        """
        values = self.extended(self.as_computed(values))
        logits, n_functions = self._logits(values, offsets), weight.shape[1]
        by_unit = weight.unflatten(0, (self.cluster_size, -1))
        share = attention_weights(offsets, logits)
        constant = weight.new_zeros(len(offsets) - 1, n_functions)
        if self.shifting is not None:
            alpha, beta = self.shifting.alpha, self.shifting.beta
            unscaled = alpha * attend(values, offsets, logits) + beta
            # The norm is bounded as in `shifted`.
            scale = unscaled.norm(dim=-1).clamp(min=1e-12) * self.cluster_size**0.5
            constant = (beta.T / scale) @ by_unit.sum(dim=1)
            lengths = offsets.diff().to(values.device)
            share = share * (alpha.T / scale).repeat_interleave(lengths, dim=0)
        functions = by_unit.transpose(0, 1).flatten(1)
        n_rows = max(1, _NUMBERS_PER_CHUNK // functions.shape[1])
        evidence = [
            (part[:, None] @ (rows @ functions).unflatten(1, (-1, n_functions))).squeeze(1)
            for rows, part in zip(values.split(n_rows), share.split(n_rows), strict=True)
        ]
        return torch.cat(evidence), constant

    def _logits(self, values: Tensor, offsets: Tensor) -> Tensor:
        """Return the logits of local features that are already extended."""
        logits = self.weighting(values)
        if self.pyramid_levels > 1:
            offsets = offsets.to(logits.device, non_blocking=True)
            positions, lengths = _masks.positions_and_lengths(offsets, len(logits))
            pyramid = self.cluster_size, self.pyramid_levels
            outside = _masks.outside_pyramid_part(positions, lengths, *pyramid)
            logits = _masks.mask_logits(logits, outside)
        if self.n_attended is not None and len(logits):
            # After the pyramid: a unit chooses its highest logits among those of its part.
            below = _masks.below_top_k_of_sets(logits, offsets, self.n_attended)
            logits = _masks.mask_logits(logits, below)
        return logits
