"""Published sets of local features, read from local copies."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from acluster import FeatureSets
from acluster.datasets._data_home import get_data_home

__all__ = ["load_benchmark", "read_arrays"]

# The file of each benchmark in the data home, and what it is.
_BENCHMARKS = {
    "musk1": (
        "mil/musk1.npz",
        "Musk 1: molecules (items) as sets of conformations; is the molecule musky? "
        "Dietterich, Lathrop and Lozano-Perez, 1997; UCI machine learning repository "
        "(CC BY 4.0).",
    ),
    "elephant": (
        "mil/elephant.npz",
        "Elephant: images (items) as sets of segments; does it show an elephant? "
        "Andrews, Tsochantaridis and Hofmann, 2003.",
    ),
    "birds_winter_wren": (
        "mil/birds_winter_wren.npz",
        "Birds, winter wren: recordings (items) as sets of segments of the spectrogram; is a "
        "winter wren heard? Briggs et al., 2012.",
    ),
    "japanese_vowels": (
        "japanese_vowels/japanese_vowels.npz",
        "Japanese vowels: utterances (items) as sets of frames of cepstrum coefficients; which "
        "of nine men speaks? Kudo, Toyama and Shimbo, 1999; UCI machine learning repository "
        "(CC BY 4.0).",
    ),
}


def load_benchmark(name: str, *, data_home: str | os.PathLike[str] | None = None) -> Bunch:
    """One of the published sets of local features, with its splits.

    Parameters
    ----------
    name : {"musk1", "elephant", "birds_winter_wren", "japanese_vowels"}
        Read from ``mil/<name>.npz``, or ``japanese_vowels/japanese_vowels.npz``, in the data
        home. The file holds the arrays ``X`` (all local features, end to end), ``lengths``
        (of the sets), ``y``, and the splits: ``train_folds``, bits that
        :func:`numpy.packbits` has packed along the items, or the booleans ``is_train``.

    data_home : str or path-like, default=None
        See :func:`get_data_home`.

    Returns
    -------
    benchmark : Bunch
        With the fields

        data : FeatureSets
            The sets, n_items of them.
        target : ndarray, shape (n_items,)
            The class of each.
        DESCR : str
            What the data are, and where they come from.
        folds : list of list of tuple (train indices, test indices)
            ``folds[repetition][fold]``; only where the benchmark has repeated
            cross-validation.
        train_indices, test_indices : ndarray of int
            Only where the benchmark has a fixed test set.

    Raises
    ------
    ValueError
        If there is no such benchmark, or its file lacks an array.
    FileNotFoundError
        If the file is not in the data home.

    Notes
    -----
    The items are stored class by class: shuffle them before splitting in another way.

    Examples
    --------
    >>> from acluster.datasets import load_benchmark
    >>> vowels = load_benchmark("japanese_vowels")  # doctest: +SKIP
    >>> vowels.data[vowels.train_indices]  # doctest: +SKIP
    FeatureSets(n_items=270, n_features=12, lengths=7..26, dtype=float32)
    """
    if name not in _BENCHMARKS:
        raise ValueError(f"There is no benchmark {name!r}; choose one of {', '.join(_BENCHMARKS)}.")
    relative_path, description = _BENCHMARKS[name]
    path = get_data_home(data_home) / relative_path
    arrays = read_arrays(path, ["X", "lengths", "y"])
    offsets = np.concatenate([[0], np.cumsum(arrays["lengths"], dtype=np.int64)])
    return Bunch(
        data=FeatureSets(arrays["X"], offsets),
        target=arrays["y"],
        DESCR=description,
        **_splits(arrays),
    )


def read_arrays(path: Path, required: Sequence[str]) -> dict[str, NDArray[Any]]:
    """All arrays of an npz file, which has those that are required.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it cannot be read, or lacks an array.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there. Put the file there, or set ACLUSTER_DATA or data_home to the "
            f"folder that has {path.parent.name}/{path.name}."
        )
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} cannot be read: {error}. Replace it by the original file."
        ) from error
    missing = [name for name in required if name not in arrays]
    if missing:
        raise ValueError(
            f"{path} has the arrays {sorted(arrays)}, but lacks {missing}. Replace it by the "
            "original file."
        )
    return arrays


def _splits(arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    splits: dict[str, Any] = {}
    if "train_folds" in arrays:
        n_items = len(arrays["y"])
        is_train = np.unpackbits(arrays["train_folds"], axis=-1)[..., :n_items].astype(bool)
        splits["folds"] = [[_indices(fold) for fold in repetition] for repetition in is_train]
    if "is_train" in arrays:
        splits["train_indices"], splits["test_indices"] = _indices(arrays["is_train"])
    return splits


def _indices(is_train: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.flatnonzero(is_train), np.flatnonzero(~is_train)
