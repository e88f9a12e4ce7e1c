"""What an extraction has done, what failed, and where the time went."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
