"""Do the local features that a score puts first decide the prediction? Deletion and insertion."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.validation import check_is_fitted

from acluster import FeatureSets, MultimodalFeatureSets
from acluster.inspection._attributions import KINDS, Scores, scores_of, unwrapped
from acluster.sets import UNNAMED, by_modality, label_array, with_column_names


def evidence_faithfulness(
    estimator: Any,
    X: Any,
    *,
    scores: Any = "evidence",
    y: ArrayLike | None = None,
    n_steps: int = 10,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Measure how the probability of a class changes as local features are removed or added.

    A score ranks the local features of every item. *Deletion* removes the highest-ranked ones
    first: the faster the probability falls, the better the score tells which local features made
    the prediction. *Insertion* begins with the highest-ranked one alone and adds the others: the
    faster the probability rises, the better.

    Parameters
    ----------
    estimator : fitted classifier
        The classifier that the scores explain.

    X : FeatureSets or MultimodalFeatureSets
        The items. Use held-out items. They are loaded into memory.

    scores : {"evidence", "attention", "gradient", "random"}, FeatureSets or dict of FeatureSets, \
            default="evidence"
        What ranks the local features: their evidence for the class (``local_evidence``), their mean
        attention weight over all units, the gradient of the logit of the class times the local
        feature (standardized, if the classifier does so), or random numbers, as a baseline. Or
        your own scores: sets like X with one column; for several modalities, a dict of them or a
        `MultimodalFeatureSets`.

    y : array-like of shape (n,), optional
        The class of each item whose probability is observed; of a multilabel classifier, the number
        or the name of a label. By default, the most probable one.

    n_steps : int, default=10
        The number of steps in which all local features are removed.

    random_state : int, RandomState instance or None, default=None
        Draws the random scores.

    Returns
    -------
    sklearn.utils.Bunch
        With the fields

        fractions : ndarray of shape (n_steps + 1,)
            The fraction of the local features that is removed or added.
        deletion : ndarray of shape (n, n_steps + 1)
            The probability of the class after the highest-ranked fraction is removed. At least one
            local feature stays, the last in the ranking.
        insertion : ndarray of shape (n, n_steps + 1)
            The probability with only the highest-ranked fraction, at least one local feature.
        deletion_area, insertion_area : ndarray of shape (n,)
            The areas under the curves (trapezoidal rule). A faithful score has a small area of
            deletion and a large area of insertion.

    Raises
    ------
    TypeError
        If X is not a container, or the estimator does not provide the scores.

    ValueError
        If a parameter is invalid, a class is unknown, or the scores do not fit X.

    See Also
    --------
    EvidenceDisplay : Plot the evidence of an item.

    Notes
    -----
    The local features of all modalities of an item are ranked together. A modality without any left
    is missing from the item. Sets with removed local features differ from those of the training
    set, so compare scores of one classifier with each other rather than a single number.

    References
    ----------
    Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models",
    BMVC 2018, section 4.3.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster import AttentionClusterClassifier, FeatureSets
    >>> from acluster.inspection import evidence_faithfulness
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(60) % 2
    >>> sets = [rng.normal(size=(8, 4)) for _ in y]
    >>> for features, label in zip(sets, y):
    ...     features[0] += 5 * label  # one local feature determines the class
    >>> X = FeatureSets.from_arrays(sets)
    >>> clf = AttentionClusterClassifier(learning_rate=0.01, random_state=0).fit(X, y)
    >>> ones = X[y == 1]
    >>> areas = {
    ...     scores: evidence_faithfulness(clf, ones, scores=scores, random_state=0).deletion_area
    ...     for scores in ("evidence", "random")
    ... }
    >>> bool(areas["evidence"].mean() < areas["random"].mean() - 0.2)
    True
    """
    check_is_fitted(estimator)
    if isinstance(n_steps, bool) or not isinstance(n_steps, int | np.integer) or n_steps < 1:
        raise ValueError(f"n_steps={n_steps!r} must be an int of 1 or more.")
    X = _in_memory(X)
    before = estimator.predict_proba(unwrapped(X))
    targets = before.argmax(axis=1) if y is None else _numbers(estimator, y, len(X))
    if isinstance(scores, str):
        if scores not in KINDS:
            raise ValueError(f"scores={scores!r} is not one of {KINDS}, nor sets of scores.")
        found = scores_of(scores, estimator, X, targets, check_random_state(random_state))
    else:
        found = _given(scores, X)
    ranking = _Ranking(X, found)
    fractions = np.linspace(0, 1, n_steps + 1)
    curves = {}
    for name, keeps_first in (("deletion", False), ("insertion", True)):
        columns = []
        for fraction in fractions:
            kept = ranking.kept(fraction, keeps_first)
            probabilities = estimator.predict_proba(unwrapped(kept))
            columns.append(probabilities[np.arange(len(X)), targets])
        curves[name] = np.stack(columns, axis=1)
    areas = {f"{name}_area": np.trapezoid(curve, fractions) for name, curve in curves.items()}
    return Bunch(fractions=fractions, **curves, **areas)


class _Ranking:
    """The local features of every item, the highest scores first, over all modalities.

    Parameters
    ----------
    X : MultimodalFeatureSets
        Items in memory.

    scores : dict of str to ndarray of shape (R,)
        One number per local feature of every modality.
    """

    def __init__(self, X: MultimodalFeatureSets, scores: Scores) -> None:
        self._packed = {name: X[name].packed() for name in X.names}
        self._columns = {name: X[name].column_names for name in X.names}
        lengths = {name: X[name].lengths for name in X.names}
        self._n_local = np.sum([*lengths.values()], axis=0)
        self._item = {name: np.repeat(np.arange(len(X)), own) for name, own in lengths.items()}
        items = np.concatenate([self._item[name] for name in X.names])
        values = np.concatenate([scores[name] for name in X.names])
        # By item, then by falling score; equal scores keep their order.
        order = np.lexsort((-values, items))
        starts = np.cumsum(self._n_local) - self._n_local
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order)) - np.repeat(starts, self._n_local)
        ends = np.cumsum([own.sum() for own in lengths.values()])
        self._rank = dict(zip(X.names, np.split(rank, ends[:-1]), strict=True))

    def kept(self, fraction: float, keeps_first: bool) -> MultimodalFeatureSets:
        """Return the items with or without the first local features, at least one of each."""
        n_first = np.rint(fraction * self._n_local).astype(np.int64)
        n_first = np.clip(n_first, int(keeps_first), self._n_local - (not keeps_first))
        sets = {}
        for name, (values, _) in self._packed.items():
            item = self._item[name]
            chosen = (self._rank[name] < n_first[item]) == keeps_first
            lengths = np.bincount(item[chosen], minlength=len(n_first))
            kept = FeatureSets(values[chosen], np.concatenate([[0], np.cumsum(lengths)]))
            # Classifiers that were fitted on named columns match them by name.
            sets[name] = with_column_names(kept, self._columns[name])
        return MultimodalFeatureSets(sets)


def _in_memory(X: Any) -> MultimodalFeatureSets:
    if not isinstance(X, FeatureSets | MultimodalFeatureSets):
        raise TypeError(
            f"X has type {type(X).__name__}; expected FeatureSets or MultimodalFeatureSets. Create "
            "one with FeatureSets.from_arrays or open_feature_sets."
        )
    return MultimodalFeatureSets({name: sets.load() for name, sets in by_modality(X).items()})


def _numbers(estimator: Any, y: ArrayLike, n_items: int) -> NDArray[np.int64]:
    """Return the position of the class, or of the named label, of every item."""
    from acluster.estimators import label_numbers  # which imports torch

    labels = label_array(y)
    if labels.shape != (n_items,):
        raise ValueError(f"y has shape {labels.shape}; pass one class per item, ({n_items},).")
    return np.array(label_numbers(estimator, labels, "y"), dtype=np.int64)


def _given(scores: Any, X: MultimodalFeatureSets) -> Scores:
    """Check scores of the user, and return them by modality."""
    if isinstance(scores, FeatureSets):
        scores = {UNNAMED: scores}
    if not isinstance(scores, Mapping | MultimodalFeatureSets):
        raise TypeError(
            f"scores has type {type(scores).__name__}; expected one of {KINDS}, FeatureSets, or a "
            "dict of FeatureSets."
        )
    names = [*scores] if isinstance(scores, Mapping) else scores.names
    if set(names) != set(X.names):
        raise ValueError(f"scores has the modalities {names}, but X has {X.names}.")
    found = {}
    for name in names:
        own = scores[name]
        if not isinstance(own, FeatureSets):
            raise TypeError(
                f"scores of modality {name!r} has type {type(own).__name__}; expected FeatureSets."
            )
        if own.n_features != 1 or not np.array_equal(own.lengths, X[name].lengths):
            raise ValueError(
                f"scores of modality {name!r} must have one column and the lengths of X; got "
                f"{own}, and X has {X[name]}."
            )
        found[name] = own.packed()[0][:, 0].astype(np.float64)
        if not np.isfinite(found[name]).all():
            raise ValueError(f"scores of modality {name!r} has a number that is not finite.")
    return found
