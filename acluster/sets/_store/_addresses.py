"""Addresses of stores in object storage, which never hold credentials.

An address is kept in pickles and shown in messages. A password or a signature in it would end up in
both, so such an address is refused, and no message repeats what it holds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from acluster.sets._store._errors import StoreError

BUCKETS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}  # the schemes, and their usual forms
_WEB = ("https", "http")
_KNOWN = ("s3", "gs", *_WEB, "file")
# Settings of a client that another process needs too, and that are no secrets.
_OPEN_SETTINGS = {
    "s3": ("region", "endpoint", "virtual_hosted_style_request", "skip_signature"),
    "gs": ("skip_signature",),
}

_BROKEN = re.compile(r"(\w+):/[^/]")  # what pathlib makes of an address
# A password may hold slashes, as the secret keys of S3 do. A number before the slash is a port.
_USER = re.compile(r"(\w+://)(?:[^/\s\"'<>:]*:(?!\d+/)[^\s\"'<>]*|[^/\s\"'<>]*)@")
_QUERY = re.compile(r"(\w+://[^\s\"'<>?#]*)[?#][^\s\"'<>]*")


class Address(NamedTuple):
    """Where a store is in object storage, and how to reach it without secrets.

    Parameters
    ----------
    url : str
        Such as "s3://bucket/folder/train.zarr", without a slash at the end.

    settings : tuple of (str, str)
        Settings of the client that are not in the environment, such as ("region", "eu-west-1").
    """

    url: str
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def scheme(self) -> str:
        """The scheme: "s3", "gs", "https" or "http"."""
        return self.url.partition("://")[0]

    def __str__(self) -> str:
        return self.url


def is_address(path: Any) -> bool:
    """Whether a path is an address, such as "s3://bucket/train.zarr"."""
    return isinstance(path, str) and "://" in path


def local_or_address(path: Any) -> str:
    """Return a local path, or the checked address of a store in object storage.

    Parameters
    ----------
    path : str or path
        A path, or an address with one of the schemes s3, gs, https, http and file. A file address
        becomes the path that it names.

    Raises
    ------
    ValueError
        If the scheme is not known, or the address holds credentials. The message does not repeat
        them.
    """
    found = os.fspath(path)
    if not is_address(found):
        broken = isinstance(found, str) and _BROKEN.match(found)
        if broken and broken[1].lower() in (*BUCKETS, *_KNOWN) and not os.path.exists(found):
            raise ValueError(
                f"{redacted(found)!r} looks like an address that was made a path, which lost a "
                "slash. Pass addresses as text, such as 's3://bucket/train.zarr'."
            )
        return found
    scheme, rest = found.split("://", 1)
    scheme = BUCKETS.get(scheme.lower(), scheme.lower())
    if scheme not in _KNOWN:
        raise ValueError(
            f"{redacted(found)!r} has the scheme {scheme!r}; stores have addresses with one of "
            f"{', '.join(_KNOWN)}. Pass an object of zarr.storage for others."
        )
    if scheme == "file":
        return _path_of(found)
    _check_open(found)
    return f"{scheme}://{rest.rstrip('/')}"


def _path_of(address: str) -> str:
    parts = urlsplit(address)
    if parts.netloc not in ("", "localhost"):
        raise ValueError(
            f"{redacted(address)!r} names the host {parts.hostname!r}, but a file address is of "
            "this machine. Write 'file:///folder/train.zarr', with three slashes."
        )
    return url2pathname(parts.path)


def _check_open(address: str) -> None:
    """Check that an address has a place, and neither a password nor a signature."""
    parts = urlsplit(address)
    has_secret = redacted(address) != address or parts.query or parts.fragment
    if has_secret:
        raise ValueError(
            f"{redacted(address)!r} holds more than a place: a user name, a password, a signature "
            "or another query. Addresses are kept in pickles and shown in messages, so they must "
            "not hold credentials. Pass the bare address, and set credentials in the environment, "
            "such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    if not parts.netloc:
        raise ValueError(
            f"{address!r} names no bucket or host. Write it like 's3://bucket/folder/train.zarr'."
        )
    if not address.lower().startswith(_WEB) and "//" in parts.path.rstrip("/"):
        raise ValueError(f"{address!r} has '//' in its path. Write one slash between names.")
    if any(part in (".", "..") for part in unquote(parts.path).split("/")):
        raise ValueError(f"{address!r} has '.' or '..' in its path. Write the path without them.")


def redacted(text: str) -> str:
    """Return a text without the user names, passwords and queries of the addresses in it."""
    return _QUERY.sub(r"\1?***", _USER.sub(r"\1***@", text))


def address_of_client(client: Any) -> Address | None:
    """Return the address of a store of obstore, without its secrets; None if it has none.

    Parameters
    ----------
    client : obstore.store.ObjectStore
        The client, with its credentials.
    """
    kind = type(client).__name__
    if kind == "HTTPStore":
        return _usable(client.url, ())
    scheme = {"S3Store": "s3", "GCSStore": "gs"}.get(kind)
    if scheme is None:
        return None
    config: Mapping[str, Any] = client.config
    settings = [(key, str(config[key])) for key in _OPEN_SETTINGS[scheme] if config.get(key)]
    bucket = config.get("bucket", "")
    return _usable(f"{scheme}://{bucket}/{client.prefix or ''}", settings)


def address_of_file_system(file_system: Any, path: str) -> Address | None:
    """Return the address of a path in a file system of fsspec; None if others cannot use it."""
    protocol = file_system.protocol
    names = [protocol] if isinstance(protocol, str) else [*protocol]
    if set(names) & set(_WEB):
        return _usable(path, ())
    scheme = next((BUCKETS[name] for name in names if name in BUCKETS), None)
    return None if scheme is None else _usable(f"{scheme}://{path}", ())


def _usable(url: str, settings: Any) -> Address | None:
    try:
        checked = local_or_address(url)
        # An endpoint may hold a password as well.
        open_settings = [(key, value) for key, value in settings if redacted(value) == value]
        return Address(checked, tuple(open_settings))
    except ValueError:
        return None


def unreachable(address: str) -> StoreError:
    """Return the error about a store that other processes could not open."""
    return StoreError(
        f"{redacted(address)} cannot be pickled: what opens it may hold credentials, and a pickle "
        "would hold them in plain text. Open the store by its address, such as "
        "'s3://bucket/train.zarr', with credentials in the environment, or use one process."
    )
