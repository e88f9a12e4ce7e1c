"""Compute the outputs of a fitted network, batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from acluster._utils._progress import progress
from acluster.estimators._items import finite_blocks
from acluster.sets import MultimodalFeatureSets
from acluster.training import BatchSource, autocast, cached, infer, stack_blocks


def source_of(classifier: Any, X: MultimodalFeatureSets, cache: str = "stream") -> BatchSource:
    """Return the batches of checked sets."""
    like = next(classifier.network_.parameters())
    sets = cached([X[name] for name in X.names], cache, like)
    return BatchSource(sets, like, classifier._missing.stand_ins(X.names))


def logits_function(classifier: Any) -> Callable[..., torch.Tensor]:
    """Return the network in the precision of the classifier."""
    network = classifier.network_

    def logits(sets: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        with autocast(next(network.parameters()).device, classifier.precision):
            return network(sets)

    return logits


def logits_of(classifiers: Sequence[Any], X: MultimodalFeatureSets) -> list[NDArray[Any]]:
    """Return the logits of classifiers that were fitted to the same items, in one pass over X."""
    functions = [logits_function(classifier) for classifier in classifiers]
    for classifier in classifiers:
        classifier.network_.eval()

    def logits(sets: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        return torch.cat([function(sets) for function in functions], dim=1)

    blocks = outputs(classifiers[0], logits, source_of(classifiers[0], X))
    return np.split(stack_blocks(blocks, len(X)), len(classifiers), axis=1)


def outputs(
    classifier: Any,
    function: Callable[..., torch.Tensor],
    source: BatchSource,
    offsets: NDArray[np.int64] | None = None,
) -> Iterator[NDArray[Any]]:
    """Yield the finite outputs of `function` for every batch of packed sets."""
    classifier.network_.eval()
    outputs = finite_blocks(infer(function, source, classifier.batch_size), offsets)
    if not classifier.verbose:
        return outputs
    return progress(outputs, "batches", len(source.parts(classifier.batch_size)))
