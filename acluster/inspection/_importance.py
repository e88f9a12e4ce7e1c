"""Permutation importance of modalities."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.metrics import check_scoring
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.validation import check_is_fitted

from acluster import MultimodalFeatureSets
from acluster.sets import with_modalities


def modality_importance(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    scoring: Any = None,
    n_repeats: int = 5,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Return the decrease in score when the sets of one modality are shuffled among items.

    Parameters
    ----------
    estimator : fitted classifier of several modalities
        The classifier to inspect.

    X : MultimodalFeatureSets
        The items to score. Use held-out items to estimate the importance on new data.

    y : array-like
        The labels of the items.

    scoring : str or callable, optional
        As in :func:`sklearn.metrics.check_scoring`; by default the method `score` of the
        estimator.

    n_repeats : int, default=5
        Number of times to shuffle each modality.

    random_state : int, RandomState instance or None, default=None
        Controls the shuffling.

    Returns
    -------
    sklearn.utils.Bunch
        Dicts by modality: ``importances``, the decrease in each repetition, arrays of shape
        (n_repeats,), and their ``importances_mean`` and ``importances_std``.

    Raises
    ------
    TypeError
        If X is not a `MultimodalFeatureSets`, or `scoring` gives several scores.

    ValueError
        If X has fewer than two modalities, or `n_repeats` is less than 1.

    See Also
    --------
    sklearn.inspection.permutation_importance : The same for the columns of a table.

    Notes
    -----
    Whole sets are exchanged, and only among the items that have the modality. If modalities are
    redundant, each may appear unimportant, because the others replace it.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster import (
    ...     FeatureSets,
    ...     MultimodalAttentionClusterClassifier,
    ...     MultimodalFeatureSets,
    ... )
    >>> from acluster.inspection import modality_importance
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(60) % 2
    >>> speech = FeatureSets.from_arrays(rng.normal(size=(60, 5, 4)) + y[:, None, None])
    >>> noise = FeatureSets.from_arrays(rng.normal(size=(60, 9, 2)))
    >>> X = MultimodalFeatureSets({"speech": speech, "noise": noise})
    >>> clf = MultimodalAttentionClusterClassifier(cluster_size=4, max_iter=50)
    >>> clf = clf.set_params(learning_rate=0.01, random_state=0).fit(X, y)
    >>> found = modality_importance(clf, X, y, random_state=0).importances_mean
    >>> found["speech"] > 0.2 > abs(found["noise"])
    True
    """
    check_is_fitted(estimator)
    if not isinstance(X, MultimodalFeatureSets):
        raise TypeError(
            f"X has type {type(X).__name__}; expected MultimodalFeatureSets. Create one from a "
            "dict of FeatureSets, with from_items from one dict per item, or by "
            "open_feature_sets."
        )
    if len(X.names) < 2:
        raise ValueError(
            f"X has only the modality {X.names[0]!r}; importances need two or more to compare."
        )
    if not isinstance(n_repeats, Integral) or n_repeats < 1:
        raise ValueError(f"n_repeats={n_repeats!r} must be an int of 1 or more.")
    score = check_scoring(estimator, scoring)
    rng = check_random_state(random_state)
    baseline = score(estimator, X, y)
    if isinstance(baseline, Mapping):
        raise TypeError(f"scoring={scoring!r} gives several scores, {[*baseline]}. Pass one.")

    def decrease(name: str) -> float:
        return baseline - score(estimator, _shuffled(X, name, rng), y)

    importances = {name: np.array([decrease(name) for _ in range(n_repeats)]) for name in X.names}
    return Bunch(
        importances=importances,
        importances_mean={name: float(drops.mean()) for name, drops in importances.items()},
        importances_std={name: float(drops.std()) for name, drops in importances.items()},
    )


def _shuffled(
    X: MultimodalFeatureSets, name: str, rng: np.random.RandomState
) -> MultimodalFeatureSets:
    order, present = np.arange(len(X)), np.flatnonzero(~X.missing[name])
    order[present] = rng.permutation(present)
    shuffled = {name: X[name][order]}
    # Not MultimodalFeatureSets, which rejects stores that have their items in different orders.
    return with_modalities(X, {other: X[other] for other in X.names} | shuffled)
