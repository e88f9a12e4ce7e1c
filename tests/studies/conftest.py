"""What the tests of the studies share: a folder without MNIST, and a small Table 1."""

import csv

import flash_mnist_table1 as table1
import pytest

# Sizes that train in a second. One folder of features serves every command with the same sizes.
SMALL = ("--images", "300", "--videos", "256", "--test-videos", "128", "--n-jobs", "1")


@pytest.fixture
def bundled_digits(tmp_path, monkeypatch):
    """Make the studies use the digits of scikit-learn."""
    monkeypatch.setenv("ACLUSTER_DATA", str(tmp_path))


def read(path):
    """Return the rows of a CSV file as a list of dicts."""
    return list(csv.DictReader(path.read_text().splitlines()))


def train_table1(folder, *arguments):
    """Train cells of Table 1 in a folder, and return the path of their CSV file."""
    path = folder / "table1.csv"
    table1.main([*SMALL, "--work", str(folder), "--csv", str(path), *arguments])
    return path
