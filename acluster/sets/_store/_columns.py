"""The columns stored with the features: their types, their checks and their encoding.

All entries of a column have one type, named as in error messages: "a string", "an integer", "a row
of labels, 3 times an integer" and so on.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster.sets._store._errors import array_error
from acluster.sets._store._format import read_whole

_ALLOWED_TYPES = {
    "label": ("a string", "a boolean", "an integer", "a real number", "a row of labels"),
    "id": ("a string", "an integer"),
    "group": ("a string", "an integer"),
    "weight": ("a real number",),
}
_TYPE_OF_KIND = {"U": "a string", "b": "a boolean", "i": "an integer", "f": "a real number"}
# All entries of a type are stored with one dtype: those of the first items may have a narrower one.
_STORAGE_DTYPES = {"string": str, "boolean": np.bool_, "integer": np.int64, "number": np.float64}


def entry_type(entry: Any) -> str:
    """Describe the type of an entry of a column."""
    array = np.asarray(entry)
    kind = array.dtype.kind
    if kind == "u" and (array > np.iinfo(np.int64).max).any():
        return "beyond int64"
    name = _TYPE_OF_KIND.get("i" if kind == "u" else kind, f"{array.dtype}")
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
        If the columns or types differ from those of earlier items, or a column cannot hold
        entries of this type.
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
                f"{item}: {name}={entries[name]!r} is {found}; use "
                f"{' or '.join(_ALLOWED_TYPES[name])}."
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
    dtype = next(dtype for end, dtype in _STORAGE_DTYPES.items() if type_name.endswith(end))
    values: NDArray[Any] = np.asarray(entries, dtype)
    if type_name != "a string" or name == "id":
        return values, {}
    classes = list(dict.fromkeys([*known, *values.tolist()]))
    codes = {string: code for code, string in enumerate(classes)}
    return np.array([codes[string] for string in values.tolist()]), {"classes": classes}


def read_column(array: Any, store: str) -> NDArray[Any]:
    """Read a column, and decode strings stored as integer codes."""
    values = read_whole(array, store)
    if "classes" in array.attrs:
        return _decode(values, array.attrs["classes"], array.basename, store)
    # zarr reads strings as numpy's StringDType, which scikit-learn rejects as labels.
    return np.array(values.tolist()) if values.dtype.kind == "T" else values


def _decode(codes: NDArray[Any], classes: Any, name: str, store: str) -> NDArray[Any]:
    """Return the string of each code; codes of another column are rejected."""
    strings = np.asarray(classes) if isinstance(classes, list) and classes else np.zeros(0)
    if strings.dtype.kind != "U" or strings.ndim != 1 or codes.dtype.kind not in "iu":
        raise array_error(name, store, "has an attribute classes that is not a list of strings")
    wrong = np.flatnonzero((codes < 0) | (codes >= len(strings)))
    if len(wrong):
        i, n = wrong[0], len(strings)
        problem = f"has {n} classes, but holds the code {codes.flat[i]} for item {i}"
        raise array_error(name, store, problem)
    return strings[codes]
