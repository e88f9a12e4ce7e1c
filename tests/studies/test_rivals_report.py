import csv

import numpy as np
import pytest
import rivals
import rivals_report as report
from result_rows import write_rows


def test_table_pairs_runs_and_ranks_without_data_sets():
    accuracy = {
        ("skeleton", "attention cluster"): [90, 80],
        ("skeleton", "average"): [93, 81],
        ("skeleton", "pooled SVM"): [70],
        ("depth", "attention cluster"): [50, 50],
        ("depth", "average"): [40, 40],
        ("depth", "pooled SVM"): [60],
    }
    rows = {
        rivals.Run(dataset, method, seed, 0): {"accuracy": str(value)}
        for (dataset, method), values in accuracy.items()
        for seed, value in enumerate(values)
    }
    table = report.Table(rows)
    assert report.describe(table.differences("skeleton", "average")) == "2.0 ± 1.0"
    assert report.describe(table.differences("skeleton", "pooled SVM")) == "-15.0 ± 5.0"
    assert report.describe(table.differences("skeleton", "BiLSTM")) == ""
    assert table.mean_ranks()[0].tolist() == [2, 2, 2]
    assert table.mean_ranks({"depth"})[0].tolist() == [2, 1, 3]


def test_table_has_the_folds_that_all_methods_share():
    folds = {"attention cluster": range(4), "average": range(1, 5), "NetVLAD": [2, 3]}
    rows = {
        rivals.Run("musk1", method, 0, fold): {"accuracy": str(fold)}
        for method, own in folds.items()
        for fold in own
    }
    rows[rivals.Run("colon", "average", 0, 7)] = {"accuracy": "1"}
    table = report.Table(rows)
    assert [len(table.of("musk1", method)) for method in table.methods] == [2, 2, 2]
    assert len(report.Table(rows, left_out=["NetVLAD"]).of("musk1", "average")) == 3
    assert table.of("colon", "average").tolist() == [1.0]
    assert [table.is_complete(name) for name in ("musk1", "colon")] == [True, False]


def test_mean_ranks_count_the_data_sets_of_a_source_once():
    ahead = {"skeleton": 2, "inertial": 2, "depth": 2, "musk1": 1}  # for the first method
    rows = {
        rivals.Run(dataset, method, 0, 0): {"accuracy": str(50 + (rank if is_first else 0))}
        for dataset, rank in ahead.items()
        for method, is_first in (("attention cluster", True), ("average", False))
    }
    rows[rivals.Run("musk1", "average", 0, 0)]["accuracy"] = "60"
    ranks, n_sources = report.Table(rows).mean_ranks()
    assert n_sources == 2
    np.testing.assert_allclose(ranks, [1.5, 1.5])  # 1.25 and 1.75 by data set


def test_critical_difference_matches_published_quantiles():
    # Demsar (2006), Table 5: q is 2.728 for 5 methods and 2.850 for 6.
    for n_methods, n_sets, q in ((5, 30, 2.728), (6, 14, 2.850)):
        expected = q * (n_methods * (n_methods + 1) / (6 * n_sets)) ** 0.5
        found = report.critical_difference(n_methods, n_sets)
        assert found == pytest.approx(expected, rel=1e-3)


def test_main_writes_tables_and_plot(tmp_path, capsys):
    methods, options = (
        ["attention cluster", "efficient probing", "pooled SVM"],
        ["attending to all"],
    )
    generator = np.random.default_rng(0)
    rows = [
        {
            **rivals.Run(dataset, method, 0, fold)._asdict(),
            "accuracy": generator.integers(50, 100),
            "fit_seconds": 1.5,
            "predict_seconds": 0.25,
            "parameters": "" if method == "pooled SVM" else 123,
        }
        for dataset in ("musk1", "elephant")
        for method in (*methods, report.UNTUNED, *options)
        for fold in range(2)
    ]
    write_rows(rows, tmp_path / "rivals.csv")
    image = tmp_path / "ranks.png"
    arguments = ["--csv", tmp_path / "rivals.csv", "--output", tmp_path, "--image", image]
    report.main(list(map(str, arguments)))
    assert "Ranks over 2 sources" in capsys.readouterr().out
    assert image.read_bytes().startswith(b"\x89PNG")

    def read(name):
        return list(csv.reader((tmp_path / f"rivals_{name}.csv").read_text().splitlines()))

    header, *lines = read("accuracy")
    assert header == ["method", "rank", "musk1", "elephant"]
    assert sorted(line[0] for line in lines) == sorted(methods)
    assert sum(float(line[1]) for line in lines) == pytest.approx(6, abs=0.11)
    assert read("ranks")[0][-2:] == ["without UTD-MHAD", "musk1, elephant, birds"]
    header, *lines = read("differences")
    assert [line[0] for line in lines if all(line)] == [*methods[1:], *options]
    header, *lines = read("options")
    assert header == ["", "mean", "musk1", "elephant"]
    means = [float(text.split(" ")[0]) for text in lines[0][2:]]
    assert float(lines[0][1]) == pytest.approx(np.mean(means), abs=0.06)
    assert [line[0] for line in lines if all(line)] == ["attention cluster", *options]
    assert ["pooled SVM", "", "1.5 / 0.25", "1.5 / 0.25"] in read("seconds")
    header, *lines = read("first_seed")
    assert header == ["method", "rank", "without UTD-MHAD", "musk1", "elephant"]
    assert sorted(line[0] for line in lines) == sorted([*methods, report.UNTUNED])
    assert report.UNTUNED not in [line[0] for line in read("accuracy")]
