"""What a section of the page consists of; the template draws each kind of block."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

_MAX_NAME = 40  # characters of a name in a picture


@dataclass(frozen=True)
class Text:
    """A paragraph; a remark if the reader must not miss it, or the reason why a part is absent."""

    block: ClassVar[str] = "text"
    text: str
    kind: str = "plain"  # or "remark", "absent"


@dataclass(frozen=True)
class Picture:
    """An image that is a part of the page.

    Attributes
    ----------
    source : str
        Its content, as a ``data:`` address.

    alt : str
        What it shows, for readers who do not see it.

    caption : str
        What to read from it.

    width : int
        Its width in pixels of the page.
    """

    block: ClassVar[str] = "picture"
    source: str
    alt: str
    caption: str
    width: int


@dataclass(frozen=True)
class Cell:
    """An entry of a table: its text and, for a number, what it is sorted by."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Table:
    """A table that readers can sort.

    Attributes
    ----------
    caption : str
        What is compared, on what data.

    header : sequence of str
        The names of the columns.

    rows : sequence of sequences of Cell
        One cell per column.
    """

    block: ClassVar[str] = "table"
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def is_number(self) -> list[bool]:
        """Whether each column has numbers."""
        return [any(row[i].value is not None for row in self.rows) for i in range(len(self.header))]


@dataclass(frozen=True)
class Card:
    """What there is to say about one item: its name, some facts and a picture."""

    title: str
    facts: Sequence[tuple[str, str]]
    picture: Picture | None


@dataclass(frozen=True)
class Cards:
    """Items side by side."""

    block: ClassVar[str] = "cards"
    cards: Sequence[Card]


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading.

    Attributes
    ----------
    name : str
        The anchor of links to it.

    title : str
        The heading.

    blocks : sequence of blocks
        What is below the heading, in this order.
    """

    name: str
    title: str
    blocks: Sequence[Any]


def absent(text: str) -> list[Text]:
    """Return the block that says why a part of the page is absent."""
    return [Text(text, "absent")]


def count_cell(count: int) -> Cell:
    """Return the cell of a whole number."""
    return Cell(f"{count:,}", float(count))


def counted(count: int, noun: str) -> str:
    """Return a number with a noun, such as "1 item" and "2,000 items"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def number_cell(value: float, form: str = ".3f") -> Cell:
    """Return the cell of a number; NaN is a dash, and sorted below all others."""
    return (
        Cell("\N{EN DASH}", -1e300) if np.isnan(value) else Cell(format(value, form), float(value))
    )


def shortened(name: str, length: int = _MAX_NAME) -> str:
    """Return a name that is short enough for a picture."""
    return name if len(name) <= length else f"{name[: length - 1]}…"
