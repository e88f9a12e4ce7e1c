"""Write the tables and the plot of the comparison of attention clusters with their rivals.

The script trains nothing. From the rows of `rivals.py` it writes for the documentation:

- the mean accuracy of every method on every data set, with the standard error over folds and seeds;
- the seconds to fit and to predict the test items, and the number of parameters;
- the paired difference from the attention cluster, with its standard error;
- the same accuracies of the first repetition or seed only, with the classifier that needs no
  parameters;
- the mean ranks, in which the data sets of one source count once together, with and without some
  of the data sets, and a plot of them with the critical difference of Nemenyi's test at the 5 %
  level (Demsar, 2006).

It also writes one table each for `defaults.py`, `variants.py` and `rival_learning_rates.py`, if
their rows are in the same folder.

    python studies/rivals_report.py [--csv FILE] [--output FOLDER] [--image FILE]
"""

import argparse
import csv
from pathlib import Path

import defaults
import matplotlib.pyplot as plt
import numpy as np
import rival_learning_rates
import rivals
import variants
from result_rows import read_rows
from scipy.stats import rankdata, studentized_range

SENSORS = set(defaults.SENSORS)  # of the same clips
SOURCE_OF = dict.fromkeys(SENSORS, "UTD-MHAD") | dict.fromkeys(
    ["elephant", "tiger", "fox"], "Corel"
)
# Mean ranks are also given without some data sets.
LEFT_OUT = {
    "without UTD-MHAD": SENSORS,
    "musk1, elephant, birds": set(rivals.SETS) - {"musk1", "elephant", "birds"},
}
STUDIES = (defaults.DEFAULTS, variants.VARIANTS, rival_learning_rates.STUDY)
IMAGE = rivals.HERE.parent / "docs" / "images" / "rivals_ranks.png"


UNTUNED = "attention cluster CV"


class Table:
    """The rows of the comparison, by method and data set.

    A data set has the folds and seeds that all methods with rows on it have in common.
    """

    def __init__(self, rows, left_out=()):
        ran = {run.method for run in rows}
        self.methods = [name for name in rivals.METHODS if name in ran and name not in left_out]
        self.options = [name for name in rivals.OPTIONS if name in ran]
        self.sets = [name for name in rivals.SETS if any(run.dataset == name for run in rows)]
        common = {name: self._common(rows, name) for name in self.sets}
        self.rows = {
            run: row for run, row in rows.items() if (run.seed, run.fold) in common[run.dataset]
        }

    def _common(self, rows, dataset):
        done = {}
        for run in rows:
            if run.dataset == dataset and run.method in self.methods:
                done.setdefault(run.method, set()).add((run.seed, run.fold))
        # On a published split, a method that does not depend on chance needs one run only.
        once = [name for name in rivals.WITHOUT_SEED if done.get(name) == {(0, 0)}]
        several = [own for method, own in done.items() if method not in once]
        return set.intersection(*several or [{(0, 0)}])

    def of(self, dataset, method, column="accuracy"):
        """Return the available values of a column, over folds and seeds."""
        found = [
            row[column]
            for run, row in self.rows.items()
            if (run.dataset, run.method) == (dataset, method)
        ]
        return np.array([float(text) for text in found if text])

    def means(self):
        """Return the mean accuracies, of shape (n_methods, n_sets), NaN where there is no run."""
        return np.array(
            [
                [np.mean(found) if len(found := self.of(name, method)) else np.nan
                 for name in self.sets]
                for method in self.methods
            ]
        )  # fmt: skip

    def described(self, method):
        """Return the accuracy of a method on every data set, with the standard error, as text."""
        return [describe(self.of(name, method)) for name in self.sets]

    def differences(self, dataset, method):
        """Return the paired differences from the attention cluster, over folds and seeds."""
        ours, theirs = (
            {
                (run.seed, run.fold): float(row["accuracy"])
                for run, row in self.rows.items()
                if run[:2] == (dataset, name)
            }
            for name in ("attention cluster", method)
        )
        if len(theirs) == 1:  # a deterministic method ran once, for all seeds
            return next(iter(theirs.values())) - np.array([*ours.values()])
        return np.array([theirs[key] - ours[key] for key in ours if key in theirs])

    def is_complete(self, dataset):
        """Return whether all methods ran on a data set."""
        return all(len(self.of(dataset, method)) > 0 for method in self.methods)

    def mean_ranks(self, left_out=()):
        """Return the mean ranks of the methods (1 is best), and the number of complete sources.

        The mean is over the sources: the data sets of one source share its weight.
        """
        chosen = [self.is_complete(name) and name not in left_out for name in self.sets]
        sources = [SOURCE_OF.get(name, name) for name in np.array(self.sets)[chosen]]
        weights = [1 / sources.count(source) for source in sources]
        means = self.means()[:, chosen].round(6)  # equal accuracies tie in spite of rounding
        ranks = rankdata(-means, axis=0)
        return ranks @ weights / max(1.0, sum(weights)), len(set(sources))


def describe(figures):
    """Return the mean and the standard error as text."""
    if not len(figures):
        return ""
    differ = np.ptp(figures) > 0
    error = f" ± {np.std(figures, ddof=1) / len(figures) ** 0.5:.1f}" if differ else ""
    return f"{np.mean(figures):.1f}{error}"


def write(path, header, lines):
    """Write a CSV file."""
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *lines])


def critical_difference(n_methods, n_sources):
    """Return the critical difference of two mean ranks by Nemenyi's test at the 5 % level."""
    quantile = studentized_range.ppf(0.95, n_methods, np.inf) / 2**0.5
    return quantile * (n_methods * (n_methods + 1) / (6 * n_sources)) ** 0.5


def plot_ranks(methods, ranks, difference, path):
    """Plot the mean ranks, with the critical difference from the best as a gray area."""
    order = np.argsort(ranks)
    figure, ax = plt.subplots(figsize=(7, 0.32 * len(methods) + 1), layout="constrained")
    places = np.arange(len(methods))
    ax.plot(ranks[order], places, "o", color="C0")
    ax.hlines(places, ranks.min(), ranks[order], color="C0", linewidth=0.8)
    ax.axvspan(ranks.min(), ranks.min() + difference, color="0.9", zorder=0)
    ax.set_yticks(places, [methods[i] for i in order])
    ax.invert_yaxis()
    ax.set_xlabel(f"mean rank (gray: within the critical difference {difference:.1f} of the best)")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def write_comparison(table, order, ranks, folder):
    """Write accuracy and costs of every method, the best rank first; return the accuracy lines."""
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


def write_options(rows, folder):
    """Write the accuracy of the default attention cluster and of the options, on all its folds.

    The mean over the data sets is given if there is a run on each.
    """
    names = "attention cluster", *rivals.OPTIONS
    table = Table({run: row for run, row in rows.items() if run.method in names})
    lines = []
    for name in ("attention cluster", *table.options):
        means = [np.mean(found) for one in table.sets if len(found := table.of(one, name))]
        mean = f"{np.mean(means):.2f}" if len(means) == len(table.sets) else ""
        lines.append([name, mean, *table.described(name)])
    write(folder / "rivals_options.csv", ["", "mean", *table.sets], lines)


def write_differences(table, folder):
    """Write the differences of every method and every option from the default cluster."""
    names = [name for name in (*table.methods, *table.options) if name != "attention cluster"]
    lines = [
        [name, *(describe(table.differences(dataset, name)) for dataset in table.sets)]
        for name in names
    ]
    write(folder / "rivals_differences.csv", ["", *table.sets], lines)


def write_ranks_without(table, order, folder):
    """Write the mean ranks without some of the data sets."""
    found = {name: table.mean_ranks(left_out) for name, left_out in LEFT_OUT.items()}
    found = {name: ranks for name, (ranks, n_sources) in found.items() if n_sources}
    lines = [[table.methods[i], *(f"{ranks[i]:.1f}" for ranks in found.values())] for i in order]
    write(folder / "rivals_ranks.csv", ["method", *found], lines)


def write_untuned(rows, folder):
    """Write the accuracy of every method with the first seed, and of the untuned classifier."""
    rows = {run: row for run, row in rows.items() if run.seed == 0}
    if not rows:
        return
    table = Table(rows)
    ranks, _ = table.mean_ranks()
    without, _ = table.mean_ranks(SENSORS)
    lines = [
        [
            table.methods[i],
            f"{ranks[i]:.1f}",
            f"{without[i]:.1f}",
            *table.described(table.methods[i]),
        ]
        for i in np.argsort(ranks)
    ]
    header = ["method", "rank", "without UTD-MHAD", *table.sets]
    write(folder / "rivals_first_seed.csv", header, lines)


def write_studies(source, folder):
    """Write accuracy and ranks of the candidates of every study that has rows."""
    for study in STUDIES:
        rows = defaults.read_study(study, source / study.csv.name)
        header, *lines = defaults.ranked(rows, study.candidates)
        if lines:
            write(folder / f"{study.csv.stem}_table.csv", header, lines)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--csv", type=Path, default=rivals.CSV, help="results of rivals.py")
    parser.add_argument("--output", type=Path, default=rivals.CSV.parent, help="output folder")
    parser.add_argument("--image", type=Path, default=IMAGE, help="file of the plot")
    options = parser.parse_args(arguments)
    rows = read_rows(options.csv, rivals.Run)
    if not rows:
        parser.error(f"{options.csv} has no rows; run rivals.py first")
    table = Table(rows, left_out=[UNTUNED])
    ranks, n_sources = table.mean_ranks()
    if not n_sources or len(ranks) < 2:
        parser.error("no data set has complete runs of two methods; run rivals.py to the end")
    options.output.mkdir(parents=True, exist_ok=True)
    options.image.parent.mkdir(parents=True, exist_ok=True)
    order = np.argsort(ranks)
    accuracy = write_comparison(table, order, ranks, options.output)
    write_ranks_without(table, order, options.output)
    write_options(rows, options.output)
    write_differences(table, options.output)
    write_untuned(rows, options.output)
    write_studies(options.csv.parent, options.output)
    difference = critical_difference(len(table.methods), n_sources)
    plot_ranks(table.methods, ranks, difference, options.image)
    for line in accuracy:
        print(f"{line[0]:28}{line[1]:>6}  " + "  ".join(f"{text:>11}" for text in line[2:]))
    print(f"Ranks over {n_sources} sources of data; the critical difference is {difference:.1f}.")


if __name__ == "__main__":
    main()
