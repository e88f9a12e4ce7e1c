"""Addresses of stores name a place and never hold credentials."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acluster import FeatureSetsWriter, open_feature_sets, save_feature_sets
from acluster.sets._store._addresses import (
    Address,
    address_of_file_system,
    local_or_address,
    redacted,
)
from tests.sets._store.helpers import ARRAYS

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ("s3://bucket/a/b.zarr/", "s3://bucket/a/b.zarr"),
        ("S3A://bucket/a", "s3://bucket/a"),
        ("gcs://bucket/a", "gs://bucket/a"),
        ("https://host:8080/a%20b.zarr", "https://host:8080/a%20b.zarr"),
        ("https://host:8080/a@b.zarr", "https://host:8080/a@b.zarr"),
        ("file:///tmp/a%20b.zarr", "/tmp/a b.zarr"),
        ("folder/b.zarr", "folder/b.zarr"),
    ],
)
def test_addresses_are_brought_to_one_form(given_, expected):
    assert local_or_address(given_) == expected


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("ftp://host/a.zarr", "has the scheme 'ftp'; .* one of s3, gs, https, http, file"),
        ("s3:///a.zarr", "names no bucket"),
        ("s3://bucket/../other/a.zarr", "has '.' or '..' in its path"),
        ("s3://bucket/%2e%2e/a.zarr", "has '.' or '..' in its path"),
        ("s3://bucket/a//b.zarr", "has '//' in its path"),
        ("file://host/a.zarr", "names the host 'host'"),
        (Path("s3://bucket/a.zarr"), "lost a slash. Pass addresses as text"),
    ],
)
def test_wrong_addresses_are_refused(address, problem):
    with pytest.raises(ValueError, match=problem):
        open_feature_sets(address)


@pytest.mark.parametrize(
    "address",
    [
        f"https://user:{SECRET}@host/a.zarr",
        f"https://{SECRET}@host/a.zarr",
        f"https://host/a.zarr?X-Amz-Signature={SECRET}",
        f"https://host/a.zarr#{SECRET}",
        f"s3://AKIA:{SECRET}@bucket/a.zarr",
        f"s3://AKIA:{SECRET}/rest@bucket/a.zarr",
        f"s3://AKIA:start@{SECRET}/rest@bucket/a.zarr",
        f"https://user:{SECRET}/rest@host/a.zarr",
        f"ftp://user:{SECRET}@host/a.zarr",
        f"file://user:{SECRET}@host/a.zarr",
    ],
)
@pytest.mark.parametrize("use", [open_feature_sets, FeatureSetsWriter])
def test_addresses_with_credentials_are_refused_without_repeating_them(address, use):
    with pytest.raises(ValueError, match=r"\*\*\*|names the host") as caught:
        use(address)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value.__cause__)


SECRETS = st.text("abcXYZ019:+=%&.-_~", min_size=8, max_size=30)


@given(SECRETS, SECRETS, st.sampled_from(["", " and more", "'", "\nnext line"]))
def test_redacted_removes_users_and_queries_and_keeps_places(user, query, after):
    text = f"GET https://{user}@host/key?{query}{after} failed"
    assert redacted(text) == f"GET https://***@host/key?***{after} failed"
    assert redacted("GET https://host/key failed, 40 % done") == (
        "GET https://host/key failed, 40 % done"
    )


class FileSystem:
    """A file system of fsspec, as far as an address is concerned."""

    def __init__(self, *protocols):
        self.protocol = protocols
        self.secret = SECRET


@pytest.mark.parametrize(
    ("protocols", "path", "expected"),
    [
        (("s3", "s3a"), "bucket/a.zarr", Address("s3://bucket/a.zarr")),
        (("gs", "gcs"), "bucket/a.zarr", Address("gs://bucket/a.zarr")),
        (("http", "https"), "https://host/a.zarr", Address("https://host/a.zarr")),
        (("http", "https"), f"https://u:{SECRET}@host/a.zarr", None),
        (("sftp",), "host/a.zarr", None),
    ],
)
def test_address_of_file_system(protocols, path, expected):
    assert address_of_file_system(FileSystem(*protocols), path) == expected


def test_file_addresses_are_local_stores(tmp_path):
    address = (tmp_path / "a b.zarr").as_uri()
    save_feature_sets(address, ARRAYS)
    assert os.listdir(tmp_path) == ["a b.zarr"]
    X = open_feature_sets(address)
    assert X._source.rows.is_fast
    assert [x.tolist() for x in X] == [x.tolist() for x in ARRAYS]
