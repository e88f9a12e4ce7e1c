"""Items that can be read one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from acluster.formats._item import Item


@dataclass(frozen=True)
class Source:
    """Items that can be read one by one, and what is known of them without reading them.

    Attributes
    ----------
    names : list of str
        The key of each item in a table of labels.

    read : callable
        ``read(numbers)`` iterates over the `Item` of each number. The numbers must increase.

    where : callable
        ``where(i)`` names the file of item i in error messages.

    columns : dict of str to sequence
        The columns that are known without a table, such as the ids.

    label_names : list of str, or None
        The names of the labels, if each item has several.

    attributes : dict
        What a store says about its features.

    container : FeatureSets or MultimodalFeatureSets, or None
        The items of a store, whose columns may have names.
    """

    names: list[str]
    read: Callable[[Sequence[int]], Iterator[Item]]
    where: Callable[[int], str]
    columns: dict[str, Any]
    label_names: list[str] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    container: Any = None
