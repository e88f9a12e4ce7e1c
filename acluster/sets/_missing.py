"""Whether it depends on the label which modalities an item lacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_SIGNIFICANT = 1e-3  # the p-value below which a missing modality is said to predict the label


def notes_on_missing(is_missing: Mapping[str, Any], labels: Any) -> list[str]:
    """Return a note for every modality whose absence depends on the label.

    A classifier may then learn which items lack it, instead of what is in the others.

    Parameters
    ----------
    is_missing : dict of str to ndarray of bool, shape (n,)
        Which items lack each modality.

    labels : ndarray of shape (n,) or (n, n_labels), or None
        The labels. Those of an indicator are not examined.

    Returns
    -------
    list of str
    """
    from scipy.stats import chi2_contingency

    if labels is None or np.ndim(labels) != 1 or len(np.unique(labels)) < 2:
        return []
    notes = []
    classes, numbers = np.unique(labels, return_inverse=True)
    for name, missing in is_missing.items():
        if not missing.any() or missing.all():
            continue
        n_missing = np.bincount(numbers, missing, len(classes))
        n_items = np.bincount(numbers, minlength=len(classes))
        if chi2_contingency([n_missing, n_items - n_missing]).pvalue < _SIGNIFICANT:
            shares = n_missing / n_items
            most, least = classes[shares.argmax()], classes[shares.argmin()]
            notes.append(
                f"A missing modality predicts the label: {shares.max():.0%} of the items labeled "
                f"{most} have no {name}, but {shares.min():.0%} of those labeled {least}."
            )
    return notes
