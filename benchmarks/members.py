"""Time the compiled training step of networks that train together against the trainer's.

    python benchmarks/members.py [--data musk1 ...] [--members 1 8 32] [--repeats 9]
        [--hidden 0] [--json FILE]

Every figure is the time of the epochs of a default attention cluster, batches included, divided by
that of one network in torch (`Trainer`). All of them are timed in turn, in one thread. Members
share the random numbers of their dropout, as the candidates of one seed do.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from stopwatch import interleaved

from acluster.datasets import load_benchmark
from acluster.estimators._labels import LabelCoding
from acluster.nn import AttentionCluster, IntegrationNetwork
from acluster.nn._members import CompiledMembers
from acluster.training import OPTIMIZERS, BatchSource, Trainer, TrainingBatches

UPDATE = {"learning_rate": 0.01, "weight_decay": 0.0, "max_grad_norm": 5.0}


def prepared(benchmark, n_networks, coding, n_hidden):
    """Return standardizing networks and the batches that they train on."""
    X, targets = benchmark.data, coding.encode(benchmark.target)
    rows = np.concatenate([X[i] for i in range(len(X))])
    moments = [torch.from_numpy(m).float() for m in (rows.mean(axis=0), rows.std(axis=0))]
    networks = []
    for seed in range(n_networks):
        cluster = AttentionCluster(X.n_features, cluster_size=32, hidden_features=n_hidden)
        network = IntegrationNetwork([cluster], coding.n_outputs, 0.5, [X.n_features])
        network.reset_parameters(torch.Generator().manual_seed(seed))
        network.standardizations[0].learn(*moments)
        networks.append(network.train())
    targets = torch.from_numpy(targets)
    targets = targets if coding.kind == "multiclass" else targets.float()
    source = BatchSource([X], networks[0].linear.bias)
    weights = torch.ones(targets.shape)
    state = np.random.RandomState(0)
    return networks, TrainingBatches(source, targets, weights, 32, [None], 0.0, state)


def torch_epochs(benchmark, n_epochs, n_hidden):
    coding = LabelCoding.of(benchmark.target)
    (network,), batches = prepared(benchmark, 1, coding, n_hidden)
    options = {**UPDATE, "optimizer": "adam"}
    trainer = Trainer(network, coding.loss, generator=torch.Generator(), **options)

    def run():
        for _ in range(n_epochs):
            with trainer.training():
                for part in batches.epoch():
                    trainer.step(batches.batch(part))

    return run


def compiled_epochs(benchmark, n_epochs, n_members, n_hidden):
    coding = LabelCoding.of(benchmark.target)
    networks, batches = prepared(benchmark, n_members, coding, n_hidden)
    members = CompiledMembers(
        networks,
        rule=OPTIMIZERS["adam"],
        is_softmax=coding.kind == "multiclass",
        **{f"{name}s": [value] * n_members for name, value in UPDATE.items()},
    )
    generators = [torch.Generator()] * n_members

    def run():
        for _ in range(n_epochs):
            for part in batches.epoch(bytes_per_item=members.bytes_per_draw):
                batch = batches.batch(part)
                arguments = batch.sets, batch.targets, batch.weights, generators
                members.step(range(n_members), *arguments, batches.batch_size)

    return run


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ["japanese_vowels", "musk1", "elephant"]
    parser.add_argument("--data", nargs="+", default=names, help="benchmarks to load")
    parser.add_argument("--members", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--hidden", type=int, default=0, help="hidden features")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--epochs", type=int, default=3, help="per repeat")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    report = {}
    for name in options.data:
        benchmark = load_benchmark(name)
        runs = {"torch": torch_epochs(benchmark, options.epochs, options.hidden)}
        for n in options.members:
            runs[f"P={n}"] = compiled_epochs(benchmark, options.epochs, n, options.hidden)
        measured = interleaved(runs, options.repeats)
        medians = {way: float(np.median(times)) for way, times in measured.items()}
        report[name] = {way: median / medians["torch"] for way, median in medians.items()}
        report[name]["torch_seconds_per_epoch"] = medians["torch"] / options.epochs
        print(name, *(f"{way} {ratio:.3f}" for way, ratio in report[name].items()), sep="  ")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return report


if __name__ == "__main__":
    main()
