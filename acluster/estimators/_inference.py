"""Compute the outputs of a fitted network, batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from acluster._utils._progress import progress
from acluster.estimators._items import finite_blocks
from acluster.estimators._precision import operations_of
from acluster.estimators._ranges import stacked_rows
from acluster.sets import MultimodalFeatureSets
from acluster.training import BatchSource, cached, infer, multiplying_in_bfloat16

# In smaller batches on a CPU, casting the weights takes longer than bfloat16 saves: for fewer items
# in the linear layer, and if these have fewer local features, also in the integrations.
_MIN_ITEMS_IN_BFLOAT16, _MIN_LOCAL_FEATURES_IN_BFLOAT16 = 24, 256


def source_of(classifier: Any, X: MultimodalFeatureSets, cache: str = "stream") -> BatchSource:
    """Return the batches of checked sets."""
    like = next(classifier.network_.parameters())
    sets = cached([X[name] for name in X.names], cache, like)
    return BatchSource(sets, like, classifier._missing.stand_ins(X.names))


def logits_function(classifier: Any) -> Callable[..., torch.Tensor]:
    """Return the network in the precision of the classifier."""
    network = classifier.network_

    def logits(sets: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        device, operations = next(network.parameters()).device, operations_of(classifier)
        if device.type == "cpu" and len(sets[0][1]) - 1 < _MIN_ITEMS_IN_BFLOAT16:
            has_many = sum(len(X) for X, _ in sets) >= _MIN_LOCAL_FEATURES_IN_BFLOAT16
            operations = ("integration",) if has_many and "integration" in operations else ()
        with multiplying_in_bfloat16(device, operations):
            return network(sets)

    return logits


def logit_blocks(
    classifiers: Sequence[Any], X: MultimodalFeatureSets, first: int = 0
) -> Iterator[NDArray[Any]]:
    """Yield the logits of classifiers that were fitted to the same items, in one pass over X.

    Parameters
    ----------
    classifiers : sequence of SetClassifier
        Their logits are beside each other.

    X : MultimodalFeatureSets
        Checked items.

    first : int, default=0
        The number of the first item, for error messages.
    """
    functions = [logits_function(classifier) for classifier in classifiers]
    for classifier in classifiers:
        classifier.network_.eval()

    def logits(sets: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        return torch.cat([function(sets) for function in functions], dim=1)

    return outputs(classifiers[0], logits, source_of(classifiers[0], X), first=first)


def global_feature_blocks(
    classifiers: Sequence[Any], X: MultimodalFeatureSets, first: int = 0
) -> Iterator[NDArray[Any]]:
    """Yield the global features of a single classifier; parameters as for `logit_blocks`."""
    [classifier] = classifiers
    function = classifier.network_.global_feature
    return outputs(classifier, function, source_of(classifier, X), first=first)


def logits_of(
    classifiers: Sequence[Any], X: MultimodalFeatureSets, n_jobs: int | None = 1
) -> list[NDArray[Any]]:
    """Return the logits of classifiers that were fitted to the same items, in one pass over X."""
    rows = stacked_rows(logit_blocks, classifiers, X, n_jobs)
    return np.split(rows, len(classifiers), axis=1)


def outputs(
    classifier: Any,
    function: Callable[..., torch.Tensor],
    source: BatchSource,
    offsets: NDArray[np.int64] | None = None,
    first: int = 0,
) -> Iterator[NDArray[Any]]:
    """Yield the finite outputs of `function` for every batch of packed sets."""
    classifier.network_.eval()
    outputs = finite_blocks(infer(function, source, classifier.batch_size), offsets, first)
    if not classifier.verbose:
        return outputs
    return progress(outputs, "batches", len(source.parts(classifier.batch_size)))
