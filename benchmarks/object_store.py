"""Benchmark training's reads from object storage, by a server that delays every answer.

    OMP_NUM_THREADS=1 python benchmarks/object_store.py [epochs] [opening] [ranks]
        [--megabytes 256] [--delays 20 100] [--repeats 3] [--json FILE]

epochs: the seconds in which an epoch of shuffled batches is read, without training on them. Before:
    zarr reads the blocks of a batch one after another, as earlier versions did. After: they are
    fetched side by side. Both read the same batches; a compressed store goes through zarr in both.
opening: the requests and the seconds until a store is open, with its labels.
ranks: what all of W simulated ranks fetch in an epoch, as a multiple of the store. Windows: each
    rank takes its part of every batch of one order. Lanes: each rank reads its own blocks, as in a
    distributed fit.

The server is a process on the same machine. It answers any number of requests at a time, so that a
request takes as long as the network would make it, but bytes come as fast as the machine copies
them. Times of one run are compared with each other only.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np
import torch
import zarr
from machine import device_name

from acluster import FeatureSets, FeatureSetsWriter, open_feature_sets
from acluster.sets._store import _block_rows, _format, _remote_rows
from acluster.sets._store._decoded_rows import DecodedRows
from acluster.training import BatchSource
from acluster.training._batches import shuffled, shuffled_in_lanes

# The server is a helper of the tests, which are no part of the package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.object_server import ObjectServer

N_FEATURES, BATCH_SIZE, MEGABYTE, N_RANKS = 1536, 64, 1e6, 8


class PlainSets:
    """The sets of a store, read block after block by zarr."""

    in_memory, description, places, extraction = False, "plain zarr", None, None

    def __init__(self, array, offsets):
        self.rows, self.offsets = DecodedRows(array), offsets

    def column(self, name):
        """Return None."""


def write_store(path, n_bytes, n_features=N_FEATURES):
    """Write noise, 20 to 30 local features per item."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((4096, n_features)).astype(np.float16)
    written = 0
    with FeatureSetsWriter(path) as writer:
        while written < n_bytes:
            length = rng.integers(20, 31)
            start = rng.integers(len(noise) - length)
            writer.append(noise[start : start + length], label=len(writer) % 20)
            written += int(length) * n_features * 2


def write_compressed(source, path):
    """Copy a store with its features compressed."""
    group, copied = zarr.open_group(source, mode="r"), zarr.open_group(path, mode="w")
    attributes = dict(group.attrs)
    for name, array in group.arrays():
        codecs = zarr.codecs.ZstdCodec(level=1) if name == "features" else None
        layout = {"chunks": array.chunks, "shards": array.shards, "compressors": codecs}
        new = copied.create_array(name, shape=array.shape, dtype=array.dtype, **layout)
        new.attrs.update(dict(array.attrs))
        new.with_config({"write_empty_chunks": True})[:] = array[:]
    copied.attrs.update(attributes)


def plain(server, name):
    """Return sets that zarr reads through obstore, as any program does."""
    from obstore.store import S3Store

    client = S3Store("bucket", prefix=name, client_options={"allow_http": True})
    group = zarr.open_group(zarr.storage.ObjectStore(client), mode="r")
    return FeatureSets.from_source(PlainSets(group["features"], group["features_offsets"][:]))


def read_epoch(X, seed=0):
    """Read an epoch of shuffled batches, as training does; return the number of batches."""
    source = BatchSource([X], torch.empty(0))
    batches = source.epoch(BATCH_SIZE, np.random.RandomState(seed), [None])
    return sum(1 for _ in batches)


def measured(server, open_sets, repeats):
    """Return the speed of epochs, each from a newly opened store, and what was fetched."""
    seconds, counts = [], {}
    for seed in range(repeats):
        X = open_sets()
        server.counts()
        started = time.perf_counter()
        read_epoch(X, seed)
        seconds.append(time.perf_counter() - started)
        counts = server.counts()
    n_bytes = float(X.lengths.sum()) * X.n_features * X.dtype.itemsize
    return {
        "mb_per_second": n_bytes / MEGABYTE / median(seconds),
        "seconds": seconds,
        "requests": counts["requests"],
        "most_in_flight": counts["peak"],
        "bytes_over_store": counts["bytes"] / n_bytes,
    }


def epochs(server, options):
    """Compare epochs before and after, for every delay and form of the store."""
    report = {}
    for name in ("plain.zarr", "compressed.zarr"):
        for delay in options.delays:
            server.set(delay=delay / 1e3)
            after = measured(
                server, lambda name=name: open_feature_sets(f"s3://bucket/{name}"), options.repeats
            )
            before = measured(server, lambda name=name: plain(server, name), 1)
            speed_up = after["mb_per_second"] / before["mb_per_second"]
            key = f"{name.removesuffix('.zarr')}, {delay:g} ms"
            report[key] = {"before": before, "after": after, "speed_up": speed_up}
            print(key, json.dumps(report[key], indent=1), flush=True)
    server.set(delay=0.0)
    return report


def opening(server, options):
    """Time until a store is open, with its labels."""
    report = {}
    for delay in options.delays:
        server.set(delay=delay / 1e3)
        server.counts()
        started = time.perf_counter()
        assert len(open_feature_sets("s3://bucket/plain.zarr").label)
        seconds = time.perf_counter() - started
        report[f"{delay:g} ms"] = {"seconds": seconds, "requests": server.counts()["requests"]}
    server.set(delay=0.0)
    return report


def of_rank(order, rank):
    """Yield the items that a rank takes from every batch of an order."""
    for first in range(0, len(order), BATCH_SIZE):
        batch = order[first : first + BATCH_SIZE]
        yield batch[len(batch) * rank // N_RANKS : len(batch) * (rank + 1) // N_RANKS]


def ranks(server, options):
    """Count what all ranks fetch; items, blocks and cache are small, as the store is."""
    small = [
        patch.object(_format, "_CHUNK_BYTES", 1 << 13),
        patch.object(_format, "_SHARD_BYTES", 1 << 20),
        patch.object(_block_rows, "_BLOCK_BYTES", 1 << 13),
        patch.object(_block_rows, "CACHE_BYTES", 1 << 19),
        patch.object(_remote_rows, "_GAP_BYTES", 1 << 9),
    ]
    for one in small:
        one.start()
    write_store(server.folder / "bucket" / "small.zarr", 96 * MEGABYTE, n_features=12)
    report = {}
    for name in ("windows", "lanes"):
        fetched = []
        for rank in range(N_RANKS):
            X = open_feature_sets("s3://bucket/small.zarr")
            draw = np.random.RandomState(0)
            order = shuffled(len(X), draw, X.blocks)
            if name == "lanes":
                order = shuffled_in_lanes(X.blocks, BATCH_SIZE, N_RANKS, draw)
            server.counts()
            for items in of_rank(order, rank):
                X[items].packed()
            fetched.append(server.counts()["bytes"] / X.nbytes)
        report[name] = {"of_a_rank": fetched, "of_all": sum(fetched)}
    for one in small:
        one.stop()
    return {"n_ranks": N_RANKS, **report}


def main(arguments=None):
    """Run the parts that are asked for, and return their figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {"epochs": epochs, "opening": opening, "ranks": ranks}
    parser.add_argument("parts", nargs="*", default=list(parts), help=f"some of {', '.join(parts)}")
    parser.add_argument("--megabytes", type=float, default=256)
    parser.add_argument("--delays", type=float, nargs="+", default=[20, 100], help="milliseconds")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args(arguments)
    report = {
        "date": date.today().isoformat(),
        "device": device_name("cpu"),
        "load_average": os.getloadavg()[0],
        "versions": {name: version(name) for name in ("numpy", "obstore", "torch", "zarr")},
        "megabytes": options.megabytes,
    }
    with tempfile.TemporaryDirectory() as folder, ObjectServer(folder) as server:
        server.folder = Path(folder)
        os.environ |= server.environment
        write_store(server.folder / "bucket" / "plain.zarr", options.megabytes * MEGABYTE)
        write_compressed(
            server.folder / "bucket" / "plain.zarr", server.folder / "bucket" / "compressed.zarr"
        )
        for name in options.parts:
            report[name] = parts[name](server, options)
            print(name, json.dumps(report[name], indent=1), flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return report


if __name__ == "__main__":
    main()
