"""The benchmark of object storage."""

import json

import pytest

pytest.importorskip("obstore", reason="object storage needs the extra cloud")
import object_store


def test_report_compares_before_and_after(tmp_path, monkeypatch):
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "ENDPOINT_URL", "REGION"):
        monkeypatch.setenv(f"AWS_{name}", "")  # the benchmark sets them; here they are restored
    options = ["--megabytes", "3", "--delays", "5", "--repeats", "1"]
    report = object_store.main(
        ["epochs", "opening", *options, "--json", str(tmp_path / "figures.json")]
    )
    assert report["epochs"].keys() == {"plain, 5 ms", "compressed, 5 ms"}
    for figures in report["epochs"].values():
        assert figures["before"]["most_in_flight"] <= 2
        assert 0.8 < figures["after"]["bytes_over_store"] < 2.5
    assert report["opening"]["5 ms"]["requests"] < 15
    assert json.loads((tmp_path / "figures.json").read_text()) == report
