"""Mutated archives, arrays and tables given to `acluster convert`: read or refused, in one line."""

import io
import os
import re
import struct
import warnings
import zipfile
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np

from acluster import FeatureSetsWriter
from acluster.command_line import _convert, _main, main
from tests.fuzz.watch import bounded_memory, corpus, watched

TMPFS = Path("/dev/shm")
STORE_EVERY = 100  # inputs of which one is written to a store
NAMES = [
    "a",
    "b",
    "item10",
    "01",
    "1",
    "x/y",
    "../up",
    "/abs",
    "\x1b[2J",
    "\0",
    "",
    "-x",
    "\u732b²",
]
SIZES = [
    0,
    1,
    -1,
    2,
    3,
    255,
    2**15,
    2**16 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**63,
    2**64,
    10**14,
    10**30,
]
DESCR = [
    "<f4",
    "<f2",
    ">f8",
    "|O",
    "<U3",
    "|V4",
    "<c8",
    "<M8[s]",
    "|b1",
    "<i8",
    "x",
    "",
    "f4,f4",
    "<f16",
]
CELLS = [
    "a",
    "b",
    "",
    "id",
    "label",
    "group",
    "weight",
    "1e999",
    "nan",
    "0x1",
    "\x1b[31m",
    '"',
    "\0",
]
CELLS += ["\ufeff", "=1+1", "\u2028", "\r", "x" * 200_000, "-1", ",", ";", "\t"]
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def chosen(values, rng):
    return values[rng.integers(len(values))]


def npy(rng):
    """Return the bytes of a .npy file: often right, else with a header that lies."""
    shape = (int(rng.integers(1, 4)), 2)
    data = np.ones(shape, chosen(["<f2", "<f4", ">f8"], rng)) * rng.integers(100)
    if rng.integers(4):
        file = io.BytesIO()
        np.save(file, data)
        return file.getvalue()
    shape = tuple(chosen([*SIZES, 2, 2, 2], rng) for _ in range(rng.integers(4)))
    header = {"descr": chosen(DESCR, rng), "fortran_order": bool(rng.integers(2)), "shape": shape}
    if rng.integers(4) == 0:
        header[chosen([*header, "more"], rng)] = chosen([None, [], -1, "x", [("a", "<f4")]], rng)
    text = f"{header!r}\n".encode("latin-1", "replace")
    if rng.integers(4) == 0:
        text = chosen([b"(" * 5000, b"{" * 500, b"1" * 9000, b"{'descr'", b"\n", b"\0"], rng)
    version = chosen([b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\xff\0"], rng)
    length = struct.pack("<H" if version[0] == 1 else "<I", len(text))
    return b"\x93NUMPY" + version + length + text + bytes(int(rng.integers(64)))


def archive(rng):
    """Return the bytes of an archive of .npy files, whose members and directory may be wrong."""
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as members:
        warnings.simplefilter("ignore")  # of members with the same name
        for _ in range(rng.integers(4)):
            name = chosen(NAMES, rng) + chosen([*[".npy"] * 12, "", ".txt", "/"], rng)
            method = chosen(
                [zipfile.ZIP_STORED] * 30 + [zipfile.ZIP_DEFLATED] * 9 + [zipfile.ZIP_BZIP2], rng
            )
            members.writestr(zipfile.ZipInfo(name), npy(rng), compress_type=int(method))
    content = bytearray(file.getvalue())
    marks = [m.start() for m in re.finditer(b"PK(\1\2|\3\4|\5\6)", bytes(content))]
    if marks and rng.integers(2):  # a field of a header of the archive
        place = chosen(marks, rng) + int(rng.integers(4, 46))
        field = chosen(
            [b"\xff", b"\0", b"\xff\xff", b"\1", b"\xff\xff\xff\xff", b"\0\0\0\x7f"], rng
        )
        content[place : place + len(field)] = field
    return bytes(content)


def table(rng):
    """Return the bytes of a table of labels."""
    rows = [["id", "label"], ["a", "x"], ["b", "y"]]
    for _ in range(rng.integers(3)):
        row = chosen(rows, rng)
        way = rng.integers(4)
        if way == 0:
            rows.append([*row])
        elif way == 1:
            row.append(chosen(CELLS, rng))
        elif row:
            row[rng.integers(len(row))] = chosen(CELLS, rng)
    text = chosen(["", "", "\ufeff"], rng)
    delimiter = chosen(",,;\t", rng)
    text += chosen(["\n", "\r\n"], rng).join(map(delimiter.join, rows))
    return text.encode(chosen([*["utf-8"] * 8, "utf-16", "utf-7"], rng), "replace")


def flip(content, rng):
    """Return the bytes, mostly unchanged, else cut, longer or with other bits."""
    way = rng.integers(8)
    content = bytearray(content)
    if content and way == 0:
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    elif way == 1:
        content = content[: rng.integers(len(content) + 1)]
    elif way == 2:
        place = rng.integers(len(content) + 1)
        content[place:place] = rng.bytes(rng.integers(1, 20))
    return bytes(content)


class MemoryWriter:
    """Takes the items in place of a store: writing one takes longer than all the rest.

    The writer of stores is fuzzed by itself.
    """

    def __init__(self, path, **_):
        self.path = path

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __len__(self):
        return 0

    def append(self, item, places=None, **columns):
        assert item.ndim == 2, item.shape
        assert item.dtype.kind in "biuf", item.dtype
        assert all(len(values) == len(item) for values in (places or {}).values()), places
        assert all(isinstance(entry, str | float) for entry in columns.values()), columns
        if 0 in item.shape:
            raise ValueError("no values")


KINDS = {"a.npz": archive, "a.npy": npy, "t.csv": table}


def convert(folder, name, content):
    """Convert one input, and return the exit status."""
    features = folder / "features"
    features.mkdir(exist_ok=True)
    (features / "b.npy").write_bytes(GOOD)
    path = features / name if name == "a.npy" else folder / name
    if name != "a.npy":
        (features / "a.npy").write_bytes(GOOD)
    path.write_bytes(content)
    source = [str(path)] if name == "a.npz" else [str(features)]
    labels = ["--labels", str(path)] if name == "t.csv" else []
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        status = main(["convert", *source, str(folder / "new.zarr"), *labels])
    shown = out.getvalue() + err.getvalue()
    assert status in (0, 1), status
    assert not CONTROLS.search(shown), repr(shown)
    assert shown.count("\n") == 1, shown
    return status


def _good():
    file = io.BytesIO()
    np.save(file, np.ones((2, 2), np.float32))
    return file.getvalue()


GOOD = _good()


def run(n, seed):
    """Convert `n` mutated inputs, and first those that failed before; return the counts."""
    counts = Counter()
    with TemporaryDirectory(dir=TMPFS if TMPFS.is_dir() else None) as temporary:
        folder = Path(temporary)
        convert(folder, "a.npy", GOOD)  # imports and caches count for nothing
        _clear(folder)
        inputs = [(name, content) for name in KINDS for content in corpus(f"archives/{name}")]
        rng = np.random.default_rng(seed)
        names = [*KINDS]
        parser = cache(_main._make_parser)
        with bounded_memory(), patch.object(_main, "_make_parser", parser):
            for i in range(n + len(inputs)):
                if i < len(inputs):
                    name, content = inputs[i]
                else:
                    name = chosen(names, rng)
                    content = flip(KINDS[name](rng), rng)
                writer = FeatureSetsWriter if i % STORE_EVERY == 0 else MemoryWriter
                with (
                    patch.object(_convert, "FeatureSetsWriter", writer),
                    watched(folder, f"archives/{name}", content),
                ):
                    status = convert(folder, name, content)
                counts[f"{name}: {'refused' if status else 'converted'}"] += 1
                _clear(folder)
    return counts


def _clear(folder):
    for place, folders, files in os.walk(folder, topdown=False):
        for name in files:
            os.remove(os.path.join(place, name))
        for name in folders:
            os.rmdir(os.path.join(place, name))
