"""Tables beside a store: which items failed, and which have warnings."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from acluster._utils._files import replaced_file


class ItemTable:
    """A CSV file with the columns id and text, to which rows are added one by one.

    A row is on disk when `add` returns. A row that is already there is not added again, so that
    an item that is read twice, because the process was killed in between, has it once.

    Parameters
    ----------
    path : path
        The file. It is created with the first row.

    column : str
        The name of the second column.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from acluster.extraction._tables import ItemTable
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = ItemTable(Path(folder) / "failed.csv", "error")
    ...     table.add("a.mp4", "is empty")
    ...     ItemTable(Path(folder) / "failed.csv", "error").rows
    [('a.mp4', 'is empty')]
    """

    def __init__(self, path: Path, column: str) -> None:
        self._path, self._column = path, column
        self.rows = self._read()
        self._known = set(self.rows)

    def _read(self) -> list[tuple[str, str]]:
        """Return the rows, and cut off one that was not written to its end."""
        if not self._path.exists():
            return []
        text = self._path.read_bytes().decode("utf-8", "replace")
        whole = text[: text.rfind("\r\n") + 2] if "\r\n" in text else ""
        rows = [row for row in csv.reader(io.StringIO(whole, newline=""), strict=True)]
        is_header = not rows or rows[0] == ["id", self._column]
        if not is_header or any(len(row) != 2 for row in rows):
            raise ValueError(
                f"{self._path} is not a table with the columns id and {self._column}. Move it away."
            )
        entries = [(id_, entry) for id_, entry in rows[1:]]
        if whole != text:
            self._write(entries)
        return entries

    def add(self, id_: str, text: str) -> None:
        """Add a row, unless it is there already.

        Parameters
        ----------
        id_, text : str
            The entries. Line breaks become spaces.
        """
        row = (id_, " ".join(text.split()))
        if row in self._known:
            return
        is_new = not self._path.exists()
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(("id", self._column))
            writer.writerow(row)
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(row)
        self._known.add(row)

    def remove(self, ids: set[str]) -> None:
        """Remove the rows of some items.

        Parameters
        ----------
        ids : set of str
            The items.
        """
        kept = [row for row in self.rows if row[0] not in ids]
        if len(kept) < len(self.rows):
            self._write(kept)
            self.rows, self._known = kept, set(kept)

    def _write(self, rows: list[tuple[str, str]]) -> None:
        """Replace the file; without rows, there is none."""
        if not rows:
            self._path.unlink()
            return
        with replaced_file(self._path) as new, new.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("id", self._column), *rows])
