"""How far long work is: a line on a terminal, gone at the end; nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable
from typing import TypeVar

__all__ = ["progress"]

_T = TypeVar("_T")


def progress(
    things: Iterable[_T], what: str, n_things: int | None = None
) -> Generator[_T, None, None]:
    """The same things, one by one; a terminal is told how many are done.

    Parameters
    ----------
    things : iterable
        The work.

    what : str
        Their name, in the plural.

    n_things : int, optional
        How many there will be, where that is known.
    """
    terminal = sys.stderr
    if terminal is None or not terminal.isatty():  # None: a program without a console
        yield from things
        return
    of_all = "" if n_things is None else f" of {n_things}"
    line = ""
    try:
        for number, thing in enumerate(things, 1):
            yield thing
            line = f"{what}: {number}{of_all}"
            print(f"\r{line}", end="", file=terminal, flush=True)
    finally:
        print(f"\r{' ' * len(line)}\r", end="", file=terminal, flush=True)
