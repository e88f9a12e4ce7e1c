"""TV-L1 optical flow in torch, for any device.

TV-L1 (Zach, Pock and Bischof, 2007) looks for the flow f that minimizes, over all pixels, the sum
of |∇f| and of `attachment` times the absolute difference between the first frame and the second
frame warped by f. It alternates between an auxiliary flow close to f, which lowers the difference
(the thresholding step), and f, the auxiliary flow smoothed (the dual steps). The flow of smaller
copies of the frames comes first, so that large motion is found.

Tensors here are frames (B, H, W), flows (B, 2, H, W) with the components u and v, and dual
variables p (B, 2, 2, H, W): the direction, x or y, comes before the component.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from acluster.extraction._grey import check_frames

_MIN_SIZE = 16  # of the sides of halved frames, in pixels
_MAX_LEVELS = 10
_BLUR = 2 / 3  # standard deviation of the filter before a frame is halved, in pixels
_N_DUAL_STEPS = 2
_DUAL_STEP_SIZE = 0.25
# The tensors for this many pixels fit into the last cache of a processor; fewer pixels would make
# the overhead of torch's operations count. Elsewhere, the limit is about 1 GB of memory.
_PIXELS_AT_A_TIME = {"cpu": 1 << 17}
_PIXELS_AT_A_TIME_ELSEWHERE = 1 << 23


@dataclass(frozen=True)
class _Settings:
    """The parameters of `tv_l1`."""

    attachment: float
    tightness: float
    n_warps: int
    n_iterations: int
    tol: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (value > 0 or (name == "tol" and value == 0)):
                raise ValueError(f"{name} is {value}. It has to be positive.")


@torch.no_grad()
def tv_l1(
    first: Tensor,
    second: Tensor,
    *,
    attachment: float = 15.0,
    tightness: float = 0.3,
    n_warps: int = 5,
    n_iterations: int = 10,
    tol: float = 1e-4,
) -> Tensor:
    """Compute the TV-L1 optical flow between pairs of gray frames.

    The algorithm and the defaults are those of ``skimage.registration.optical_flow_tvl1``.
    Pairs do not influence each other. Equal frames have a flow of zero.

    Motion by many pixels is found on smaller copies of the frames. Frames whose shorter side has
    at most 32 pixels have no such copies, so their flow is right for motion by about a pixel only.
    Along a side of one pixel there is no motion.

    Parameters
    ----------
    first, second : Tensor of shape (B, H, W)
        Gray frames on one device: uint8, or floats between 0 and 1. float64 is computed in
        float64, all others in float32.
    attachment : float, default=15
        Weight of the difference between the frames. Decrease it for a smoother flow.
    tightness : float, default=0.3
        How far the smoothed flow may be from the one that matches the frames.
    n_warps : int, default=5
        How often, at most, the second frame is warped by the flow, at each size.
    n_iterations : int, default=10
        Iterations after each warp.
    tol : float, default=1e-4
        A pair is not warped again at a size once the mean squared change of its flow is smaller,
        in square pixels. With 0, there are always `n_warps` warps.

    Returns
    -------
    flow : Tensor of shape (B, H, W, 2)
        The displacement (u, v) of every pixel of the first frame, in pixels, to the right and
        down, on the device of the frames.

    Raises
    ------
    ValueError
        If the two stacks differ in shape, dtype or device, if they are not gray frames with at
        least one pixel or have values outside 0 to 1, or if a parameter is not positive.

    References
    ----------
    C. Zach, T. Pock and H. Bischof, "A duality based approach for realtime TV-L1 optical flow",
    DAGM 2007.

    Examples
    --------
    >>> import torch
    >>> from acluster.extraction import tv_l1
    >>> x = torch.arange(64)
    >>> first = (x / 5).sin().expand(1, 48, 64) / 2 + 0.5
    >>> second = ((x - 2) / 5).sin().expand(1, 48, 64) / 2 + 0.5  # 2 pixels to the right
    >>> flow = tv_l1(first, second)
    >>> flow.shape
    torch.Size([1, 48, 64, 2])
    >>> flow[0, 24, 32].round(decimals=1)
    tensor([2., 0.])
    """
    settings = _Settings(attachment, tightness, n_warps, n_iterations, tol)
    check_frames(first, second)
    n_pairs, height, width = first.shape
    dtype = torch.float64 if first.dtype == torch.float64 else torch.float32
    result = torch.zeros(n_pairs, height, width, 2, dtype=dtype, device=first.device)
    n_pixels = _PIXELS_AT_A_TIME.get(first.device.type, _PIXELS_AT_A_TIME_ELSEWHERE)
    n_at_a_time = max(1, n_pixels // (height * width))
    for start in range(0, n_pairs, n_at_a_time):
        part = slice(start, start + n_at_a_time)
        flow = _coarse_to_fine(_unit(first[part], dtype), _unit(second[part], dtype), settings)
        result[part] = flow.movedim(1, -1)
    return result


def _unit(frames: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert frames to floats between 0 and 1."""
    scale = 255 if frames.dtype == torch.uint8 else 1
    return frames.to(dtype) / scale


def _coarse_to_fine(first: Tensor, second: Tensor, settings: _Settings) -> Tensor:
    """Return the flow (B, 2, H, W): solve on the smallest copies of the frames, then on larger."""
    pyramid = [(first, second)]
    while min(pyramid[-1][0].shape[1:]) > 2 * _MIN_SIZE and len(pyramid) < _MAX_LEVELS:
        pyramid.append((_halve(pyramid[-1][0]), _halve(pyramid[-1][1])))
    first, second = pyramid.pop()
    flow = first.new_zeros(len(first), 2, *first.shape[1:])
    flow = _solve(first, second, flow, settings)
    while pyramid:
        first, second = pyramid.pop()
        flow = _solve(first, second, _enlarge(flow, *first.shape[1:]), settings)
    return flow


def _halve(frames: Tensor) -> Tensor:
    """Blur frames (B, H, W) with a Gaussian filter and halve their sides, rounded up."""
    radius = round(4 * _BLUR)
    weights = [math.exp(-0.5 * (i / _BLUR) ** 2) for i in range(-radius, radius + 1)]
    for axis in (1, 2):
        # A frame continues beyond its edges with its mirror image.
        size = frames.shape[axis]
        around = [*range(radius - 1, -1, -1), *range(size), *range(size - 1, size - 1 - radius, -1)]
        padded = frames.index_select(axis, torch.tensor(around, device=frames.device))
        shifted = [padded.narrow(axis, i, size) for i in range(2 * radius + 1)]
        frames = torch.zeros_like(frames)
        for weight, one in zip(weights, shifted, strict=True):
            frames.add_(one, alpha=weight / sum(weights))
    shape = [-(-size // 2) for size in frames.shape[1:]]
    return functional.interpolate(frames[:, None], shape, mode="bilinear")[:, 0]


def _enlarge(flow: Tensor, height: int, width: int) -> Tensor:
    """Scale the flow (B, 2, h, w) of smaller frames to larger ones, by the nearest neighbor."""
    scales = [width / flow.shape[3], height / flow.shape[2]]
    for axis, size in ((2, height), (3, width)):
        step = (flow.shape[axis] - 1) / max(size - 1, 1)
        nearest = np.floor(np.arange(size) * step + 0.5).astype(np.int64)
        flow = flow.index_select(axis, torch.from_numpy(nearest).to(flow.device))
    return flow * torch.tensor(scales, dtype=flow.dtype, device=flow.device)[:, None, None]


def _solve(first: Tensor, second: Tensor, flow: Tensor, settings: _Settings) -> Tensor:
    """Improve the flow between frames of one size until it hardly changes, pair by pair."""
    result = flow.clone()
    active = torch.arange(len(flow), device=flow.device)
    state = _State(flow, flow.new_zeros(len(flow), 2, *flow.shape[1:]))
    for _ in range(settings.n_warps):
        change = _one_warp(first, second, state, settings)
        result[active] = state.flow
        moving = change >= settings.tol
        if not moving.any():
            break
        if not moving.all():
            first, second, active = first[moving], second[moving], active[moving]
            state = _State(state.flow[moving], state.dual[moving])
    return result


def _one_warp(first: Tensor, second: Tensor, state: "_State", settings: _Settings) -> Tensor:
    """Warp the second frames and iterate; return the mean squared change of the flow of each pair.

    As in scikit-image, the change starts from the auxiliary flow of the first iteration.
    """
    warped = _warp(second, state.flow)
    gradient = torch.stack([_derivative(warped, 2), _derivative(warped, 1)], 1)
    squares = gradient.square().sum(1, keepdim=True)
    squares[squares == 0] = 1  # Without a gradient, the flow takes no step anyway.
    # For small changes of the flow f, a step of offset + slope · f gradients makes frames equal.
    slope = gradient / squares
    offset = (warped - first)[:, None] / squares - (slope * state.flow).sum(1, keepdim=True)
    largest = settings.attachment * settings.tightness
    before = state.flow
    for i in range(settings.n_iterations):
        _threshold(state, offset, slope, gradient, largest)
        if i == 0:
            before = state.auxiliary.clone()
        _smooth(state, settings.tightness)
    return (before - state.flow).square().flatten(1).sum(1) / first[0].numel()


def _warp(frames: Tensor, flow: Tensor) -> Tensor:
    """Interpolate frames bilinearly at the places to which the flow leads, or the nearest inside.

    `grid_sample` would take places between -1 and 1, whose rounding gives equal frames a flow.
    """
    height, width = frames.shape[1:]
    x, y = (torch.arange(n, dtype=flow.dtype, device=flow.device) for n in (width, height))
    x = (flow[:, 0] + x).clamp_(0, width - 1)
    y = (flow[:, 1] + y[:, None]).clamp_(0, height - 1)
    left, top = x.long(), y.long()
    right, bottom = (left + 1).clamp_(max=width - 1), (top + 1).clamp_(max=height - 1)
    x.frac_()
    y.frac_()
    pixels = frames.flatten(1)

    def at(row: Tensor, column: Tensor) -> Tensor:
        return pixels.gather(1, (row * width + column).flatten(1)).view_as(frames)

    upper = torch.lerp(at(top, left), at(top, right), x)
    lower = torch.lerp(at(bottom, left), at(bottom, right), x)
    return torch.lerp(upper, lower, y)


def _derivative(frames: Tensor, axis: int) -> Tensor:
    """Return central differences, one-sided at the edges; 0 along a side of one pixel."""
    if frames.shape[axis] == 1:
        return torch.zeros_like(frames)
    return torch.gradient(frames, dim=axis)[0]


class _State:
    """The flow and the dual variables of pairs of frames, which all iterations change in place.

    It also holds scratch memory, which is slow to allocate anew, and views, whose creation in
    every iteration would take a third of the time of small frames.
    """

    def __init__(self, flow: Tensor, dual: Tensor) -> None:
        self.flow, self.dual = flow, dual
        self.auxiliary = torch.empty_like(flow)
        self.step = torch.empty_like(flow[:, :1])
        self.derivatives = torch.zeros_like(dual)
        self.norm = torch.empty_like(dual[:, :1])
        self.one = flow.new_ones(())
        self.flow_u, self.flow_v = flow[:, :1], flow[:, 1:]
        self.dual_x, self.dual_y = dual[:, 0], dual[:, 1]
        self.derivative_x, self.derivative_y = self.derivatives[:, :1], self.derivatives[:, 1:]
        # For differences: everything but the last column or row, and but the first.
        self.flow_sides = _sides(flow)
        self.auxiliary_sides = _sides(self.auxiliary)
        self.left_dual_x, self.upper_dual_y = self.dual_x[..., :-1], self.dual_y[..., :-1, :]
        self.left_derivative_x = self.derivatives[:, 0, ..., :-1]
        self.upper_derivative_y = self.derivatives[:, 1, ..., :-1, :]


def _sides(flow: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a flow without its last column, first column, last row and first row."""
    return flow[..., :-1], flow[..., 1:], flow[..., :-1, :], flow[..., 1:, :]


def _threshold(
    state: _State, offset: Tensor, slope: Tensor, gradient: Tensor, largest: float
) -> None:
    """Set the auxiliary flow to the flow minus a step of at most `largest` gradients.

    The step makes the warped second frame as equal to the first as this length allows.
    """
    step = state.step
    torch.addcmul(offset, slope[:, :1], state.flow_u, out=step)
    step.addcmul_(slope[:, 1:], state.flow_v).clamp_(-largest, largest)
    torch.addcmul(state.flow, step, gradient, value=-1, out=state.auxiliary)


def _smooth(state: _State, tightness: float) -> None:
    """Smooth the auxiliary flow: dual steps, each followed by flow = auxiliary + tightness div p.

    With g the derivatives of the flow, a dual step is p = (p + c g) / (1 + c |g|).
    """
    c = _DUAL_STEP_SIZE / tightness
    flow, dual, norm = state.flow, state.dual, state.norm
    left, right, upper, lower = state.auxiliary_sides  # The flow starts from the auxiliary flow.
    _, flow_right, _, flow_lower = state.flow_sides
    for _ in range(_N_DUAL_STEPS):
        # Forward differences, which stay zero in the last column and row.
        torch.sub(right, left, out=state.left_derivative_x)
        torch.sub(lower, upper, out=state.upper_derivative_y)
        torch.mul(state.derivative_x, state.derivative_x, out=norm)
        norm.addcmul_(state.derivative_y, state.derivative_y).sqrt_()
        torch.add(state.one, norm, alpha=c, out=norm)
        dual.add_(state.derivatives, alpha=c).div_(norm)
        # The divergence takes backward differences, with zero before the first.
        torch.add(state.auxiliary, state.dual_x, alpha=tightness, out=flow)
        flow_right.sub_(state.left_dual_x, alpha=tightness)
        flow.add_(state.dual_y, alpha=tightness)
        flow_lower.sub_(state.upper_dual_y, alpha=tightness)
        left, right, upper, lower = state.flow_sides
