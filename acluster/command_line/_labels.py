"""Read the table of labels: a CSV file with one row per item."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, TextIO

import numpy as np

from acluster.sets import COLUMNS

_MAX_LINE = 1 << 20  # of a table; reading stops there in a file that is none
_NUMBER_OF_LABEL = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}


@dataclass(frozen=True)
class Roles:
    """What the columns of a table are used for.

    Attributes
    ----------
    id, group, weight : str or None
        The names of the columns.

    label : list of str
        The column of the labels, or several columns of 0 and 1.

    split : tuple of str, or None
        A column, and the value that rows must have in it.
    """

    id: str | None = None
    label: Sequence[str] = ()
    group: str | None = None
    weight: str | None = None
    split: tuple[str, str] | None = None

    @property
    def are_given(self) -> bool:
        """Whether the user has named a column."""
        return any([self.id, self.label, self.group, self.weight, self.split])


@dataclass
class LabelTable:
    """The rows of a table of labels.

    Attributes
    ----------
    path : str
        The file.

    rows : dict of str to dict
        The entries of each item by their role: label, group or weight.

    others : set of str
        The ids of rows that belong to another split.

    label_names : list of str, or None
        The names of the labels, if each item has several.
    """

    path: str
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)
    label_names: list[str] | None = None

    def select(self, names: Sequence[str], only_matching: bool) -> list[int]:
        """Return the numbers of the items to convert, and check that the rest is not needed.

        Parameters
        ----------
        names : sequence of str
            The ids of the items.

        only_matching : bool
            Whether items without a row, and rows without an item, are left out.

        Raises
        ------
        ValueError
            If an item has no row or a row has no item, and they are not to be left out; or if
            nothing is left.
        """
        lacking = [name for name in names if name not in self.rows and name not in self.others]
        if lacking and not only_matching:
            raise ValueError(
                f"{self.path} has no row for the item {lacking[0]!r}, and for {len(lacking)} items "
                f"in all{_more(lacking)}. The first ids of the table are {[*islice(self.rows, 3)]}."
                " Add a row for each, or convert only the items with a row: --only-matching."
            )
        known = {*names}
        absent = [name for name in self.rows if name not in known]
        if absent and not only_matching:
            raise ValueError(
                f"{self.path} has a row for {absent[0]!r}, but there is no such item; the same "
                f"holds for {len(absent)} rows in all{_more(absent)}. The first items are "
                f"{[*names[:3]]}. Remove the rows, or leave them out: --only-matching."
            )
        kept = [i for i, name in enumerate(names) if name in self.rows]
        if not kept:
            raise ValueError(
                f"{self.path} has no row for any item. Its first ids are "
                f"{[*islice(self.rows, 3)]}, and the first items are {[*names[:3]]}."
            )
        return kept

    def columns(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """Return the columns for items of these names, which all have a row."""
        roles = next(iter(self.rows.values()))
        return {role: [self.rows[name][role] for name in names] for role in roles}


def _more(names: Sequence[str]) -> str:
    return f" (also {', '.join(map(repr, names[1:3]))})" if len(names) > 1 else ""


def read_table(path: str, roles: Roles) -> LabelTable:
    """Read a table of labels.

    Parameters
    ----------
    path : str
        A CSV file in UTF-8 whose first line has the names of the columns.

    roles : Roles
        What the columns are used for. If none is named, the column id is needed, and all others
        must be label, group or weight.

    Returns
    -------
    LabelTable
        The rows.

    Raises
    ------
    ValueError
        If the file is not such a table. The message names the line.
    """
    try:
        # Excel starts its UTF-8 files with a byte order mark, which utf-8-sig skips.
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = _read_lines(path, file)
            header = next(lines, "")
            # Excel separates columns by semicolons where numbers have a decimal comma.
            delimiter = next((sign for sign in ",;\t" if sign in header), ",")
            reader = csv.DictReader(chain([header], lines), delimiter=delimiter, strict=True)
            return _read_rows(path, reader, roles)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not encoded in UTF-8; save it as UTF-8: {error}.") from None
    except csv.Error as error:
        # `line_num` is that of the last row that is valid.
        raise ValueError(
            f"{path} is not a CSV table: {error} in the row that begins in line "
            f"{reader.line_num + 1}."
        ) from None


def _read_lines(path: str, file: TextIO) -> Iterator[str]:
    while line := file.readline(_MAX_LINE):
        if len(line) == _MAX_LINE:
            raise ValueError(f"{path} is not a CSV table: it has a line of over {_MAX_LINE} bytes.")
        yield line


def _read_rows(path: str, reader: csv.DictReader[str], roles: Roles) -> LabelTable:
    given = [*(reader.fieldnames or [])]
    used = _used_columns(path, given, roles)
    labels = used.pop("label", [])
    table = LabelTable(path, label_names=[*labels] if len(labels) > 1 else None)
    for row in reader:
        line = f"{path}, line {reader.line_num}"
        needed = [column for columns in [*used.values(), labels] for column in columns]
        if None in row or None in row.values() or "" in [row[column] for column in needed]:
            raise ValueError(
                f"{line} has the entries {[*row.values()]!s:.300}; it needs exactly one per column."
            )
        name = row[used["id"][0]]
        if name in table.rows or name in table.others:
            raise ValueError(f"{line} is a second row for the item {name!r}; remove one.")
        if roles.split is not None and row[roles.split[0]] != roles.split[1]:
            table.others.add(name)
            continue
        table.rows[name] = _entries(row, used, labels, line)
    if not table.rows:
        which = f"whose {roles.split[0]} is {roles.split[1]!r}" if roles.split else "of an item"
        raise ValueError(f"{path} has no row {which}. Add one for each item.")
    return table


def _used_columns(path: str, given: list[str], roles: Roles) -> dict[str, list[str]]:
    """Return the columns of the table for each role, after a check that it has them."""
    if twice := sorted({name for name in given if given.count(name) > 1}):
        raise ValueError(f"{path} has two columns of the name {twice[0]!r}; remove one.")
    shown = given[:10] + ["..."] * (len(given) > 10)
    if not roles.are_given:
        if "id" not in given or not set(given) <= set(COLUMNS):
            raise ValueError(
                f"{path} has the columns {shown}; it needs the column id, and may have label, "
                "group and weight. For other names, or several labels per item, say what the "
                "columns are: --id COLUMN --label COLUMN [COLUMN ...] --group COLUMN."
            )
        return {name: [name] for name in given}
    used = {"id": [roles.id or "id"], "label": [*roles.label]}
    used |= {role: [name] for role in ("group", "weight") if (name := getattr(roles, role))}
    split = [roles.split[0]] if roles.split else []
    if lacking := [
        name for names in [*used.values(), split] for name in names if name not in given
    ]:
        raise ValueError(f"{path} has no column {lacking[0]!r}; its columns are {shown}.")
    if len({*roles.label}) < len(roles.label):
        raise ValueError(f"--label names a column twice: {[*roles.label]}.")
    return {role: names for role, names in used.items() if names}


def _weight(text: str, line: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:  # also for NaN
        raise ValueError(
            f"{line}: the weight {text!r:.80} is not a number of at least 0, such as 0.5."
        )
    return weight


def _entries(
    row: Mapping[str, str], used: Mapping[str, list[str]], labels: Sequence[str], line: str
) -> dict[str, Any]:
    """Convert the entries of a row to those of a store."""
    entries: dict[str, Any] = {role: row[c[0]] for role, c in used.items() if role != "id"}
    if "weight" in entries:
        entries["weight"] = _weight(entries["weight"], line)
    if len(labels) == 1:
        entries["label"] = row[labels[0]]
    elif labels:
        numbers = [_NUMBER_OF_LABEL.get(row[label].strip().lower()) for label in labels]
        if None in numbers:
            label = labels[numbers.index(None)]
            raise ValueError(
                f"{line}: the label {label!r} is {row[label]!r}; with several labels per item, "
                "each must be 0 or 1."
            )
        entries["label"] = np.array(numbers)
    return entries
