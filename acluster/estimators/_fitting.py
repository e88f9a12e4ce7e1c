"""Fit estimators to the same items: prepare each, train them together, record the results."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from acluster.estimators._adoption import identity_of
from acluster.estimators._architecture import members_of
from acluster.estimators._callbacks import EstimatorCallbacks
from acluster.estimators._inference import logits_function, outputs, source_of
from acluster.estimators._items import Items, copy_checked, hold_out, unwrapped
from acluster.estimators._labels import to_mean_one
from acluster.estimators._missing import MissingModality
from acluster.estimators._parameters import value_per_modality
from acluster.estimators._precision import choose_operations, operations_of, show_kept_operations
from acluster.estimators._split import splits_units
from acluster.estimators._training_data import TrainingData, TrainingSets
from acluster.nn import AttentionCluster, CompiledMembers, UnitsNetwork, reads_nothing_back
from acluster.sets import FeatureSets
from acluster.training import (
    ALONE,
    OPTIMIZERS,
    BatchSource,
    Checkpoint,
    CompiledStep,
    EnsembleTrainer,
    Fit,
    Interrupted,
    Member,
    Patience,
    Ranks,
    Trainer,
    TrainingBatches,
    UnitsTrainer,
    bytes_per_part,
    make_generators,
    recorded_steps,
    resolve_device,
    stack_blocks,
    threads_for,
    train,
)

# Of a training step, in operations. Larger ones are bound by memory, not by overhead.
_MAX_OPERATIONS = 1e8
# Before CUDA graphs, launching the kernels of a step took 3 to 5 ms on the machine of an H200. Two
# cores of an AMD EPYC take about 2 ms for a compiled step of this size.
_MAX_OPERATIONS_BEFORE_GPU = 3e7
# With hidden features, torch also copies arrays of the size of the extended features several times,
# so that the compiled step is faster up to about three times as many operations.
_MAX_RATIO_WITH_HIDDEN = 3


class _Fitting:
    """The fit of one estimator: prepared, then trained as a `Member`, then recorded."""

    def __init__(
        self, estimator: Any, data: TrainingData, checkpoint_dir: str | os.PathLike[str] | None
    ) -> None:
        self.estimator = estimator
        items, coding, ranks = data.items, data.coding, data.ranks
        targets = coding.encode(items.y)
        weights = coding.weigh(targets, items.sample_weight, estimator.class_weight)
        weights = to_mean_one(weights, estimator.class_weight)
        estimator._start(data)
        train, validation = None, data.validation
        if estimator.early_stopping and validation is None:
            fraction, random_state = estimator.validation_fraction, estimator._random_state
            train, held_out = hold_out(items.y, fraction, random_state)
            validation = items[held_out]
        checkpoint = None
        if checkpoint_dir is not None:
            compared = {"data": (items.X, targets, weights)}
            if validation is not None:
                encoded = coding.encode(validation.y)
                compared["validation data"] = (validation.X, encoded, validation.sample_weight)
            identity = identity_of(estimator, compared) if ranks.rank == 0 else {}
            checkpoint = Checkpoint(checkpoint_dir, identity, ranks)
        like = next(estimator.network_.parameters())
        self.sets = TrainingSets(data, estimator.cache, like, train)
        chosen = slice(None) if train is None else train
        of_items = targets[chosen], weights[chosen], validation
        fit = make_fit(estimator, self.sets, *of_items, checkpoint)
        metadata = {"sample_weight": items.sample_weight} if data.is_weighted else None
        seen_X = unwrapped(estimator, items.X)
        self.callbacks = EstimatorCallbacks(
            estimator, ranks, X=seen_X, y=items.y, metadata=metadata
        )
        self.callbacks.begin_fit()
        if checkpoint is not None:
            estimator._record(fit)  # callbacks see the epochs of the checkpoint
        schedule = estimator.learning_rate_schedule
        self.member = Member(fit, estimator.max_iter, self.callbacks, checkpoint, schedule)

    @property
    def batches_key(self) -> Hashable:
        """Equal for fits that draw the same batches."""
        estimator, batches = self.estimator, self.member.fit.batches
        drawn_from = pickle.dumps(batches.random_state.get_state())
        sampling = tuple(batches.n_local_features), batches.modality_dropout
        missing = estimator.missing_modality
        return self.sets.key, batches.batch_size, sampling, missing, drawn_from

    def end(self) -> None:
        """Record the result of the training."""
        self.estimator._record(self.member.fit, keep_optimizer=self.estimator.warm_start)
        self.callbacks.end_fit()

    def end_early(self) -> bool:
        """Record what there is after Ctrl-C; return whether it is worth keeping."""
        fit = self.member.fit
        is_kept = fit.end_early()
        if is_kept:
            # The processes of a split fit cannot exchange their running averages any more.
            keeps_optimizer = self.estimator.warm_start and not fit.is_split
            self.estimator._record(fit, keep_optimizer=keeps_optimizer)
        return is_kept


def fit_together(
    estimators: Sequence[Any],
    data: TrainingData,
    checkpoint_dir: str | os.PathLike[str] | None = None,
) -> list[Member]:
    """Fit estimators to the same items; those that draw the same batches read them once.

    Parameters
    ----------
    estimators : sequence of SetClassifier
        Their results are those that each would have alone.

    data : TrainingData
        The items.

    checkpoint_dir : str or path, optional
        The folder of the checkpoint, for a single estimator.

    Returns
    -------
    list of Member
        The training of each estimator. One that has diverged keeps its error, and leaves its
        estimator unfitted; the error of a single estimator is raised.
    """
    for estimator in estimators[1:]:  # `data` was checked for the first one
        copy_checked(estimators[0], estimator)
    fittings = [_Fitting(estimator, data, checkpoint_dir) for estimator in estimators]
    groups: dict[Hashable, list[_Fitting]] = {}
    for fitting in fittings:
        groups.setdefault(fitting.batches_key, []).append(fitting)
    try:
        for group in groups.values():
            with fast_steps([(fitting.estimator, fitting.member.fit) for fitting in group]):
                train([fitting.member for fitting in group])
        for fitting in fittings:
            if fitting.member.error is None:
                fitting.end()
    except KeyboardInterrupt:
        if not all([fitting.end_early() for fitting in fittings]):
            raise
        n_epochs = max(fitting.member.fit.n_epochs for fitting in fittings)
        raise Interrupted(n_epochs, has_checkpoint=checkpoint_dir is not None) from None
    return [fitting.member for fitting in fittings]


def can_train_together(estimator: Any) -> bool:
    """Whether an estimator is one of those that `fit_together` takes."""
    has_callbacks = bool(getattr(estimator, "_skl_callbacks", None))
    is_single = has_callbacks or getattr(estimator, "distributed", False)
    return hasattr(estimator, "_architecture_for") and not is_single


def pays_together(estimator: Any, data: TrainingData) -> bool:
    """Whether fits of an estimator take less time together than in processes of their own."""
    if not data.items.X.in_memory or resolve_device(estimator.device).type != "cpu":
        return True
    modalities = [data.items.X[name] for name in data.items.X.names]
    outline = members_of(estimator._architecture_for(data).outline(estimator.dropout))[0]
    return _is_compiled(estimator, outline.to_empty(device="cpu"), modalities)


def is_faster_without_gpu(estimator: Any, data: TrainingData) -> bool:
    """Whether the steps of a fit are so small that a GPU would mostly wait for their launches."""
    modalities = [data.items.X[name] for name in data.items.X.names]
    outline = members_of(estimator._architecture_for(data).outline(estimator.dropout))[0]
    size = _n_operations(outline, modalities, estimator.batch_size)
    is_small = data.ranks.size == 1 and size <= _MAX_OPERATIONS_BEFORE_GPU
    return is_small and _is_compiled(estimator, outline.to_empty(device="cpu"), modalities)


def _is_compiled(estimator: Any, network: Any, modalities: Sequence[FeatureSets]) -> bool:
    limit = _MAX_OPERATIONS * (_MAX_RATIO_WITH_HIDDEN if _with_hidden(network) else 1)
    is_small = _n_operations(network, modalities, estimator.batch_size) <= limit
    return is_small and CompiledMembers.supports(network)


def _n_operations(network: Any, modalities: Sequence[FeatureSets], batch_size: int) -> float:
    n = min(batch_size, len(modalities[0]))
    n_rows = n * float(np.mean([sets.lengths.mean() for sets in modalities]))
    of_cluster, *of_others = (parameter.numel() for parameter in network.parameters())
    # Scores and pooling, forward and backward, take six operations per row and weight.
    total = 6 * (n_rows * of_cluster + n * sum(of_others))
    for cluster in _with_hidden(network):
        size, n_hidden = cluster.hidden.weight.numel(), len(cluster.hidden.bias)
        # A product with this weight and one for its gradient; the gradient of the hidden features
        # comes from the scores and from pooling.
        total += 4 * n_rows * (size + n_hidden * cluster.cluster_size) - 6 * n * (size + n_hidden)
    return total


def _with_hidden(network: Any) -> list[Any]:
    clusters = [one for one in network.modules() if isinstance(one, AttentionCluster)]
    return [cluster for cluster in clusters if cluster.hidden is not None]


def network_size(estimator: Any, data: TrainingData) -> int:
    """Return the size of the parameters of an estimator's network, in bytes."""
    network = estimator._architecture_for(data).outline(estimator.dropout)
    return sum(parameter.numel() for parameter in network.parameters()) * 4


def make_fit(
    estimator: Any,
    training_sets: TrainingSets,
    targets: NDArray[Any],
    weights: NDArray[np.float64],
    validation: Items | None = None,
    checkpoint: Checkpoint | None = None,
) -> Fit:
    """Create the `Fit` of an estimator's network on these items, and restore its checkpoint."""
    like, ranks = next(estimator.network_.parameters()), training_sets.data.ranks
    is_split = splits_units(estimator, training_sets.given(), ranks)
    trainer = _make_trainer(estimator, ranks, is_split)
    sets = training_sets.sets()
    estimator._missing = _learn_moments(estimator, training_sets)
    if estimator._is_multimodal:
        estimator.feature_means_ = dict(estimator._missing.means) or None
    targets_tensor = torch.from_numpy(targets).to(like.device)
    if targets_tensor.is_floating_point():
        targets_tensor = targets_tensor.to(like.dtype)
    stand_ins, max_bytes = estimator._missing.stand_ins(sets), bytes_per_part(estimator.network_)
    if ranks.size > 1 and max_bytes is None:
        raise ValueError(
            f"distributed=True cannot train {type(estimator).__name__}: its batch normalization "
            "needs the statistics of the whole batch, and every process has only a part of it. "
            "Set distributed=False."
        )
    batches = TrainingBatches(
        BatchSource([*sets.values()], like, stand_ins, max_bytes=max_bytes),
        targets_tensor,
        torch.from_numpy(weights).to(like.device, like.dtype),
        batch_size=estimator.batch_size,
        n_local_features=list(value_per_modality(estimator, "n_local_features", [*sets]).values()),
        modality_dropout=estimator.modality_dropout,
        random_state=estimator._random_state,
        ranks=ALONE if is_split else ranks,
    )
    # A schedule that falls until `max_iter` needs all epochs.
    tol = estimator.tol if estimator.learning_rate_schedule == "constant" else None
    fit = Fit(
        trainer,
        batches,
        patience=Patience(tol, estimator.n_iter_no_change),
        validate=None if validation is None else _validator(estimator, validation, ranks),
        early_stopping=estimator.early_stopping,
        loss_curve=estimator.loss_curve_,
        validation_scores=estimator.validation_scores_,
        verbose=estimator.verbose and ranks.rank == 0,
    )
    if checkpoint is not None:
        checkpoint.restore(fit, estimator.max_iter)
    _choose_precision(estimator, fit, ranks)
    return fit


def _choose_precision(estimator: Any, fit: Fit, ranks: Ranks) -> None:
    """Choose what a fit in mixed precision computes in bfloat16, unless its checkpoint has."""
    if estimator.precision == "full":
        return
    batches = fit.batches
    if fit.has_precision:
        show_kept_operations(estimator, fit.in_bfloat16, ranks)
        estimator._in_bfloat16 = fit.in_bfloat16
        return
    network = fit.trainer.trainers[0].network
    estimator._in_bfloat16 = choose_operations(
        estimator,
        batches.source.modalities,
        batches.n_local_features,
        ranks,
        is_compiled=_takes_compiled_steps(estimator, fit),
        n_operations=_n_operations(network, batches.source.modalities, batches.batch_size),
    )
    fit.in_bfloat16 = operations_of(estimator)


def _make_trainer(estimator: Any, ranks: Ranks, is_split: bool) -> Trainer | EnsembleTrainer:
    network, loss = estimator.network_, estimator._coding.loss
    device = next(network.parameters()).device
    options = {
        name: getattr(estimator, name)
        for name in ("optimizer", "learning_rate", "weight_decay", "max_grad_norm")
    }
    trainers: list[Trainer] = []
    generators = make_generators(estimator._random_state, device, member_numbers(estimator))
    for member, generator in zip(members_of(network), generators, strict=True):
        shared = {**options, "generator": generator, "ranks": ranks}
        if is_split:
            part = UnitsNetwork(member, ranks.rank, ranks.size, ranks.total)
            trainers.append(UnitsTrainer(member, part, loss, **shared))
        else:
            trainers.append(Trainer(member, loss, **shared))
    trainer = trainers[0] if len(trainers) == 1 else EnsembleTrainer(network, trainers)
    name, state = estimator._optimizer_state
    if state is not None and name == estimator.optimizer:
        trainer.optimizer.load_state(state)
    return trainer


@contextmanager
def fast_steps(fits: Sequence[tuple[Any, Fit]]) -> Iterator[None]:
    """Train these estimators' fits with as many threads as pay, in compiled steps if they pay.

    Networks of one kind take a compiled step together. On a GPU, steps are recorded.
    """
    groups: dict[Hashable, list[tuple[Any, Trainer]]] = {}
    sizes: dict[Hashable, float] = {None: 0.0}  # of the steps, in operations
    for estimator, fit in fits:
        source, network = fit.batches.source, fit.trainer.trainers[0].network
        size = _n_operations(network, source.modalities, fit.batches.batch_size)
        # A checkpoint may have steps in bfloat16 that could be compiled.
        if not fit.in_bfloat16 and _takes_compiled_steps(estimator, fit):
            for trainer in fit.trainer.trainers:
                key = _compiled_key(estimator, trainer)
                groups.setdefault(key, []).append((estimator, trainer))
                sizes[key] = sizes.get(key, 0.0) + size
        else:
            sizes[None] = max(sizes[None], size)
    recorded = [trainer for _, fit in fits for trainer in fit.trainer.trainers if _records(fit)]
    with threads_for(max(sizes.values())), ExitStack() as stack:
        for pairs in groups.values():
            stack.callback(_compile(*zip(*pairs, strict=True)).release)
        stack.enter_context(recorded_steps(recorded))
        yield


def _takes_compiled_steps(estimator: Any, fit: Fit) -> bool:
    """Whether the steps of a fit in full precision are compiled."""
    batches, network = fit.batches, fit.trainer.trainers[0].network
    return (
        not _is_shared(fit)
        and batches.source.comes_whole(batches.batch_size)
        and _is_compiled(estimator, network, batches.source.modalities)
    )


def _is_shared(fit: Fit) -> bool:
    """Whether a step of a fit needs other processes."""
    return fit.is_split or fit.batches.ranks.size > 1


def _records(fit: Fit) -> bool:
    """Whether the steps of a fit are recorded as CUDA graphs."""
    return not _is_shared(fit) and reads_nothing_back(fit.trainer.trainers[0].network)


def _compile(estimators: Sequence[Any], trainers: Sequence[Trainer]) -> CompiledStep:
    networks: list[Any] = [trainer.network for trainer in trainers]
    members = CompiledMembers(
        networks,
        rule=OPTIMIZERS[estimators[0].optimizer],
        learning_rates=[one.learning_rate for one in estimators],
        weight_decays=[one.weight_decay for one in estimators],
        max_grad_norms=[one.max_grad_norm for one in estimators],
        is_softmax=estimators[0]._coding.kind == "multiclass",
    )
    return CompiledStep(trainers, members)


def _compiled_key(estimator: Any, trainer: Trainer) -> Hashable:
    """Equal for networks that one compiled step can train."""
    network: Any = trainer.network
    shapes = tuple(tuple(parameter.shape) for parameter in network.parameters())
    cluster = network.integrations[0]
    attending = cluster.n_attended, cluster.pyramid_levels
    return shapes, attending, estimator.optimizer, estimator._architecture.standardize


def member_numbers(estimator: Any) -> range:
    """Return the numbers of an estimator's networks, for `make_generators`."""
    first = estimator._place * estimator.n_members
    return range(first, first + estimator.n_members)


def _learn_moments(classifier: Any, sets: TrainingSets) -> MissingModality:
    """Learn the statistics for standardization, and return the strategy for missing modalities."""
    strategy = classifier.missing_modality
    standardizes = classifier._architecture.standardize and classifier.n_iter_ == 0
    if not standardizes and strategy == "mask":
        return MissingModality()
    moments = sets.moments(with_std=standardizes)
    if standardizes:
        for member in members_of(classifier.network_):
            for layer, (mean, std, _) in zip(
                member.standardizations or (), moments.values(), strict=True
            ):
                layer.learn(torch.from_numpy(mean), torch.from_numpy(std))
    return classifier._missing.learned(strategy, moments)


def _validator(classifier: Any, held_out: Items, ranks: Ranks) -> Callable[[], float]:
    """Return a function that gives the accuracy of the network on held-out items."""
    source = source_of(classifier, held_out.X[ranks.own(len(held_out))], classifier.cache)

    def own_logits() -> NDArray[Any]:
        if len(source) == 0:  # there are fewer items than ranks
            return np.zeros((0, classifier._coding.n_outputs), classifier._dtype)
        blocks = outputs(classifier, logits_function(classifier), source)
        try:
            return stack_blocks(blocks, len(source))
        except ValueError as error:
            raise ValueError(f"In the validation items: {error}") from None

    def accuracy() -> float:
        logits = np.concatenate(ranks.all_of(own_logits()))
        return classifier._coding.accuracy(held_out.y, logits, held_out.sample_weight)

    return accuracy
