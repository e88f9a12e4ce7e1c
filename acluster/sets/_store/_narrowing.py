"""The conversion of local features to the dtype of a store, without losses in silence."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster.sets._feature_sets import Array

_MANY = 0.1  # the share of values that may become zero before a warning


def default_dtype(values: Array) -> np.dtype[Any]:
    """Return the dtype in which features are stored if the user does not choose one.

    float16 stays float16, and all others become float32, except for integers that float32 would
    round, such as times in seconds or identifiers.
    """
    if values.dtype == np.float16:
        return values.dtype
    single = np.dtype(np.float32)
    return np.dtype(np.float64) if len(_rounded_integers(values, single)) else single


def narrowed(values: Array, dtype: np.dtype[Any], name: str, may_round: bool) -> Array:
    """Return a copy of a set in the dtype of the store.

    Parameters
    ----------
    values : ndarray of shape (L, M)
        The set.

    dtype : numpy.dtype
        The dtype of the store.

    name : str
        The name of the set in error messages.

    may_round : bool
        Whether the user has chosen `dtype`, and so accepts its precision.

    Returns
    -------
    ndarray of shape (L, M)
        Always a copy: the caller may reuse its buffer.

    Raises
    ------
    ValueError
        If values are beyond the range of `dtype`, if all but zeros become zero, or if it would
        round integers or wider features that the user did not ask to round.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        stored = values.astype(dtype)
    if dtype == values.dtype:
        return stored
    if dtype.kind != "f":  # of a store by another program
        if not np.array_equal(stored, values):
            raise ValueError(
                f"{name} has values that {dtype}, the dtype of the store, cannot hold. Convert "
                "them, or start another store."
            )
        return stored
    if not np.array_equal(np.isfinite(stored), np.isfinite(values)):
        raise ValueError(
            f"{name} has values beyond the range of {dtype}, up to {np.abs(values).max():g}. "
            f"{_remedy(dtype)}"
        )
    if _share_of_underflow(values, stored) == 1:
        raise ValueError(
            f"{name} has only values that are 0 in {dtype}, up to {np.abs(values).max():g}. "
            f"{_remedy(dtype)}"
        )
    if not may_round:
        _check_rounding(values, stored, name)
    return stored


def _remedy(dtype: np.dtype[Any]) -> str:
    wider = ", or start a store with dtype='float32'" if dtype == np.float16 else ""
    return f"Scale the features{wider}."


def _share_of_underflow(values: Array, stored: Array) -> float:
    """Return the share of the values other than zero that are stored as zero."""
    n_given, n_stored = np.count_nonzero(values), np.count_nonzero(stored)
    return (n_given - n_stored) / n_given if n_given else 0.0


def underflow_warning(values: Array, stored: Array, name: str) -> str | None:
    """Return a warning if so many values are stored as zero that users should know."""
    # Counting takes longer than writing, for float16 above all.
    if values.dtype == stored.dtype or _share_of_underflow(values, stored) <= _MANY:
        return None
    smallest = np.abs(values[values != 0]).min()
    return (
        f"{name} has many values that become 0 in {stored.dtype}, as small as {smallest:g}. "
        f"{_remedy(stored.dtype)} Later items are not reported."
    )


def _check_rounding(values: Array, stored: Array, name: str) -> None:
    dtype = stored.dtype
    rounded = _rounded_integers(values, dtype)
    if len(rounded):
        accepting = "convert it to float64" if dtype == np.float64 else f"pass dtype={dtype.name!r}"
        raise ValueError(
            f"{name} has the integer {int(rounded[0])}, but the store holds its features as "
            f"{dtype}, which would round it. Subtract an offset from the feature, or {accepting} "
            "to accept the rounding."
        )
    is_half = dtype == np.float16 and values.dtype.kind == "f"
    if is_half and not np.array_equal(stored, values, equal_nan=True):
        raise ValueError(
            f"{name} has dtype {values.dtype}, but earlier items have {dtype}, which would round "
            f"it. Convert all items to one dtype, or pass dtype={dtype.name!r} to accept the "
            "rounding."
        )


def _rounded_integers(values: Array, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the integers among the values that a floating-point dtype would round.

    Floating-point values beyond 2**53 are no integers of the user: float64 has no fractions there.
    """
    if values.dtype.kind == "b":
        return values[:0, 0]
    limit = 2.0 ** (np.finfo(dtype).nmant + 1)
    # int64 is compared as float64, in which the integer after the limit may equal it.
    large = values[(values >= limit) | (values <= -limit)]
    if values.dtype.kind == "f":
        large = large[(np.abs(large) <= 2.0**53) & (large == np.rint(large))]
    with np.errstate(over="ignore", invalid="ignore"):
        back = large.astype(dtype).astype(np.float64)
        bound = 2.0**60 if values.dtype.kind == "f" else float(np.iinfo(values.dtype).max)
        is_exact = (np.abs(back) < bound) & (back.astype(values.dtype) == large)
    return large[~is_exact]
