"""The examples run, small, from the command line."""

import csv
import importlib
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import joblib
import newcomer
import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from acluster import FeatureSets
from acluster.datasets import load_digits_28, make_flash_mnist
from acluster.nn import ShiftingOperation

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


def table1(tmp_path, name, *arguments):
    """The command for a small part of Table 1, and its CSV file."""
    table = tmp_path / f"{name}.csv"
    command = [
        *(sys.executable, EXAMPLES / "flash_mnist_table1.py", "--quick", "--n-jobs", 1),
        *("--work", tmp_path / name, "--csv", table, *arguments),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACLUSTER_DATA": str(tmp_path)}
    return {"args": list(map(str, command)), "env": environment, "text": True}, table


def test_every_method_of_table_1(tmp_path):
    call, table = table1(tmp_path, "all")
    subprocess.run(**call, check=True)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(row["method"], int(row["cluster_size"])) for row in rows] == [
        (method, size)
        for method in ("average", "fc1", "fc1+shift", "fc2", "fc2+shift")
        for size in (1, 4)
    ]
    assert all(0 <= float(row["accuracy"]) <= 100 and row["epochs"] == "2" for row in rows)
    shown = subprocess.run(**call, check=True, capture_output=True).stdout
    assert "epoch" not in shown, "a finished cell was trained again"
    units = ("--units-csv", tmp_path / "units.csv")
    shown = run_example(
        "flash_mnist_units.py",
        *("--csv", table, "--work", tmp_path / "all", "--videos", 4096, "--output", tmp_path),
        *("--n-jobs", 1, *units),
        ACLUSTER_DATA=str(tmp_path),
    )
    assert "fc2+shift, N = 4, seed 0" in shown
    assert (tmp_path / "flash_mnist_curves.png").read_bytes().startswith(b"\x89PNG")
    report = run_example(
        "flash_mnist_report.py",
        *("--csv", table, "--videos", 4096, "--output", tmp_path, *units),
    )
    shifting, plain = (
        next(float(row["accuracy"]) for row in rows if (row["method"], row["cluster_size"]) == cell)
        for cell in (("fc1+shift", "1"), ("fc1", "1"))
    )
    beside = list(
        csv.DictReader(
            (tmp_path / "flash_mnist_table1_beside_the_paper.csv").read_text().splitlines()
        )
    )
    assert beside[0]["fc1+shift"] == f"{shifting:.1f} (51.2, {shifting - 51.2:+.1f})"
    assert beside[1]["fc1+shift"] == "(64.8)"  # not run
    claim = next(
        line for line in report.splitlines() if line.startswith("shifting helps fc1, N = 1 ")
    )
    assert claim.endswith(f" {shifting - plain:+.1f}")
    cells = (tmp_path / "flash_mnist_units_table.csv").read_text().splitlines()[1:]
    assert [line.split('"')[1] for line in cells] == [
        f"{method}, N = {size}"
        for method in ("fc1", "fc1+shift", "fc2", "fc2+shift")
        for size in (1, 4)
    ]


def test_when_a_claim_about_table_1_holds(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    from flash_mnist_report import verdict

    def word(*pairs):
        return verdict(np.array(pairs))[:16].strip()

    # Two standard errors of a difference are 1.0 points at 85 %.
    assert word() == "not run"
    assert word((86.2, 85.0)) == "holds"
    assert word((85.8, 85.0)) == "undecided"
    assert word(*[(86.2, 85.0)] * 3) == "holds"
    assert word((85.0, 86.2)) == "does not hold"
    assert word((95.0, 85.0), (84.9, 85.0)) == "undecided"  # the seeds do not agree
    assert word((1.6, 1.0)) == "holds"


def test_a_killed_cell_of_table_1_goes_on_to_the_same_end(tmp_path):
    cell = ("--methods", "fc1+shift", "--cluster-sizes", 4, "--epochs", 3)
    call, whole = table1(tmp_path, "whole", *cell)
    subprocess.run(**call, check=True)
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed" / "features_4096" / "cells")
    call, table = table1(tmp_path, "killed", *cell)
    with subprocess.Popen(**call, stdout=subprocess.PIPE) as process:
        assert "epoch 1 of 3" in process.stdout.readline()
        process.kill()
    shown = subprocess.run(**call, check=True, capture_output=True).stdout
    assert "epoch 1 of 3" not in shown
    kept = [next(path.with_suffix("").glob("*/cells/*.joblib")) for path in (whole, table)]
    losses = [joblib.load(path)[0].loss_curve_ for path in kept]  # tell more than accuracies
    assert losses[0] == losses[1]


def test_rows_of_two_commands_are_all_kept(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import result_rows

    class Run(NamedTuple):
        name: str
        number: int

    def command(name):
        tasks = [joblib.delayed(dict)(name=name, number=number) for number in range(50)]
        return list(result_rows.run_all(tasks, path, 1, Run))

    path = tmp_path / "rows.csv"
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(command, ("one", "other")))
    assert len(result_rows.read_rows(path, Run)) == 100


def test_a_file_of_rows_of_another_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    from flash_mnist_table1 import Cell
    from result_rows import read_rows

    (tmp_path / "rows.csv").write_text("method,seed\nfc1,0\n")
    with pytest.raises(SystemExit, match="no column batch_size, cluster_size, learning_rate"):
        read_rows(tmp_path / "rows.csv", Cell)


@pytest.fixture
def beyond(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("flash_mnist_beyond")


def test_the_step_size_tested_is_the_best_on_the_videos_held_out(
    beyond, tmp_path, monkeypatch, capsys
):
    def accuracy_of(runs, *args):
        for run in runs:
            assert (run.part, run.epochs) in [("held-out", 1), ("test", 2)]
        best = {"fc1": 0.01, "fc2": 0.003}
        return {
            run: 10.0 * (run.learning_rate == best[run.method]) + (run.method == "fc2")
            if run.part == "held-out"
            else 50.0 - run.learning_rate + run.seed
            for run in runs
        }

    monkeypatch.setattr(beyond, "accuracy_of", accuracy_of)
    (tmp_path / "about.json").write_text('{"extractor_accuracy": 99.3, "union": 96.6}')
    arguments = ["--cluster-sizes", "4", "--methods", "fc1", "fc2"]
    arguments += ["--seeds", "0", "1", "--epochs", "1", "2"]
    beyond.compare("longer", tmp_path, None, beyond.parse(arguments))
    shown = capsys.readouterr().out
    assert "labels  fc1           4       0.01     10.00   50.49   49.99, 50.99\n" in shown
    assert "labels  fc2           4      0.003     11.00   50.50   49.997, 50.997\n" in shown
    assert shown.endswith("Best on the videos held out: labels, fc2, 4\n")


def test_no_network_learns_from_the_images_held_out(beyond, tmp_path, monkeypatch):
    monkeypatch.setenv("ACLUSTER_DATA", str(tmp_path))
    made = {}
    monkeypatch.setattr(
        beyond.features, "make_features", lambda folder, extractor, parts: made.update(parts)
    )
    options = beyond.parse(["--quick", "--images", "1200", "--csv", str(tmp_path / "rows.csv")])
    for name in ("authors", "longer"):
        beyond.prepare(name, tmp_path, options)
        assert list(made) == ["train", "test", "held-out"]  # the order is that of the seeds
        held_out = {image.tobytes() for image in made["held-out"].images}
        assert len(made["held-out"].images) == 100
        assert not held_out & {image.tobytes() for image in made["train"].images}
    assert len(made["train"].images) == len(made["train"].labels) == 1100 * 16


def test_distorted_images_keep_their_grey_levels(beyond):
    images = load_digits_28().train_images[:500]
    (distorted, labels) = beyond.with_distorted(images, np.arange(500))
    assert np.array_equal(distorted[:500], images)
    assert np.array_equal(labels[500:1000], np.arange(500))
    copies = distorted[500:].reshape(-1, *images.shape)
    assert np.mean(copies[:500] != images) > 0.05
    levels = [np.bincount(part.ravel(), minlength=256) / part.size for part in (images, copies)]
    # 0.02, as these digits reach the edges; without the matching of levels 0.066.
    assert np.abs(np.diff(np.cumsum(levels, axis=1), axis=0)).max() < 0.03


def test_frames_change_places_with_those_of_the_same_digit(beyond):
    frame_digits = beyond.training_frame_digits(64)
    images = load_digits_28()
    flash = make_flash_mnist(images.train_images, images.train_labels, n_videos=64, random_state=0)
    assert np.array_equal(flash.frame_digits, frame_digits)
    X = FeatureSets(np.stack([frame_digits.ravel(), np.arange(1600)], axis=1), np.arange(65) * 25)
    values, _ = beyond.shuffle_alike(X, frame_digits.ravel(), np.random.default_rng(0)).packed()
    assert np.array_equal(values[:, 0], frame_digits.ravel())
    assert np.mean(values[:, 1] != np.arange(1600)) > 0.9
    assert np.array_equal(np.sort(values[:, 1]), np.arange(1600))


@pytest.mark.parametrize("head", ["labels", "classes"])
def test_a_run_is_scored_on_its_part(beyond, head, tmp_path, monkeypatch):
    is_full = np.arange(20) % 2
    values = np.random.default_rng(0).normal(size=(20, 25, 3)) + 3 * is_full[:, None, None]
    X = FeatureSets(values.reshape(500, 3), np.arange(21) * 25)
    target = 1023 * is_full  # all digits or none

    def load_features(folder, scored):
        return X, target, X, target if scored == "held-out" else 1023 - target

    monkeypatch.setattr(beyond.features, "load_features", load_features)
    (tmp_path / "about.json").write_text('{"extractor_accuracy": 99.3}')
    kinds = np.repeat(is_full, 25)  # frames change places within the two
    for part, accuracy in (("held-out", 100), ("test", 0)):
        run = beyond.Run("longer", head, "fc1", 8, 0.1, 0, 30, 20, part)
        assert beyond.perform(run, tmp_path, kinds, os.getpid())["accuracy"] == accuracy


@pytest.mark.parametrize("name", ["flash_mnist_table1", "flash_mnist_beyond"])
def test_numbers_below_one_are_refused(name, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    with pytest.raises(SystemExit):
        importlib.import_module(name).main(["--videos", "0"])
    assert "argument --videos: 0 is not 1 or more" in capsys.readouterr().err


def test_what_units_look_at_in_known_weights(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import flash_mnist_units as units

    # All digits once, and two frames of noise: one unit sees the 3, one the 3 and the 5, one noise.
    generator = np.random.default_rng(0)
    frame_digits = generator.permuted(np.tile([*range(10), -1, -1], (2, 1)), axis=1)
    seen = ([3], [3, 5], [-1])
    weights = np.stack([np.isin(frame_digits, digits) for digits in seen], axis=-1)
    weights = weights / weights.sum(axis=1, keepdims=True)
    attention = FeatureSets(weights.reshape(24, 3), [0, 12, 24])
    found = units.describe_units(attention, frame_digits.ravel())
    assert found["similarity"] == pytest.approx(1 / 2**0.5 / 3)  # only the first two have any
    assert found["entropy"] == pytest.approx((0 + 1 + 1) / 3 * np.log(2) / np.log(12))
    assert found["on_digits"] == pytest.approx(2 / 3)
    assert found["on_noise"] == 1
    # The second takes the 5 for a 3: of 18 other digits it ranks 16 below and 2 alike.
    assert found["auc"] == pytest.approx((1 + 17 / 18 + 1 / 2) / 3)
    assert found["digits"] == 1


def test_maps_of_attention_are_drawn(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import flash_mnist_units as units

    images = load_digits_28()
    flash = make_flash_mnist(images.train_images, images.train_labels, n_videos=64, random_state=0)
    attention = FeatureSets(np.full((1600, 8), 1 / 25), np.arange(65) * 25)
    units.draw_maps(flash, {"without": attention, "with": attention}, tmp_path / "maps.png")
    assert (tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")


def test_parts_of_the_shifting_operation(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    from flash_mnist_ablation import VARIANTS, Variant

    v = torch.randn(4, 3, 5)
    variants = {name: Variant(name, 3, 5) for name in VARIANTS}
    whole = ShiftingOperation(3)
    with torch.no_grad():
        whole.alpha.copy_(variants["shifting"].alpha.view_as(whole.alpha))
        whole.beta.copy_(variants["shifting"].beta.view_as(whole.beta))
    torch.testing.assert_close(variants["shifting"](v), whole(v))
    torch.testing.assert_close(
        variants["per dimension"](v).norm(dim=-1), torch.full((4, 3), 3**-0.5)
    )
    torch.testing.assert_close(variants["norm"](v), normalize(v, dim=-1) / 3**0.5)
    affine = variants["affine"]
    torch.testing.assert_close(affine(v), affine.alpha * v + affine.beta)
    assert variants["none"](v) is v


def test_ablation_of_the_shifting_operation(tmp_path):
    arguments = (
        "flash_mnist_ablation.py",
        *("--epochs", 1, "--images", 1000, "--videos", 2048, "--test-videos", 1024),
        *("--n-jobs", 1, "--csv", tmp_path / "rows.csv", "--work", tmp_path),
    )
    shown = run_example(*arguments, ACLUSTER_DATA=str(tmp_path))
    for variant in ("none", "norm", "affine", "shifting", "per dimension"):
        assert shown.count(f", {variant}, seed 0: epoch 1 of 1") == 2
    again = run_example(*arguments, ACLUSTER_DATA=str(tmp_path))
    assert "epoch" not in again, "a finished run was performed again"
    assert shown.endswith(again)


def test_beyond_table_1(tmp_path):
    arguments = (
        *("flash_mnist_beyond.py", "--quick", "--extractors", "authors", "deeper"),
        *("--n-jobs", 1, "--csv", tmp_path / "rows.csv", "--work", tmp_path),
    )
    shown = run_example(*arguments, ACLUSTER_DATA=str(tmp_path))
    rows = list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines()))
    assert sum(row["part"] == "held-out" for row in rows) == 2 * 4 * 4
    assert sum(row["part"] == "test" for row in rows) == 2 * 4
    again = run_example(*arguments, ACLUSTER_DATA=str(tmp_path))
    assert "Run(" not in again, "a finished run was performed again"
    assert again.splitlines()[-1] == shown.splitlines()[-1]


def test_the_readmes_example():
    names = {}
    exec(compile(newcomer.readme_example(), "README.md", "exec"), names)
    assert names["search"].best_score_ > 0.95


def test_rivals_and_their_report(tmp_path, data_home):
    table, image = tmp_path / "rivals.csv", tmp_path / "ranks.png"
    methods = ["attention cluster", "efficient probing", "pooled SVM"]
    options = ["5 highest"]
    command = ["rivals.py", "--sets", "musk1", "elephant", "--seeds", 0, "--folds", 1]
    command += ["--methods", *methods, *options, "--csv", table, "--n-jobs", 2]
    environment = {"ACLUSTER_DATA": str(data_home)}
    assert "8 of 8: " in run_example(*command, **environment)
    assert "1 of" not in run_example(*command, **environment), "a run was done twice"
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert {(row["dataset"], row["method"]) for row in rows} == {
        (name, method) for name in ("musk1", "elephant") for method in (*methods, *options)
    }
    assert all(float(row["fit_seconds"]) > 0 and float(row["accuracy"]) > 40 for row in rows)
    is_counted = {row["method"]: bool(row["parameters"]) for row in rows}
    assert is_counted == {
        "attention cluster": True,
        "efficient probing": True,
        "pooled SVM": False,
        "5 highest": True,
    }
    shown = run_example("rivals_report.py", "--csv", table, "--output", tmp_path, "--image", image)
    assert "Ranks over 2 sets" in shown
    header, *lines = csv.reader((tmp_path / "rivals_accuracy.csv").read_text().splitlines())
    assert header == ["method", "rank", "musk1", "elephant"]
    assert sorted(line[0] for line in lines) == sorted(methods)
    assert sum(float(line[1]) for line in lines) == pytest.approx(6, abs=0.11)
    assert image.read_bytes().startswith(b"\x89PNG")
    assert "musk1, elephant, birds" in (tmp_path / "rivals_ranks.csv").read_text()
    header, *lines = csv.reader((tmp_path / "rivals_differences.csv").read_text().splitlines())
    assert [line[0] for line in lines if all(line)] == [*methods[1:], *options]
    header, *lines = csv.reader((tmp_path / "rivals_options.csv").read_text().splitlines())
    assert header == ["", "musk1", "elephant"]
    assert [line[0] for line in lines if all(line)] == ["attention cluster", *options]


def test_the_report_pairs_runs_and_leaves_sets_out(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    report = importlib.import_module("rivals_report")
    accuracy = {
        ("skeleton", "attention cluster"): [90, 80],
        ("skeleton", "average"): [93, 81],
        ("skeleton", "pooled SVM"): [70],
        ("depth", "attention cluster"): [50, 50],
        ("depth", "average"): [40, 40],
        ("depth", "pooled SVM"): [60],
    }
    rows = {
        report.rivals.Run(dataset, method, seed, 0): {"accuracy": str(value)}
        for (dataset, method), values in accuracy.items()
        for seed, value in enumerate(values)
    }
    table = report.Table(rows)
    assert report.describe(table.ahead("skeleton", "average")) == "2.0 ± 1.0"
    assert report.describe(table.ahead("skeleton", "pooled SVM")) == "-15.0 ± 5.0"
    assert report.describe(table.ahead("skeleton", "BiLSTM")) == ""
    assert table.mean_ranks()[0].tolist() == [2, 2, 2]
    assert table.mean_ranks({"depth"})[0].tolist() == [2, 1, 3]


def test_candidates_are_ranked_by_what_all_have(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(EXAMPLES)
    defaults = importlib.import_module("defaults")
    study = defaults.Study({"a": {"N": 1}, "b": {"N": 2}}, None, tmp_path / "rows.csv")
    lines = ["dataset,candidate,split,accuracy,parameters"]
    for dataset, candidate, split, accuracy, n in [
        ("skeleton", "a", 0, 50, 1),
        ("skeleton", "a", 1, 60, 1),
        ("skeleton", "b", 0, 52, 2),  # split 1 is not there yet and does not count
        ("depth", "a", 0, 10, 1),  # nor does depth for the ranks, which b has not
        ("inertial", "a", 0, 99, 7),  # an earlier a
        ("skeleton", "c", 5, 99, 3),  # no candidate any more
    ]:
        lines.append(f'{dataset},{candidate},{split},{accuracy},"{{""N"": {n}}}"')
    study.csv.write_text("\n".join(lines))
    assert defaults.ranked(defaults.read_study(study, study.csv), study.candidates) == [
        ["candidate", "rank of 1", "mean", "skeleton", "depth"],
        ["b", "1.0", "52.0", "52.0", ""],
        ["a", "2.0", "50.0", "50.0", "10.0"],
    ]
    assert defaults.ranked({}, study.candidates) == [["candidate", "rank of 0", "mean"]]


def test_nemenyi_is_that_of_the_textbook(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    report = importlib.import_module("rivals_report")
    # Demsar, 2006, table 5: q is 2.728 for 5 methods and 2.850 for 6.
    for n_methods, n_sets, q in ((5, 30, 2.728), (6, 14, 2.850)):
        expected = q * (n_methods * (n_methods + 1) / (6 * n_sets)) ** 0.5
        found = report.critical_difference(n_methods, n_sets)
        assert found == pytest.approx(expected, rel=1e-3)


def test_candidates_for_the_defaults(tmp_path, data_home):
    table = tmp_path / "defaults.csv"
    name = "japanese vowels"
    command = ["defaults.py", "--sets", name, "--splits", 1, "--csv", table, "--n-jobs", 2]
    command += ["--candidates", "rmsprop 0.001", "adam 0.01"]
    shown = run_example(*command, ACLUSTER_DATA=str(data_home))
    assert shown.count("japanese vowels, ") == 2
    assert "adam 0.01" in shown.splitlines()[-1] + shown.splitlines()[-2]
    assert "vowels, " not in run_example(*command, ACLUSTER_DATA=str(data_home))


def test_candidates_never_see_a_test_item(data_home, monkeypatch):
    monkeypatch.setenv("ACLUSTER_DATA", str(data_home))
    monkeypatch.syspath_prepend(EXAMPLES)
    defaults = importlib.import_module("defaults")
    assert set(defaults.SETS).isdisjoint(["musk1", "elephant", "birds"]), "all items are tested"
    train, test = defaults.load("japanese vowels").folds(0)[0]
    splits = defaults.splits("japanese vowels")
    assert len(splits) == 10
    for fit, held in splits:
        assert set(fit) | set(held) == set(train)
        assert not set(fit) & set(held)
        assert not set(test) & (set(fit) | set(held))


def test_variants_of_the_cluster(tmp_path, data_home):
    table = tmp_path / "variants.csv"
    command = ["variants.py", "--sets", "japanese vowels", "--splits", 1, "--csv", table]
    command += ["--n-jobs", 2, "--candidates", "as it is", "entmax", "pyramid of time"]
    shown = run_example(*command, ACLUSTER_DATA=str(data_home))
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert {row["candidate"] for row in rows} == {"as it is", "entmax", "pyramid of time"}
    assert all(float(row["accuracy"]) > 70 for row in rows)
    assert "entmax " in "".join(shown.splitlines()[-3:])


@pytest.mark.parametrize(("name", "scale", "power"), [("sparsemax", 1, 1), ("entmax", 0.5, 2)])
def test_other_weights_than_the_softmax(monkeypatch, name, scale, power):
    monkeypatch.syspath_prepend(EXAMPLES)
    function = importlib.import_module("variants").ACTIVATIONS[name]
    scores = torch.randn(3, 9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores[1, 5:] = -torch.inf  # a shorter set
    weights = function(2 * scores).permute(0, 2, 1).reshape(-1, 9)
    for z, found in zip((2 * scores).permute(0, 2, 1).reshape(-1, 9), weights, strict=True):
        low, high = scale * z.max() - 1, scale * z.max()  # the threshold, by bisection
        for _ in range(80):
            middle = (low + high) / 2
            total = ((scale * z - middle).clamp(min=0) ** power).sum()
            low, high = (middle, high) if total > 1 else (low, middle)
        torch.testing.assert_close(found, (scale * z - low).clamp(min=0) ** power)
    assert torch.autograd.gradcheck(function, scores[:1].clone().requires_grad_())
