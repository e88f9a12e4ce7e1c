"""Clients of obstore as stores of zarr, whose requests wait in threads of Python.

This module imports zarr, so it is imported where it is used; obstore is imported later still.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.storage import ObjectStore

_T = TypeVar("_T")

MAX_REQUESTS = 32  # in flight in this process


class ObjectsInThreads(ObjectStore[Any]):
    """A client of obstore, used by its blocking calls only.

    The coroutines of obstore end in threads of its own, which then need Python: if the program ends
    at this moment, Python ends those threads in a way that aborts the process. Threads of Python
    are waited for.
    """

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Return an object or a range of it; None if there is no such object."""
        data = await _in_thread(_read, self.store, key, byte_range)
        return None if data is None else prototype.buffer.from_bytes(data)

    async def exists(self, key: str) -> bool:
        """Whether there is an object."""
        return await _in_thread(_exists, self.store, key)

    async def set(self, key: str, value: Any) -> None:
        """Write an object."""
        self._check_writable()
        await _in_thread(_write, self.store, key, value.as_buffer_like())

    async def delete(self, key: str) -> None:
        """Remove an object, which need not exist."""
        self._check_writable()
        await _in_thread(_delete, self.store, key)

    async def delete_dir(self, prefix: str) -> None:
        """Remove all objects below a prefix."""
        self._check_writable()
        await _in_thread(_delete_below, self.store, prefix.rstrip("/"))

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names directly below a prefix."""
        for name in await _in_thread(_names, self.store, prefix.strip("/")):
            yield name


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MAX_REQUESTS, thread_name_prefix="acluster-request")


async def _in_thread(function: Callable[..., _T], *arguments: Any) -> _T:
    return await asyncio.get_running_loop().run_in_executor(_pool(), function, *arguments)


def _read(client: Any, key: str, byte_range: Any) -> Any:
    import obstore

    try:
        if isinstance(byte_range, RangeByteRequest):
            return obstore.get_range(client, key, start=byte_range.start, end=byte_range.end)
        options: Any = {}
        if isinstance(byte_range, SuffixByteRequest):
            options = {"range": {"suffix": byte_range.suffix}}
        elif byte_range is not None:
            options = {"range": {"offset": byte_range.offset}}
        return obstore.get(client, key, options=options).bytes()
    except FileNotFoundError:
        return None


def _exists(client: Any, key: str) -> bool:
    import obstore

    try:
        obstore.head(client, key)
    except FileNotFoundError:
        return False
    return True


def _write(client: Any, key: str, data: Any) -> None:
    import obstore

    obstore.put(client, key, data)


def _delete(client: Any, key: str) -> None:
    import obstore

    # Some services answer that an object does not exist, and others do not.
    if _exists(client, key):
        obstore.delete(client, key)


def _delete_below(client: Any, prefix: str) -> None:
    import obstore

    keys = [found["path"] for some in obstore.list(client, f"{prefix}/") for found in some]
    if keys:
        obstore.delete(client, keys)


def _names(client: Any, prefix: str) -> list[str]:
    import obstore

    found = obstore.list_with_delimiter(client, prefix=prefix or None)
    paths = [*found["common_prefixes"], *(one["path"] for one in found["objects"])]
    return [path.removeprefix(prefix).strip("/") for path in paths]
