"""Replacing files: complete or not at all, with the mode of the file that is replaced."""

import os
import stat

import pytest

from acluster._utils._files import replaced_file


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask_022():
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask_022")
@pytest.mark.parametrize("before", [None, 0o600, 0o640, 0o666, 0o444, 0o755])
def test_replaced_file_keeps_the_mode(tmp_path, before):
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(b"old")
        path.chmod(before)
    with replaced_file(path) as unfinished:
        assert mode(unfinished) == (0o644 if before is None else 0o600)
        unfinished.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert mode(path) == (0o644 if before is None else before)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_replaced_file_keeps_the_earlier_file_after_an_error(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write():
        with replaced_file(path) as unfinished:
            unfinished.write_bytes(b"ne")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_replaced_file_follows_symbolic_links(tmp_path):
    (tmp_path / "folder").mkdir()
    target, link, dangling = tmp_path / "folder" / "file", tmp_path / "link", tmp_path / "dangling"
    target.write_bytes(b"old")
    target.chmod(0o600)
    link.symlink_to(target)
    dangling.symlink_to("folder/new")
    for path in (link, dangling):
        with replaced_file(path) as unfinished:
            unfinished.write_bytes(b"new")
        assert path.is_symlink()
        assert path.read_bytes() == b"new"
    assert mode(target) == 0o600
    assert sorted(os.listdir(tmp_path / "folder")) == ["file", "new"]


def test_replaced_file_rejects_links_in_a_circle_and_special_files(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    os.mkfifo(tmp_path / "pipe")
    for name in ("a", "pipe"):
        with pytest.raises(OSError, match=r"symbolic links|is a device or a pipe"):
            replaced_file(tmp_path / name).__enter__()
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "pipe"]
    assert (tmp_path / "a").is_symlink()
