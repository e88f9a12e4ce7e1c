"""What pairs of grey frames have to be."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

_FLOATS = ("float16", "bfloat16", "float32", "float64")


def check_frames(first: "np.ndarray | Tensor", second: "np.ndarray | Tensor") -> None:
    """Check two stacks of grey frames, arrays or tensors.

    Raises
    ------
    ValueError
        If they are not both (B, H, W), of the same shape, dtype and device, with at least one
        pixel, and uint8 or floats between 0 and 1.
    """
    for name in ("shape", "dtype", "device"):
        one, other = getattr(first, name), getattr(second, name)
        if one != other:
            raise ValueError(
                f"The first frames have the {name} {_plain(one)}, the second frames "
                f"{_plain(other)}. Both need the same {name}."
            )
    if first.ndim != 3 or 0 in first.shape[1:]:
        raise ValueError(
            f"The frames have the shape {_plain(first.shape)}. Pass grey frames (B, H, W) with at "
            "least one pixel."
        )
    dtype = _plain(first.dtype)
    if dtype != "uint8" and dtype not in _FLOATS:
        raise ValueError(f"The frames are {dtype}. Pass uint8, or floats between 0 and 1.")
    if dtype != "uint8" and len(first) > 0:
        for frames in (first, second):
            low, high = float(frames.min()), float(frames.max())
            if not (low >= 0 and high <= 1):  # NaN fails both comparisons.
                raise ValueError(
                    f"The frames have values from {low:g} to {high:g}. Scale them to 0 to 1, or "
                    "pass uint8."
                )


def _plain(value: Any) -> Any:
    """Return a shape as a tuple, and other things as the text that NumPy and torch share."""
    return tuple(value) if isinstance(value, tuple) else str(value).removeprefix("torch.")
