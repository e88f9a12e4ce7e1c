"""Extract local features from the three sensors of UTD-MHAD.

Each function takes the raw rows of one clip, in their order in time, and returns one row per local
feature. An attention cluster ignores the order of local features, so each of them also describes
the motion around its moment.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import gaussian_filter1d

HIP, NECK = 3, 1  # joint numbers of the skeleton


def skeleton_features(rows):
    """Return joint positions and their changes over 4, 12 and 24 frames, for every frame.

    Positions are relative to the hip in the first frame, in units of the torso's length.
    """
    joints = gaussian_filter1d(rows.reshape(-1, 20, 3), 1, axis=0, mode="nearest")
    torso = np.median(np.linalg.norm(joints[:, NECK] - joints[:, HIP], axis=1))
    joints = ((joints - joints[0, HIP]) / torso).reshape(-1, 60)
    return np.concatenate([joints, *(change(joints, n) for n in (2, 6, 12))], axis=1)


def inertial_features(rows):
    """Return the smoothed signal and its statistics, for windows of 60 samples (1.2 s).

    A window starts every 5 samples. It keeps every fourth sample, and the mean, standard
    deviation, minimum and maximum of each axis.
    """
    smooth = gaussian_filter1d(rows, 1.5, axis=0, mode="nearest")
    windows = sliding_window_view(smooth, 60, axis=0)[::5]  # (n_windows, n_axes, n_samples)
    statistics = [windows.mean(2), windows.std(2), windows.min(2), windows.max(2)]
    return np.concatenate([windows[:, :, ::4].reshape(len(windows), -1), *statistics], axis=1)


def depth_features(rows):
    """Return the body's silhouette and relief, and their changes over 2 and 8 frames.

    Images are centered on the body, averaged over cells of 4 x 4 pixels, and relative to the
    clip's median frame.
    """
    frames = rows.reshape(-1, 60, 80).astype(np.float32)
    body = frames > 0
    middle = np.average(np.arange(80), weights=body.sum((0, 1)))
    relief = np.where(body, np.clip((np.median(frames[body]) - frames) / 20, -1, 1.5), 0)
    parts = []
    for image in (body.astype(np.float32), relief):
        centered = np.roll(image, 40 - round(middle), axis=2)[:, :, 12:68]
        parts.append(cell_means(centered - np.median(centered, axis=0)))
        parts += [cell_means(np.clip(change(centered, n), -1, 1)) for n in (1, 4)]
    return np.concatenate(parts, axis=1)


def change(frames, n):
    """Return the change from `n` frames before to `n` frames after, clipped to the clip's ends."""
    t = np.arange(len(frames))
    return frames[np.minimum(t + n, len(frames) - 1)] - frames[np.maximum(t - n, 0)]


def cell_means(images):
    """Return the means over cells of 4 x 4 pixels, one row per image."""
    n, height, width = images.shape
    means = images.reshape(n, height // 4, 4, width // 4, 4).mean((2, 4))
    return means.reshape(n, -1)


FEATURES = {"skeleton": skeleton_features, "inertial": inertial_features, "depth": depth_features}
