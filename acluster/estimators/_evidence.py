"""Evidence per class: what each local feature adds to the logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from acluster._utils._progress import progress
from acluster.estimators._architecture import members_of
from acluster.estimators._inference import source_of
from acluster.estimators._items import as_given, check_finite_rows, check_X
from acluster.estimators._labels import label_numbers
from acluster.nn import EnsembleNetwork, IntegrationNetwork
from acluster.sets import FeatureSets, MultimodalFeatureSets, is_multimodal, label_array, normalized
from acluster.training import infer

Packed = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class EvidenceConstants:
    """What the logits of each item contain besides the evidence of its local features.

    Attributes
    ----------
    by_modality : dict of str to ndarray of shape (n, C)
        What each modality adds besides the evidence: the shift β of its units, scaled by their
        norms for this item, and the evidence of the local feature that replaces a missing set. Sets
        without a name are the modality "features".

    rest : ndarray of shape (n, C)
        The bias. For an ensemble, also the logit of the mean probability less the mean of the
        members' logits.

    total : ndarray of shape (n, C)
        The sum of all.
    """

    by_modality: dict[str, NDArray[Any]]
    rest: NDArray[Any]

    @property
    def total(self) -> NDArray[Any]:
        """The sum of all constants: the logits less the evidence."""
        return sum(self.by_modality.values(), self.rest)


@dataclass(frozen=True)
class Evidence:
    """The evidence of checked items, by modality.

    Attributes
    ----------
    by_modality : dict of str to ndarray of shape (R, C)
        One row per local feature, items end to end.

    constants : EvidenceConstants
        Together with the rows of an item, they add up to its logits.
    """

    by_modality: dict[str, NDArray[Any]]
    constants: EvidenceConstants


def contrasts_of(classifier: Any, classes: ArrayLike | None) -> NDArray[np.float64]:
    """Return the linear combinations of the logits that are the logits of these classes.

    Parameters
    ----------
    classifier : fitted classifier
        Of one label per item or of several.

    classes : array-like of labels, or None
        None: the columns of `decision_function`.

    Returns
    -------
    ndarray of shape (n_outputs, C)

    Raises
    ------
    ValueError
        If a class is unknown.
    """
    coding = classifier._coding
    if classes is None:
        return np.eye(coding.n_outputs)
    wanted = label_array(classes)
    if wanted.ndim != 1 or not len(wanted):
        known = coding.classes.tolist()
        raise ValueError(f"classes={classes!r} must be a list of classes, such as {known[:1]!r}.")
    positions = label_numbers(classifier, wanted, "classes")
    if coding.kind == "binary":  # one logit, that of the second class
        return np.where(np.array([positions]) == 1, 1.0, -1.0)
    return np.eye(coding.n_outputs)[:, positions]


def evidence_of(classifier: Any, X: MultimodalFeatureSets, contrasts: NDArray[Any]) -> Evidence:
    """Return the evidence of the local features of checked items, in one pass over X.

    Parameters
    ----------
    classifier : AttentionClusters
        The fitted classifier, of one network or an ensemble.

    X : MultimodalFeatureSets
        Checked items.

    contrasts : ndarray of shape (n_outputs, C)
        The combinations of logits to explain.

    Returns
    -------
    Evidence
        In the dtype of the network. With ``precision="mixed"`` too, it is computed in full
        precision.

    Raises
    ------
    ValueError
        If the result of an item is not finite.
    """
    network, like = classifier.network_, next(classifier.network_.parameters())
    on_device = torch.as_tensor(contrasts).to(like.device, like.dtype)
    source = source_of(classifier, X)
    lengths = {name: X[name].lengths for name in X.names}
    means = dict(zip(X.names, classifier._missing.stand_ins(X.names), strict=True))
    # Their rows are those of the training means.
    replaced = {name: (means[name] is not None) & (lengths[name] == 0) for name in X.names}
    dtype = torch.empty(0, dtype=like.dtype).numpy().dtype
    width = contrasts.shape[1]
    rows = {name: np.empty((own.sum(), width), dtype) for name, own in lengths.items()}
    constants = {name: np.empty((len(X), width), dtype) for name in X.names}
    rest = np.empty((len(X), width), dtype)
    parts, first = source.parts(classifier.batch_size), dict.fromkeys(X.names, 0)
    blocks = infer(partial(_stacked, network.eval(), on_device), source, classifier.batch_size)
    blocks = progress(blocks, "batches", len(parts), is_shown=classifier.verbose)
    for items, block in zip(parts, blocks, strict=True):
        counts = [(lengths[name][items] + replaced[name][items]).sum() for name in X.names]
        n_items = len(lengths[X.names[0]][items])
        ends = np.cumsum([*counts, *[n_items] * len(X.names)])
        *pieces, rest[items] = np.split(block, ends)
        for i, name in enumerate(X.names):
            constants[name][items] = pieces[len(X.names) + i]
            own, is_mean = pieces[i], replaced[name][items]
            last = np.cumsum(lengths[name][items] + is_mean) - 1
            constants[name][items][is_mean] += own[last[is_mean]]
            own = np.delete(own, last[is_mean], axis=0)
            rows[name][first[name] : first[name] + len(own)] = own
            first[name] += len(own)
    evidence = Evidence(rows, EvidenceConstants(constants, rest))
    for name, values in rows.items():
        check_finite_rows(values, offsets_of(X, name))
    check_finite_rows(evidence.constants.total)
    return evidence


def offsets_of(X: MultimodalFeatureSets, name: str) -> NDArray[np.int64]:
    """Return where the local features of each item begin and end in a modality, (n + 1,)."""
    return np.concatenate([[0], np.cumsum(X[name].lengths)])


def _stacked(
    network: IntegrationNetwork | EnsembleNetwork, contrasts: torch.Tensor, sets: Sequence[Packed]
) -> torch.Tensor:
    """Return the evidence of all modalities, their constants and the rest, one below the other."""
    members, n_items = members_of(network), len(sets[0][1]) - 1
    total: Any = 0
    for member in members:
        evidence, constants, bias = member.local_evidence(sets, contrasts)
        total = total + torch.cat([*evidence, *constants, bias.expand(n_items, -1)])
    total = total / len(members)
    if len(members) > 1:
        mean = torch.stack([member(sets) for member in members]).mean(dim=0)
        total[-n_items:] += (network(sets) - mean) @ contrasts
    return total


def explained(
    classifier: Any,
    seen: dict[str, int],
    X: Any,
    classes: ArrayLike | None,
    return_constants: bool,
    function: Callable[[MultimodalFeatureSets, NDArray[Any]], Evidence],
) -> Any:
    """Return the evidence of unchecked items in the form that users see.

    Parameters
    ----------
    classifier : fitted classifier
        It names the classes, and what X must be.

    seen : dict of str to int
        The modalities of `fit` and their widths.

    X, classes, return_constants
        As `local_evidence` takes them.

    function : callable
        From checked items and contrasts to the evidence.
    """
    X = normalized(X)
    has_names = is_multimodal(X)
    contrasts = contrasts_of(classifier, classes)
    X = check_X(classifier, X, seen=seen)
    found = function(X, contrasts)
    sets = {
        name: FeatureSets(values, offsets_of(X, name), places=X[name].places)
        for name, values in found.by_modality.items()
    }
    evidence = as_given(sets, has_names)
    return (evidence, found.constants) if return_constants else evidence


def mean_evidence(
    parts: Iterable[Evidence],
    weights: Sequence[float],
    X: MultimodalFeatureSets,
    logits: NDArray[Any],
) -> Evidence:
    """Return the weighted mean of the evidence of several classifiers of the same items.

    Parameters
    ----------
    parts : iterable of Evidence
        Each is added up before the next one is asked for.

    weights : sequence of float
        Their weights, which add up to 1.

    X : MultimodalFeatureSets
        The items.

    logits : ndarray of shape (n, C)
        Those of the ensemble. Their difference from the mean evidence and constants is added to
        the constants.
    """
    rows: dict[str, Any] = dict.fromkeys(X.names, 0)
    constants: dict[str, Any] = dict.fromkeys(X.names, 0)
    rest: Any = 0
    for weight, part in zip(weights, parts, strict=True):
        rest = rest + weight * part.constants.rest
        for name in X.names:
            rows[name] = rows[name] + weight * part.by_modality[name]
            constants[name] = constants[name] + weight * part.constants.by_modality[name]
    mean = rest + sum(constants.values())
    for name, values in rows.items():
        np.add.at(mean, np.repeat(np.arange(len(X)), X[name].lengths), values)
    return Evidence(rows, EvidenceConstants(constants, rest + logits - mean))
