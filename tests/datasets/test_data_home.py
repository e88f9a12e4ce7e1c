from pathlib import Path

from acluster.datasets import get_data_home


def test_argument_comes_before_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("ACLUSTER_DATA", "elsewhere")
    assert get_data_home(tmp_path) == tmp_path
    assert get_data_home(str(tmp_path)) == tmp_path


def test_environment_comes_before_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("ACLUSTER_DATA", str(tmp_path))
    assert get_data_home() == tmp_path


def test_home_folder_is_the_last_resort(monkeypatch):
    monkeypatch.delenv("ACLUSTER_DATA", raising=False)
    assert get_data_home() == Path.home() / "acluster_data"


def test_tilde_is_the_home_folder():
    assert get_data_home("~/data") == Path.home() / "data"


def test_folder_is_not_created(tmp_path):
    assert not get_data_home(tmp_path / "absent").exists()
