import flash_mnist_units as units
import numpy as np
import pytest

from acluster import FeatureSets
from tests.studies.conftest import read, train_table1

# 256 videos have too few items for each of the 1,024 classes.
pytestmark = pytest.mark.filterwarnings("ignore:The number of unique classes")


def test_main_measures_and_draws_checkpoints(bundled_digits, tmp_path, capsys):
    cells = ("--methods", "fc1", "fc1+shift", "--cluster-sizes", "1", "8", "--epochs", "1")
    table = train_table1(tmp_path, *cells)
    rows = tmp_path / "units.csv"
    arguments = ["--csv", table, "--units-csv", rows, "--work", tmp_path, "--videos", 256]
    units.main([*map(str, arguments), "--n-jobs", "1", "--output", str(tmp_path)])
    assert "fc1+shift, N = 8, seed 0" in capsys.readouterr().out
    assert [(row["method"], row["cluster_size"]) for row in read(rows)] == [
        (method, size) for method in ("fc1", "fc1+shift") for size in "18"
    ]
    for name in ("samples", "curves", "attention"):
        image = tmp_path / f"flash_mnist_{name}.png"
        assert image.read_bytes().startswith(b"\x89PNG")


def test_describe_units_matches_known_weights():
    # Every video shows each digit once and two frames of noise. One unit attends to the 3, one to
    # the 3 and the 5, and one to the noise.
    generator = np.random.default_rng(0)
    frame_digits = generator.permuted(np.tile([*range(10), -1, -1], (2, 1)), axis=1)
    seen = ([3], [3, 5], [-1])
    weights = np.stack([np.isin(frame_digits, digits) for digits in seen], axis=-1)
    weights = weights / weights.sum(axis=1, keepdims=True)
    attention = FeatureSets(weights.reshape(24, 3), [0, 12, 24])
    found = units.describe_units(attention, frame_digits.ravel())
    assert found["similarity"] == pytest.approx(1 / 2**0.5 / 3)  # only the first two overlap
    assert found["entropy"] == pytest.approx((0 + 1 + 1) / 3 * np.log(2) / np.log(12))
    assert found["on_digits"] == pytest.approx(2 / 3)
    assert found["on_noise"] == 1
    # The second unit cannot separate 3 and 5: of 18 other digits, it ranks 16 below and 2 equal.
    assert found["auc"] == pytest.approx((1 + 17 / 18 + 1 / 2) / 3)
    assert found["digits"] == 1
