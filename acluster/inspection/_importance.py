"""How much a classifier owes to each modality."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from sklearn.metrics import check_scoring
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.validation import check_is_fitted

from acluster import MultimodalFeatureSets

__all__ = ["modality_importance"]


def modality_importance(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    scoring: Any = None,
    n_repeats: int = 5,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """How much the score falls when a modality's sets are shuffled among the items.

    Parameters
    ----------
    estimator : classifier of several modalities
        Fitted.

    X : MultimodalFeatureSets
        Items; of a test set, for what a modality is worth on new data.

    y : array-like
        Their labels.

    scoring : str or callable, optional
        As in :func:`sklearn.metrics.check_scoring`; by default the `score` of the estimator.

    n_repeats : int, default=5
        How often each modality is shuffled, once at least.

    random_state : int, RandomState instance or None, default=None
        Draws the orders.

    Returns
    -------
    sklearn.utils.Bunch
        By modality: ``importances``, the falls of the score, arrays of shape (n_repeats,);
        ``importances_mean`` and ``importances_std``, floats.

    Raises
    ------
    TypeError
        If X is not `MultimodalFeatureSets`.

    ValueError
        If X has fewer than two modalities, or `n_repeats` is less than 1.

    See Also
    --------
    sklearn.inspection.permutation_importance : The same for the columns of a table.

    Notes
    -----
    A set moves as a whole, among the items that have the modality. Where modalities say the same,
    each may seem to be worth little, as the others stand in for it.

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
    >>> clf = MultimodalAttentionClusterClassifier(cluster_size=4, tol=None, max_iter=50)
    >>> clf = clf.set_params(learning_rate=0.01, random_state=0).fit(X, y)
    >>> found = modality_importance(clf, X, y, random_state=0).importances_mean
    >>> found["speech"] > 0.2 > abs(found["noise"])
    True
    """
    check_is_fitted(estimator)
    if not isinstance(X, MultimodalFeatureSets):
        raise TypeError(
            f"X is a {type(X).__name__}, and modalities are shuffled in a MultimodalFeatureSets: "
            "make one of FeatureSets by name, by from_items of one dict per item, or by "
            "open_feature_sets."
        )
    if len(X.names) < 2:
        raise ValueError(
            f"X has the modality {X.names[0]!r} only, so that there is none to compare it with."
        )
    if not isinstance(n_repeats, Integral) or n_repeats < 1:
        raise ValueError(f"n_repeats={n_repeats!r} is no number of repetitions, 1 or more.")
    score = check_scoring(estimator, scoring)
    rng = check_random_state(random_state)
    whole = score(estimator, X, y)
    importances = {
        name: np.array(
            [whole - score(estimator, _shuffled(X, name, rng), y) for _ in range(n_repeats)]
        )
        for name in X.names
    }
    return Bunch(
        importances=importances,
        importances_mean={name: float(falls.mean()) for name, falls in importances.items()},
        importances_std={name: float(falls.std()) for name, falls in importances.items()},
    )


def _shuffled(
    X: MultimodalFeatureSets, name: str, rng: np.random.RandomState
) -> MultimodalFeatureSets:
    order, present = np.arange(len(X)), np.flatnonzero(~X.missing[name])
    order[present] = rng.permutation(present)
    sets = {other: X[other] for other in X.names}
    return MultimodalFeatureSets({**sets, name: X[name][order]})
