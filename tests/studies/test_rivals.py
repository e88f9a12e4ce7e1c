import rivals

from tests.studies.conftest import read


def test_main_runs_every_method_once(data_home, tmp_path, capsys, monkeypatch):
    load = rivals.load
    monkeypatch.setattr(rivals, "load", lambda name: load(name)._replace(max_epochs=5))
    table = tmp_path / "rivals.csv"
    methods = ["attention cluster", "efficient probing", "pooled SVM", "NetVLAD, cosine"]
    arguments = ["--sets", "musk1", "elephant", "--seeds", "0", "--folds", "1", "--n-jobs", "1"]
    arguments += ["--csv", str(table), "--methods", *methods]
    rivals.main(arguments)
    assert "8 of 8: " in capsys.readouterr().out
    rivals.main(arguments)
    assert "1 of" not in capsys.readouterr().out, "a finished run was repeated"
    rows = read(table)
    assert {(row["dataset"], row["method"]) for row in rows} == {
        (name, method) for name in ("musk1", "elephant") for method in methods
    }
    assert all(float(row["fit_seconds"]) > 0 and float(row["accuracy"]) > 40 for row in rows)
    assert {row["epochs"] for row in rows} == {"5", ""}
    for row in rows:
        assert bool(row["parameters"]) == (row["method"] != "pooled SVM")
