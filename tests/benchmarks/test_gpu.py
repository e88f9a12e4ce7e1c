import json

import gpu
import pytest


def test_main_smoke_measures_epoch_without_gpu(monkeypatch, capsys):
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # `main` sets it; restore it after the test
    gpu.main(["--smoke", "--parts", "epoch"])
    assert "epoch" in capsys.readouterr().out


def test_main_smoke_measures_start_up_without_gpu(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    path = tmp_path / "figures.json"
    gpu.main(["--smoke", "--parts", "start-up", "--folder", str(tmp_path), "--json", str(path)])
    printed = capsys.readouterr().out
    assert "in memory check" in printed
    assert "in store  check" in printed
    figures = json.loads(path.read_text())["start-up"]
    assert figures["host_to_device_gb_per_second"] > 0
    for place in ("memory", "store"):
        own = figures[place]
        assert own["gb"] == 40 * 25 * 8 * 2 / 1e9
        seconds = own["seconds"]["check"] + own["seconds"]["copy"]
        assert own["times_of_bus"] == pytest.approx(
            seconds / (own["gb"] / figures["host_to_device_gb_per_second"])
        )
    assert [*tmp_path.iterdir()] == [path], "the store is still there"
