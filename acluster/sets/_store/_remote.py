"""Object storage as a store of zarr: bounded waiting, errors that name the object, no secrets.

This module imports zarr, so it is imported where it is used; obstore is imported later still.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from zarr.abc.store import RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import WrapperStore

from acluster.sets._store._addresses import (
    Address,
    address_of_client,
    address_of_file_system,
    redacted,
    unreachable,
)
from acluster.sets._store._errors import RemoteError
from acluster.sets._store._objects import MAX_REQUESTS, ObjectsInThreads

_T = TypeVar("_T")

# How long the client waits before it tries again. A server that stalls is left after these seconds
# without a byte; one that is slow gets the time of a whole request.
CONNECT_SECONDS, STALL_SECONDS, REQUEST_SECONDS = 5.0, 20.0, 120.0
MAX_RETRIES, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 4, 0.1, 5.0
RETRY_SECONDS = 90.0  # after these, no further attempt begins
GIVE_UP_SECONDS = 240.0  # also for clients that the user has made, which have other limits

_STATUS = re.compile(r"status code: (\d{3})(?: ([A-Za-z ]+))?")
_CAUSES = (
    ("TimedOut", "the server did not answer in time"),
    ("kind: Timeout", "the server did not answer in time"),
    ("kind: Connect", "no connection to the server"),
    ("kind: Interrupted", "the server closed the connection"),
    ("kind: Request", "the server closed the connection"),
)
_ENVIRONMENT = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL (or "
    "AWS_SKIP_SIGNATURE=true for a public bucket)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS (or GOOGLE_SKIP_SIGNATURE=true for a public bucket)",
}


class RemoteStore(WrapperStore[Store]):
    """Object storage, for reading or for writing.

    Requests that fail raise a `RemoteError` without the answer of the server, which may hold the
    name of a key. A pickle holds the address only, so that the other process takes credentials from
    its environment.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store that makes the requests.

    address : Address or None
        Where other processes find it; None if they cannot.
    """

    def __init__(self, store: Store, address: Address | None = None) -> None:
        super().__init__(store)
        self.address = address
        self._kept: dict[Any, Any] = {}
        self._is_revoked = False

    def _with_store(self, store: Store) -> RemoteStore:
        return RemoteStore(store, self.address)

    def __str__(self) -> str:
        return redacted(str(self.address or self._store))

    def __repr__(self) -> str:
        return f"RemoteStore({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        if self.address is None:
            raise unreachable(f"The store {self}")
        return connected, (self.address, self.read_only)

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Return an object or a range of it; None if there is no such object.

        A store that is read does not change, so that metadata, and the indices at the ends of
        shards, are fetched once.
        """
        is_kept = key.endswith("zarr.json") or isinstance(byte_range, SuffixByteRequest)
        if not (is_kept and self.read_only):
            return await self._answer(key, "read", self._store.get(key, prototype, byte_range))
        if (key, byte_range) not in self._kept:
            answer = self._store.get(key, prototype, byte_range)
            self._kept[key, byte_range] = await self._answer(key, "read", answer)
        return self._kept[key, byte_range]

    def forget(self, key: str) -> None:
        """Fetch the index of a shard anew when it is next needed."""
        self._kept = {kept: value for kept, value in self._kept.items() if kept[0] != key}

    async def exists(self, key: str) -> bool:
        """Whether there is an object."""
        return await self._answer(key, "find", self._store.exists(key))

    async def set(self, key: str, value: Any) -> None:
        """Write an object as a whole: readers see the old one or the new one."""
        if self._is_revoked:
            raise RuntimeError(f"{self}/{key} is written after the end of its transaction.")
        await self._answer(key, "write", self._store.set(key, value))

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        """Write an object unless it exists, also on servers that ignore this condition."""
        if not await self.exists(key):
            await self.set(key, value)

    async def delete(self, key: str) -> None:
        """Remove an object, which need not exist."""
        await self._answer(key, "remove", self._store.delete(key))

    async def delete_dir(self, prefix: str) -> None:
        """Remove all objects below a prefix."""
        await self._answer(prefix, "remove", self._store.delete_dir(prefix))

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names directly below a prefix."""

        async def names() -> list[str]:
            return [name async for name in self._store.list_dir(prefix)]

        for name in await self._answer(prefix, "list", names()):
            yield name

    def sync(self) -> None:
        """Return: an object is stored when the server has answered."""

    def revoke(self) -> None:
        """Refuse to write from now on: zarr writes in other threads, also after an interrupt."""
        self._is_revoked = True

    async def _answer(self, key: str, action: str, request: Awaitable[_T]) -> _T:
        """Wait for the answer to a request, but not for ever."""
        _check_process(self)
        task = asyncio.ensure_future(self._translated(key, action, request))
        await asyncio.wait({task}, timeout=GIVE_UP_SECONDS)
        if not task.done():
            task.cancel()
            raise RemoteError(self._explained(key, action, TimeoutError()))
        return task.result()

    async def _translated(self, key: str, action: str, request: Awaitable[_T]) -> _T:
        # Innermost, because asyncio logs the exceptions of tasks that nobody waits for any more.
        try:
            return await request
        except RemoteError:
            raise
        except Exception as error:  # of any client
            explained = self._explained(key, action, error)
        # Not within the block, and so without a context: the answer of the server, in the message
        # of the client, may hold secrets, and some programs print contexts that are suppressed.
        raise RemoteError(explained)

    def _explained(self, key: str, action: str, error: Exception) -> str:
        text = str(error)
        status = _STATUS.search(text)
        code = int(status[1]) if status else None
        if status:
            cause = f"the server answered {code} {(status[2] or '').strip()}".strip()
        elif isinstance(error, TimeoutError):
            cause = f"no answer after {GIVE_UP_SECONDS:g} s"
        else:
            found = (cause for sign, cause in _CAUSES if sign in text)
            cause = next(found, f"{type(error).__name__} of the client")
        name = f"{self}/{key}".rstrip("/")
        return f"Cannot {action} {name}: {cause}. {self._remedy(code, error)}"

    def _remedy(self, code: int | None, error: Exception) -> str:
        is_denied = type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError")
        lacks_credentials = "redential" in str(error) or "169.254.169.254" in str(error)
        if code in (401, 403) or is_denied or lacks_credentials:
            scheme = self.address.scheme if self.address else ""
            variables = _ENVIRONMENT.get(scheme, "those of the store")
            return (
                "Check that the address is right and that your credentials allow this; they are "
                f"read from the environment: {variables}."
            )
        if code is not None and 400 <= code < 500:
            return "Check the address and the region."
        return "Several attempts failed. Check the network and the server, and try again later."


# The processes that have made requests; a fork inherits the number of its parent. A client has
# threads, which a fork does not copy: it would wait for them forever.
_processes: set[int] = set()


def _check_process(store: RemoteStore) -> None:
    _processes.add(os.getpid())
    if len(_processes) > 1:
        raise RemoteError(
            f"{store} was opened in another process, of which this one is a fork; connections do "
            "not survive a fork. Start processes with 'spawn' or 'forkserver', or with joblib's "
            "default backend."
        )


def connected(address: Address, read_only: bool = True) -> RemoteStore:
    """Return the store at an address, with credentials from the environment.

    Parameters
    ----------
    address : Address
        Where the store is.

    read_only : bool, default=True
        Whether to refuse to write.

    Raises
    ------
    ImportError
        If obstore is not installed.

    RemoteError
        If the settings in the environment are wrong.
    """
    try:
        import obstore.store as clients
    except ImportError as error:
        raise ImportError(
            f"{address} needs the package obstore, which is not installed. Install the extra "
            "'cloud': pip install 'acluster[cloud]'."
        ) from error
    scheme, _, rest = address.url.partition("://")
    options: dict[str, Any] = {
        "client_options": _client_options(address),
        "retry_config": _retries(),
    }
    bucket, _, prefix = rest.partition("/")
    config: Any = dict(address.settings)
    try:
        if scheme == "s3":
            client: Any = clients.S3Store(bucket, prefix=prefix or None, config=config, **options)
        elif scheme == "gs":
            client = clients.GCSStore(bucket, prefix=prefix or None, config=config, **options)
        else:
            client = clients.HTTPStore(address.url, **options)
    except Exception as error:  # of a setting; its message may hold the setting
        kind = type(error).__name__
    else:
        return RemoteStore(ObjectsInThreads(client, read_only=read_only), address)
    raise RemoteError(
        f"No client for {address} can be made: {kind}. Check the settings in the environment: "
        f"{_ENVIRONMENT.get(scheme, 'the proxy')}."
    )


def _client_options(address: Address) -> dict[str, Any]:
    endpoints = dict(address.settings).get("endpoint") or next(
        (os.environ[name] for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT") if name in os.environ),
        "",
    )
    return {
        # As other clients do, take the endpoint's own word for it.
        "allow_http": address.scheme == "http" or endpoints.startswith("http://"),
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
        "read_timeout": timedelta(seconds=STALL_SECONDS),
        "timeout": timedelta(seconds=REQUEST_SECONDS),
    }


def _retries() -> dict[str, Any]:
    return {
        "max_retries": MAX_RETRIES,
        "retry_timeout": timedelta(seconds=RETRY_SECONDS),
        "backoff": {
            "init_backoff": timedelta(seconds=FIRST_PAUSE_SECONDS),
            "max_backoff": timedelta(seconds=LONGEST_PAUSE_SECONDS),
            "base": 2,
        },
    }


def wrapped(store: Store, read_only: bool = True) -> RemoteStore:
    """Return a store of zarr that is neither a directory nor in memory, with bounded waiting."""
    if isinstance(store, RemoteStore):
        return store
    if read_only and not store.read_only:
        # Not all stores have read-only copies.
        with contextlib.suppress(NotImplementedError):
            store = store.with_read_only(True)
    kind, address = type(store).__name__, None
    if kind == "ObjectStore":
        address = address_of_client(store.store)
        store = ObjectsInThreads(store.store, read_only=store.read_only)
    elif kind == "FsspecStore":
        address = address_of_file_system(store.fs, store.path)
    return RemoteStore(store, address)


def fetched(store: Store, ranges: Sequence[tuple[str, int, int]]) -> list[Any]:
    """Fetch ranges of objects side by side, with a limited number of requests in flight.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Where they are.

    ranges : sequence of (str, int, int)
        The key of the object, the first byte and the byte after the last one. If the first one is
        negative, the last bytes of the object, so many.

    Returns
    -------
    list of (memoryview or None)
        The bytes; None if there is no such object.

    Raises
    ------
    RemoteError
        If a request fails after all attempts. Those in flight are waited for, and no others begin.
    """
    return sync(_fetch(store, ranges))


async def _fetch(store: Store, ranges: Iterable[tuple[str, int, int]]) -> list[Any]:
    turns, prototype = asyncio.Semaphore(MAX_REQUESTS), default_buffer_prototype()
    failed: list[BaseException] = []

    async def one(key: str, start: int, stop: int) -> Any:
        request = SuffixByteRequest(-start) if start < 0 else RangeByteRequest(start, stop)
        async with turns:
            # Requests in flight are not cancelled: clients would log what they cannot deliver.
            if failed:
                return None
            try:
                buffer = await store.get(key, prototype, request)
            except Exception as error:
                failed.append(error)
                return None
        return None if buffer is None else memoryview(buffer.as_numpy_array()).cast("B")

    found = await asyncio.gather(*(one(*wanted) for wanted in ranges))
    if failed:
        raise failed[0]
    return found
