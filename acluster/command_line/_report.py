"""Write the page about a classifier, with the items that its training held out if wanted."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import acluster
from acluster.command_line import _splits
from acluster.command_line._output import check_path, is_terminal, show
from acluster.command_line._training import open_task


def report(options: argparse.Namespace) -> None:
    """Write the page that the options of the command ask for, and print the scores.

    Raises
    ------
    ValueError
        If the store has no labels, or they do not fit the model.
    """
    from acluster import inspection

    check_path(options.out, options.model, options.store)
    classifier = acluster.load(options.model)
    # Labels are checked, and groups found, in the way of `fit`.
    task = open_task(options)
    X, description = _chosen_items(task, options)
    if "verbose" in classifier.get_params():
        classifier.set_params(verbose=is_terminal())
    group = _splits.groups_of(X, options.store, options.group)
    page = inspection.report(
        classifier,
        X,
        groups=False if group is None else group,
        description=description,
        n_mistakes=options.mistakes,
    )
    page.save(options.out)
    items = "1 item" if len(X) == 1 else f"{len(X)} items"
    show(f"{options.out}: {items}, {len(page.html) / 1e6:.1f} MB")
    for name, (value, low, high) in page.scores.items():
        # Of a single item or group, there is no interval.
        interval = "" if np.isnan(low) else f" (95 % interval {low:.4f} to {high:.4f})"
        show(f"{name}: {value:.4f}{interval}")


def _chosen_items(task: Any, options: argparse.Namespace) -> tuple[Any, str]:
    """Return the items to score, and what they are."""
    if options.hold_out is None:
        return task.X, options.store
    held_out, _ = task.held_out
    share = f"the items of {options.store} that fit --hold-out {options.hold_out:g} holds out"
    return held_out, share
