"""Would the classifier gain from more than attention units and a linear layer?

Each candidate adds one part to the default attention cluster:

- the mean, maximum and standard deviation of every feature, beside the outputs of the units;
- a hidden layer on these statistics, beside the outputs of the units;
- a hidden layer on the global feature, beside it;
- layer normalization of the global feature;
- the average of the weights over the last third of the epochs.

They are trained in the folds of `portfolio.py`, so that no test item of the first published fold is
used.

    python studies/heads.py [--sets colon] [--candidates statistics] [--repetitions 1] [--n-jobs 2]

The out-of-fold predictions are kept in `studies/output/heads`, and are not computed again. The
script writes the log-loss and the accuracy of every candidate alone, and of the ensemble of the
portfolio with the candidate as a fifth configuration (it needs those that
`portfolio_ensembles.py` keeps).
"""

import argparse
import os
import warnings

import numpy as np
import torch
from joblib import Parallel, delayed
from portfolio import CSV, folds, subjects
from portfolio_ensembles import OUTPUT as PREDICTED
from portfolio_ensembles import evaluate, small_sets
from result_rows import environment, stop_if_orphaned, write_rows
from rival_sets import load
from rivals import HERE
from torch import nn
from torch.nn import functional

from acluster import IntegrationClassifier
from acluster.nn import AttentionCluster, Integration
from acluster.nn._weighting import uniform_
from acluster.nn.integrations._batch_norm import BatchNorm

OUTPUT = HERE / "output" / "heads"
PORTFOLIO = ("highest", "learned", "learned, no shifting", "pyramid")
TRAINING = {"learning_rate_schedule": "cosine", "max_iter": 60}
CANDIDATES = {
    "as it is": {},
    "statistics": {"has_statistics": True},
    "hidden layer on statistics": {"hidden_on_statistics": 128},
    "hidden layer on the global feature": {"hidden_on_global": 128},
    "layer normalization": {"is_normalized": True},
    "averaged weights": {"n_averaged": 20},
}


class Extended(Integration):
    """The default attention cluster, and what a candidate adds to it."""

    def __init__(
        self,
        n_features,
        has_statistics=False,
        hidden_on_statistics=0,
        hidden_on_global=0,
        is_normalized=False,
    ):
        super().__init__()
        self.cluster = AttentionCluster(n_features, 32, n_attended=5)
        size, n_statistics = self.cluster.global_size, 3 * n_features
        self.norm = nn.LayerNorm(size) if is_normalized else None
        uses_statistics = has_statistics or hidden_on_statistics
        self.scale = BatchNorm(n_statistics) if uses_statistics else None
        self.has_statistics = has_statistics
        self.on_statistics = linear(n_statistics, hidden_on_statistics)
        self.on_global = linear(size, hidden_on_global)
        beside = n_statistics if has_statistics else 0
        self.global_size = size + beside + hidden_on_statistics + hidden_on_global

    def reset_parameters(self, generator=None):
        self.cluster.reset_parameters(generator)
        for norm in (self.norm, self.scale):
            if norm is not None:
                norm.reset_parameters()
        for layer in (self.on_statistics, self.on_global):
            if layer is not None:
                for parameter in layer.parameters():
                    uniform_(parameter, layer.in_features, generator)

    def forward(self, values, offsets):
        g = self.cluster(values, offsets)
        if self.norm is not None:
            g = self.norm(g)
        parts = [g]
        if self.scale is not None:
            pooled = self.scale(statistics(self.as_computed(values), offsets))
            if self.has_statistics:
                parts.append(pooled)
            if self.on_statistics is not None:
                parts.append(functional.relu(self.on_statistics(pooled)))
        if self.on_global is not None:
            parts.append(functional.relu(self.on_global(g)))
        # As the outputs of the units, every part has a norm of about 1.
        return torch.cat([g, *(part / part.shape[1] ** 0.5 for part in parts[1:])], dim=1)


def linear(n_inputs, n_outputs):
    """Return a linear layer, or None if it has no outputs."""
    return nn.Linear(n_inputs, n_outputs) if n_outputs else None


def statistics(values, offsets):
    """Return the mean, maximum and standard deviation of every feature in each set."""
    lengths = offsets.diff()
    mean, largest, square = (
        torch.segment_reduce(x, kind, lengths=lengths)
        for x, kind in ((values, "mean"), (values, "max"), (values**2, "mean"))
    )
    deviation = (square - mean**2).clamp(min=0).sqrt()
    return torch.cat([mean, largest, deviation], dim=1)


def fit(name, X, y, seed):
    """Return a fitted classifier of a candidate."""
    parameters = dict(CANDIDATES[name])
    n_averaged = parameters.pop("n_averaged", 0)
    clf = IntegrationClassifier(
        integration=Extended, integration_params=parameters, random_state=seed, **TRAINING
    )
    if not n_averaged:
        return clf.fit(X, y)
    clf.set_callbacks(average := Averaged(TRAINING["max_iter"] - n_averaged))
    clf.fit(X, y)
    clf.network_.load_state_dict(average.mean)
    return clf


class Averaged:
    """A callback that keeps the mean of the weights after every epoch from the first one on."""

    max_propagation_depth = 0
    requires_fit_info = ()
    setup = teardown = on_fit_task_begin = lambda self, *args, **kwargs: None

    def __init__(self, first):
        self.first, self.n_epochs, self.mean = first, 0, {}

    def on_fit_task_end(self, estimator, context, **data):
        if context.task_name != "epoch":
            return False
        self.n_epochs += 1
        n = self.n_epochs - self.first
        for name, weight in estimator.network_.state_dict().items() if n > 0 else ():
            before = self.mean.get(name, torch.zeros_like(weight))
            self.mean[name] = before + (weight - before) / n
        return False


def predict(dataset, repetition, name, parent):
    """Keep the out-of-fold probabilities of a candidate."""
    path = OUTPUT / f"{dataset} {repetition} {name}.npy"
    if path.exists():
        return
    stop_if_orphaned(parent)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    problem = load(dataset)
    items, _ = problem.folds(0)[0]
    X, y = problem.X[items], problem.y[items]
    predicted = np.empty((len(y), len(np.unique(y))))
    for fold, (train, test) in enumerate(folds(y, subjects(dataset, items), repetition)):
        clf = fit(name, X[train], y[train], seed=100 * repetition + fold)
        predicted[test] = clf.predict_proba(X[test])
    np.save(path, predicted)
    print(f"{dataset}, repetition {repetition}, {name}", flush=True)


def extended(dataset, repetition, names):
    """Return what `portfolio_ensembles.py` keeps, with the candidates of this study."""
    with np.load(PREDICTED / f"{dataset} {repetition}.npz") as file:
        kept = dict(file)
    own = [np.load(OUTPUT / f"{dataset} {repetition} {name}.npy") for name in names]
    kept["predicted"] = np.concatenate([kept["predicted"], own])
    kept["candidates"] = [*kept["candidates"], *names]
    return kept


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=small_sets(), default=small_sets())
    names = list(CANDIDATES)
    parser.add_argument("--candidates", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--n-jobs", type=int, default=os.cpu_count())
    parser.add_argument("--csv", type=type(CSV), default=CSV.with_name("heads.csv"))
    options = parser.parse_args()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    wanted = [(one, number) for one in options.sets for number in range(options.repetitions)]
    parallel = Parallel(options.n_jobs)
    parallel(
        delayed(predict)(*one, name, os.getpid()) for one in wanted for name in options.candidates
    )
    files = {one: extended(*one, options.candidates) for one in wanted}
    rows = []
    for name in options.candidates:
        row = {"candidate": name}
        for label, ensemble in (("alone", [name]), ("fifth", [*PORTFOLIO, name])):
            found = np.array([evaluate(files[one], ensemble) for one in wanted])
            log_loss, accuracy = found.mean(axis=0)
            row[f"log_loss_{label}"] = round(log_loss, 4)
            row[f"accuracy_{label}"] = round(accuracy, 2)
        rows.append(row | environment())
    write_rows(rows, options.csv)
    for row in rows:
        print(*row.values())


if __name__ == "__main__":
    main()
