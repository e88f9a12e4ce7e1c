"""The columns stored with the features: their types, their checks and their encoding.

All entries of a column have one type, named as in error messages: "a string", "an integer", "a row
of labels, 3 times an integer" and so on.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster.sets._arrays import is_missing, to_numpy
from acluster.sets._store._arrays import read_whole
from acluster.sets._store._errors import array_error

_ALLOWED_TYPES = {
    "label": ("a string", "a boolean", "an integer", "a real number", "a row of labels"),
    "id": ("a string", "an integer"),
    "group": ("a string", "an integer"),
    "weight": ("a real number",),
}
_TYPE_OF_KIND = {"U": "a string", "b": "a boolean", "i": "an integer", "f": "a real number"}
# All entries of a type are stored with one dtype: those of the first items may have a narrower one.
_STORAGE_DTYPES: dict[str, Any] = {
    "string": np.dtypes.StringDType(),
    "boolean": np.bool_,
    "integer": np.int64,
    "number": np.float64,
}

_MAX_TEXT_BYTES = 1 << 26


def own_entry(entry: Any, name: str, item: str) -> Any:
    """Return an entry of a column as a value that the caller cannot change later.

    Parameters
    ----------
    entry : object
        A scalar, or an array-like of a row of labels.

    name : str
        The name of the column in error messages.

    item : str
        The name of the item in error messages.

    Returns
    -------
    str, bool, int, float, ndarray or object
        A Python scalar, or a copy of a row. An entry of a type that no column can hold is
        returned as it is, for `check_entries` to reject.

    Raises
    ------
    ValueError
        If the entry is missing or masked, is text that cannot be stored, or would be rounded.
    """
    if isinstance(entry, str):
        _check_text(entry, name, item)
        return str(entry)
    array = to_numpy(entry)
    # A real label may be NaN: it stays NaN, which every estimator rejects.
    may_be_nan = name == "label" and array.dtype.kind == "f" and not np.ma.is_masked(entry)
    is_absent = array.ndim == 0 and is_missing(array[()]) and not may_be_nan
    if is_absent or np.ma.is_masked(entry):
        raise ValueError(f"{item}: {name}={entry!r:.100} is missing. Drop the item, or fill it in.")
    own = array.astype(np.float64) if array.dtype.kind == "f" else array.copy()
    if not np.array_equal(own, array, equal_nan=array.dtype.kind == "f"):
        raise ValueError(f"{item}: {name}={entry!r:.100} is not a float64. Round it first.")
    if own.ndim == 0 and own.dtype.kind in "Ubiuf":
        return own.item()
    return entry if own.dtype.kind == "O" else own


def _check_text(text: str, name: str, item: str) -> None:
    """Check that UTF-8 can represent a text, and that it has no NUL, which numpy strips."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        problem = f"has {text[error.start]!r} at {error.start}, which is not valid Unicode"
    else:
        if "\0" not in text:
            return
        problem = f"has a NUL character at {text.index(chr(0))}"
    shown = f"{text[:60]!a}{'...' if len(text) > 60 else ''}"
    raise ValueError(f"{item}: {name}={shown} {problem}. Replace the character.")


def column_array(values: Any, name: str) -> NDArray[Any]:
    """Convert a column to an array, without turning missing values or numbers into text.

    Parameters
    ----------
    values : array-like of shape (n,) or (n, n_labels)
        The entries of all items.

    name : {"label", "id", "group", "weight"}
        The name of the column.

    Returns
    -------
    ndarray
        Text is an array of objects, so that one long string does not widen the others.

    Raises
    ------
    ValueError
        If entries are missing or masked, text and other types are mixed, or the shape is wrong.
    """
    if np.ma.is_masked(values):
        i = np.argwhere(np.ma.getmaskarray(values))[0][0]
        raise ValueError(f"{name}[{i}] is masked. Fill it in, or drop the item.")
    if not isinstance(values, list | tuple):
        values = to_numpy(values)
    try:
        n_dimensions = np.ndim(values)
    except ValueError:
        raise ValueError(
            f"{name} has rows of different lengths. Pass as many entries for every item."
        ) from None
    if getattr(values, "dtype", np.dtype(object)).kind in "OT" and n_dimensions == 1:
        values = _unmixed(list(values), name)
    array = to_numpy(values)
    if array.ndim not in ((1, 2) if name == "label" else (1,)):
        raise ValueError(f"{name} has shape {array.shape}; pass one entry per item.")
    return array


def _unmixed(entries: list[Any], name: str) -> Any:
    """Check that the entries of a column are all text, or that none is."""
    is_text = [isinstance(entry, str) for entry in entries]
    for i, entry in enumerate(entries):
        if is_missing(entry) and (any(is_text) or not isinstance(entry, float | np.floating)):
            raise ValueError(f"{name}[{i}]={entry!r} is missing. Fill it in, or drop the item.")
    if not any(is_text):
        return entries
    if not all(is_text):
        i = is_text.index(False)
        raise ValueError(
            f"{name}[{i}]={entries[i]!r:.100} is not text, but other entries are. Pass the same "
            "type for all items."
        )
    return np.array(entries, object)


def entry_type(entry: Any) -> str:
    """Describe the type of an entry of a column."""
    array = np.asarray(entry)
    kind = array.dtype.kind
    is_large = kind == "u" and (array > np.iinfo(np.int64).max).any()
    if is_large or (kind == "O" and isinstance(entry, int)):
        return "beyond the range of int64"
    name = _TYPE_OF_KIND.get("i" if kind == "u" else kind, f"of dtype {array.dtype}")
    if array.ndim == 1 and len(array) and kind in "biuf":
        return f"a row of labels, {len(array)} times {name}"
    return name if array.ndim == 0 else "an array"


def check_entries(
    entries: dict[str, Any], expected: dict[str, str] | None, item: str
) -> dict[str, str]:
    """Check the entries of an item in all columns.

    Parameters
    ----------
    entries : dict of str to object
        The entries by column.

    expected : dict of str to str, or None
        The types of the entries of earlier items; None for the first item.

    item : str
        The name of the item in error messages.

    Returns
    -------
    dict of str to str
        The types of the entries by column.

    Raises
    ------
    ValueError
        If the columns or types differ from those of earlier items, a column cannot hold entries
        of this type, or the weight is negative or not finite.
    """
    types = {name: entry_type(entry) for name, entry in entries.items()}
    if expected is not None and types != expected:
        raise ValueError(
            f"{item} comes with {_describe(types)}; earlier items came with "
            f"{_describe(expected)}. Pass the same columns, of the same types, for every item."
        )
    for name, found in types.items():
        if not found.startswith(_ALLOWED_TYPES[name]):
            raise ValueError(
                f"{item}: {name}={entries[name]!r:.100} is {found}; use "
                f"{' or '.join(_ALLOWED_TYPES[name])}."
            )
    if "weight" in entries and not 0 <= entries["weight"] < math.inf:
        raise ValueError(
            f"{item}: weight={entries['weight']} is not a finite number of at least 0."
        )
    return types


def _describe(types: dict[str, str]) -> str:
    return ", ".join(f"{name} ({found})" for name, found in types.items()) or "no columns"


def encode_column(
    name: str, entries: list[Any], type_name: str, known: list[str]
) -> tuple[NDArray[Any], dict[str, Any]]:
    """Convert the entries of a column to the array and the attributes to store.

    Strings of labels and groups repeat, so they are stored as integer codes, which are numbers of
    `classes`. That list starts with the `known` classes of earlier items. Names of items do not
    repeat, and are stored as strings.
    """
    if type_name == "a string" and name != "id":
        classes = list(dict.fromkeys([*known, *entries]))
        codes = {string: code for code, string in enumerate(classes)}
        return np.array([codes[string] for string in entries]), {"classes": classes}
    dtype = next(dtype for end, dtype in _STORAGE_DTYPES.items() if type_name.endswith(end))
    return np.asarray(entries, dtype), {}


def read_column(array: Any, store: str) -> NDArray[Any]:
    """Read a column, and decode strings stored as integer codes."""
    values = read_whole(array, store)
    if "classes" in array.attrs:
        return _decode(values, array.attrs["classes"], array.basename, store)
    # zarr reads strings as numpy's StringDType, which scikit-learn rejects as labels.
    return text_array(values.tolist()) if values.dtype.kind == "T" else values


def _decode(codes: NDArray[Any], classes: Any, name: str, store: str) -> NDArray[Any]:
    """Return the string of each code; codes of another column are rejected."""
    is_text = isinstance(classes, list) and all(isinstance(one, str) for one in classes)
    if not (is_text and classes) or codes.dtype.kind not in "iu":
        raise array_error(name, store, "has an attribute classes that is not a list of strings")
    strings = text_array(classes)
    wrong = np.flatnonzero((codes < 0) | (codes >= len(strings)))
    if len(wrong):
        i, n = wrong[0], len(strings)
        problem = f"has {n} classes, but holds the code {codes.flat[i]} for item {i}"
        raise array_error(name, store, problem)
    return strings[codes]


def text_array(strings: list[str]) -> NDArray[Any]:
    """Convert strings to an array of numpy's text type, or of objects if that would waste memory.

    In an array of numpy's text type, every string takes as much memory as the longest.
    """
    n_bytes = 4 * len(strings) * max(map(len, strings), default=0)
    if n_bytes <= max(_MAX_TEXT_BYTES, 64 * sum(map(len, strings))):
        return np.array(strings)
    return np.array(strings, object)
