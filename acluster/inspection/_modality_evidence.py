"""What every modality adds to the logits."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import Bunch

from acluster import FeatureSets


def modality_evidence(estimator: Any, X: Any, classes: ArrayLike | None = None) -> Bunch:
    """Return what every modality adds to the logit of every class of every item.

    Parameters
    ----------
    estimator : fitted classifier with ``local_evidence``
        The classifier to inspect.

    X : MultimodalFeatureSets or FeatureSets
        The items, in any form that the classifier takes.

    classes : array-like of shape (C,), optional
        As ``local_evidence`` takes them; by default, the columns of ``decision_function``.

    Returns
    -------
    sklearn.utils.Bunch
        With the fields

        by_modality : dict of str to ndarray of shape (n, C)
            The evidence of all local features of the modality, and its constant. Sets without a
            name are the modality "features".
        rest : ndarray of shape (n, C)
            What the logits contain besides: the bias and, for ensembles, the difference between
            the logit of the mean probability and the mean logit.

    Raises
    ------
    TypeError
        If the estimator has no evidence.

    See Also
    --------
    modality_importance : What a modality adds to the score on many items.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster import MultimodalAttentionClusterClassifier
    >>> from acluster.inspection import modality_evidence
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(60) % 2
    >>> X = {"speech": rng.normal(size=(60, 5, 4)) + y[:, None, None]}
    >>> X["noise"] = rng.normal(size=(60, 9, 2))
    >>> clf = MultimodalAttentionClusterClassifier(learning_rate=0.01, random_state=0).fit(X, y)
    >>> found = modality_evidence(clf, X)
    >>> logits = sum(found.by_modality.values()) + found.rest
    >>> bool(np.allclose(logits[:, 0], clf.decision_function(X)))
    True
    >>> spread = {name: float(own.std()) for name, own in found.by_modality.items()}
    >>> spread["speech"] > 2 * spread["noise"]
    True
    """
    if not hasattr(estimator, "local_evidence"):
        raise TypeError(
            f"{type(estimator).__name__} has no local_evidence. Pass an attention cluster "
            "classifier, or use modality_importance."
        )
    evidence, constants = estimator.local_evidence(X, classes, return_constants=True)
    sums = {}
    for name, constant in constants.by_modality.items():
        sets = evidence if isinstance(evidence, FeatureSets) else evidence[name]
        sums[name] = constant.copy()
        np.add.at(sums[name], np.repeat(np.arange(len(sets)), sets.lengths), sets.packed()[0])
    return Bunch(by_modality=sums, rest=constants.rest)
