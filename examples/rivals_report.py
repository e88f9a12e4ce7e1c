"""
Attention clusters and their rivals: the tables and the plot of ranks
=====================================================================

Reads the rows that `rivals.py` has written, trains nothing, and writes for the documentation: mean
accuracy of every method on every set, with its standard error over folds and seeds; the seconds of
fitting and of predicting the test items, and the number of parameters; by how much each is ahead of
the attention cluster, with the standard error of the difference; mean ranks, with and without some
of the sets, and a plot of them, with the difference that two of them need to be told apart
(Nemenyi's test at 5 %, after Demsar, 2006). And a table each of the rows of `defaults.py`,
`variants.py` and `rival_steps.py`, where they lie beside.

    python examples/rivals_report.py [--csv FILE] [--output FOLDER] [--image FILE]
"""

import argparse
import csv
from pathlib import Path

import defaults
import matplotlib.pyplot as plt
import numpy as np
import rival_steps
import rivals
import variants
from result_rows import read_rows
from scipy.stats import rankdata, studentized_range

# Mean ranks without some of the sets: UTD-MHAD is four of them, of the same clips.
SENSORS = set(defaults.SENSORS)
LEFT_OUT = {f"of UTD-MHAD {name} only": SENSORS - {name} for name in defaults.SENSORS}
LEFT_OUT |= {
    "without UTD-MHAD": SENSORS,
    "musk1, elephant, birds": set(rivals.SETS) - {"musk1", "elephant", "birds"},
}
STUDIES = (defaults.DEFAULTS, variants.VARIANTS, rival_steps.STUDY)
IMAGE = rivals.HERE.parent / "docs" / "images" / "rivals_ranks.png"


class Table:
    """Figures by method and set."""

    def __init__(self, rows):
        self.rows = rows
        self.sets = [name for name in rivals.SETS if any(run.dataset == name for run in rows)]
        self.methods = [name for name in rivals.METHODS if any(run.method == name for run in rows)]

    def of(self, dataset, method, column="accuracy"):
        """A column's numbers over folds and seeds; those that are not there are left out."""
        found = [
            row[column]
            for run, row in self.rows.items()
            if (run.dataset, run.method) == (dataset, method)
        ]
        return np.array([float(text) for text in found if text])

    def means(self):
        """(methods, sets), NaN where nothing has been run."""
        return np.array(
            [
                [np.mean(found) if len(found := self.of(name, method)) else np.nan
                 for name in self.sets]
                for method in self.methods
            ]
        )  # fmt: skip

    def described(self, method):
        """Its accuracy on every set, with the standard error."""
        return [describe(self.of(name, method)) for name in self.sets]

    def ahead(self, dataset, method):
        """By how much it is ahead of the attention cluster, fold by fold and seed by seed."""
        ours, theirs = (
            {
                (run.seed, run.fold): float(row["accuracy"])
                for run, row in self.rows.items()
                if run[:2] == (dataset, name)
            }
            for name in ("attention cluster", method)
        )
        if len(theirs) == 1:  # without a seed, it is the same for all
            return next(iter(theirs.values())) - np.array([*ours.values()])
        return np.array([theirs[key] - ours[key] for key in ours if key in theirs])

    def is_complete(self, dataset):
        """Whether all methods have had the same folds and seeds, where a seed does anything."""
        done = {
            method: {(run.seed, run.fold) for run in self.rows if run[:2] == (dataset, method)}
            for method in self.methods
        }
        wanted = set.union(*done.values())
        once = {(0, 0)} if all(fold == 0 for _, fold in wanted) else wanted
        return all(
            own == wanted or (method in rivals.WITHOUT_SEED and own == once)
            for method, own in done.items()
        )

    def mean_ranks(self, left_out=()):
        """By method, over the sets that all have been run on alike; 1 is the best. Their number."""
        chosen = [self.is_complete(name) and name not in left_out for name in self.sets]
        means = self.means()[:, chosen].round(6)  # equal ones shall tie
        return rankdata(-means, axis=0).mean(axis=1), sum(chosen)


def describe(figures):
    """Mean and standard error."""
    if not len(figures):
        return ""
    differ = np.ptp(figures) > 0
    error = f" ± {np.std(figures, ddof=1) / len(figures) ** 0.5:.1f}" if differ else ""
    return f"{np.mean(figures):.1f}{error}"


def write(path, header, lines):
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *lines])


def critical_difference(n_methods, n_sets):
    """Of two mean ranks, by Nemenyi's test at 5 %."""
    quantile = studentized_range.ppf(0.95, n_methods, np.inf) / 2**0.5
    return quantile * (n_methods * (n_methods + 1) / (6 * n_sets)) ** 0.5


def plot_ranks(methods, ranks, difference, path):
    """Methods by their mean rank; those not to be told from the best lie in the grey."""
    order = np.argsort(ranks)
    figure, ax = plt.subplots(figsize=(7, 0.32 * len(methods) + 1), layout="constrained")
    places = np.arange(len(methods))
    ax.plot(ranks[order], places, "o", color="C0")
    ax.hlines(places, ranks.min(), ranks[order], color="C0", linewidth=0.8)
    ax.axvspan(ranks.min(), ranks.min() + difference, color="0.9", zorder=0)
    ax.set_yticks(places, [methods[i] for i in order])
    ax.invert_yaxis()
    ax.set_xlabel(f"mean rank (grey: within {difference:.1f} of the best, not told from it)")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def write_comparison(table, order, ranks, folder):
    """Accuracy and costs of every method, the best rank first; returns the lines of accuracy."""
    accuracy, costs = [], []
    for i in order:
        method = table.methods[i]
        accuracy.append([method, f"{ranks[i]:.1f}", *table.described(method)])
        fit, predict, parameters = (
            [table.of(name, method, column) for name in table.sets]
            for column in ("fit_seconds", "predict_seconds", "parameters")
        )
        shown = [
            f"{own.mean():.1f} / {of_test.mean():.2f}" if len(own) else ""
            for own, of_test in zip(fit, predict, strict=True)
        ]
        largest = max((int(p.max()) for p in parameters if len(p)), default="")
        costs.append([method, largest, *shown])
    write(folder / "rivals_accuracy.csv", ["method", "rank", *table.sets], accuracy)
    write(folder / "rivals_seconds.csv", ["method", "parameters (most)", *table.sets], costs)
    return accuracy


def write_options(table, folder):
    """Accuracy of the attention cluster as it is, and with one option set."""
    lines = [[name, *table.described(name)] for name in ("attention cluster", *rivals.OPTIONS)]
    write(folder / "rivals_options.csv", ["", *table.sets], lines)


def write_differences(table, folder):
    """By how much every method, and every option, is ahead of the attention cluster as it is."""
    names = [name for name in (*table.methods, *rivals.OPTIONS) if name != "attention cluster"]
    lines = [
        [name, *(describe(table.ahead(dataset, name)) for dataset in table.sets)] for name in names
    ]
    write(folder / "rivals_differences.csv", ["", *table.sets], lines)


def write_ranks_without(table, order, folder):
    """Mean ranks where some of the sets are left out."""
    found = {name: table.mean_ranks(left_out) for name, left_out in LEFT_OUT.items()}
    found = {name: ranks for name, (ranks, n_sets) in found.items() if n_sets}
    lines = [[table.methods[i], *(f"{ranks[i]:.1f}" for ranks in found.values())] for i in order]
    write(folder / "rivals_ranks.csv", ["method", *found], lines)


def write_studies(source, folder):
    """Accuracy and ranks of the candidates of every study that has rows."""
    for study in STUDIES:
        rows = defaults.read_study(study, source / study.csv.name)
        header, *lines = defaults.ranked(rows, study.candidates)
        if lines:
            write(folder / f"{study.csv.stem}_table.csv", header, lines)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--csv", type=Path, default=rivals.CSV)
    parser.add_argument("--output", type=Path, default=rivals.CSV.parent, help="a folder")
    parser.add_argument("--image", type=Path, default=IMAGE)
    options = parser.parse_args(arguments)
    rows = read_rows(options.csv, rivals.Run)
    if not rows:
        parser.error(f"{options.csv} has no rows; rivals.py writes them")
    table = Table(rows)
    ranks, n_sets = table.mean_ranks()
    if not n_sets or len(ranks) < 2:
        parser.error("no set has been run alike with two methods; run rivals.py to the end")
    options.output.mkdir(parents=True, exist_ok=True)
    options.image.parent.mkdir(parents=True, exist_ok=True)
    order = np.argsort(ranks)
    accuracy = write_comparison(table, order, ranks, options.output)
    write_ranks_without(table, order, options.output)
    write_options(table, options.output)
    write_differences(table, options.output)
    write_studies(options.csv.parent, options.output)
    difference = critical_difference(len(table.methods), n_sets)
    plot_ranks(table.methods, ranks, difference, options.image)
    for line in accuracy:
        print(f"{line[0]:28}{line[1]:>6}  " + "  ".join(f"{text:>11}" for text in line[2:]))
    print(f"Ranks over {n_sets} sets; two differ by Nemenyi's test from {difference:.1f} on.")


if __name__ == "__main__":
    main()
