"""Extract the features of some files in memory, as a description says."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster._utils._progress import progress
from acluster.extraction._assembly import (
    AHEAD_BYTES,
    assembled,
    batches_of,
    completed,
    default_workers,
)
from acluster.extraction._backbones import describe_all, extractor_of, is_same_extraction
from acluster.extraction._batches import Extractor
from acluster.extraction._reading import ReadAhead
from acluster.extraction._rebuild import fail, rebuilt
from acluster.extraction._view import View
from acluster.sets import FeatureSets, MultimodalFeatureSets, narrowed, with_extraction

_Features = tuple[dict[str, NDArray[Any]], dict[str, dict[str, NDArray[Any]]]]


def extract_features(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    extraction: Mapping[str, Any],
    *,
    trust: bool = False,
    device: str = "auto",
    batch_size: int = 64,
    n_workers: int | None = None,
    ahead_bytes: int = AHEAD_BYTES,
    dtype: str = "float16",
) -> MultimodalFeatureSets:
    """Extract the local features of one or some files in memory, as those of a model.

    The results equal those that `extract` writes with the same `batch_size` and `dtype`.

    Parameters
    ----------
    paths : str, path, or sequence of them
        The files.

    extraction : dict of str to dict, or to (view, backbone)
        How the features of each modality are extracted: the description in the attribute
        `extraction_` of a classifier, or `extraction` of its sets. A value may instead be a view
        and a backbone, as for `extract`.

    trust : bool, default=False
        Whether a description may name classes and functions that are not acluster's. They are
        imported, and so run code. Set it only if you trust the origin of the description.

    device : str, default="auto"
        The device of backbones that are torch modules. "auto" is a GPU if there is one.

    batch_size : int, default=64
        The number of rows that a backbone is given at a time, of one file or of several.

    n_workers : int, optional
        The number of threads that read files. By default one per processor, 8 at most.

    ahead_bytes : int, default=2**28
        The size of what may have been read and not yet passed to a backbone.

    dtype : {"float16", "float32"}, default="float16"
        The dtype of the features.

    Returns
    -------
    MultimodalFeatureSets
        One item per file, with its places. A modality that all files lack is left out.

    Raises
    ------
    ValueError
        If a file cannot be read or has none of the modalities. Also if a view or a backbone cannot
        be made from its description, is not trusted, or is not what the description says.

    Warns
    -----
    UserWarning
        If a file has faults, such as damaged packets.

    See Also
    --------
    extract : Extract a folder of files to a store.

    Examples
    --------
    >>> import tempfile, wave
    >>> import numpy as np
    >>> from acluster.extraction import Waveforms, extract_features
    >>> def spectrum(batch):
    ...     return np.abs(np.fft.rfft(batch))[:, :500]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with wave.open(f"{folder}/tone.wav", "wb") as file:
    ...         file.setparams((1, 2, 16000, 0, "NONE", ""))
    ...         samples = 9000 * np.sin(np.arange(16000) / 16000 * 2 * np.pi * 220)
    ...         file.writeframes(samples.astype("<i2").tobytes())
    ...     view = Waveforms(seconds=0.25)
    ...     X = extract_features(f"{folder}/tone.wav", {"audio": (view, spectrum)})
    >>> X
    MultimodalFeatureSets(n_items=1, audio: 4..4 x 500 float16)
    >>> X["audio"].places[0].ravel()
    array([0.  , 0.25, 0.5 , 0.75])
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not given:
        raise ValueError("paths is empty. Pass at least one file.")
    for path in given:
        if not os.path.isfile(path):
            raise FileNotFoundError(f"There is no file at {os.fspath(path)!r}.")
    files = {f"{number}: {os.fspath(path)}": Path(path) for number, path in enumerate(given)}
    [(_, X)] = extracted_parts(
        files,
        extraction,
        len(files),
        trust=trust,
        device=device,
        batch_size=batch_size,
        n_workers=n_workers,
        ahead_bytes=ahead_bytes,
        dtype=dtype,
    )
    return X


def extracted_parts(
    files: Mapping[str, Path],
    extraction: Mapping[str, Any],
    n_items: int,
    *,
    failed: dict[str, str] | None = None,
    trust: bool = False,
    device: str = "auto",
    batch_size: int = 64,
    n_workers: int | None = None,
    ahead_bytes: int = AHEAD_BYTES,
    dtype: str = "float16",
) -> Iterator[tuple[list[str], MultimodalFeatureSets]]:
    """Extract the features of files in memory, a number of items at a time.

    Parameters
    ----------
    files : dict of str to path
        The file of each item.

    extraction : dict
        As for `extract_features`, like the parameters that are not listed here.

    n_items : int
        The number of items of every part but the last.

    failed : dict of str to str, optional
        The reasons why files cannot be read are added to it. By default they are raised.

    Yields
    ------
    ids : list of str
        The items of a part, in the order of the files.

    X : MultimodalFeatureSets
        Their features.
    """
    views = rebuilt(extraction, trust=trust)
    extractors = {name: _loaded(name, backbone, device) for name, (_, backbone) in views.items()}
    description = _kept(extraction, views, describe_all(views, extractors))
    readers = {name: view for name, (view, _) in views.items()}
    part: dict[str, _Features] = {}
    n_workers = n_workers or default_workers()
    with ReadAhead(files, readers, n_workers, ahead_bytes, is_tolerant=False) as reader:
        batches = batches_of(extractors, batch_size, reader)
        readings = progress(reader, "files", len(reader))
        for item, reading in completed(readings, reader, batches):
            for text in reading.warnings:
                warnings.warn(f"{reading.path}: {text}", stacklevel=3)
            try:
                part[item.id] = _checked(assembled(item, reading), reading.path, dtype)
            except (ValueError, OSError) as error:
                if failed is None:
                    raise
                failed[item.id] = str(error)
            if len(part) == n_items:
                yield [*part], _as_sets([*part.values()], description)
                part = {}
    if part:
        yield [*part], _as_sets([*part.values()], description)


def _loaded(name: str, backbone: Any, device: str) -> Extractor:
    """Return the feature extractor of a modality; a name may be that of nothing here."""
    try:
        return extractor_of(backbone, device)
    except (ImportError, AttributeError, ValueError) as error:
        fail(name, f"the backbone {backbone!r:.100} cannot be loaded: {error!s:.200}")


def _kept(
    extraction: Mapping[str, Any],
    views: Mapping[str, tuple[View, Any]],
    description: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the descriptions that were given, if what has been made from them is the same.

    A model compares them with its own. They may lack settings that a view has got since.
    """
    kept = dict(description)
    for name, own in extraction.items():
        if isinstance(own, tuple):
            continue
        if not is_same_extraction(views[name][0], description[name], own):
            raise ValueError(
                f"In modality {name!r:.80}: the description is {own!r:.300}, but what was made "
                f"from it is {description[name]!r:.300}. Another version of a package may have "
                "changed it. Extract the files to a store, and fit again."
            )
        kept[name] = own
    return kept


def _checked(found: _Features, path: Path, dtype: str) -> _Features:
    """Convert the features of a file, as a store does."""
    features, places = found
    converted = {}
    for name, values in features.items():
        title = f"The modality {name!r} of {path}"
        converted[name] = narrowed(values, np.dtype(dtype), title, may_round=True)
    return converted, places


def _as_sets(items: Sequence[_Features], description: Mapping[str, Any]) -> MultimodalFeatureSets:
    modalities = {}
    for name, own in description.items():
        arrays = [features.get(name) for features, _ in items]
        first = next((x for x in arrays if x is not None), None)
        if first is None:
            continue
        places = [places.get(name) for _, places in items]
        sets = FeatureSets.from_arrays(
            [first[:0] if x is None else x for x in arrays], places=places if any(places) else None
        )
        modalities[name] = with_extraction(sets, own)
    return MultimodalFeatureSets(modalities)
