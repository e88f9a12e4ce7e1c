"""Efficient probing: learned queries, each of which pools its own slice of the values."""

import torch
from torch import Tensor, nn

from acluster.nn._integration import Integration
from acluster.nn._weighting import uniform_
from acluster.nn.integrations._batch_norm import BatchNorm
from acluster.nn.pooling import attend


class EfficientProbing(Integration):
    """Pool slices of projected local features with learned queries, then normalize the batch.

    The attention of the efficient probe has no key projection: each query scores the local
    features directly. The weights of a query apply to its own slice of the value projection, of
    width ``max(1, M // n_queries)``.

    Parameters
    ----------
    n_features : int
        The width M of a local feature.

    n_queries : int
        The number of queries.

    Attributes
    ----------
    global_size : int
        ``n_queries * max(1, M // n_queries)``.

    References
    ----------
    "Attention, Please! Revisiting Attentive Probing Through the Lens of Efficiency", ICLR 2026,
    arXiv 2506.10178.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn.integrations import EfficientProbing
    >>> probe = EfficientProbing(n_features=4, n_queries=2)
    >>> probe(torch.randn(6, 4), torch.tensor([0, 2, 6])).shape
    torch.Size([2, 4])
    """

    def __init__(self, n_features: int, n_queries: int) -> None:
        super().__init__()
        width = max(1, n_features // n_queries)
        self.queries = nn.Linear(n_features, n_queries, bias=False)
        self.values = nn.Parameter(torch.empty(n_queries, n_features, width))
        uniform_(self.values, self.values.shape[1], None)
        self.norm = BatchNorm(n_queries * width, affine=False)
        self.global_size = n_queries * width

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        values = self.as_computed(values)
        pooled = attend(values, offsets, self.attention_logits(values, offsets))
        # The projection of an average is the average of the projections. Projecting the averages
        # takes one product per set and query, instead of one per local feature and query.
        return self.norm(torch.einsum("nqm,qmd->nqd", pooled, self.values).flatten(1))

    def attention_logits(self, values: Tensor, offsets: Tensor) -> Tensor:
        return self.queries(values) * values.shape[1] ** -0.5
