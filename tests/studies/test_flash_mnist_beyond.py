import os

import flash_mnist_beyond as beyond
import numpy as np
import pytest

from acluster import FeatureSets
from acluster.datasets import load_digits_28, make_flash_mnist
from tests.studies.conftest import SMALL, read


def test_compare_tests_learning_rate_chosen_on_held_out_videos(tmp_path, monkeypatch, capsys):
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
    assert shown.endswith("Best on the held-out videos: labels, fc2, 4\n")


def test_prepare_holds_images_out(tmp_path, monkeypatch):
    monkeypatch.setenv("ACLUSTER_DATA", str(tmp_path))
    made = {}
    monkeypatch.setattr(
        beyond.features, "make_features", lambda folder, extractor, parts: made.update(parts)
    )
    options = beyond.parse(["--quick", "--images", "1200", "--csv", str(tmp_path / "rows.csv")])
    for name in ("authors", "longer"):
        beyond.prepare(name, tmp_path, options)
        assert list(made) == ["train", "test", "held-out"]  # the position is the random seed
        held_out = {image.tobytes() for image in made["held-out"].images}
        assert len(made["held-out"].images) == 100
        assert not held_out & {image.tobytes() for image in made["train"].images}
    assert len(made["train"].images) == len(made["train"].labels) == 1100 * 16


def test_with_distorted_keeps_gray_levels():
    images = load_digits_28().train_images[:500]
    (distorted, labels) = beyond.with_distorted(images, np.arange(500))
    assert np.array_equal(distorted[:500], images)
    assert np.array_equal(labels[500:1000], np.arange(500))
    copies = distorted[500:].reshape(-1, *images.shape)
    assert np.mean(copies[:500] != images) > 0.05
    levels = [np.bincount(part.ravel(), minlength=256) / part.size for part in (images, copies)]
    # The difference is 0.02, because these digits reach the edges, and 0.066 without matching.
    assert np.abs(np.diff(np.cumsum(levels, axis=1), axis=0)).max() < 0.03


def test_shuffle_alike_permutes_frames_of_same_digit():
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
def test_perform_scores_requested_part(head, tmp_path, monkeypatch):
    is_full = np.arange(20) % 2
    values = np.random.default_rng(0).normal(size=(20, 25, 3)) + 3 * is_full[:, None, None]
    X = FeatureSets(values.reshape(500, 3), np.arange(21) * 25)
    target = 1023 * is_full  # all digits, or none

    def load_features(folder, scored):
        return X, target, X, target if scored == "held-out" else 1023 - target

    monkeypatch.setattr(beyond.features, "load_features", load_features)
    (tmp_path / "about.json").write_text('{"extractor_accuracy": 99.3}')
    kinds = np.repeat(is_full, 25)  # frames move within these two kinds
    for part, accuracy in (("held-out", 100), ("test", 0)):
        run = beyond.Run("longer", head, "fc1", 8, 0.1, 0, 30, 20, part)
        assert beyond.perform(run, tmp_path, kinds, os.getpid())["accuracy"] == accuracy


def test_main_chooses_and_tests_every_method_once(bundled_digits, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(beyond, "RATES", (0.003, 0.01))
    monkeypatch.setattr(beyond, "DISTORTED_COPIES", 1)
    arguments = ["--quick", *SMALL, "--videos", "64", "--test-videos", "32", "--epochs", "1", "1"]
    arguments += ["--extractors", "authors", "deeper"]
    arguments += ["--extractor-epochs", "1", "--methods", "fc1", "fc2+shift"]
    arguments += ["--csv", str(tmp_path / "rows.csv"), "--work", str(tmp_path)]
    beyond.main(arguments)
    printed = capsys.readouterr().out
    rows = read(tmp_path / "rows.csv")
    n_networks = 2 * 2
    assert sum(row["part"] == "held-out" for row in rows) == n_networks * len(beyond.RATES)
    assert sum(row["part"] == "test" for row in rows) == n_networks
    beyond.main(arguments)
    again = capsys.readouterr().out
    assert "Run(" not in again, "a finished run was repeated"
    assert again.splitlines()[-1] == printed.splitlines()[-1]
