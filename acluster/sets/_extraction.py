"""Descriptions of how local features were extracted: their form, and how two of them differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_MAX_DEPTH = 8
_ABSENT = "not given"


def is_description(value: Any) -> bool:
    """Whether a value describes a view and a backbone, as `acluster.extraction.extract` does.

    Parameters
    ----------
    value : object
        From a store or a model file of unknown origin.

    Returns
    -------
    bool
        True only for a dict of JSON values of bounded depth, with the keys "view", a dict that has
        the text "kind", and "backbone", a text or a dict.

    Examples
    --------
    >>> from acluster.sets._extraction import is_description
    >>> is_description({"view": {"kind": "Frames", "n": 25}, "backbone": "package:function"})
    True
    >>> is_description({"view": "Frames", "backbone": "package:function"})
    False
    """
    if not isinstance(value, dict) or not isinstance(value.get("view"), dict):
        return False
    is_known = isinstance(value["view"].get("kind"), str)
    return is_known and isinstance(value.get("backbone"), str | dict) and _is_json(value)


def _is_json(value: Any, depth: int = _MAX_DEPTH) -> bool:
    """Whether a value is one of JSON, with dicts and lists of at most `depth` levels."""
    if isinstance(value, dict):
        are_texts = all(isinstance(key, str) for key in value)
        return depth > 0 and are_texts and all(_is_json(own, depth - 1) for own in value.values())
    if isinstance(value, list):
        return depth > 0 and all(_is_json(own, depth - 1) for own in value)
    if isinstance(value, float):
        return math.isfinite(value)  # NaN would differ from itself
    return value is None or isinstance(value, str | int)


def first_difference(
    first: Mapping[str, Any], second: Mapping[str, Any], name: str = ""
) -> tuple[str, Any, Any]:
    """Return the first entry in which two descriptions differ.

    Parameters
    ----------
    first, second : mapping
        Descriptions, or parts of them, which differ.

    name : str, default=""
        The name of the part.

    Returns
    -------
    name : str
        The name of the entry, such as "view.n".

    value, other : object
        The entry in the first and in the second description; "not given" if one lacks it.

    Examples
    --------
    >>> from acluster.sets._extraction import first_difference
    >>> first_difference({"view": {"n": 25}}, {"view": {"n": 8}})
    ('view.n', 25, 8)
    """
    missing = object()
    names = [*first, *(key for key in second if key not in first)]
    key = next(k for k in names if first.get(k, missing) != second.get(k, missing))
    value, other = first.get(key, _ABSENT), second.get(key, _ABSENT)
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        return first_difference(value, other, f"{name}{key}.")
    return f"{name}{key}", value, other
