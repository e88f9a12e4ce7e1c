import gpu


def test_main_smoke_measures_epoch_without_gpu(monkeypatch, capsys):
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # `main` sets it; restore it after the test
    gpu.main(["--smoke", "--parts", "epoch"])
    assert "epoch" in capsys.readouterr().out
