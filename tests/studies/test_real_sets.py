import real_sets

from tests.studies.conftest import read


def test_main_runs_every_fold_once(data_home, tmp_path, capsys, monkeypatch):
    def small_model(n_features, seed):
        model, _, _ = musk_model(n_features, seed)
        grid = {"features": [real_sets.scaled(), real_sets.kernel_features(0.01)]}
        return model, grid, 2

    musk_model = real_sets.musk_model
    monkeypatch.setitem(real_sets.METHODS, ("musk1", "attention cluster"), small_model)
    table = tmp_path / "table.csv"
    arguments = ["musk1", "--folds", "1", "--csv", str(table), "--n-jobs", "1"]
    real_sets.main(arguments)
    assert "musk1            pooled SVM" in capsys.readouterr().out
    rows = read(table)
    assert [row["method"] for row in rows] == ["attention cluster", "pooled SVM"]
    assert all(float(row["accuracy"]) > 0.5 for row in rows)
    real_sets.main(arguments)
    assert read(table) == rows, "a finished fold was repeated"
