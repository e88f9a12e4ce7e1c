from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import joblib
import pytest
import result_rows

import acluster


class Run(NamedTuple):
    name: str
    number: int


def test_run_all_keeps_rows_of_two_commands(tmp_path):
    path = tmp_path / "rows.csv"

    def command(name):
        tasks = [joblib.delayed(dict)(name=name, number=number) for number in range(50)]
        return list(result_rows.run_all(tasks, path, 1, Run))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(command, ("one", "other")))
    assert len(result_rows.read_rows(path, Run)) == 100


def test_read_rows_rejects_file_without_key_columns(tmp_path):
    (tmp_path / "rows.csv").write_text("name,seed\nfc1,0\n")
    with pytest.raises(SystemExit, match="has no column number: another version wrote it"):
        result_rows.read_rows(tmp_path / "rows.csv", Run)


def test_environment_needs_neither_git_nor_an_installed_acluster(monkeypatch):
    def of_installed(name):
        if name == "acluster":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(result_rows, "version", of_installed)
    monkeypatch.setenv("PATH", "")
    found = result_rows.environment()
    assert found["versions"].startswith(f"acluster {acluster.__version__}, torch ")
    assert found["commit"] == "unknown"
