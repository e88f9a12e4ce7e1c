"""Loader for published benchmarks, from local copies."""

import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from acluster import FeatureSets
from acluster.datasets._data_home import get_data_home, invalid_file

# The description of each benchmark.
_BENCHMARKS = {
    "musk1": (
        "Musk 1: molecules (items) as sets of conformations; the class tells whether it is a musk. "
        "Dietterich, Lathrop and Lozano-Perez, 1997; UCI machine learning repository (CC BY 4.0)."
    ),
    "elephant": (
        "Elephant: images (items) as sets of segments; the class tells whether it shows an "
        "elephant. Andrews, Tsochantaridis and Hofmann, 2003."
    ),
    "birds_winter_wren": (
        "Birds, winter wren: recordings (items) as sets of segments of the spectrogram; the class "
        "tells whether a winter wren sings. Briggs et al., 2012."
    ),
    "japanese_vowels": (
        "Japanese vowels: utterances (items) as sets of frames of cepstrum coefficients; the "
        "class is the speaker, one of nine men. Kudo, Toyama and Shimbo, 1999; UCI machine "
        "learning repository (CC BY 4.0)."
    ),
    "tiger": (
        "Tiger: images (items) as sets of segments; the class tells whether it shows a tiger. "
        "Andrews, Tsochantaridis and Hofmann, 2003."
    ),
    "fox": (
        "Fox: images (items) as sets of segments; the class tells whether it shows a fox. "
        "Andrews, Tsochantaridis and Hofmann, 2003."
    ),
    "newsgroups2": (
        "Newsgroups, topic 2: collections (items) as sets of posts; the class tells whether some "
        "of them are about the topic. Zhou, Sun and Li, 2009."
    ),
    "colon": (
        "Colon: histology images (items) as sets of patches with statistics of their colors; the "
        "class tells whether the image shows malignant tissue. Sirinukunwattana et al., 2016."
    ),
    "msr_action3d": (
        "MSR-Action3D: clips (items) as sets of frames of a skeleton; the class is the action, one "
        "of twenty. Li, Zhang and Liu, 2010."
    ),
}
# Each benchmark is in the file `<folder>/<name>.npz`.
_FOLDERS = {
    "sets": ("tiger", "fox", "newsgroups2", "colon", "msr_action3d"),
    "mil": ("musk1", "elephant", "birds_winter_wren"),
    "japanese_vowels": ("japanese_vowels",),
}
# What numpy, zipfile and zlib raise for damaged archives, and for files of another kind.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, ArithmeticError, EOFError, LookupError, NotImplementedError,
    SyntaxError, TypeError, ValueError,
)  # fmt: skip
_PATHS = {name: Path(folder, f"{name}.npz") for folder in _FOLDERS for name in _FOLDERS[folder]}


def load_benchmark(name: str, *, data_home: str | os.PathLike[str] | None = None) -> Bunch:
    """Load a published benchmark with its splits.

    Parameters
    ----------
    name : {"musk1", "elephant", "birds_winter_wren", "japanese_vowels", "tiger", "fox", \
            "newsgroups2", "colon", "msr_action3d"}
        The benchmark. It is read from ``<folder>/<name>.npz`` in the data home, where the folder
        is ``mil``, ``japanese_vowels`` or, for the last five, ``sets``. The file contains the
        arrays ``X`` (the local features of all items), ``lengths`` (their number per item) and
        ``y``. The splits are in ``train_folds``, packed with :func:`numpy.packbits` along the
        items, in the booleans ``is_train``, or in ``folds``, where a row has 1 for a training item
        and 2 for a test item and belongs to the repetition that ``rep`` gives.

    data_home : str or path-like, default=None
        See :func:`get_data_home`.

    Returns
    -------
    benchmark : Bunch
        With the fields

        data : FeatureSets
            The n_items sets. If the file has ``places``, the row and the column of each local
            feature in its image, they are its places "x" (the column) and "y" (the row).
        target : ndarray, shape (n_items,)
            The class of each item.
        DESCR : str
            Description and source of the data.
        groups : ndarray of int, shape (n_items,)
            The subject of each item, if the file has ``subject``.
        n_nuclei : ndarray of int, shape (R,)
            The number of nuclei in each local feature, in the order of ``data.packed()``, if the
            file has it: the truth for maps of the attention.
        folds : list of list of tuple (train indices, test indices)
            ``folds[repetition][fold]``, if the benchmark uses repeated cross-validation.
        train_indices, test_indices : ndarray of int
            The training and test items, if the benchmark has a fixed test set.

    Raises
    ------
    ValueError
        If `name` is unknown, or the file is not valid.
    FileNotFoundError
        If the file is not in the data home.

    Notes
    -----
    The items are sorted by class. Shuffle them before you split them in another way.

    Examples
    --------
    >>> from acluster.datasets import load_benchmark
    >>> vowels = load_benchmark("japanese_vowels")  # doctest: +SKIP
    >>> vowels.data[vowels.train_indices]  # doctest: +SKIP
    FeatureSets(n_items=270, n_features=12, lengths=7..26, dtype=float32)
    """
    if name not in _BENCHMARKS:
        raise ValueError(f"name={name!r} is unknown; choose one of {', '.join(_BENCHMARKS)}.")
    path = get_data_home(data_home) / _PATHS[name]
    arrays = read_arrays(path, ["X", "lengths", "y"])
    places = None
    if "places" in arrays:
        if arrays["places"].shape != (len(arrays["X"]), 2):
            raise invalid_file(
                path, f"has places of shape {arrays['places'].shape}, not one row and column each"
            )
        places = {"x": arrays["places"][:, 1], "y": arrays["places"][:, 0]}
    offsets = np.cumsum([0, *arrays["lengths"]])
    optional = {"groups": "subject", "n_nuclei": "n_nuclei"}
    return Bunch(
        data=FeatureSets(arrays["X"], offsets, places=places),
        target=arrays["y"],
        DESCR=_BENCHMARKS[name],
        **{field: arrays[array] for field, array in optional.items() if array in arrays},
        **_splits(arrays),
    )


def read_arrays(path: Path, required: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Read all arrays of an npz file and check that the required ones exist.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file cannot be read or an array is missing.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist. Put the file there, or set ACLUSTER_DATA or data_home to the "
            f"folder that contains {path.parent.name}/{path.name}."
        )
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive)
    except _DAMAGE as error:
        raise invalid_file(path, f"cannot be read: {error}") from error
    if missing := [name for name in required if name not in arrays]:
        raise invalid_file(path, f"has the arrays {sorted(arrays)}, but not {missing}")
    return arrays


def _splits(arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    splits: dict[str, Any] = {}
    if "train_folds" in arrays:
        n_items = len(arrays["y"])
        is_train = np.unpackbits(arrays["train_folds"], axis=-1)[..., :n_items].astype(bool)
        splits["folds"] = [[_indices(fold) for fold in repetition] for repetition in is_train]
    if "folds" in arrays and len(arrays["folds"]) == 1:
        arrays["is_train"] = arrays["folds"][0] == 1
    elif "folds" in arrays:
        splits["folds"] = [
            [_indices(fold == 1) for fold in arrays["folds"][arrays["rep"] == repetition]]
            for repetition in np.unique(arrays["rep"])
        ]
    if "is_train" in arrays:
        splits["train_indices"], splits["test_indices"] = _indices(arrays["is_train"])
    return splits


def _indices(is_train: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.flatnonzero(is_train), np.flatnonzero(~is_train)
