"""The set classifier: parameters, weights and fitted attributes over one training loop."""

from __future__ import annotations

import copy
import functools
import math
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, _fit_context
from sklearn.callback import CallbackSupportMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from acluster._utils._progress import progress
from acluster.estimators._description import Saveable
from acluster.estimators._labels import LabelCoding, check_labels, to_mean_one
from acluster.estimators._parameters import TRAINING, TrainingParameters
from acluster.nn import Integration, IntegrationNetwork
from acluster.sets import FeatureSets, save_rows, warn_of_scale
from acluster.training import (
    BatchSource,
    FeatureMoments,
    Patience,
    Trainer,
    autocast,
    cached,
    feature_moments,
    infer,
    make_generator,
    resolve_device,
    to_numpy_state,
    to_torch_state,
)
from acluster.training._checkpoint import Checkpoint, check_resumable, identity_of

__all__ = ["SetClassifier", "all_or_nothing"]

# Stands in docstrings in the place of "{attributes}".
ATTRIBUTES = """\
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted; with an indicator y, the numbers of its columns.

    n_features_in_ : int
        The width M of a local feature, summed over the modalities.

    feature_names_in_ : ndarray of str
        Only there when X was a data frame.

    n_iter_ : int
        Epochs trained.

    loss_curve_ : list of float
        The training loss of every epoch: the weighted mean over items of the negative
        log-likelihood (nats); with an indicator y, summed over labels and divided by the
        number of items.

    validation_scores_ : list of float or None
        The validation accuracy of every epoch, when there was a validation set; NaN for
        epochs of a fit without one.

    best_validation_score_ : float or None
        The highest of them.

    network_ : acluster.nn.IntegrationNetwork
        The fitted torch module.
"""


def all_or_nothing(fit: Callable[..., Any]) -> Callable[..., Any]:
    """A fit that fails leaves the estimator as it was; torch's modes outside do not reach in."""

    @functools.wraps(fit)
    def fit_or_restore(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = self.__dict__.copy()
        try:
            with torch.inference_mode(False), torch.enable_grad():
                return fit(self, *args, **kwargs)
        except BaseException:
            self.__dict__ = before
            raise

    return fit_or_restore


class SetClassifier(
    TransformerMixin,
    ClassifierMixin,
    CallbackSupportMixin,
    BaseEstimator,
    TrainingParameters,
    Saveable,
    ABC,
):
    """What the public estimators share; they say what X is and which modalities it has.

    The network always sees a list of modalities; `_modalities` turns the public X into it. They
    also say how the local features of a modality become one vector: `_integration` is a torch
    module, made of the width of the modality and of the parameters named beside it.
    """

    _integration: type[Integration]
    _integration_parameters: tuple[str, ...] = ()

    # Parameters of some.
    n_local_features: Any = None
    modality_dropout = 0.0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__doc__:
            cls.__doc__ = (
                cls.__doc__.replace("    {training}\n", TRAINING)
                .replace("    {attributes}\n", ATTRIBUTES)
                .replace("{learning_rate}", str(cls.learning_rate))
            )

    @abstractmethod
    def _check_X(self, X: Any, reset: bool) -> Any:
        """X as the container of this estimator, checked; with `reset`, its width is learnt."""

    @abstractmethod
    def _modalities(self, X: Any) -> dict[str, FeatureSets]:
        """The modalities of a checked X by name, in the order of the clusters."""

    def _per_modality(self, parameter: str, names: Iterable[str]) -> dict[str, Any]:
        """The value of a parameter for every modality."""
        return dict.fromkeys(names, getattr(self, parameter))

    @property
    def _needs_means(self) -> bool:
        """Whether what stands for a missing modality is learnt from the means."""
        return False

    def _learn_stand_ins(self, moments: list[FeatureMoments]) -> None:
        """Learn from the training items what stands for a missing modality."""

    def _stand_ins(self) -> list[NDArray[Any] | None]:
        """For every modality, the local feature that stands for a missing set, if any does."""
        return [None] * len(self._architecture["integrations"])

    @property
    def best_validation_score_(self) -> float | None:
        """The highest of the validation scores."""
        check_is_fitted(self)
        scores = self.validation_scores_
        return None if scores is None else float(np.nanmax(scores))

    # Fitting.

    @all_or_nothing
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: Any = None,
        y_val: ArrayLike | None = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Train on items X with labels y.

        Ctrl-C after the first epoch ends the training there, with a warning: the estimator is
        fitted by the steps done, or has the weights of its best epoch. A search goes on with its
        next fit.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path of a store
            The items, in any form that the notes of `AttentionClusterClassifier` list.

        y : array-like of shape (n,), or indicator of shape (n, n_labels)
            One label per item; or zeros and ones, any number of labels per item.

        sample_weight : array-like of shape (n,), optional
            Weight of each item's loss; items of weight 0 are left out.

        X_val, y_val : optional
            A validation set. Its accuracy (with an indicator y, the share of right entries)
            is recorded after every epoch; with `early_stopping` it also decides when to stop
            and which epoch's weights stay.

        checkpoint_dir : str or path, optional
            A folder for a file, "fit.checkpoint", that keeps the last epoch: the same call goes on
            from there after the process was killed, to the same bits as if it had not been;
            after the last epoch it ends at once. Needs an int as `random_state`. `max_iter` may
            have been raised. A file of another fit is refused, so that a folder is for one fit,
            not for a search. Data in memory are compared whole, those of a store by their sizes,
            labels and a few items.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If X, y, a weight or a parameter is not usable; the message names the item or
            the parameter, the value seen and the remedy. If the loss or the parameters
            stop being finite. The estimator is then as it was before the call.

        acluster.ModelFileError
            If the file in `checkpoint_dir` is damaged.

        Warns
        -----
        sklearn.exceptions.ConvergenceWarning
            If `max_iter` epochs passed before the loss settled within `tol`.

        UserWarning
            If the local features are far from a spread of 1: standardise them. If the training
            was interrupted.
        """
        if checkpoint_dir is not None:
            check_resumable(self)
        resumes = self.warm_start and hasattr(self, "network_")
        is_weighted = sample_weight is not None
        X, y, sample_weight = self._check_items(X, y, sample_weight, reset=not resumes)
        metadata = {"sample_weight": sample_weight} if is_weighted else None
        coding = self._coding if resumes else LabelCoding.of(y)
        targets = coding.encode(y)
        weights = to_mean_one(
            coding.weigh(targets, sample_weight, self.class_weight), self.class_weight
        )
        validation = self._check_validation(X_val, y_val, coding)
        self._start(X, coding, resumes)
        items = np.arange(len(y))
        if self.early_stopping and validation is None:
            items, held = self._set_aside(y)
            validation = X[held], y[held], sample_weight[held]
        checkpoint = None
        if checkpoint_dir is not None:
            data = {"data": (self._modalities(X), targets, weights)}
            if validation is not None:
                X_val, y_val, weight_val = validation
                data["validation data"] = (
                    self._modalities(X_val),
                    coding.encode(y_val),
                    weight_val,
                )
            checkpoint = Checkpoint(checkpoint_dir, identity_of(self, **data))
        trainer, run_epoch = self._prepare_epochs(X[items], targets[items], weights[items])
        if validation is not None:
            validation = (self._source(validation[0], self.cache), *validation[1:])
        self._train(trainer, run_epoch, validation, checkpoint, X=X, y=y, metadata=metadata)
        self._keep_optimizer(trainer if self.warm_start else None)
        return self

    @all_or_nothing
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        X: Any,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Train for one epoch over these items, going on from earlier calls.

        Callbacks are not called, and nothing is watched: this is one step of a loop of yours.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path of a store
            Some of the items, in any form that the notes of `AttentionClusterClassifier` list.

        y : array-like of shape (n,), or indicator of shape (n, n_labels)
            Their labels.

        classes : array-like of shape (n_classes,), optional
            All labels that will ever come (with an indicator y, the numbers of its
            columns); required in the first call.

        sample_weight : array-like of shape (n,), optional
            Weight of each item's loss, relative to the items of this call; class weights
            are taken as they are.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            As `fit`; also without `classes` in the first call, with others later, and
            with `early_stopping` or ``class_weight="balanced"``, which need all items.
        """
        resumes = hasattr(self, "network_")
        self._check_partial_fit(classes, resumes)
        X, y, sample_weight = self._check_items(X, y, sample_weight, reset=not resumes)
        coding = self._coding if resumes else LabelCoding.of(y, classes)
        targets = coding.encode(y)
        weights = coding.weigh(targets, sample_weight, self.class_weight)
        self._start(X, coding, resumes)
        trainer, run_epoch = self._prepare_epochs(X, targets, weights)
        self._record(run_epoch(), None)
        self._keep_optimizer(trainer)
        return self

    def _check_partial_fit(self, classes: ArrayLike | None, resumes: bool) -> None:
        if self.early_stopping:
            raise ValueError(
                "partial_fit does not support early_stopping=True: it never sees all items. "
                "Use fit, or early_stopping=False."
            )
        if self.class_weight == "balanced":
            raise ValueError(
                "partial_fit does not support class_weight='balanced': it never sees all labels. "
                "Pass the weights as a dict, from sklearn.utils.compute_class_weight."
            )
        if not resumes and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        if (
            resumes
            and classes is not None
            and not np.array_equal(self.classes_, np.unique(classes))
        ):
            raise ValueError(
                f"`classes={classes!r}` is not the same as on last call to partial_fit, "
                f"was: {self.classes_!r}"
            )

    def _check_items(
        self, X: Any, y: Any, sample_weight: Any, reset: bool
    ) -> tuple[Any, NDArray[Any], NDArray[np.float64]]:
        """X, y and weights, checked, without the items of weight 0."""
        y = check_labels(y, type(self).__name__)
        X = self._check_X(X, reset=reset)
        check_consistent_length(X, y)
        sample_weight = _check_sample_weight(
            sample_weight, y, dtype=np.float64, ensure_non_negative=True
        )
        weighted = sample_weight > 0
        if weighted.all():
            return X, y, sample_weight
        return X[weighted], y[weighted], sample_weight[weighted]

    def _start(self, X: Any, coding: LabelCoding, resumes: bool) -> None:
        """Set the fitted attributes to those of an untrained model, or check the resumed one."""
        modalities = self._modalities(X)
        values = {
            name: self._per_modality(name, modalities) for name in self._integration_parameters
        }
        architecture = {
            "integrations": {
                modality: {
                    "n_features": sets.n_features,
                    **{name: by_modality[modality] for name, by_modality in values.items()},
                }
                for modality, sets in modalities.items()
            },
            "n_outputs": coding.n_outputs,
            "network": self._network_options(),
        }
        device = resolve_device(self.device)
        self._check_precision(self._dtype if resumes else self.dtype)
        if resumes:
            if architecture != self._architecture:
                raise ValueError(
                    "warm_start=True cannot change the network: it was fitted with "
                    f"{_only_in(self._architecture, architecture)}, the parameters now say "
                    f"{_only_in(architecture, self._architecture)}. Fit a clone, or set "
                    "warm_start=False."
                )
            self.network_ = copy.deepcopy(self.network_).to(device)
            self.network_.linear.dropout = self.dropout
            self.loss_curve_ = list(self.loss_curve_)
            return
        for name, sets in modalities.items() if not self.standardize else ():
            warn_of_scale(sets, f"modality {name!r}" if len(modalities) > 1 else "X")
        self._coding = coding
        self.classes_ = coding.classes
        self._architecture = architecture
        self._dtype = self._resolve_dtype(X)
        self._random_state = check_random_state(self.random_state)
        self.network_ = self._build_network()
        _draw_all(self.network_, make_generator(self._random_state, "cpu"))
        self.network_.to(device, getattr(torch, self._dtype))
        self._keep_optimizer(None)
        self.n_iter_ = 0
        self.loss_curve_: list[float] = []
        self.validation_scores_: list[float] | None = None

    def _check_precision(self, dtype: str) -> None:
        if self.precision == "mixed" and dtype == "float64":
            raise ValueError(
                "precision='mixed' needs parameters in float32, and these are float64. Use "
                "dtype='float32' and fit anew, or precision='full'."
            )

    def _resolve_dtype(self, X: Any) -> str:
        if self.dtype != "auto":
            return self.dtype
        if self.precision == "mixed":
            return "float32"
        dtypes = [sets.dtype for sets in self._modalities(X).values()]
        narrow = all(dtype.kind == "f" and dtype.itemsize <= 4 for dtype in dtypes)
        return "float32" if narrow else "float64"

    def _build_network(self) -> IntegrationNetwork:
        # On the meta device torch draws nothing, so its global random state stays as it is.
        return self._unallocated_network().to_empty(device="cpu")

    def _unallocated_network(self) -> IntegrationNetwork:
        with torch.device("meta"):
            parts = self._architecture["integrations"].values()
            options = dict(self._architecture["network"])
            widths = [part["n_features"] for part in parts] if options.pop("standardize") else None
            return self._make_network(
                [self._integration(**part) for part in parts],
                self._architecture["n_outputs"],
                self.dropout,
                widths,
                **options,
            )

    def _network_from(self, state: dict[str, torch.Tensor]) -> IntegrationNetwork:
        """The network with these parameters, on `device` where there is such a one."""
        network = self._build_network().to(getattr(torch, self._dtype))
        network.load_state_dict(state)
        try:
            return network.to(resolve_device(self.device))
        except ValueError:  # a model trained on a GPU loads on a machine that has none
            return network

    def _network_options(self) -> dict[str, Any]:
        """What else than its integrations makes the network; `_make_network` takes the others."""
        return {"standardize": self.standardize}

    def _make_network(self, *args: Any, **options: Any) -> IntegrationNetwork:
        return IntegrationNetwork(*args, **options)

    def _check_validation(
        self, X_val: Any, y_val: Any, coding: LabelCoding
    ) -> tuple[Any, NDArray[Any], NDArray[np.float64]] | None:
        """The given validation set (X, y, weights), checked."""
        if (X_val is None) != (y_val is None):
            given, missing = ("y_val", "X_val") if X_val is None else ("X_val", "y_val")
            raise ValueError(f"{given} is passed without {missing}; pass both or neither.")
        if X_val is None:
            return None
        try:
            X_val, y_val, weight_val = self._check_items(X_val, y_val, None, reset=False)
        except (TypeError, ValueError) as error:
            raise type(error)(f"In X_val and y_val: {error}") from None
        coding.encode(y_val, name="y_val")
        return X_val, y_val, weight_val

    def _set_aside(self, y: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The items to train on and those to validate on."""
        try:
            train, held = train_test_split(
                np.arange(len(y)),
                test_size=self.validation_fraction,
                stratify=y if y.ndim == 1 else None,
                random_state=self._random_state,
            )
        except ValueError as error:
            raise ValueError(
                f"early_stopping=True cannot set aside validation_fraction="
                f"{self.validation_fraction} of {len(y)} items: {error}. Pass X_val and y_val, "
                "change validation_fraction, or set early_stopping=False."
            ) from None
        return np.sort(train), np.sort(held)  # slow stores are read in their order

    def _prepare_epochs(
        self, X: Any, targets: NDArray[Any], weights: NDArray[np.float64]
    ) -> tuple[Trainer, Callable[[], float]]:
        """The trainer, and a function that trains for one epoch and returns the loss."""
        modalities = self._modalities(X)
        n_local_features = self._per_modality("n_local_features", modalities)
        trainer = Trainer(
            self.network_,
            self._coding.loss,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm,
            batch_size=self.batch_size,
            n_local_features=list(n_local_features.values()),
            modality_dropout=self.modality_dropout,
            precision=self.precision,
            random_state=self._random_state,
        )
        name, state = self._optimizer_state
        if state is not None and name == self.optimizer:
            trainer.optimizer.load_state(state)
        like = trainer.parameter
        targets_tensor = torch.from_numpy(targets).to(like.device)
        if targets_tensor.is_floating_point():
            targets_tensor = targets_tensor.to(like.dtype)
        weights_tensor = torch.from_numpy(weights).to(like.device, like.dtype)
        sets = cached(list(modalities.values()), self.cache, like)
        self._learn_moments(sets)
        source = BatchSource(sets, like, self._stand_ins())
        return trainer, lambda: trainer.run_epoch(source, targets_tensor, weights_tensor)

    def _learn_moments(self, sets: list[FeatureSets]) -> None:
        standardizes = self.standardize and self.n_iter_ == 0
        if not standardizes and not self._needs_means:
            self._learn_stand_ins([])
            return
        moments = [feature_moments(of_modality, with_std=standardizes) for of_modality in sets]
        self._learn_stand_ins(moments)
        if standardizes:
            for standardization, (mean, std, _) in zip(
                self.network_.standardizations or (), moments, strict=True
            ):
                standardization.learn(torch.from_numpy(mean), torch.from_numpy(std))

    def _keep_optimizer(self, trainer: Trainer | None) -> None:
        """Keep the optimiser's running averages, under its name, for a fit that goes on."""
        state = None if trainer is None else trainer.optimizer.state()
        self._optimizer_state: tuple[str, Any] = (self.optimizer, state)

    def _train(
        self,
        trainer: Trainer,
        run_epoch: Callable[[], float],
        validation: tuple[Any, ...] | None,
        checkpoint: Checkpoint | None,
        **shown: Any,
    ) -> None:
        """Run epochs until patience ends, a callback says so, `max_iter`, or Ctrl-C."""
        fit_context = self._init_callback_context(max_subtasks=self.max_iter)
        fit_context.call_on_fit_task_begin(estimator=self, **shown)
        patience = Patience(self.tol, self.n_iter_no_change)
        n_before, best_state, stop = self.n_iter_, None, False
        if checkpoint is not None:
            best_state, stop = checkpoint.restore(self, trainer, patience)
        try:
            while self.n_iter_ - n_before < self.max_iter and not (stop or patience.exhausted):
                epoch_context = fit_context.subcontext(task_name="epoch")
                epoch_context.call_on_fit_task_begin(estimator=self, **shown)
                score = self._record(run_epoch(), validation)
                if patience.update(score) and self.early_stopping:
                    best_state = copy.deepcopy(self.network_.state_dict())
                stop = bool(
                    epoch_context.call_on_fit_task_end(
                        estimator=self, reconstruction_attributes={}, **shown
                    )
                )
                if checkpoint is not None:
                    is_last = stop or patience.exhausted or self.n_iter_ == self.max_iter
                    checkpoint.keep(
                        self, trainer, patience, best_state, stopped=stop, is_last=is_last
                    )
            self._warn_of_convergence(stop or patience.exhausted)
        except KeyboardInterrupt:
            if self.n_iter_ == n_before:
                raise
            trainer.optimizer.clear()
            self._warn_of_interruption(self.n_iter_ - n_before, is_kept=checkpoint is not None)
        if best_state is not None:
            self.network_.load_state_dict(best_state)
        fit_context.call_on_fit_task_end(estimator=self, reconstruction_attributes={}, **shown)

    def _warn_of_convergence(self, is_settled: bool) -> None:
        if self.tol is not None and not is_settled:
            warnings.warn(
                f"Maximum iterations ({self.max_iter}) reached and the optimization hasn't "
                "converged yet. Raise max_iter, or set tol=None to train for exactly that many "
                "epochs.",
                ConvergenceWarning,
                stacklevel=6,
            )

    def _warn_of_interruption(self, n_epochs: int, is_kept: bool) -> None:
        later = (
            "The same call goes on from the last epoch that was kept."
            if is_kept
            else "With checkpoint_dir in fit, the same call could have gone on later."
        )
        warnings.warn(
            f"Training was interrupted after {n_epochs} epochs; the estimator is fitted by what "
            f"was done. {later}",
            UserWarning,
            stacklevel=6,
        )

    def _record(self, loss: float, validation: tuple[Any, ...] | None) -> float:
        """Note what an epoch gave; returns the score by which training stops."""
        # The loss is that before each step: the last step can still spoil the parameters.
        if not np.isfinite(loss) or not _is_finite(self.network_):
            raise ValueError(
                f"Training diverged in epoch {self.n_iter_ + 1}, with loss {loss:g}. Lower "
                f"learning_rate (now {self.learning_rate}), or set standardize=True."
            )
        accuracy = np.nan
        line = f"epoch {self.n_iter_ + 1}: loss {loss:.4f}"
        if validation is not None:
            source, y, sample_weight = validation
            logits = _stacked(self._outputs(self._batch_logits, source), len(source))
            accuracy = self._coding.accuracy(y, logits, sample_weight)
            line += f", validation accuracy {accuracy:.4f}"
        if validation is not None or self.validation_scores_ is not None:
            # Epochs without a validation set count too, so that scores are told by their epoch.
            before = self.validation_scores_ or [np.nan] * self.n_iter_
            self.validation_scores_ = [*before, accuracy]
        self.n_iter_ += 1
        self.loss_curve_.append(loss)
        if self.verbose:
            print(line)
        return accuracy if self.early_stopping else -loss

    # Using the fitted network.

    def _source(self, X: Any, cache: str = "stream") -> BatchSource:
        """The batches of a checked X."""
        like = next(self.network_.parameters())
        sets = cached(list(self._modalities(X).values()), cache, like)
        return BatchSource(sets, like, self._stand_ins())

    def _outputs(
        self, function: Callable[..., torch.Tensor], source: BatchSource
    ) -> Iterator[NDArray[Any]]:
        """What `function` of the packed sets gives for every batch, as numpy arrays."""
        self.network_.eval()
        outputs = (output.cpu().numpy() for output in infer(function, source, self.batch_size))
        n_batches = math.ceil(len(source) / self.batch_size)
        return progress(outputs, "batches", n_batches) if self.verbose else outputs

    def _attention_weights(self, X: Any) -> dict[str, FeatureSets]:
        """The weights of the units over every modality's local features, packed as X is."""
        like, weights = next(self.network_.parameters()), {}
        modalities = self._modalities(X)
        for i, (name, sets) in enumerate(modalities.items()):
            blocks = self._outputs(
                lambda packed, i=i: self.network_.attention_weights_of(i, *packed[0]),
                BatchSource([sets], like),
            )
            offsets = np.concatenate([[0], np.cumsum(sets.lengths)])
            weights[name] = FeatureSets(_stacked(blocks, int(offsets[-1])), offsets)
        return weights

    def _logits(self, X: Any) -> NDArray[Any]:
        check_is_fitted(self)
        self._check_precision(self._dtype)
        X = self._check_X(X, reset=False)
        return _stacked(self._outputs(self._batch_logits, self._source(X)), len(X))

    def _batch_logits(self, sets: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        with autocast(self.network_.linear.weight.device, self.precision):
            logits: torch.Tensor = self.network_(sets)
        return logits

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable label of every item.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path of a store
            The items.

        Returns
        -------
        ndarray of shape (n,) or (n, n_labels)
            Labels from `classes_`; after an indicator y, the labels more probable than not.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.

        ValueError
            If X is not usable or its width is not that of `fit`.
        """
        logits = self._logits(X)
        return self._coding.decide(logits)

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """The probability of every class.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path of a store
            The items.

        Returns
        -------
        ndarray of shape (n, n_classes) or (n, n_labels)
            Columns in the order of `classes_`. Rows sum to 1, except after an indicator
            y, where every label has its own probability.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.

        ValueError
            If X is not usable or its width is not that of `fit`.
        """
        logits = self._logits(X)
        return self._coding.probabilities(logits)

    def decision_function(self, X: Any) -> NDArray[Any]:
        """The logit of every class.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path of a store
            The items.

        Returns
        -------
        ndarray of shape (n,), (n, n_classes) or (n, n_labels)
            For two classes, the logit of ``classes_[1]``.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.

        ValueError
            If X is not usable or its width is not that of `fit`.
        """
        logits = self._logits(X)
        return logits[:, 0] if self._coding.kind == "binary" else logits

    def transform(self, X: Any, *, out: str | os.PathLike[str] | None = None) -> Any:
        """The global feature of every item: what its local features come to.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path of a store
            The items.

        out : str or path, optional
            Write the global features to a new zarr array there, batch by batch, for a result
            that memory does not hold.

        Returns
        -------
        ndarray or zarr.Array of shape (n, n_features_out)
            g of equations 6 and 7 for an attention cluster: of width N·M, summed over the
            modalities; under the shifting operation, of unit norm in every modality that is not
            masked. For another way to integrate local features, what that gives.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.

        ValueError
            If X is not usable or its width is not that of `fit`.

        FileExistsError
            If there is something at `out`.
        """
        check_is_fitted(self)
        if out is not None and _get_output_config("transform", self)["dense"] != "default":
            raise ValueError(
                "out writes a zarr array, but set_output asks for another container. Call "
                "set_output(transform='default'), or leave out out."
            )
        X = self._check_X(X, reset=False)
        blocks = self._outputs(self.network_.global_feature, self._source(X))
        return _stacked(blocks, len(X)) if out is None else save_rows(out, blocks, len(X))

    def to_torch(self) -> IntegrationNetwork:
        """A copy of the fitted network, to be trained further in torch.

        Returns
        -------
        acluster.nn.IntegrationNetwork
            In evaluation mode, on the device of the estimator. Its `forward` takes a pair of packed
            local features and offsets for every modality and gives logits. A missing set is empty
            there; under ``missing_modality="mean"`` put ``feature_means_`` in its place.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.

        Examples
        --------
        >>> import numpy as np
        >>> import torch
        >>> from acluster import AttentionClusterClassifier
        >>> X = [np.eye(3), np.ones((2, 3))] * 5
        >>> clf = AttentionClusterClassifier(tol=None, max_iter=5).fit(X, [0, 1] * 5)
        >>> network = clf.to_torch()
        >>> two_sets = torch.eye(3, dtype=torch.float64), torch.tensor([0, 1, 3])
        >>> network([two_sets]).shape
        torch.Size([2, 1])
        """
        check_is_fitted(self)
        return copy.deepcopy(self.network_).eval()

    # What scikit-learn and pickle ask.

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "network_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.classifier_tags.multi_label = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "network_" in state:
            state["network_"] = to_numpy_state(self.network_.state_dict())
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if hasattr(self, "network_"):
            integrations, network = self._with_later_parameters(
                self._architecture["integrations"], self._architecture["network"]
            )
            sizes = {"integrations": integrations, "network": network}
            self._architecture = {**self._architecture, **sizes}
            self.network_ = self._network_from(to_torch_state(self.network_))


def _stacked(blocks: Iterable[NDArray[Any]], n_rows: int) -> NDArray[Any]:
    """All blocks as one array. Kept one by one they would lie between the batches' memory, and
    the process would grow with every batch.
    """
    blocks = iter(blocks)
    first = next(blocks)  # there is one at least, as X has an item at least
    stacked, filled = np.empty((n_rows, first.shape[1]), first.dtype), 0
    for block in chain([first], blocks):
        stacked[filled : filled + len(block)] = block
        filled += len(block)
    return stacked


def _only_in(architecture: dict[str, Any], other: dict[str, Any]) -> str:
    """What of one architecture's parameters differs from another's."""
    pairs = [(architecture["network"], other["network"])]
    for modality, integration in architecture["integrations"].items():
        pairs.append((integration, other["integrations"][modality]))
    return ", ".join(
        sorted(
            {
                f"{parameter}={value!r}"
                for parameters, others in pairs
                for parameter, value in parameters.items()
                if others[parameter] != value
            }
        )
    )


def _draw_all(network: IntegrationNetwork, generator: torch.Generator) -> None:
    """Draw the parameters; one that a class of the user's own forgets is noticed."""
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.fill_(torch.nan)
        network.reset_parameters(generator)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(
                f"reset_parameters leaves {name!r} as it was in memory. It has to set every "
                "parameter and buffer; what the constructor computes is not kept."
            )


def _is_finite(network: torch.nn.Module) -> bool:
    numbers = [*network.parameters(), *(b for b in network.buffers() if b.is_floating_point())]
    extremes = [torch.stack(tensor.aminmax()) for tensor in numbers]
    return bool(torch.stack(extremes).isfinite().all())
