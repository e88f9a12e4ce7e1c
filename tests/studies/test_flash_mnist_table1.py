import os
import shutil
import subprocess
import sys

import flash_mnist_table1 as table1
import joblib
import pytest

from tests.studies.conftest import SMALL, read, train_table1

# 256 videos have too few items for each of the 1,024 classes.
pytestmark = pytest.mark.filterwarnings("ignore:The number of unique classes")


def test_main_trains_every_method_once(bundled_digits, tmp_path, capsys):
    arguments = ("--cluster-sizes", "1", "4", "--epochs", "2")
    rows = read(train_table1(tmp_path, *arguments))
    assert [(row["method"], int(row["cluster_size"])) for row in rows] == [
        (method, size)
        for method in ("average", "fc1", "fc1+shift", "fc2", "fc2+shift")
        for size in (1, 4)
    ]
    assert all(0 <= float(row["accuracy"]) <= 100 and row["epochs"] == "2" for row in rows)
    capsys.readouterr()
    train_table1(tmp_path, *arguments)
    assert "epoch" not in capsys.readouterr().out, "a finished cell was trained again"


def test_main_resumes_killed_cell_to_same_weights(bundled_digits, tmp_path, capfd):
    cell = ("--methods", "fc1+shift", "--cluster-sizes", "4", "--epochs", "3")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train_table1(whole, *cell)
    shutil.copytree(whole / "features_256", killed / "features_256")
    shutil.rmtree(killed / "features_256" / "cells")
    command = [sys.executable, table1.__file__, *SMALL, *cell]
    command += ["--work", str(killed), "--csv", str(killed / "table1.csv")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert b"epoch 1 of 3" in process.stdout.readline()
        process.kill()
    capfd.readouterr()
    train_table1(killed, *cell)
    assert "epoch 1 of 3" not in capfd.readouterr().out
    checkpoints = [next(path.glob("*/cells/*.joblib")) for path in (whole, killed)]
    # Losses differ where accuracies, which are rounded shares, may agree by chance.
    losses = [joblib.load(path)[0].loss_curve_ for path in checkpoints]
    assert len(losses[0]) == 3
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", ["flash_mnist_table1", "flash_mnist_beyond"])
def test_main_rejects_numbers_below_one(name, capsys):
    with pytest.raises(SystemExit):
        __import__(name).main(["--videos", "0"])
    assert "argument --videos: 0 is not 1 or more" in capsys.readouterr().err


def test_quick_options_keep_rows_apart_from_results():
    options = table1.parse(["--quick", "--epochs", "1"])
    assert options.csv != table1.CSV
    assert (options.videos, options.epochs) == (table1.QUICK["videos"], 1)
