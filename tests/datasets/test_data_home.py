from pathlib import Path

from acluster.datasets import get_data_home


def test_get_data_home_prefers_the_argument(monkeypatch, tmp_path):
    monkeypatch.setenv("ACLUSTER_DATA", "elsewhere")
    assert get_data_home(tmp_path) == tmp_path
    assert get_data_home(str(tmp_path)) == tmp_path


def test_get_data_home_reads_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("ACLUSTER_DATA", str(tmp_path))
    assert get_data_home() == tmp_path


def test_get_data_home_defaults_to_the_home_directory(monkeypatch):
    monkeypatch.delenv("ACLUSTER_DATA", raising=False)
    assert get_data_home() == Path.home() / "acluster_data"


def test_get_data_home_expands_tilde():
    assert get_data_home("~/data") == Path.home() / "data"


def test_get_data_home_does_not_create_the_folder(tmp_path):
    assert not get_data_home(tmp_path / "absent").exists()
