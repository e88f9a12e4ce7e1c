"""Mutate stores, and check that they are read rightly or rejected.

Every input is a small sound store of which a few files have been changed: values in their JSON,
entries of the indexes of shards, bytes of chunks, or files replaced by folders, links and pipes.
"""

import json
import os
import random
import shutil
import signal
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import google_crc32c
import numpy as np
import zarr

from acluster import FeatureSetsWriter, open_feature_sets
from acluster.sets import StoreError, info, validate
from acluster.sets._store import _format
from tests.fuzz.watch import bounded_memory

SECONDS = 2  # after which reading counts as hanging
STRANGE = [None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, 2**64, 10**30, 0.5, 1e400, "", "label"]
STRANGE += ["..", "/etc", "a/b", "\0", "\x1b[2J", "bytes", "pickle", "numcodecs.pickle", [], {}]
STRANGE += [[0], [1, 1], [-1, 3], [10**12, 3], {"name": "bytes"}, {"id": "pickle"}, [[]], "[" * 99]


def write_store(path):
    """Write a store with several shards, modalities and columns."""
    with (
        patch.multiple(_format, _CHUNK_BYTES=48, _SHARD_BYTES=96, _ITEMS_PER_CHUNK=4),
        FeatureSetsWriter(path) as writer,
    ):
        for i in range(6):
            item = {"rgb": np.full((1 + i % 4, 3), i) + np.arange(3), "audio": np.ones((i % 3, 2))}
            columns = {"label": f"class{i // 4}", "id": f"item{i}", "group": i % 3, "weight": 0.5}
            places = {"rgb": {"x": np.arange(1 + i % 4) + i, "y": np.full(1 + i % 4, i / 2)}}
            writer.append(item, places=places, **columns)
    for name in ("audio_row_size", "group"):  # compressed, as other programs write
        group = zarr.open_group(path)
        # Without a checksum, a damaged chunk may decode to other values.
        group.create_array(
            name,
            data=group[name][...],
            compressors=zarr.codecs.ZstdCodec(checksum=True),
            config=WRITE_ALL,
            overwrite=True,
        )


WRITE_ALL = {"write_empty_chunks": True}


def read_all(path):
    """Return everything in a store."""
    X = open_feature_sets(path, verify=True)
    values = {name: [x.tolist() for x in X[name]] for name in X.names}
    for name in X.names:
        if X[name].places is not None:
            tables = [x.tolist() for x in X[name].places]
            values[name] = [X[name].places.column_names, *zip(values[name], tables, strict=True)]
    return values, [None if c is None else c.tolist() for c in (X.label, X.id, X.group, X.weight)]


def json_places(value, place=()):
    """Yield the path of each value within a JSON document."""
    yield place
    items = {dict: dict.items, list: enumerate}.get(type(value), lambda _: ())(value)
    for key, inner in items:
        yield from json_places(inner, (*place, key))


def mutate_json(path, rng):
    """Replace, remove, rename or copy a value."""
    document = json.loads(path.read_text())
    places = [place for place in json_places(document) if place]
    *parents, key = rng.choice(places)
    parent = document
    for one in parents:
        parent = parent[one]
    action = rng.randrange(5)
    if action == 0:
        del parent[key]
    elif action == 1:
        other = document
        for one in rng.choice(places):
            other = other[one]
        parent[key] = json.loads(json.dumps(other))
    elif action == 2 and isinstance(parent[key], int):
        parent[key] += rng.choice([-1, 1, 2, 1000])
    elif action == 3 and isinstance(parent, dict):
        parent[rng.choice([s for s in STRANGE if isinstance(s, str)])] = parent.pop(key)
    else:
        parent[key] = rng.choice(STRANGE)
    path.write_text(json.dumps(document))


def mutate_bytes(path, rng):
    """Flip, remove, repeat or overwrite bytes."""
    data = bytearray(path.read_bytes())
    start = rng.randrange(len(data) + 1)
    action = rng.randrange(5)
    if action == 0 and data:
        data[start - 1] ^= 1 << rng.randrange(8)
    elif action == 1:
        del data[start : start + rng.randrange(1, 40)]
    elif action == 2:
        data[start:start] = data[: rng.randrange(1, 40)]
    elif action == 3:
        data[start : start + 8] = rng.choice([b"\xff" * 8, bytes(8), b"\0" * 7 + b"\x7f"])
    else:
        data = data[:start]
    path.write_bytes(data)


def mutate_index(path, rng):
    """Change an entry of the index of a shard, or exchange two, under a valid checksum."""
    data = path.read_bytes()
    if len(data) < 36:
        return
    entries = np.frombuffer(data[-36:-4], "<u8").copy()
    entries[rng.randrange(4)] = rng.choice([0, 1, 48, 52, 2**63, 2**64 - 1, entries[0], entries[2]])
    packed = entries.tobytes()
    path.write_bytes(data[:-36] + packed + google_crc32c.value(packed).to_bytes(4, "little"))


def mutate_chunk(path, rng):
    """Change bytes of a chunk under a valid checksum."""
    data = bytearray(path.read_bytes())
    if len(data) < 8:
        return
    body = data[:-4]
    body[rng.randrange(len(body))] = rng.choice([0, 1, 127, 128, 255])
    path.write_bytes(body + google_crc32c.value(bytes(body)).to_bytes(4, "little"))


def replace_file(path, rng, outside):
    """Replace a file or its folder by something that is no file."""
    if rng.random() < 0.2 and path.name != "zarr.json":
        path = path.parent
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    action = rng.randrange(6)
    if action == 0:
        path.mkdir(exist_ok=True)
    elif action == 1:
        os.mkfifo(path)
    elif action < 5:
        os.symlink([outside, "/dev/zero", path.name][action - 2], path)


def exchange_files(files, rng):
    """Copy a file over another."""
    one, other = rng.sample(files, 2)
    shutil.copyfile(one, other)


def mutate(folder, rng, outside):
    """Change a file of a store; return the name of the mutation and of the file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    documents = [path for path in files if path.name == "zarr.json"]
    chunks = [path for path in files if path.name != "zarr.json"]
    shards = [path for path in chunks if path.parent.parent.name == "c"]
    kinds = {
        "json": lambda: mutate_json(rng.choice(documents), rng),
        "json bytes": lambda: mutate_bytes(rng.choice(documents), rng),
        "index": lambda: mutate_index(rng.choice(shards), rng),
        "chunk": lambda: mutate_chunk(rng.choice(chunks), rng),
        "bytes": lambda: mutate_bytes(rng.choice(chunks), rng),
        "replace": lambda: replace_file(rng.choice(files), rng, outside),
        "exchange": lambda: exchange_files(files, rng),
    }
    kind = rng.choices(list(kinds), [6, 1, 2, 2, 2, 2, 1])[0]
    try:
        kinds[kind]()
    except (ValueError, IndexError, OSError):  # an earlier mutation left nothing to change
        return "none"
    return kind


@contextmanager
def time_limit():
    """Raise TimeoutError in what takes too long."""

    def stop(*_):
        raise TimeoutError(f"reading takes more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(path, expected, may_differ):
    """Read a store in one of three ways, and return what came of it."""
    try:
        with time_limit():
            found = read_all(path)
            validate(path)
            info(path)
    except (StoreError, FileNotFoundError) as error:
        return type(error).__name__
    if found == expected:
        return "same"
    if not may_differ:
        raise AssertionError("a damaged store was read as other values")
    return "other"


def run(n, seed):
    """Check `n` mutated stores.

    Parameters
    ----------
    n : int
        The number of stores.

    seed : int
        The first seed; store i has the seed ``seed + i``, so that one can be had again alone.

    Returns
    -------
    Counter
        How many had each outcome.

    Raises
    ------
    AssertionError
        The message has the seed of the store.
    """
    counts: Counter[str] = Counter()
    place = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=place) as name:
        sound, outside = Path(name, "sound.zarr"), Path(name, "outside")
        outside.write_bytes(b"not part of any store")
        write_store(sound)
        expected = read_all(sound)
        with bounded_memory():
            for i in range(seed, seed + n):
                rng = random.Random(i)
                folder = Path(name, "store.zarr")
                shutil.copytree(sound, folder, copy_function=shutil.copyfile)
                kinds = [mutate(folder, rng, outside) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
                # Only changes that a checksum cannot reveal may lead to other values.
                may_differ = not set(kinds) <= {"bytes", "replace", "none"}
                try:
                    counts[outcome(folder, expected, may_differ)] += 1
                except Exception as error:
                    message = f"seed {i}, mutations {kinds}: {type(error).__name__}: {error}"
                    raise AssertionError(message) from error
                assert outside.read_bytes() == b"not part of any store", f"seed {i}"
                assert sorted(os.listdir(name)) == ["outside", "sound.zarr", "store.zarr"], (
                    f"seed {i}"
                )
                shutil.rmtree(folder)
    return counts


if __name__ == "__main__":
    import sys
    import time

    started = time.perf_counter()
    number, first = map(int, sys.argv[1:])
    print(dict(run(number, first)), number / (time.perf_counter() - started), "per second")
