"""Arrays of other libraries, as numpy arrays: tensors, data frames, masked arrays, sequences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


def bounded(items: Iterable[Any]) -> Iterable[Any]:
    """Return the items of an iterable; those of a sequence up to its length.

    A class with ``__len__`` and ``__getitem__``, such as a dataset of torch, need not raise an
    IndexError at its end.
    """
    return islice(items, len(items)) if isinstance(items, Sized) else items


def is_missing(value: Any) -> bool:
    """Whether a value stands for no value: None, NaN, NaT, pandas.NA, or masked."""
    # The values of pandas are recognized by their types, so that pandas is not imported.
    if value is None or value is np.ma.masked or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating | np.datetime64) and bool(value != value)


def label_array(labels: Any) -> NDArray[np.object_]:
    """Return labels as an array of Python objects.

    Without it, ``numpy.asarray`` would turn the numbers in a list that also has text into text.
    """
    array = np.asarray(labels, dtype=object)
    plain = (one.item() if isinstance(one, np.generic) else one for one in array.ravel())
    return np.fromiter(plain, dtype=object, count=array.size).reshape(array.shape)


def relative_rounding(dtype: np.dtype[Any]) -> float:
    """Return the spacing of the values of a dtype, relative to them; 0 for integers."""
    return float(np.finfo(dtype).eps) if dtype.kind == "f" else 0.0


def check_not_masked(array: Any, name: str) -> None:
    """Raise a ValueError if an array, or a part of a list, has masked values.

    ``numpy.asarray`` would return what is under the mask.
    """
    is_list = isinstance(array, list | tuple)
    for i, part in enumerate(array if is_list else [array]):
        if isinstance(part, np.ma.MaskedArray) and np.ma.is_masked(part):
            raise ValueError(
                f"{f'{name}[{i}]' if is_list else name} has masked values, which are missing. Drop "
                "these entries, or replace them with numpy.ma.filled(array, value)."
            )


def equal_arrays(first: ArrayLike, other: ArrayLike) -> bool:
    """Return whether arrays are equal, with NaN in the same places."""
    pair = np.asarray(first), np.asarray(other)
    return np.array_equal(*pair, equal_nan=all(array.dtype.kind == "f" for array in pair))


def column_names(array: Any) -> tuple[Any, ...] | None:
    """Return the column names of a data frame, or of those in a container; else None."""
    if hasattr(array, "columns") and hasattr(array, "dtypes"):
        return tuple(array.columns)
    return getattr(array, "_feature_names", None)


def text_columns(array: Any) -> list[str]:
    """Return the column names if all are strings: like scikit-learn, ignore numbers."""
    names = [*(column_names(array) or ())]
    return names if all(isinstance(name, str) for name in names) else []


def in_order(values: Array, names: Sequence[Any], expected: Iterable[Any], name: str) -> Array:
    """Return the columns `names` of a data frame in the `expected` order.

    Raises
    ------
    ValueError
        If the columns are not the same, or their names are not unique or no text. `name` is that
        of the frame in the message.
    """
    expected = list(expected)
    if list(names) == expected:
        return values
    places = {own: column for column, own in enumerate(names)}
    lacking = [one for one in expected if one not in places]
    are_names = len(places) == len(names) and all(isinstance(own, str) for own in names)
    if lacking or not are_names:
        problem = f"has no column {lacking[0]!r}" if lacking else "has its columns in another order"
        raise ValueError(
            f"{name} {problem}. Columns of data frames are matched by name, if the names are "
            "unique texts: give all frames the same columns, or pass arrays."
        )
    return values[:, [places[one] for one in expected]]


def to_numpy(array: Any) -> Array:
    """Convert an array-like, data frame, or tensor on any device, to a numpy array.

    It has the byte order of the machine, the only one that torch reads. Tensors are recognized by
    their methods, so that this package never imports torch.
    """
    if isinstance(array, list | tuple) and any(hasattr(part, "detach") for part in array):
        array = [to_numpy(part) for part in array]
    if hasattr(array, "detach"):
        return _tensor_to_numpy(array)
    converted = np.asarray(array)
    if converted.dtype == object and hasattr(array, "dtypes"):
        converted = _nullable_to_numpy(array, converted)
    is_native = converted.dtype.isnative
    return converted if is_native else converted.astype(converted.dtype.newbyteorder("="))


def _tensor_to_numpy(tensor: Any) -> Array:
    if tensor.is_nested or str(tensor.layout) != "torch.strided":
        raise TypeError(
            "A nested or sparse tensor cannot be converted to one array. Pass its parts as a "
            "list (tensor.unbind()), or tensor.to_dense()."
        )
    if tensor.is_meta:
        raise TypeError("A tensor on the device 'meta' has no values. Pass one on another device.")
    tensor = tensor.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":
        tensor = tensor.float()  # numpy has no bfloat16; float32 represents it exactly
    return np.asarray(tensor.resolve_conj().resolve_neg().numpy())


def _nullable_to_numpy(frame: Any, objects: Array) -> Array:
    """Convert a data frame or series of nullable numbers; missing ones become NaN."""
    dtypes = [getattr(one, "numpy_dtype", one) for one in np.array([frame.dtypes], object).ravel()]
    if not all(isinstance(one, np.dtype) and one.kind in "fiub" for one in dtypes):
        return objects
    missing, common = np.asarray(frame.isna()), np.result_type(*dtypes)
    if not missing.any():
        return objects.astype(common)
    return np.where(missing, np.nan, objects).astype(common if common.kind == "f" else np.float64)


def ndim_of(item: Any) -> int:
    """Return the number of dimensions of an item; that of its rows counts if they are objects."""
    try:
        ndim = np.ndim(item)
    except (RuntimeError, TypeError, ValueError):  # such as lists of different lengths
        return 2
    is_nested = ndim == 1 and len(item) > 0 and getattr(item, "dtype", None) == np.dtype(object)
    return 1 + np.ndim(next(iter(item))) if is_nested else ndim
