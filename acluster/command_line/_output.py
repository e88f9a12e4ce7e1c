"""All output of the commands, so that text from files never controls the terminal.

Names of modalities, ids, labels and error messages come from files of unknown origin. Other
modules of the command line call `show` and `write_table` instead of printing.
"""

import argparse
import csv
import io
import os
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from acluster._utils._files import check_target, replaced_file
from acluster._utils._text import escape


class Parser(argparse.ArgumentParser):
    """A parser whose usage errors may quote file names that a shell pattern has matched."""

    def error(self, message: str) -> NoReturn:
        super().error(escape(message))


def prepare() -> None:
    """Make stdout take any text: UTF-8 into files and pipes, escapes on a lesser terminal."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        if is_terminal():
            sys.stdout.reconfigure(errors="backslashreplace")
        else:
            sys.stdout.reconfigure(encoding="utf-8")


def is_terminal() -> bool:
    """Return whether stdout is a terminal; it is None if the parent process has closed it."""
    return sys.stdout is not None and sys.stdout.isatty()


def quiet(is_quiet: bool) -> AbstractContextManager[Any]:
    """Do not print to stdout in a block, as in all but the first of several processes."""
    return redirect_stdout(io.StringIO()) if is_quiet else nullcontext()


def show(text: object, *, error: bool = False) -> None:
    """Print one line to stdout or stderr, with control characters escaped."""
    print(escape(text), file=sys.stderr if error else sys.stdout)


def write_table(path: str | None, header: list[Any], rows: Iterable[list[Any]]) -> None:
    """Write a CSV table to a file with the values as they are, or to stdout with escapes."""
    table = chain([header], rows)
    if path is not None:
        # Labels of a model may be texts that UTF-8 cannot represent.
        with (
            replaced_file(path) as unfinished,
            unfinished.open("w", encoding="utf-8", errors="backslashreplace", newline="") as text,
        ):
            csv.writer(text, lineterminator="\n").writerows(table)
    elif sys.stdout is not None:
        # A pipe often ends at a terminal too, as with `| head`.
        safe = (map(escape, row) for row in table)
        csv.writer(sys.stdout, lineterminator="\n").writerows(safe)


def flush() -> None:
    """Write what is left to stdout, so that a full disk or a closed pipe raises its error now."""
    if sys.stdout is not None:
        sys.stdout.flush()


def close() -> None:
    """Write what is left to stdout, and drop what cannot be written.

    Python flushes stdout again at exit, which would report the error once more.
    """
    try:
        flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_path(path: str | None, *sources: str | os.PathLike[str]) -> None:
    """Check that a file can be written to `path`, before hours are spent on its content.

    Parameters
    ----------
    path : str or None
        The file; None is standard output.

    *sources : str or path
        What the command reads: files and stores, which it must not replace or write into, other
        folders, or addresses.

    Raises
    ------
    OSError
        If the file cannot be written.

    ValueError
        If it is one of the sources, or in the folder of a store.
    """
    if path is None:
        return
    target = check_target(path)
    for source in sources:
        if target.exists() and os.path.exists(source) and target.samefile(source):
            raise ValueError(
                f"{path} would be replaced, but the command reads it. Pass another name of a file."
            )
        if (
            os.path.exists(os.path.join(source, "zarr.json"))
            and Path(os.path.realpath(source)) in target.parents
        ):
            raise ValueError(
                f"{path} is inside the store {os.fspath(source)}, which the command reads. Write "
                "the file beside it."
            )
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(f"you may not write to the folder {str(target.parent)!r}")
