"""Read tables with one item per row, whose features are lists of lists: Parquet, Arrow, Feather."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from acluster.formats._item import COORDS, Item, as_places, missing_package
from acluster.formats._source import Source
from acluster.sets import COLUMNS, list_arrays

SUFFIXES = (".parquet", ".pq", ".arrow", ".feather")
_ROWS_PER_BATCH = 16  # decoded together, which bounds the memory


def open_tables(paths: Sequence[Path]) -> Source:
    """Open tables of the same columns, end to end, as one source.

    Parameters
    ----------
    paths : sequence of path
        Files of Parquet, or of Arrow (also called Feather): files and streams.

    Returns
    -------
    Source
        One item per row. Columns of lists of lists of numbers are features; several are
        modalities. ``coords``, of pairs of numbers, is the places of a single modality, and the
        columns label, id, group and weight are those of the store. Other columns are ignored.

    Raises
    ------
    ImportError
        If pyarrow is not installed.

    ValueError
        If a file is damaged, or its columns are not as described.
    """
    try:
        import pyarrow as pa  # noqa: F401
    except ImportError as error:
        raise missing_package("pyarrow", paths[0].suffix) from error
    tables = [_Table(path) for path in paths]
    features = _feature_columns(tables[0])
    for table in tables[1:]:
        if (own := _feature_columns(table)) != features:
            raise ValueError(
                f"{table.path} has the features {own}, but {paths[0]} has {features}. Pass tables "
                "with the same columns."
            )
    given = [name for name in COLUMNS if name in tables[0].types]
    columns = {name: [x for table in tables for x in table.column(name)] for name in given}
    first = np.cumsum([0, *(table.n_rows for table in tables)])

    def read(numbers: Sequence[int]) -> Iterator[Item]:
        for table, start, end in zip(tables, first[:-1], first[1:], strict=True):
            own = [i - start for i in numbers if start <= i < end]
            yield from table.read(own, features)

    def where(i: int) -> str:
        number = bisect_right(first.tolist(), i) - 1
        return f"{paths[number]}, row {i - first[number]}"

    ids = columns.get("id", range(int(first[-1])))
    return Source([str(one) for one in ids], read, where, columns)


def _feature_columns(table: _Table) -> list[str]:
    features = [name for name, type_ in table.types.items() if _is_nested(type_)]
    features = [name for name in features if name != COORDS]
    if not features:
        shown = ", ".join(f"{name} ({type_})" for name, type_ in table.types.items())
        raise ValueError(
            f"{table.path} has no column of lists of lists of numbers, one inner list for each "
            f"local feature of an item. Its columns are {shown:.400}."
        )
    return features


def _is_nested(type_: Any) -> bool:
    inner = getattr(getattr(type_, "value_type", None), "value_type", None)
    return inner is not None and not hasattr(inner, "value_type")


class _Table:
    """A file of Parquet or Arrow, whose rows are read in batches.

    Attributes
    ----------
    path : path
        The file.

    n_rows : int
        The number of its rows.

    types : dict of str to pyarrow.DataType
        The types of its columns.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise ValueError(f"{path} is a folder, a device or a pipe, not a {path.suffix} file.")
        self._is_parquet = path.suffix.lower() in (".parquet", ".pq")
        with self._reporting_damage():
            schema = self._open_parquet() if self._is_parquet else self._open_arrow()
        self.types = dict(zip(schema.names, schema.types, strict=True))
        if len(self.types) != len(schema.names):
            raise ValueError(f"{path} has two columns of the same name. Rename one.")

    def _open_parquet(self) -> Any:
        from pyarrow import parquet

        self._file = parquet.ParquetFile(self.path)
        metadata = self._file.metadata
        self._sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self.n_rows = sum(self._sizes)
        return self._file.schema_arrow

    def _open_arrow(self) -> Any:
        # The file has no number of rows. Only one batch at a time is in memory.
        self.n_rows = sum(batch.num_rows for batch in self._arrow_reader()[1])
        return self._arrow_reader()[0]

    def _arrow_reader(self) -> tuple[Any, Iterator[Any]]:
        """Open the file, and return its schema and an iterator over its batches."""
        import pyarrow as pa

        source = pa.memory_map(str(self.path))
        try:
            file = pa.ipc.open_file(source)
        except pa.ArrowInvalid:
            # Hugging Face datasets writes streams, which have no directory at their end.
            source.seek(0)
            stream = pa.ipc.open_stream(source)
            return stream.schema, iter(stream)
        return file.schema, (file.get_batch(i) for i in range(file.num_record_batches))

    @contextmanager
    def _reporting_damage(self) -> Iterator[None]:
        import pyarrow as pa

        try:
            yield
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{self.path} cannot be read as a {self.path.suffix} file: {error!s:.300}"
            ) from None

    def column(self, name: str) -> list[Any]:
        """Read a column of scalars for all rows."""
        if name not in self.types:
            raise ValueError(f"{self.path} has no column {name!r}, which other tables have.")
        every = {*range(self.n_rows)}
        with self._reporting_damage():
            return [x for _, b in self._batches([name], every) for x in b.column(name).to_pylist()]

    def read(self, numbers: Sequence[int], features: list[str]) -> Iterator[Item]:
        """Iterate over the items of some rows, in increasing order."""
        names = features + [COORDS] * (COORDS in self.types and len(features) == 1)
        wanted = set(numbers)
        with self._reporting_damage():
            for start, batch in self._batches(names, wanted):
                for i in range(batch.num_rows):
                    if start + i in wanted:
                        yield self._item(batch.slice(i, 1), features, start + i)

    def _batches(self, names: list[str], wanted: set[int]) -> Iterator[tuple[int, Any]]:
        """Iterate over the first row and the rows of small batches, without needless ones."""
        last, start = max(wanted, default=-1), 0
        if self._is_parquet:
            for group, size in enumerate(self._sizes):
                if not wanted.isdisjoint(range(start, start + size)):
                    options = {"row_groups": [group], "columns": names}
                    inner = start
                    for batch in self._file.iter_batches(_ROWS_PER_BATCH, **options):
                        # Arrow ends the process where it reads beyond what it has not checked.
                        batch.validate(full=True)
                        yield inner, batch
                        inner += batch.num_rows
                start += size
            return
        for whole in self._arrow_reader()[1]:
            if start > last:
                return
            whole = whole.select(names)
            whole.validate(full=True)
            for first in range(0, whole.num_rows, _ROWS_PER_BATCH):
                yield start + first, whole.slice(first, _ROWS_PER_BATCH)
            start += whole.num_rows

    def _item(self, row: Any, features: list[str], number: int) -> Item:
        try:
            cells = {name: list_arrays(row.column(name))[0] for name in features}
            coords = list_arrays(row.column(COORDS))[0] if COORDS in row.schema.names else None
        except ValueError as error:
            raise ValueError(f"{self.path}, row {number}: {error}") from None
        if len(features) > 1:
            return Item({name: x for name, x in cells.items() if x is not None and len(x)})
        values = cells[features[0]]
        if values is None or not len(values):
            raise ValueError(f"{self.path}, row {number}: {features[0]} has 0 local features.")
        if coords is None:
            return Item(values)
        return Item(values, as_places(coords, len(values), f"{self.path}, row {number}: {COORDS}"))
