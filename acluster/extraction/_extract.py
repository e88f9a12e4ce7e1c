"""Extract the local features of many files into a store, and resume where it stopped."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from acluster._utils._progress import progress
from acluster.extraction._assembly import (
    AHEAD_BYTES,
    assembled,
    batches_of,
    completed,
    default_workers,
)
from acluster.extraction._backbones import describe_all, extractor_of, is_same_extraction
from acluster.extraction._batches import Batches
from acluster.extraction._files import media_files
from acluster.extraction._processes import check_workers
from acluster.extraction._reading import ReadAhead
from acluster.extraction._report import ExtractionReport, notes_on_waiting
from acluster.extraction._tables import ItemTable
from acluster.extraction._view import View
from acluster.sets import (
    FeatureSetsWriter,
    MultimodalFeatureSets,
    check_new_names,
    equal_arrays,
    info,
    narrowed,
    notes_on_missing,
    open_feature_sets,
)


def extract(
    root: str | os.PathLike[str],
    store: str | os.PathLike[str],
    views: Mapping[str, tuple[View, Any]],
    *,
    labels: str | Mapping[str, Any] | None = None,
    groups: Mapping[str, Any] | None = None,
    label_names: Sequence[str] | None = None,
    part: tuple[int, int] = (0, 1),
    device: str = "auto",
    batch_size: int = 64,
    n_workers: int | None = None,
    workers: str = "threads",
    seconds_per_file: float | None = None,
    ahead_bytes: int = AHEAD_BYTES,
    on_error: str = "skip",
    retry_failed: bool = False,
    flush_seconds: float = 60.0,
    dtype: str = "float16",
) -> ExtractionReport:
    """Extract the local features of a folder of files into a store.

    Every file becomes an item. Its id is its path relative to `root`. The files are read in
    threads or processes, ahead of the feature extractors, and in the order of their ids. Called
    again, also after the process was killed, it continues with the files that are not in the store.

    Parameters
    ----------
    root : str or path
        A folder of videos, sounds, images or slides, with any subfolders.

    store : str or path
        The store to write or to continue.

    views : dict of str to (view, backbone)
        For each modality of the store, what is read of a file, and the feature extractor that it
        is passed to: a callable or a torch module from a batch (B, ...) to features (B, D), or
        (B, T, D) for T local features per row; or the name of one (see
        `acluster.extraction.load_backbone`).

    labels : "folders" or dict of str to label, optional
        "folders" labels each file with the name of its folder in `root`. A dict has the label of
        each id, or its row of 0 and 1 for several labels.

    groups : dict of str to str or int, optional
        The group of each id, such as its patient or its recording.

    label_names : sequence of str, optional
        The names of the labels, if each file has several.

    part : tuple of (int, int), default=(0, 1)
        Extract only part i of n equal parts, ``(i, n)``, so that several processes can share the
        work. Write each to its own store, and merge the stores. The folder must not change
        meanwhile.

    device : str, default="auto"
        The device of backbones that are torch modules. "auto" is a GPU if there is one.

    batch_size : int, default=64
        The number of rows that a backbone is given at a time, of one file or of several. The last
        bits of the features may depend on where in a batch they are computed, and so on
        interruptions. This is rarer with a multiple of 16, and excluded with 1.

    n_workers : int, optional
        The number of files that are read at a time. By default one per processor, 8 at most.

    workers : {"threads", "processes"}, default="threads"
        What reads the files. Choose "processes" if the report says that the backbones wait for
        files, or if a codec crashes or hangs: the file then fails, and the others are read in a new
        process. The features are the same. A process takes about a second to start. It imports the
        script that calls `extract`, which has to do so under ``if __name__ == "__main__":``, and
        the modules of the views.

    seconds_per_file : float, optional
        A file that takes longer to read fails. It needs ``workers="processes"``, because a thread
        cannot be ended. Time in which a process waits until there is room in `ahead_bytes` does not
        count.

    ahead_bytes : int, default=2**28
        The size of what may have been read and not yet passed to a backbone.

    on_error : {"skip", "raise", "missing"}, default="skip"
        What happens if a file cannot be read. "skip" leaves it out, and writes the reason to the
        table ``STORE.failed.csv``. "missing" does so only if no view can be read: otherwise, the
        others become missing modalities. "raise" stops with the error.

    retry_failed : bool, default=False
        Whether to try files again that are in the table of failures.

    flush_seconds : float, default=60
        How often the store is brought up to date on disk. If the process is killed, about that
        much work is lost.

    dtype : {"float16", "float32"}, default="float16"
        The dtype of the features in the store.

    Returns
    -------
    ExtractionReport
        What has been done, what failed, and where the time went.

    Raises
    ------
    ValueError
        If a parameter is invalid, `root` has no files, or the store was begun with other views,
        backbones or labels. With processes, also if a view cannot be pickled.

    FileNotFoundError
        If `root` does not exist.

    RuntimeError
        If the processes that read cannot be started, as from a script without
        ``if __name__ == "__main__":``.

    Notes
    -----
    A file without a track, or with sound that is silent, lacks the modality. A file that lacks all
    of them fails. Other faults of a file, such as damaged packets, are written to
    ``STORE.warnings.csv`` and are in the report.

    Ctrl-C and SIGTERM write what is complete, and leave a store that can be continued. SIGTERM
    does so in the main thread, unless the program has a handler of its own.

    Examples
    --------
    >>> import tempfile, wave
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from acluster.extraction import Waveforms, extract
    >>> folder = tempfile.TemporaryDirectory()
    >>> for pitch, name in ((220, "low"), (880, "high")):
    ...     path = Path(folder.name, "sounds", name, "tone.wav")
    ...     path.parent.mkdir(parents=True)
    ...     samples = 9000 * np.sin(np.arange(16000) / 16000 * 2 * np.pi * pitch)
    ...     with wave.open(str(path), "wb") as file:
    ...         file.setparams((1, 2, 16000, 0, "NONE", ""))
    ...         file.writeframes(samples.astype("<i2").tobytes())
    >>> def spectrum(batch):
    ...     return np.abs(np.fft.rfft(batch))[:, :500]
    >>> report = extract(
    ...     f"{folder.name}/sounds",
    ...     f"{folder.name}/sounds.zarr",
    ...     {"audio": (Waveforms(seconds=0.1), spectrum)},
    ...     labels="folders",
    ...     dtype="float32",
    ... )
    >>> report.n_items
    2
    >>> folder.cleanup()
    """
    _check_parameters(views, on_error, part, batch_size=batch_size, n_workers=n_workers)
    _check_local(store)
    check_workers(workers, seconds_per_file)
    started = time.perf_counter()
    n_workers = n_workers or default_workers()
    files = media_files(Path(root))
    columns = {"label": _labels_of(files, labels), "group": _checked("groups", groups, files)}
    extractors = {name: extractor_of(backbone, device) for name, (_, backbone) in views.items()}
    description = describe_all(views, extractors)
    attributes = {"extraction": description}
    with (
        _ended_by_sigterm(),
        FeatureSetsWriter(
            store, resume=True, dtype=dtype, attributes=attributes, label_names=label_names
        ) as writer,
    ):
        _check_same_extraction(writer, views, description)
        _check_same_columns(writer, columns)
        extraction = _Extraction(writer, [*views], columns, on_error, flush_seconds)
        todo = extraction.todo(files, part, retry_failed)
        readers = {name: view for name, (view, _) in views.items()}
        is_tolerant = on_error == "missing"
        with ReadAhead(
            todo, readers, n_workers, ahead_bytes, is_tolerant, workers, seconds_per_file
        ) as reader:
            batches = batches_of(extractors, batch_size, reader)
            extraction.run(reader, batches)
        extraction.check_not_empty()
    seconds = extraction.seconds(reader, batches, time.perf_counter() - started)
    return extraction.report(seconds, notes_on_waiting(seconds, n_workers, workers))


class _Extraction:
    """Passes what is read to the backbones, and writes the items once they are complete."""

    def __init__(
        self,
        writer: FeatureSetsWriter,
        names: Sequence[str],
        columns: Mapping[str, Mapping[str, Any] | None],
        on_error: str,
        flush_seconds: float,
    ) -> None:
        self._writer, self._names, self._columns = writer, names, columns
        self._failed = ItemTable(Path(f"{writer.path}.failed.csv"), "error")
        self._warned = ItemTable(Path(f"{writer.path}.warnings.csv"), "warning")
        self._on_error, self._flush_seconds = on_error, flush_seconds
        if not len(writer):  # what an earlier store at this path left behind
            for table in (self._failed, self._warned):
                table.remove({id_ for id_, _ in table.rows})
        self._n_before = len(writer)
        self._seconds_writing = 0.0

    def todo(
        self, files: Mapping[str, Path], part: tuple[int, int], retry_failed: bool
    ) -> dict[str, Path]:
        """Return the files of a part that are neither in the store nor known to fail."""
        i, n_parts = part
        ids = [*files][len(files) * i // n_parts : len(files) * (i + 1) // n_parts]
        if not ids:
            raise ValueError(
                f"part={part} has no files: there are {len(files)} of them. Use fewer parts."
            )
        if retry_failed:
            again = {id_ for id_, _ in self._failed.rows} & set(ids)
            self._failed.remove(again)
            self._warned.remove(again)
        left_out = {*self._writer.id, *dict(self._failed.rows)}
        return {id_: files[id_] for id_ in ids if id_ not in left_out}

    def run(self, reader: ReadAhead, batches: Sequence[Batches]) -> None:
        """Extract all files of a reader."""
        readings = progress(reader, f"{self._writer.path}: items", len(reader))
        flush, flush_seconds = self._writer.flush, self._flush_seconds
        for item, reading in completed(readings, reader, batches, flush, flush_seconds):
            started = time.perf_counter()
            for warning in reading.warnings:
                self._warned.add(item.id, warning)
            try:
                features, places = assembled(item, reading)
                for name, values in features.items():  # one file must not end the run
                    narrowed(values, np.dtype(self._writer.dtype), f"The modality {name!r}", True)
            except (ValueError, OSError) as error:  # others are not the fault of the file
                if self._on_error == "raise":
                    raise
                self._failed.add(item.id, str(error))
            else:
                self._write(item.id, features, places)
            self._seconds_writing += time.perf_counter() - started

    def check_not_empty(self) -> None:
        """Raise a ValueError if there is nothing to write."""
        if not len(self._writer):
            (_, reason), *others = self._failed.rows
            raise ValueError(
                f"None of the {1 + len(others)} files could be read. The reasons are in "
                f"{self._writer.path}.failed.csv. The first one is: {reason}"
            )

    def seconds(
        self, reader: ReadAhead, batches: Sequence[Batches], total: float
    ) -> dict[str, float]:
        """Return the seconds of every stage."""
        return {
            "reading": reader.seconds_read,
            **{own.name: own.seconds for own in batches},
            "writing": self._seconds_writing,
            "waiting": reader.seconds_waited,
            "total": total,
        }

    def report(self, seconds: Mapping[str, float], notes: Sequence[str]) -> ExtractionReport:
        """Return the report with some notes, once the store is complete."""
        X = open_feature_sets(self._writer.path)
        assert isinstance(X, MultimodalFeatureSets)  # every view has a name
        none = np.zeros(len(X))  # a modality that no file has is not in the store
        is_missing = {
            name: (X[name].lengths if name in X.names else none) == 0 for name in self._names
        }
        warnings: dict[str, list[str]] = {}
        for id_, text in self._warned.rows:
            warnings.setdefault(id_, []).append(text)
        return ExtractionReport(
            n_items=len(X),
            n_new=len(X) - self._n_before,
            failed=dict(self._failed.rows),
            warnings=warnings,
            n_missing={name: int(missing.sum()) for name, missing in is_missing.items()},
            seconds=seconds,
            notes=[*notes, *notes_on_missing(is_missing, X.label)],
        )

    def _write(self, id_: str, features: Mapping[str, Any], places: Mapping[str, Any]) -> None:
        own = {name: values[id_] for name, values in self._columns.items() if values is not None}
        self._writer.append(features, id=id_, places=places or None, **own)


def _check_local(store: str | os.PathLike[str]) -> None:
    if "://" in os.fspath(store):
        raise ValueError(
            "store is an address, but the tables of failures and warnings lie in files beside the "
            "store. Extract to a directory, and copy the store to the address with "
            "acluster.save_feature_sets(address, acluster.open_feature_sets(directory))."
        )


def _is_integer(value: Any) -> bool:
    """Whether a value is an integer, of Python or of numpy."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _check_parameters(
    views: Mapping[str, Any], on_error: str, part: tuple[int, int], **numbers: int | None
) -> None:
    if not isinstance(views, Mapping) or not views:
        raise ValueError(
            f"views={views!r} is not a dict of at least one name to a view and a backbone, such as "
            "{'rgb': (Frames(), backbone)}."
        )
    for name, pair in views.items():
        if not isinstance(pair, tuple) or len(pair) != 2 or not hasattr(pair[0], "read"):
            raise ValueError(
                f"views[{name!r}] is {pair!r:.100}, not a pair of a view and a backbone, such as "
                "(Frames(), backbone)."
            )
    for name, value in numbers.items():
        if value is not None and not (_is_integer(value) and value >= 1):
            raise ValueError(f"{name}={value!r} must be an integer of at least 1.")
    if on_error not in (choices := ("skip", "raise", "missing")):
        raise ValueError(f"on_error={on_error!r} is not one of {choices}.")
    check_new_names(views, "views", [])
    is_pair = isinstance(part, tuple) and len(part) == 2 and all(map(_is_integer, part))
    if not is_pair or not 0 <= part[0] < part[1]:
        raise ValueError(f"part={part} must be (i, n) with 0 <= i < n.")


def _labels_of(
    files: Mapping[str, Path], labels: str | Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """Return the label of every id."""
    if not isinstance(labels, str):
        return _checked("labels", labels, files)
    if labels != "folders":
        raise ValueError(f"labels={labels!r} is not 'folders', a dict from id to label, or None.")
    found = {id_: id_.split("/")[0] for id_ in files if "/" in id_}
    if outside := [id_ for id_ in files if id_ not in found]:
        raise ValueError(
            f"labels='folders', but {outside[0]} and {len(outside) - 1} other files are in no "
            "folder. Move each to a folder named after its label, or pass a dict from id to label."
        )
    return found


def _checked(
    name: str, values: Mapping[str, Any] | None, files: Mapping[str, Path]
) -> Mapping[str, Any] | None:
    """Check that there is a value for every id."""
    if values is None:
        return None
    if missing := [id_ for id_ in files if id_ not in values]:
        raise ValueError(
            f"{name} has no entry for {missing[0]!r}, and for {len(missing)} of {len(files)} files "
            f"in all. An id is the path of a file relative to the root. The first entries of "
            f"{name} are for {[*values][:3]}."
        )
    return values


def _check_same_extraction(
    writer: FeatureSetsWriter, views: Mapping[str, tuple[View, Any]], description: Mapping[str, Any]
) -> None:
    """Check that a store that is continued was begun with the same views and backbones."""
    begun = info(writer.path).attributes.get("extraction") or {}
    differing = [name for name in begun if name not in views]
    for name, (view, _) in views.items():
        if not is_same_extraction(view, description[name], begun.get(name)):
            differing.append(name)
    if differing:
        raise ValueError(
            f"{writer.path} was begun with another extraction. For {differing[0]!r} it was "
            f"{begun.get(differing[0])}, and is now {description.get(differing[0])}. Choose "
            "another store, or pass the same views and backbones."
        )


def _check_same_columns(writer: FeatureSetsWriter, columns: Mapping[str, Any]) -> None:
    """Check that a store that is continued has the same columns, with the same entries."""
    if not len(writer):
        return
    given = {name for name, values in columns.items() if values is not None}
    written = set(info(writer.path).columns) - {"id"}
    if given != written:
        raise ValueError(
            f"{writer.path} was begun with the columns {sorted(written)}, but this call gives "
            f"{sorted(given)}. Pass labels and groups as before, or choose another store."
        )
    ids = writer.id
    for name in written:
        differing = [
            (id_, stored, columns[name][id_])
            for id_, stored in zip(ids, writer.column(name).tolist(), strict=True)
            if id_ in columns[name] and not equal_arrays(stored, columns[name][id_])
        ]
        if differing:
            id_, stored, now = differing[0]
            raise ValueError(
                f"{writer.path} has the {name} {stored!r:.100} for {id_!r}, but this call gives "
                f"{now!r:.100}; {len(differing)} of {len(ids)} items differ. Pass the same ones, "
                "or change those of the complete store with acluster convert."
            )


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block as an exception does, so that what is complete is written."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield  # the program has its own way to end
        return

    def end(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
