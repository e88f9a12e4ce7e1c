"""Loader for UTD-MHAD, actions recorded by three sensors."""

import os

import numpy as np
from sklearn.utils import Bunch

from acluster import FeatureSets, MultimodalFeatureSets
from acluster.datasets._benchmarks import read_arrays
from acluster.datasets._data_home import get_data_home

_SENSORS_FILE = "utd_mhad/utd_mhad.npz"
_DEPTH_FILE = "utd_mhad/utd_mhad_depth.npz"
_TRAINING_SUBJECTS = (1, 3, 5, 7)
_DESCRIPTION = (
    "UTD-MHAD: clips (items) of 27 actions by 8 subjects, each with the joints of the body, the "
    "motion of a wrist or thigh, and a depth video; the class is the action. Chen, Jafari and "
    "Kehtarnavaz, 2015."
)


def load_utd_mhad(*, data_home: str | os.PathLike[str] | None = None) -> Bunch:
    """Load the action clips of UTD-MHAD in three modalities, with the cross-subject split.

    Parameters
    ----------
    data_home : str or path-like, default=None
        See :func:`get_data_home`. The file ``utd_mhad/utd_mhad.npz`` contains the arrays
        ``skeleton`` and ``inertial`` (the local features of all clips), ``skeleton_lengths`` and
        ``inertial_lengths`` (their number per clip), ``y`` and ``subject``. The file
        ``utd_mhad/utd_mhad_depth.npz`` contains ``depth`` (the frames of all clips) and
        ``lengths``.

    Returns
    -------
    utd_mhad : Bunch
        With the fields

        data : MultimodalFeatureSets
            The n_items clips, with the local features in temporal order. The three sensors
            differ in their sampling rates.

            - ``"skeleton"``: x, y and z of 20 joints in meters, joint after joint, 60 columns;
            - ``"inertial"``: acceleration in g and angular velocity in degrees per second
              along three axes, 6 columns;
            - ``"depth"``: frames of 60 x 80 gray levels, row after row, 4,800 columns of uint8.
              The background is 0; on the body, higher levels are farther away.
        target : ndarray of int, shape (n_items,)
            The action of each clip, 0 to 26.
        subject : ndarray of int, shape (n_items,)
            The subject who performs it, 1 to 8.
        train_indices, test_indices : ndarray of int
            The clips of subjects 1, 3, 5 and 7, and those of the other subjects.
        DESCR : str
            Description and source of the data.

    Raises
    ------
    ValueError
        If a file cannot be read, an array is missing, or the two files differ in their number
        of clips.
    FileNotFoundError
        If a file is not in the data home.

    Notes
    -----
    Select hyperparameters on the training clips with leave-one-subject-out cross-validation:
    clips of the same person are more similar than those of different people.

    Examples
    --------
    >>> from acluster.datasets import load_utd_mhad
    >>> actions = load_utd_mhad()  # doctest: +SKIP
    >>> actions.data["skeleton"][actions.train_indices]  # doctest: +SKIP
    FeatureSets(n_items=431, n_features=60, lengths=41..125, dtype=float32)
    """
    home = get_data_home(data_home)
    required = ["skeleton", "skeleton_lengths", "inertial", "inertial_lengths", "y", "subject"]
    arrays = read_arrays(home / _SENSORS_FILE, required)
    depth = read_arrays(home / _DEPTH_FILE, ["depth", "lengths"])
    n_items, n_videos = len(arrays["y"]), len(depth["lengths"])
    if n_items != n_videos:
        raise ValueError(
            f"{home / _SENSORS_FILE} has {n_items} clips, but {home / _DEPTH_FILE} has {n_videos}. "
            "Replace both with the original files."
        )
    is_train = np.isin(arrays["subject"], _TRAINING_SUBJECTS)
    arrays["depth"] = depth["depth"].reshape(len(depth["depth"]), -1)
    arrays["depth_lengths"] = depth["lengths"]
    sets = {
        name: FeatureSets(arrays[name], np.cumsum([0, *arrays[f"{name}_lengths"]]))
        for name in ("skeleton", "inertial", "depth")
    }
    return Bunch(
        data=MultimodalFeatureSets(sets),
        target=arrays["y"],
        subject=arrays["subject"],
        train_indices=np.flatnonzero(is_train),
        test_indices=np.flatnonzero(~is_train),
        DESCR=_DESCRIPTION,
    )
