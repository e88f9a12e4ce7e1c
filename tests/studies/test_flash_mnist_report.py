import flash_mnist_report as report
import flash_mnist_units as units
import numpy as np
from result_rows import write_rows

from tests.studies.conftest import read


def test_verdict_needs_two_standard_errors_and_every_seed():
    def word(*pairs):
        return report.verdict(np.array(pairs))[:16].strip()

    # Two standard errors of a difference are 1.0 points at 85 %.
    assert word() == "not run"
    assert word((86.2, 85.0)) == "holds"
    assert word((85.8, 85.0)) == "undecided"
    assert word(*[(86.2, 85.0)] * 3) == "holds"
    assert word((85.0, 86.2)) == "does not hold"
    assert word((95.0, 85.0), (84.9, 85.0)) == "undecided"  # the seeds disagree
    assert word((1.6, 1.0)) == "holds"


def test_main_writes_tables_and_claims(tmp_path, capsys):
    recipe = {"seed": 0, "batch_size": 64, "learning_rate": 0.001, "videos": 102_400}
    rows, unit_rows = [], []
    for method, accuracy in (("fc1", 10.0), ("fc1+shift", 30.5)):
        cell = {"method": method, "cluster_size": 1, **recipe}
        rows.append(cell | {"accuracy": accuracy, "seconds": 3600, "extractor_accuracy": 96.1})
        unit_rows.append(cell | dict.fromkeys(units.COLUMNS, 0.25) | {"similarity": "nan"})
    write_rows(rows, tmp_path / "table1.csv")
    write_rows(unit_rows, tmp_path / "units.csv")
    arguments = ["--csv", "table1.csv", "--units-csv", "units.csv", "--output", "."]
    report.main([str(tmp_path / text) if text[0] != "-" else text for text in arguments])
    table = read(tmp_path / "flash_mnist_table1_beside_the_paper.csv")
    assert table[0]["fc1+shift"] == "30.5 (51.2, -20.7)"
    assert table[1]["fc1+shift"] == "(64.8)"  # not run
    printed = capsys.readouterr().out
    claim = next(line for line in printed.splitlines() if "shifting helps fc1, N = 1 " in line)
    assert claim.endswith("holds           +20.5")
    assert "took 2.00 hours" in printed
    lines = (tmp_path / "flash_mnist_units_table.csv").read_text().splitlines()[1:]
    assert lines == [f'"{name}, N = 1",,0.25,0.25,0,0.25,0' for name in ("fc1", "fc1+shift")]
