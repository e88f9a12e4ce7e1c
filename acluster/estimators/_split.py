"""How the processes of a fit share the work: each takes a part of the units, or of every batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from acluster.estimators._architecture import members_of
from acluster.estimators._parameters import value_per_modality
from acluster.nn import UnitsNetwork
from acluster.sets import FeatureSets
from acluster.training import Ranks

# True or False decides in place of the rule, for tests and benchmarks. Networks whose units cannot
# be shared out are not affected.
FORCED: bool | None = None


def splits_units(estimator: Any, sets: Mapping[str, FeatureSets], ranks: Ranks) -> bool:
    """Return whether each process of a fit trains some of the units, on whole batches.

    Otherwise, each trains the whole network on a part of every batch. Units are shared out if
    every process gets one of each modality and `units_move_less` holds.

    Parameters
    ----------
    estimator : SetClassifier
        The estimator, with its network.

    sets : dict of str to FeatureSets
        The training items of every modality.

    ranks : Ranks
        The processes, which all get the same answer.
    """
    networks = members_of(estimator.network_)
    if ranks.size == 1 or not all(UnitsNetwork.supports(one, ranks.size) for one in networks):
        return False
    sampled = value_per_modality(estimator, "n_local_features", sets)
    parameters = [parameter for network in networks for parameter in network.parameters()]
    is_less = units_move_less(
        parameter_bytes=sum(parameter.nbytes for parameter in parameters),
        logit_bytes=sum(network.linear.bias.nbytes for network in networks),
        feature_bytes=sum(_bytes_per_item(one, sampled[name]) for name, one in sets.items()),
        n_items=len(next(iter(sets.values()))),
        batch_size=estimator.batch_size,
    )
    return ranks.same(is_less if FORCED is None else FORCED)


def units_move_less(
    *,
    parameter_bytes: float,
    logit_bytes: float,
    feature_bytes: float,
    n_items: int,
    batch_size: int,
) -> bool:
    """Return whether sharing out the units moves fewer bytes per epoch than sharing out the items.

    With shared items, every step sums the gradients of all parameters over the processes. With
    shared units, every step sums the logits of the batch, and every process reads the local
    features of the others' items too; every epoch ends with a sum of the parameters. A sum of n
    bytes over W processes moves 2n(1 - 1/W) bytes per process, and the features of the others are
    the share 1 - 1/W of the batch: the factor 1 - 1/W cancels.

    Parameters
    ----------
    parameter_bytes : float
        The size of the parameters.

    logit_bytes, feature_bytes : float
        The sizes of the logits and of the local features of an item, the latter as stored.

    n_items, batch_size : int
        The number of items, and of those per batch.
    """
    n_steps = -(-n_items // batch_size)
    of_gradients = 2 * parameter_bytes * n_steps
    of_units = (2 * logit_bytes + feature_bytes) * n_items + 2 * parameter_bytes
    return of_units < of_gradients


def _bytes_per_item(sets: FeatureSets, n_sampled: int | None) -> float:
    lengths = sets.lengths if n_sampled is None else np.minimum(sets.lengths, n_sampled)
    return float(lengths.mean()) * sets.n_features * sets.dtype.itemsize
