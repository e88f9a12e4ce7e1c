"""Scores that rank the local features of an item by how much they matter for a class."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster import MultimodalFeatureSets
from acluster.sets import UNNAMED, by_modality

Scores = dict[str, NDArray[np.float64]]  # one number per local feature of every modality

_ITEMS_PER_BATCH = 256


def scores_of(
    kind: str,
    estimator: Any,
    X: MultimodalFeatureSets,
    targets: NDArray[np.int64],
    random_state: np.random.RandomState,
) -> Scores:
    """Return a score of every local feature for the class of its item.

    Parameters
    ----------
    kind : {"evidence", "attention", "gradient", "random"}
        Evidence for the class; the mean attention weight of all units; the gradient of the logit
        of the class times the local feature, standardized if the classifier does so; random
        numbers.

    estimator : fitted classifier
        What is explained.

    X : MultimodalFeatureSets
        The items; sets without a name are the modality "features".

    targets : ndarray of shape (n,)
        The number of the class of each item.

    random_state : RandomState
        Draws the random scores.

    Raises
    ------
    TypeError
        If the estimator does not provide the scores.
    """
    if kind in _FUNCTIONS:
        method, function = _FUNCTIONS[kind]
        if not hasattr(estimator, method):
            raise TypeError(
                f"{type(estimator).__name__} has no method {method}, which scores={kind!r} needs. "
                'Pass scores="random" or your own scores.'
            )
        return function(estimator, X, targets)
    return {name: random_state.random_sample(X[name].lengths.sum()) for name in X.names}


def unwrapped(X: MultimodalFeatureSets) -> Any:
    """Return the items as a classifier takes them: without modalities if they have no names."""
    return X[UNNAMED] if X.names == [UNNAMED] else X


def _evidence(estimator: Any, X: MultimodalFeatureSets, targets: NDArray[np.int64]) -> Scores:
    found = _rows_of(estimator.local_evidence(unwrapped(X), estimator.classes_))
    return {
        name: rows[np.arange(len(rows)), np.repeat(targets, X[name].lengths)]
        for name, rows in found.items()
    }


def _attention(estimator: Any, X: MultimodalFeatureSets, targets: NDArray[np.int64]) -> Scores:
    weights = _rows_of(estimator.attention_weights(unwrapped(X)))
    return {name: rows.mean(axis=1) for name, rows in weights.items()}


def _gradient(estimator: Any, X: MultimodalFeatureSets, targets: NDArray[np.int64]) -> Scores:
    import torch

    from acluster._utils._operations import computing_gradients

    names = getattr(estimator, "modalities_", X.names)
    if set(names) != set(X.names) or any(X.missing[name].any() for name in names):
        raise ValueError(
            f'scores="gradient" needs every modality of every item: {", ".join(names)}. Leave out '
            "the items that lack one, or pass other scores."
        )
    with computing_gradients():
        network = estimator.to_torch()
        like, scores = next(network.parameters()), {name: np.empty(0) for name in names}
        # The mean of the training set is the origin of standardized features; all members have one.
        origins = getattr(network, "members", [network])[0].standardizations
        for i in range(0, len(X), _ITEMS_PER_BATCH):
            batch = X[i : i + _ITEMS_PER_BATCH]
            own = torch.tensor(targets[i : i + _ITEMS_PER_BATCH], device=like.device)
            packed = _in_order_of_fit(estimator, batch, names)
            options = {"dtype": like.dtype, "device": like.device, "requires_grad": True}
            values = [torch.tensor(rows, **options) for rows, _ in packed]
            logits = network(
                [(rows, torch.from_numpy(o)) for rows, (_, o) in zip(values, packed, strict=True)]
            )
            if logits.shape[1] == 1:  # that of the second class
                logits = torch.cat([-logits, logits], dim=1)
            gradients = torch.autograd.grad(logits.gather(1, own[:, None]).sum(), values)
            for k, name in enumerate(names):
                inputs = values[k].detach() - (0 if origins is None else origins[k].mean)
                product = (gradients[k] * inputs).sum(dim=1).cpu().numpy()
                scores[name] = np.concatenate([scores[name], product])
    return scores


def _in_order_of_fit(
    estimator: Any, X: MultimodalFeatureSets, names: list[str]
) -> list[tuple[NDArray[Any], NDArray[np.int64]]]:
    """Return the packed sets of the modalities, with named columns in the order of `fit`."""
    packed, first = [], 0
    for name in names:
        values, offsets = X[name].packed()
        own, columns = getattr(estimator, "feature_names_in_", None), X[name].column_names
        if own is not None and columns is not None:
            order = [columns.index(one) for one in own[first : first + values.shape[1]]]
            values = values[:, order]
        first += values.shape[1]
        packed.append((values, offsets))
    return packed


def _rows_of(found: Any) -> Scores:
    return {name: sets.packed()[0] for name, sets in by_modality(found).items()}


# By kind of score, the method of the estimator that it needs, and its function.
_FUNCTIONS: dict[str, tuple[str, Callable[..., Scores]]] = {
    "evidence": ("local_evidence", _evidence),
    "attention": ("attention_weights", _attention),
    "gradient": ("to_torch", _gradient),
}
KINDS = (*_FUNCTIONS, "random")
