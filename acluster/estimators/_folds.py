"""The folds of a classifier that cross-validates."""

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster.estimators._labels import check_groups

_N_SPLITS = 5


def _splitter(
    cv: Any, y: NDArray[Any], kept: NDArray[np.bool_], groups: Any, random_state: Any
) -> Any:
    """Return the splitter that `cv` stands for."""
    # Importing model_selection is slow, and `import acluster` does not need it.
    from sklearn import model_selection as sk

    if cv is not None and not isinstance(cv, Integral):
        return sk.check_cv(cv)
    is_classes = y.ndim == 1
    if cv is None:
        fewest = np.unique(y[kept], return_counts=True)[1].min() if is_classes else kept.sum()
        n_groups = _N_SPLITS if groups is None else len(np.unique(groups))
        cv = max(2, min(_N_SPLITS, int(fewest), n_groups))
    with_groups = sk.StratifiedGroupKFold if is_classes else sk.GroupKFold
    without_groups = sk.StratifiedKFold if is_classes else sk.KFold
    splitter: Any = without_groups if groups is None else with_groups
    seed = int(random_state.randint(np.iinfo(np.int32).max))
    return splitter(int(cv), shuffle=True, random_state=seed)


def splits_of(
    cv: Any, y: NDArray[Any], kept: NDArray[np.bool_], groups: Any, random_state: Any
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Return the folds of the items that are kept, and check that they divide them."""
    groups = None if groups is None else check_groups(groups, len(y))
    splitter = _splitter(cv, y, kept, groups, random_state)
    numbers = np.arange(len(y))
    try:
        folds = [*splitter.split(np.zeros(len(y)), y, groups)]
    except ValueError as error:
        raise ValueError(
            f"cv={cv!r:.80} cannot divide {len(y)} items: {str(error).rstrip('.')}. Pass other "
            "folds or groups, or more items."
        ) from error
    splits = [(numbers[train], numbers[test]) for train, test in folds]  # also of masks
    n_tests = sum((np.bincount(test, minlength=len(y)) for _, test in splits), 0 * numbers)
    wrong = np.flatnonzero((n_tests != 1) & kept)
    if len(wrong):
        raise ValueError(
            f"cv={cv!r:.80} tests item {wrong[0]} {n_tests[wrong[0]]} times; every item has to be "
            "in the test part of exactly one fold. Use a splitter like KFold, and a list instead "
            "of a generator if you fit more than once."
        )
    for train, test in splits:
        if len(common := np.intersect1d(train, test)):
            raise ValueError(
                f"cv={cv!r:.80} has item {common[0]} in the training part and in the test part of "
                "a fold. Leave it out of one of them."
            )
    number = np.cumsum(kept) - 1  # among the items that are kept
    parts = (tuple(number[part[kept[part]]] for part in split) for split in splits)
    folds = [(train, test) for train, test in parts if len(test)]
    if not all(len(train) for train, _ in folds):
        raise ValueError(
            f"cv={cv!r:.80} has a fold whose training part has no item of positive weight. Give "
            "items of at least two groups a positive weight, or choose other folds."
        )
    return folds
