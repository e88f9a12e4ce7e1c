"""Mutated model files and checkpoints: loaded or rejected, never anything else."""

import warnings
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import acluster
from acluster import AttentionClusterClassifier, FeatureSets, ModelFileError, rivals
from acluster._utils._model_file import open_model
from acluster.estimators._fitting import make_fit
from acluster.estimators._training_data import TrainingData, TrainingSets
from acluster.training import Checkpoint, run_epoch
from tests.fuzz.mutations import mutate
from tests.fuzz.watch import bounded_memory, corpus, watched

X = FeatureSets.from_arrays([np.eye(3), np.ones((2, 3)), -np.eye(3)] * 2)
Y = np.arange(6) % 3
OPTIONS = {"max_iter": 2, "tol": None, "random_state": 0}
TMPFS = Path("/dev/shm")


class ModelReader:
    """Loads a model, and predicts with it."""

    name = "models"

    def __init__(self, folder):
        self.path = folder / "model"
        both = {"a": X, "b": FeatureSets.from_arrays([x[:, :2] for x in X])}
        self.X = {True: both, False: X}
        self.seeds = []
        for clf in (
            AttentionClusterClassifier(cluster_size=2, **OPTIONS),
            acluster.MultimodalAttentionClusterClassifier(
                cluster_size={"a": 2, "b": 1},
                early_stopping=True,
                validation_fraction=0.5,
                **OPTIONS,
            ),
            acluster.MultimodalAttentionClusterClassifierCV(
                cv=2, n_configurations=2, max_iter=1, random_state=0
            ),
            rivals.TSLSTMClassifier(n_segments=2, hidden_size=2, **OPTIONS),
            rivals.SetTransformerClassifier(n_seeds=1, hidden_size=4, n_heads=2, **OPTIONS),
        ):
            clf.fit(self.X[clf._is_multimodal], np.array(["a", "b", "c"])[Y]).save(self.path)
            self.seeds.append(self.path.read_bytes())

    def read(self):
        clf = acluster.load(self.path)
        try:
            clf.predict(self.X[clf._is_multimodal])
        except ValueError:
            return "loaded, predictions are not finite or of another width"
        return "loaded"


class CheckpointReader:
    """Restores the state of a fit, and trains for an epoch."""

    name = "checkpoints"

    def __init__(self, folder):
        self.folder, self.path = folder, folder / "fit.checkpoint"
        self.clf = AttentionClusterClassifier(cluster_size=2, **OPTIONS).fit(
            X, Y, checkpoint_dir=folder
        )
        self.seeds = [self.path.read_bytes()]
        with open_model(self.path) as (description, _):
            self.checkpoint = Checkpoint(folder, description["identity"])
        self._fit = None

    def read(self):
        if self._fit is None:
            data = TrainingData.of(self.clf, X, Y, None)
            self.clf._start(data)
            sets = TrainingSets(data, "auto", next(self.clf.network_.parameters()))
            self._fit = make_fit(self.clf, sets, data.coding.encode(Y), np.ones(len(Y)))
        fit = self._fit
        try:
            self.checkpoint.restore(fit, max_iter=100)
        except ModelFileError:
            raise
        except ValueError as error:
            assert "of a different fit" in str(error) or "but max_iter" in str(error)
            return "of another fit"
        self._fit = None
        try:
            [loss] = run_epoch([fit])
            fit.end_epoch(loss)
        except ValueError as error:
            assert "diverged" in str(error)
            return "restored, then diverged"
        return "restored"


def run(n, seed):
    """Read n mutated files; return how many had each outcome.

    Only documented errors are allowed, within 2 s and 200 MB, and no file outside of the folder
    of the input may be touched.
    """
    rng, counts = np.random.default_rng(seed), Counter()
    parent = TMPFS if TMPFS.is_dir() else None
    with TemporaryDirectory(dir=parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        readers = [ModelReader(Path(folder)), CheckpointReader(Path(folder))]
        for reader in readers:
            for content in [*reader.seeds, *corpus(reader.name)]:
                counts[_outcome(reader, content)] += 1
        with bounded_memory():
            for i in range(n):
                reader = readers[i % 3 == 0]
                content = mutate(reader.seeds[rng.integers(len(reader.seeds))], rng)
                counts[_outcome(reader, content)] += 1
    return counts


def _outcome(reader, content):
    reader.path.write_bytes(content)
    with watched(reader.path.parent, reader.name, content):
        try:
            return f"{reader.name}: {reader.read()}"
        except ModelFileError as error:
            assert str(reader.path) in str(error)
            assert len(str(error)) < 2000
            return f"{reader.name}: rejected"
