"""What an extraction has done, what failed, and where the time went."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_SIGNIFICANT = 1e-3  # the p-value below which a missing modality is said to predict the label
_SHORT_SECONDS = 10.0


@dataclass(frozen=True)
class ExtractionReport:
    """What an extraction has done, what failed, and where the time went.

    Parameters
    ----------
    n_items : int
        The number of items in the store.

    n_new : int
        The number of those that this call added.

    failed : dict of str to str
        The reason why an item is not in the store, by its id.

    warnings : dict of str to list of str
        What is wrong with an item in the store, by its id.

    n_missing : dict of str to int
        The number of items that lack a modality.

    seconds : dict of str to float
        The seconds of every stage: "reading", summed over the threads or processes; the name
        of each view, for its feature extractor; "writing"; "waiting" for files to be read; and
        "total".

    notes : list of str
        What to know about the items as a whole.
    """

    n_items: int
    n_new: int
    failed: Mapping[str, str]
    warnings: Mapping[str, Sequence[str]]
    n_missing: Mapping[str, int]
    seconds: Mapping[str, float]
    notes: Sequence[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return the report as text, a few lines long."""
        total = max(self.seconds["total"], 1e-9)
        shares = [
            f"{stage} {seconds:.1f} s ({seconds / total:.0%})"
            for stage, seconds in self.seconds.items()
            if stage != "total"
        ]
        lines = [
            f"{self.n_items} items, {self.n_new} of them new; {len(self.failed)} failed, "
            f"{len(self.warnings)} with warnings",
            *(f"{n} items have no {name}" for name, n in self.n_missing.items() if n),
            f"{self.seconds['total']:.1f} s: " + ", ".join(shares),
            *self.notes,
        ]
        return "\n".join(lines)


def notes_on_waiting(seconds: Mapping[str, float], n_workers: int, workers: str) -> list[str]:
    """Return a note if the feature extractors waited for files most of the time.

    Parameters
    ----------
    seconds : dict of str to float
        The seconds of every stage, as in the report.

    n_workers, workers : int, str
        What read the files, as in `acluster.extraction.extract`.

    Returns
    -------
    list of str
        No note after a few seconds, in which the first file is a large part of the waiting.

    Examples
    --------
    >>> from acluster.extraction._report import notes_on_waiting
    >>> notes_on_waiting({"waiting": 10.0, "total": 100.0}, 4, "threads")
    []
    """
    total, waiting = seconds["total"], seconds["waiting"]
    if total < _SHORT_SECONDS or waiting <= total / 2:
        return []
    n_processors = os.cpu_count() or 1
    remedies = []
    if n_workers < n_processors:
        remedies.append(f"more of them, up to n_workers={n_processors} (--workers)")
    if workers == "threads":
        remedies.append("workers='processes' (--worker-kind processes)")
    remedies.append("views that read less, such as smaller or fewer frames")
    return [
        f"The backbones waited for files to be read for {waiting / total:.0%} of the time. Files "
        f"were read in {n_workers} {workers}. Try {', or '.join(remedies)}."
    ]


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
                f"A missing modality predicts the label: {shares.max():.0%} of the items labelled "
                f"{most} have no {name}, but {shares.min():.0%} of those labelled {least}."
            )
    return notes
