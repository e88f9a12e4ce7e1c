"""Mutations of files in the safetensors format that know its structure."""

import copy
import json

import numpy as np

HOSTILE = [
    None, True, False, -1, 0, 1, 2, 3, 624, 625, 10**4, 2**31, 2**32, 2**63 - 1, 2**63, 10**300,
    -(2**63), 0.5, -0.0, 1e308, 5e-324, float("nan"), float("inf"), -float("inf"), "", "0", "x",
    "features", "float16", "float32", "int8", "object", "cuda", "meta", "multilabel", "binary",
    "__class__", "../../x", "/etc/passwd", "\x1b[2J\n", "\0", "\ud83d\ude00", "x" * 10_000, [], {},
    [[]], [None], [0], [1.0], [1, 2, 3], ["a", "b"], [float("nan")], {"pairs": []}, {"": {}},
    {"pairs": [[[], 1]]}, [0.0] * 1000, [[[[[[[[]]]]]]]], {"n_features": 10**12},
]  # fmt: skip
DTYPES = ["BOOL", "U8", "I8", "F16", "BF16", "I32", "F32", "F64", "I64", "U64", "F8_E4M3", "X"]
SIZES = [0, 1, 2, 3, 7, 255, 2**31, 2**32, 2**63, 2**64 - 1, -1]
NUMBERS = [0, -1, 1, 255, 256, 3e38, 1e308, -1e308, 5e-324, np.nan, np.inf, -np.inf]


def split(content):
    """Return the header as a dict and the bytes of the tensors."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def join(header, data):
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def mutate(content, rng):
    """Return a file with one to four mutations of one kind."""
    kind = KINDS[rng.integers(len(KINDS))]
    for _ in range(rng.integers(1, 5)):
        content = kind(content, rng)
    return content


def _chosen(values, rng):
    return values[rng.integers(len(values))]


def flip_bits(content, rng):
    damaged = bytearray(content)
    if damaged:
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
    return bytes(damaged)


def change_length(content, rng):
    place, n = rng.integers(len(content) + 1), rng.integers(1, 64)
    ways = [
        lambda: content[:place],
        lambda: content[:place] + content[place + n :],
        lambda: content[:place] + rng.bytes(n) + content[place:],
        lambda: content + rng.bytes(n),
        lambda: _chosen(SIZES[:-1], rng).to_bytes(8, "little") + content[8:],
    ]
    return _chosen(ways, rng)()


def _structured(change):
    """Make a mutation of a header and its data; earlier mutations may have left neither."""

    def of_file(content, rng):
        try:
            header, data = split(content)
            return join(*change(header, data, rng))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, UnicodeError):
            return flip_bits(content, rng)

    return of_file


def _places(value, path=()):
    """Yield the paths to all values of nested dicts and lists, a few of each long list."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:6])
    for key, part in items:
        yield (*path, key)
        if isinstance(part, dict | list):
            yield from _places(part, (*path, key))


@_structured
def change_description(header, data, rng):
    metadata = header["__metadata__"]
    description = json.loads(metadata["acluster"])
    *parents, last = _chosen(list(_places(description)), rng)
    part = description
    for key in parents:
        part = part[key]
    way = rng.integers(8)
    if way == 0:
        del part[last]
    elif way == 1 and isinstance(part, dict):
        part[str(_chosen(HOSTILE, rng))] = part.pop(last)
    elif way == 2 and isinstance(part[last], int | float):
        part[last] = part[last] * _chosen([-1, 2, 10**9, 0.5], rng) + _chosen([0, 1, -1], rng)
    elif way == 3 and isinstance(part, list):
        part.insert(last, copy.deepcopy(part[last]))
    else:
        part[last] = copy.deepcopy(_chosen(HOSTILE, rng))
    metadata["acluster"] = json.dumps(description)
    if rng.integers(10):
        metadata.pop("acluster_checksums", None)  # otherwise few mutations reach further
    return header, data


@_structured
def change_checksums(header, data, rng):
    metadata = header["__metadata__"]
    metadata["acluster_checksums"] = json.dumps(_chosen(HOSTILE, rng))
    return header, data


@_structured
def change_specs(header, data, rng):
    metadata = header.get("__metadata__", {})
    name = _chosen([key for key in header if key != "__metadata__"], rng)
    other = _chosen([key for key in header if key != "__metadata__"], rng)
    spec, way = header[name], rng.integers(8)
    if way == 0:
        spec["dtype"] = _chosen(DTYPES, rng)
    elif way == 1:
        spec["shape"] = [_chosen(SIZES, rng) for _ in range(rng.integers(5))]
    elif way == 2:
        spec["data_offsets"] = [_chosen([*spec["data_offsets"], *SIZES], rng) for _ in range(2)]
    elif way == 3:
        spec["shape"] = spec["shape"][::-1]
    elif way == 4:
        header[name], header[other] = header[other], spec
    elif way == 5:
        header[str(_chosen(HOSTILE, rng))] = header.pop(name)
    elif way == 6:
        header[f"{name}{_chosen(['', '.', '.x', '/'], rng)}"] = header.pop(name)
    else:
        spec[_chosen(["dtype", "shape", "data_offsets"], rng)] = _chosen(HOSTILE, rng)
    metadata.pop("acluster_checksums", None)
    return header, data


@_structured
def change_numbers(header, data, rng):
    header["__metadata__"].pop("acluster_checksums", None)
    name = _chosen([key for key in header if key != "__metadata__"], rng)
    begin, end = header[name]["data_offsets"]
    dtype = {"F32": "f4", "F64": "f8", "I64": "i8"}[header[name]["dtype"]]
    numbers = np.frombuffer(data[begin:end], dtype).copy()
    with np.errstate(all="ignore"):
        place = slice(None) if rng.integers(2) else rng.integers(max(1, len(numbers)))
        numbers[place] = np.array(_chosen(NUMBERS, rng)).astype(dtype)
    return header, data[:begin] + numbers.tobytes() + data[end:]


KINDS = [
    flip_bits,
    change_length,
    change_description,
    change_description,
    change_description,
    change_checksums,
    change_specs,
    change_numbers,
]
