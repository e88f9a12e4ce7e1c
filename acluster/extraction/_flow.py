"""Optical flow between gray frames, by the name of the method."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from acluster.extraction._grey import check_frames

OpticalFlow = Callable[[np.ndarray, np.ndarray], np.ndarray]

# The shortest sides that the libraries accept, in pixels.
_MIN_SIZE_DIS = 16
_MIN_SIZE_SKIMAGE = 2


def optical_flow(method: str, device: str = "cpu") -> OpticalFlow:
    """Return the function that computes the optical flow between pairs of gray frames.

    Parameters
    ----------
    method : {"tvl1", "dis", "skimage"}
        "tvl1" is :func:`tv_l1`. "dis" is OpenCV's dense inverse search with its medium
        preset; choose it when speed counts. "skimage" is the TV-L1 of scikit-image, for
        comparisons with "tvl1". "dis" and "skimage" need the extra ``flow``.

    device : str, default="cpu"
        Where "tvl1" is computed, such as "cuda", or "auto" for a GPU if there is one. The others
        use the CPU.

    Returns
    -------
    callable
        A function of the first and of the second frames, both arrays (B, H, W), uint8 or floats
        between 0 and 1. It returns a float32 array (B, H, W, 2): the displacement (u, v) of every
        pixel of the first frame, in pixels, to the right and down.

    Raises
    ------
    ValueError
        If `method` is unknown, or the device is not available or not the CPU for another method.
        The function raises it for frames of another form.
    ImportError
        If the package for the method is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.extraction import optical_flow
    >>> y, x = np.mgrid[:32, :32]
    >>> first = 0.5 + 0.25 * (np.sin(x / 3) + np.sin(y / 3))
    >>> second = 0.5 + 0.25 * (np.sin((x - 0.5) / 3) + np.sin(y / 3))  # 0.5 pixels to the right
    >>> flow = optical_flow("tvl1")(first[None], second[None])
    >>> flow.shape
    (1, 32, 32, 2)
    >>> u, v = flow[0, 16, 16]
    >>> print(f"{u:.1f} {v:.1f}")
    0.5 0.0
    """
    if method not in _METHODS:
        names = ", ".join(f'"{name}"' for name in _METHODS)
        raise ValueError(f"There is no optical flow method {method!r}. Choose one of {names}.")
    device = flow_device(method, device)
    pairwise = _tv_l1(device) if method == "tvl1" else _METHODS[method]()

    def flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        first, second = np.asarray(first), np.asarray(second)
        check_frames(first, second)
        return pairwise(first, second)

    return flow


def flow_device(method: str, device: str) -> str:
    """Return the name of the device that a method computes on.

    Parameters
    ----------
    method, device : str
        As for `optical_flow`.

    Returns
    -------
    str
        The name in torch.

    Raises
    ------
    ValueError
        If the method needs the CPU, or this machine has no such device.
    """
    if device == "cpu":  # without the seconds that importing torch takes
        return device
    if method != "tvl1":
        raise ValueError(
            f"The optical flow method {method!r} is computed on the CPU only; got "
            f"device={device!r}. Leave the device out, or choose method='tvl1'."
        )
    from acluster.training import resolve_device

    return str(resolve_device(device))


def _tv_l1(device: str = "cpu") -> OpticalFlow:
    # torch takes seconds to import, and processes that compute another flow do not need it.
    torch = importlib.import_module("torch")
    tv_l1 = importlib.import_module("acluster.extraction._tv_l1").tv_l1

    def flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        # A copy, because torch takes neither read-only arrays nor negative strides.
        dtype = np.uint8 if first.dtype == np.uint8 else np.float32
        frames = (torch.from_numpy(np.array(one, dtype)).to(device) for one in (first, second))
        return tv_l1(*frames).cpu().numpy()

    return flow


def _dis() -> OpticalFlow:
    cv2 = _package("cv2", "dis", "OpenCV")

    def of_pair(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        # Small frames change the settings of the object, so every pair needs a new one.
        search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        return search.calc(_bytes(first), _bytes(second), None)

    return _each_pair(of_pair, _MIN_SIZE_DIS)


def _skimage() -> OpticalFlow:
    registration = _package("skimage.registration", "skimage", "scikit-image")

    def of_pair(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        v, u = registration.optical_flow_tvl1(first, second, dtype=np.float32)
        return np.stack([u, v], axis=-1)

    return _each_pair(of_pair, _MIN_SIZE_SKIMAGE)


_METHODS = {"tvl1": _tv_l1, "dis": _dis, "skimage": _skimage}
FLOW_METHODS = tuple(_METHODS)


def _package(module: str, method: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'The optical flow method "{method}" needs {name}: pip install acluster[flow] '
            f"({error})."
        ) from error


def _each_pair(of_pair: OpticalFlow, min_size: int) -> OpticalFlow:
    """Apply the flow of a pair (H, W) to stacks; repeat the edges of frames that are too small."""

    def flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        result = np.empty((*first.shape, 2), np.float32)
        height, width = first.shape[1:]
        missing = [(0, max(0, min_size - size)) for size in (height, width)]
        for i in range(len(first)):
            pair = (np.pad(frames[i], missing, mode="edge") for frames in (first, second))
            result[i] = of_pair(*pair)[:height, :width]
        return result

    return flow


def _bytes(frame: np.ndarray) -> np.ndarray:
    """Return a frame as contiguous uint8, the only type that OpenCV's search accepts."""
    if frame.dtype != np.uint8:
        frame = np.round(frame * 255).astype(np.uint8)
    return np.ascontiguousarray(frame)
