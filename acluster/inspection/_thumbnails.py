"""Images of local features, or below a map."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def check_image(image: NDArray[Any]) -> None:
    """Raise a ValueError unless matplotlib can draw the array as an image."""
    is_image = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
    if not is_image or not image.size or image.dtype.kind not in "biuf":
        remedy = ""
        if image.ndim == 3 and image.shape[0] in (3, 4):
            remedy = " Move the channels last: np.moveaxis(image, 0, -1)."
        raise ValueError(
            "A thumbnail must be an array of numbers of shape (height, width) or (height, width, 3 "
            f"or 4); got {image.dtype} of shape {image.shape}.{remedy}"
        )
    if image.ndim == 3:
        highest = 1 if image.dtype.kind == "f" else 255
        if np.nanmin(image) < 0 or np.nanmax(image) > highest * (1 + 1e-3):
            raise ValueError(
                f"A color thumbnail has values from {np.nanmin(image):g} to {np.nanmax(image):g}; "
                f"they must be from 0 to {highest} for {image.dtype}. Rescale or convert it."
            )


def gray_limits(images: Sequence[NDArray[Any]]) -> dict[str, float]:
    """Return the limits that all gray images share, as arguments of ``imshow``."""
    grays = [image.ravel() for image in images if image.ndim == 2]
    if not grays:
        return {}
    values = np.concatenate(grays)
    return {"vmin": float(np.nanmin(values)), "vmax": float(np.nanmax(values))}
