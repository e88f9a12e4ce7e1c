"""The examples run, small, from the command line."""

import csv
import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def run_example(name, *arguments, **environment):
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    ).stdout


def test_main_job_on_the_bundled_digits(tmp_path):
    picture = tmp_path / "out" / "flash.png"
    shown = run_example(
        "flash_mnist.py",
        *("--videos", 512, "--extractor-frames", 3000, "--epochs", 2, "--output", picture),
        ACLUSTER_DATA=str(tmp_path),
    )
    assert "videos from scikit-learn's digits" in shown
    assert "FrameExtractor - fit" in shown
    assert "AttentionClusterClassifier - fit" in shown
    assert "Average " in shown
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_accuracy_on_real_sets(tmp_path, data_home):
    table = tmp_path / "table.csv"
    arguments = ("real_sets.py", "musk1", "--folds", 1, "--csv", table, "--n-jobs", 1)
    shown = run_example(*arguments, ACLUSTER_DATA=str(data_home))
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["method"] for row in rows] == ["attention cluster", "pooled SVM"]
    assert "musk1            pooled SVM" in shown
    run_example(*arguments, ACLUSTER_DATA=str(data_home))
    assert len(table.read_text().splitlines()) == 3, "a finished fold was run again"


def test_several_modalities_from_made_up_sensors(tmp_path):
    arguments = ("utd_mhad.py", "--epochs", 8, "--store", tmp_path / "actions.zarr")
    shown = run_example(*arguments, ACLUSTER_DATA=str(tmp_path))
    assert "made-up sensors" in shown
    percents = {line[:30].strip(): float(line[30:].split()[0]) for line in shown.splitlines()[1:]}
    alone = [percents[name] for name in ("skeleton", "inertial", "depth")]
    assert percents["skeleton + inertial + depth"] > max(alone) + 20
    assert percents["without half of the inertial"] < percents["skeleton + inertial + depth"]


def test_the_readmes_example():
    readme = (EXAMPLES.parent / "README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0]
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["search"].best_score_ > 0.95
