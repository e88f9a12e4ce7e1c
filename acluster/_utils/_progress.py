"""A progress line on the terminal."""

import sys
from collections.abc import Generator, Iterable
from typing import TypeVar

from acluster._utils._text import escape

_T = TypeVar("_T")


def progress(
    items: Iterable[_T], label: str, n_items: int | None = None, *, is_shown: bool = True
) -> Generator[_T]:
    """Yield the items and count on the terminal those that the caller has processed.

    The line is erased at the end. Nothing is printed if stderr is not a terminal.

    Parameters
    ----------
    items : iterable
        The items to yield.

    label : str
        What is counted, in the plural.

    n_items : int, optional
        The total, if known.

    is_shown : bool, default=True
        Whether to print anything.
    """
    terminal = sys.stderr
    # Windows programs without a console, such as pythonw, have None as stderr.
    if not is_shown or terminal is None or not terminal.isatty():
        yield from items
        return
    total = "" if n_items is None else f" of {n_items}"
    line = ""
    try:
        for number, item in enumerate(items, 1):
            yield item
            line = escape(f"{label}: {number}{total}")  # labels name files
            print(f"\r{line}", end="", file=terminal, flush=True)
    finally:
        # An exception or an abandoned generator must not leave its line under a traceback.
        print(f"\r{' ' * len(line)}\r", end="", file=terminal, flush=True)
