"""Compare Table 1 with the paper, and check the paper's claims.

The script trains nothing. It reads the rows of `flash_mnist_table1.py` and `flash_mnist_units.py`,
and writes three files for the documentation: every cell beside the paper's, for every claim the
difference between two cells by seed, and statistics of the attention units.

    python studies/flash_mnist_report.py [--csv FILE] [--output FOLDER]
"""

import argparse
import csv
from pathlib import Path

import flash_mnist_table1 as table1
import flash_mnist_units as units
import numpy as np
from result_rows import read_rows

N_TEST_VIDEOS = 10_240

# Test accuracy in %: Table 1 of the paper.
PAPER = {
    1: (0.2, 0.2, 0.2, 51.2, 53.7),
    2: (0.4, 0.4, 0.5, 64.8, 66.8),
    4: (0.6, 2.2, 2.3, 75.9, 76.8),
    8: (0.9, 31.7, 22.5, 80.6, 83.1),
    16: (1.2, 82.3, 82.0, 86.9, 84.9),
    32: (2.4, 83.3, 83.2, 87.1, 85.6),
    64: (5.0, 83.2, 82.4, 87.1, 85.6),
    128: (8.9, 81.8, 80.9, 87.1, 85.7),
}
# (claim of the paper, the better cell, the worse cell), compared seed by seed
CLAIMS = [
    *(
        (f"shifting helps {method}, N = {size}", (f"{method}+shift", size), (method, size))
        for method in ("fc1", "fc2")
        for size in PAPER
    ),
    *(
        (f"{method} without shifting jumps from N = 4 to 16", (method, 16), (method, 4))
        for method in ("fc1", "fc2")
    ),
    *(
        (f"fc2 beats fc1 with shifting, N = {size}", ("fc2+shift", size), ("fc1+shift", size))
        for size in (1, 2, 4, 8)
    ),
    *(
        (f"fc1 beats fc2 with shifting, N = {size}", ("fc1+shift", size), ("fc2+shift", size))
        for size in (16, 32, 64, 128)
    ),
    *(
        (f"fc1 with shifting beats Average, N = {size}", ("fc1+shift", size), ("average", size))
        for size in PAPER
    ),
]


class Table:
    """Accuracy in percent by method, cluster size and seed, with the authors' recipe."""

    def __init__(self, rows, videos):
        self.rows = {
            cell: row for cell, row in rows.items() if cell[-3:] == (*table1.RECIPE, videos)
        }

    def seeds(self, method, size):
        """Return a dict from seed to accuracy, empty if the cell was not run."""
        return {
            cell.seed: float(row["accuracy"])
            for cell, row in self.rows.items()
            if (cell.method, cell.cluster_size) == (method, size)
        }

    def pairs(self, ahead, behind):
        """Return the accuracies of two cells, of shape (n, 2), for their n common seeds."""
        a, b = self.seeds(*ahead), self.seeds(*behind)
        return np.array([(a[seed], b[seed]) for seed in sorted(a.keys() & b.keys())])


def write_table(table, path):
    """Write "accuracy (paper, difference)" for every cell, or "(paper)" if it was not run."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["N", *table1.METHODS])
        for size, paper in PAPER.items():
            texts = [
                describe(list(table.seeds(method, size).values()), percent)
                for method, percent in zip(table1.METHODS, paper, strict=True)
            ]
            writer.writerow([size, *texts])


def describe(found, paper):
    """Return the text of a cell; ± is the standard deviation over seeds."""
    if not found:
        return f"({paper})"
    spread = f" ± {np.std(found, ddof=1):.1f}" if len(found) > 1 else ""
    return f"{np.mean(found):.1f}{spread} ({paper}, {np.mean(found) - paper:+.1f})"


def verdict(pairs):
    """Decide whether the first cell of each pair is better than the second.

    It is if it is better for every seed, and if the mean difference exceeds two standard errors of
    the difference of two accuracies. The standard error does not shrink with the number of seeds,
    because all seeds share the test videos.
    """
    if len(pairs) == 0:
        return "not run"
    shares, differences = pairs / 100, pairs[:, 0] - pairs[:, 1]
    variance = (shares * (1 - shares)).sum(axis=1).mean() / N_TEST_VIDEOS
    clear = abs(differences.mean()) > 2 * 100 * variance**0.5
    if clear and (differences > 0).all():
        word = "holds"
    elif clear and (differences < 0).all():
        word = "does not hold"
    else:
        word = "undecided"
    return f"{word:16}" + ", ".join(f"{difference:+.1f}" for difference in differences)


def write_units(rows, path):
    """Write the statistics of the units of every cell with seed 0."""
    columns = {"similarity": ".2f", "entropy": ".2f", "on_digits": ".2f"}
    columns.update({"on_noise": ".0f", "auc": ".2f", "digits": ".0f"})
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["cell", "similarity", "entropy", "on digits", "on noise", "AUC", "digits"])
        for cell, row in sorted(rows.items()):
            if cell.seed == 0:
                figures = [f"{float(row[name]):{form}}" for name, form in columns.items()]
                name = f"{cell.method}, N = {cell.cluster_size}"
                writer.writerow([name, *("" if figure == "nan" else figure for figure in figures)])


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--csv", type=Path, default=table1.CSV, help="results of Table 1")
    parser.add_argument("--units-csv", type=Path, default=units.CSV, help="results of the units")
    parser.add_argument(
        "--videos", type=int, default=102_400, help="training videos of these cells"
    )
    parser.add_argument("--output", type=Path, default=table1.CSV.parent, help="output folder")
    options = parser.parse_args(arguments)
    if not options.csv.exists():
        parser.error(f"{options.csv} does not exist; run flash_mnist_table1.py first")
    table = Table(read_rows(options.csv, table1.Cell), options.videos)
    if not table.rows:
        parser.error(f"{options.csv} has no row of this recipe with {options.videos} videos")
    options.output.mkdir(parents=True, exist_ok=True)
    write_table(table, options.output / "flash_mnist_table1_beside_the_paper.csv")
    units_rows = read_rows(options.units_csv, table1.Cell)
    write_units(units_rows, options.output / "flash_mnist_units_table.csv")
    claims = "".join(
        f"{claim:52}{verdict(table.pairs(ahead, behind))}\n" for claim, ahead, behind in CLAIMS
    )
    (options.output / "flash_mnist_claims.txt").write_text(claims)
    print(claims)
    extractors = sorted({row["extractor_accuracy"] for row in table.rows.values()})
    print(f"Accuracy of the extractors on frames with a digit: {', '.join(extractors)} %.")
    hours = sum(float(row["seconds"]) for cell, row in table.rows.items() if cell.seed == 0) / 3600
    print(f"The cells of seed 0 took {hours:.2f} hours on one thread.")


if __name__ == "__main__":
    main()
