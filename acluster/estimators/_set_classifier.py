"""The base class of the classifiers: fit a network to X and y, and predict with it."""

import copy
import functools
import os
from abc import ABC
from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.callback import CallbackSupportMixin
from sklearn.utils import check_random_state
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from acluster._utils._operations import computing_gradients
from acluster.estimators._adoption import adopt, identity_across_ranks
from acluster.estimators._architecture import Architecture, device_name, members_of
from acluster.estimators._fitting import (
    fast_steps,
    fit_together,
    is_faster_without_gpu,
    make_fit,
    member_numbers,
)
from acluster.estimators._inference import global_feature_blocks, logits_of, outputs
from acluster.estimators._items import as_given, check_partial_fit, check_X, finite_first
from acluster.estimators._labels import LabelCoding, LabelledClassifierMixin
from acluster.estimators._missing import MissingModality
from acluster.estimators._parameters import (
    TrainingParameters,
    value_per_modality,
    with_former_defaults,
)
from acluster.estimators._ranges import stacked_rows, write_rows
from acluster.estimators._saved_model import save_model
from acluster.estimators._training_data import TrainingData, TrainingSets
from acluster.nn import EnsembleNetwork, Integration, IntegrationNetwork
from acluster.sets import FeatureSets, is_multimodal, normalized, open_rows_array
from acluster.training import (
    BatchSource,
    Fit,
    Interrupted,
    Ranks,
    check_precision,
    check_resumable,
    make_generators,
    resolve_device,
    resolve_dtype,
    run_epoch,
    stack_blocks,
    to_numpy_state,
    to_torch_state,
)


def restore_on_error(fit: Callable[..., Any]) -> Callable[..., Any]:
    """Restore estimator and random state if `fit` fails; ignore torch modes set by the caller."""

    @functools.wraps(fit)
    def fit_or_restore(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = self.__dict__.copy()
        random_states = [(one, one.get_state(legacy=False)) for one in _random_states(self)]
        try:
            with computing_gradients():
                return fit(self, *args, **kwargs)
        except Interrupted as kept:
            # Python exits as after Ctrl-C for exactly this class, not for a subclass.
            raise KeyboardInterrupt(str(kept)) from None
        except BaseException:
            self.__dict__ = before
            for random_state, state in random_states:
                random_state.set_state(state)
            raise

    return fit_or_restore


def _random_states(estimator: Any) -> list[np.random.RandomState]:
    """Return the random states that a fit may advance; one may be the user's, or NumPy's global."""
    given = getattr(estimator, "random_state", 0)
    found = [
        vars(estimator).get("_random_state"),
        check_random_state(None) if given is None else given,
    ]
    return [one for one in found if isinstance(one, np.random.RandomState)]


def _has_attention_units(classifier: Any) -> bool:
    fitted = getattr(classifier, "_architecture", None)
    integration = classifier._integration if fitted is None else fitted.integration
    if integration.attention_logits is Integration.attention_logits:
        raise AttributeError(
            f"{type(classifier).__name__} has no attention units, so it has no attention_weights."
        )
    return True


class SetClassifier(
    TransformerMixin,
    LabelledClassifierMixin,
    CallbackSupportMixin,
    BaseEstimator,
    TrainingParameters,
    ABC,
):
    """The base class of all classifiers that train a network on sets of local features.

    A subclass declares its parameters, decorated by `estimator`. It also names its subclass of
    `acluster.nn.Integration`, and the parameters to pass to it. Internally, every X is a
    `MultimodalFeatureSets`; a classifier of one modality wraps and unwraps it.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The class labels, sorted; for an indicator y, the column numbers.

    label_names_ : list of str
        The column names of an indicator y that is a data frame with text as column names; else
        empty. Columns of later data frames are matched by name.

    modalities_ : list of str
        The names of the modalities, in the order of the global feature. Sets without a name are
        one modality, "features". Defined only by classifiers that accept several modalities.

    feature_means_ : dict of str to ndarray of shape (M,), or None
        The mean local feature of every modality over the training set, which replaces a missing
        set; None under ``missing_modality="mask"``. Defined only if `modalities_` is.

    n_features_in_ : int
        The width M of a local feature, summed over the modalities.

    feature_names_in_ : ndarray of str
        The column names. Defined only if X or its items were data frames with text as column
        names; columns of later data frames are matched by name.

    extraction_ : dict of str to (dict or None), or None
        How the local features of each modality were extracted, if X came from a store of
        `acluster.extraction.extract`. An X that was extracted in another way is an error later.

    n_iter_ : int
        The number of epochs trained.

    loss_curve_ : list of float
        The training loss of every epoch: the weighted mean of the items' negative log-likelihood
        (nats); for an indicator y, summed over the labels.

    validation_scores_ : list of float or None
        The validation accuracy of every epoch, if there was a validation set; NaN for the epochs
        of a fit without one.

    best_validation_score_ : float or None
        The highest validation accuracy.

    network_ : acluster.nn.IntegrationNetwork or acluster.nn.EnsembleNetwork
        The fitted torch module; an ensemble if `n_members` is above 1.
    """

    _integration: ClassVar[type[Integration]]
    _integration_parameters: ClassVar[tuple[str, ...]] = ()
    _is_multimodal: ClassVar[bool] = True

    # Whether device="auto" is the CPU for this model although there is a GPU.
    _prefers_cpu = False

    # Set by `fit`.
    network_: IntegrationNetwork | EnsembleNetwork
    _architecture: Architecture
    _coding: LabelCoding
    _dtype: str
    _missing: MissingModality
    _optimizer_state: tuple[str, Any]

    # The operations that predictions on a CPU compute in bfloat16. Older pickles have none.
    _in_bfloat16: tuple[str, ...] = ()

    # The place in a search without a seed. Places have their own initial weights and dropout for
    # one `random_state`, but draw the same batches.
    _place = 0

    # Defaults for subclasses that do not expose these parameters.
    n_local_features: Any = None
    modality_dropout = 0.0
    missing_modality = "mean"
    fusion: Any = None

    @property
    def best_validation_score_(self) -> float | None:
        """The highest validation accuracy of all epochs; None without a validation set."""
        check_is_fitted(self)
        scores = self.validation_scores_
        return None if scores is None else float(np.nanmax(scores))

    def _integration_arguments(self, modalities: list[str]) -> dict[str, dict[str, Any]]:
        """Return the arguments of the integration for every modality, except the width."""
        values = {
            name: value_per_modality(self, name, modalities)
            for name in self._integration_parameters
        }
        return {
            modality: {name: by_modality[modality] for name, by_modality in values.items()}
            for modality in modalities
        }

    @restore_on_error
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

        Ctrl-C raises KeyboardInterrupt as usual, so it also ends a search or a cross-validation
        around the fit. After the first epoch, the estimator is then fitted all the same: it keeps
        the weights learned so far or, under `early_stopping`, those of its best epoch.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path or URL of a store
            The items, in any form listed in the notes of `AttentionClusterClassifier`.

        y : array-like of shape (n,), or indicator of shape (n, n_labels)
            One label per item, or a matrix of zeros and ones with any number of labels per item.

        sample_weight : array-like of shape (n,), optional
            The weight of each item in the loss; items of weight 0 are left out.

        X_val, y_val : optional
            A validation set. Its accuracy (for an indicator y, the fraction of correct entries)
            is recorded after every epoch. With `early_stopping` it decides which epoch's weights
            to keep and, with a constant learning rate, when to stop.

        checkpoint_dir : str or path, optional
            A folder for the file "fit.checkpoint", which holds the last saved epoch. If the
            process is killed, the same call resumes from there. The result is bit-identical to
            that of an uninterrupted fit. If the fit had finished, the call returns at once.
            `random_state` must be an int, and only `max_iter` may be raised between the calls, but
            not with `learning_rate_schedule="cosine"`. Use one folder per fit, and none in a
            search: a checkpoint from a different fit raises an error. Data in memory are compared
            in full; for a store, only the sizes, the labels and a few items are compared.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If X, y, a weight or a parameter is invalid; the message names the item or the
            parameter, the value seen and the remedy. Also if the loss or a weight becomes NaN or
            infinite. After an error, the estimator and its `random_state` are as they were before
            the call.

        acluster.training.RankError
            If another process of a fit with ``distributed=True`` fails; the message has its error.

        acluster.ModelFileError
            If the file in `checkpoint_dir` is damaged.

        KeyboardInterrupt
            After Ctrl-C. Before the end of the first epoch, the estimator is as it was before the
            call; later it is fitted.

        Warns
        -----
        sklearn.exceptions.ConvergenceWarning
            If the learning rate is constant, and `max_iter` epochs pass before the loss settles
            within `tol`.

        UserWarning
            If the standard deviation of the local features is far from 1 and they are not
            standardized.
        """
        with _ranks_of(self) as ranks:
            _fit_to(self, ranks, X, y, sample_weight, X_val, y_val, checkpoint_dir)
        return self

    @restore_on_error
    def partial_fit(
        self,
        X: Any,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Train for one epoch on these items, continuing from earlier calls.

        Callbacks are not called, and there is no validation set: write the training loop yourself.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path or URL of a store
            Some of the items, in any form listed in the notes of `AttentionClusterClassifier`.

        y : array-like of shape (n,), or indicator of shape (n, n_labels)
            Their labels.

        classes : array-like of shape (n_classes,), optional
            All labels of this and later calls (for an indicator y, its column numbers); required
            in the first call.

        sample_weight : array-like of shape (n,), optional
            The weight of each item in the loss, relative to the items of this call. Class weights
            are not rescaled.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            As in `fit`; also if the first call lacks `classes`, if a later call passes different
            ones, and with `early_stopping` or ``class_weight="balanced"``, which need all items.
        """
        with _ranks_of(self) as ranks:
            _fit_partially(self, ranks, X, y, classes, sample_weight)
        return self

    def _architecture_for(self, data: TrainingData) -> Architecture:
        """Return the structure of the network for these items."""
        arguments, widths = self._integration_arguments(data.items.X.names), data.items.X.n_features
        return Architecture.of(
            self._integration,
            {name: {"n_features": widths[name], **own} for name, own in arguments.items()},
            n_outputs=data.coding.n_outputs,
            standardize=data.is_standardized_for(self),
            fusion=self.fusion,
            is_softmax=data.coding.kind == "multiclass",
            n_members=self.n_members,
        )

    def _start(self, data: TrainingData) -> None:
        """Set the fitted attributes to those of an untrained model, or check the resumed one."""
        X, coding = data.items.X, data.coding
        architecture = self._architecture_for(data)
        if data.ranks.size > 1:
            data.ranks.check_same(identity_across_ranks(self, data))
        if not data.resumes:
            has_choice = self.device == "auto" and resolve_device("auto").type != "cpu"
            self._prefers_cpu = has_choice and is_faster_without_gpu(self, data)
        device = data.ranks.own_device(resolve_device(device_name(self)))
        check_precision(self.precision, self._dtype if data.resumes else self.dtype)
        if data.resumes:
            if architecture != self._architecture:
                raise ValueError(
                    "A fit that continues an earlier one cannot change the network: it was fitted "
                    f"with {self._architecture.difference(architecture)}, but the parameters now "
                    f"say {architecture.difference(self._architecture)}. Fit a clone, or call fit "
                    "with warm_start=False."
                )
            # A fit that fails must leave the network of the previous fit unchanged.
            self.network_ = copy.deepcopy(self.network_).to(device)
            for member in members_of(self.network_):
                member.linear.dropout = self.dropout
            return
        self._coding = coding
        self.classes_ = coding.classes
        self._architecture = architecture
        feature_dtypes = (X[name].dtype for name in X.names)
        self._dtype = resolve_dtype(self.dtype, self.precision, feature_dtypes)
        self._random_state = data.ranks.same(check_random_state(self.random_state))
        generators = make_generators(self._random_state, "cpu", member_numbers(self))
        network = architecture.initialize(self.dropout, generators)
        self.network_ = network.to(device, getattr(torch, self._dtype))
        self._missing = MissingModality()
        if self._is_multimodal:
            self.modalities_ = X.names
            self.feature_means_: dict[str, NDArray[np.float64]] | None = None
        self._optimizer_state = (self.optimizer, None)
        self.n_iter_ = 0
        self.loss_curve_: list[float] = []
        self.validation_scores_: list[float] | None = None

    def _record(self, fit: Fit, keep_optimizer: bool = False) -> None:
        """Update the fitted attributes from a fit."""
        self.n_iter_ = len(fit.loss_curve)
        self.loss_curve_ = fit.loss_curve
        self.validation_scores_ = fit.validation_scores
        is_on_cpu = next(self.network_.parameters()).device.type == "cpu"
        self._in_bfloat16 = fit.in_bfloat16 if is_on_cpu else ()
        # Stored with the optimizer's name: another optimizer starts without running averages.
        state = fit.trainer.optimizer.state() if keep_optimizer else None
        self._optimizer_state = (self.optimizer, state)

    def _logits(self, X: Any, n_jobs: int | None) -> NDArray[Any]:
        check_is_fitted(self)
        check_precision(self.precision, self._dtype)
        X = check_X(self, X, seen=self._architecture.widths)
        [logits] = logits_of([self], X, n_jobs)
        return logits

    def predict(self, X: Any, *, n_jobs: int | None = None) -> NDArray[Any]:
        """Return the most probable label of every item.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path or URL of a store
            The items.

        n_jobs : int, optional
            The number of processes that share the items, through the active backend of joblib;
            -1 for all cores. None: one process, unless a :class:`joblib.parallel_config` says
            otherwise. A small X is predicted in one process.

        Returns
        -------
        ndarray of shape (n,) or (n, n_labels)
            Labels from `classes_`; after an indicator y, 1 for labels of probability above 1/2.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.

        ValueError
            If X is invalid, or its width differs from that seen in `fit`. Also if an output is
            not finite, or `batch_size` or `precision` was set to an invalid value after `fit`.
        """
        logits = self._logits(X, n_jobs)
        return self._coding.decide(logits)

    def predict_proba(self, X: Any, *, n_jobs: int | None = None) -> NDArray[Any]:
        """Return the class probabilities.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path or URL of a store
            The items.

        n_jobs : int, optional
            The number of processes that share the items, through the active backend of joblib;
            -1 for all cores. None: one process, unless a :class:`joblib.parallel_config` says
            otherwise. A small X is predicted in one process.

        Returns
        -------
        ndarray of shape (n, n_classes) or (n, n_labels)
            Columns in the order of `classes_`. Rows sum to 1, except after an indicator y, where
            every label has its own probability.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.

        ValueError
            If X is invalid, or its width differs from that seen in `fit`. Also if an output is
            not finite, or `batch_size` or `precision` was set to an invalid value after `fit`.
        """
        logits = self._logits(X, n_jobs)
        return self._coding.probabilities(logits)

    def decision_function(self, X: Any, *, n_jobs: int | None = None) -> NDArray[Any]:
        """Return the logit of every class.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path or URL of a store
            The items.

        n_jobs : int, optional
            The number of processes that share the items, through the active backend of joblib;
            -1 for all cores. None: one process, unless a :class:`joblib.parallel_config` says
            otherwise. A small X is predicted in one process.

        Returns
        -------
        ndarray of shape (n,), (n, n_classes) or (n, n_labels)
            For two classes, the logit of ``classes_[1]``.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.

        ValueError
            If X is invalid, or its width differs from that seen in `fit`. Also if an output is
            not finite, or `batch_size` or `precision` was set to an invalid value after `fit`.
        """
        logits = self._logits(X, n_jobs)
        return logits[:, 0] if self._coding.kind == "binary" else logits

    def transform(
        self, X: Any, *, out: str | os.PathLike[str] | None = None, n_jobs: int | None = None
    ) -> Any:
        """Return the global feature of every item: the pooled representation of its sets.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path or URL of a store
            The items.

        out : str or path, optional
            Write the global features to a new zarr array at this path, batch by batch. Use it if
            they do not fit in memory. If the process or a worker is killed, the same call
            continues from the ranges of items that are complete. The result is bit-identical to
            that of an uninterrupted call. If the model or X has changed, it starts over. Data in
            memory are compared in full; of a store, the items, a few of their features, and the
            sizes and times of local files are compared.

        n_jobs : int, optional
            The number of processes that share the items, through the active backend of joblib;
            -1 for all cores. None: one process, unless a :class:`joblib.parallel_config` says
            otherwise. A small X is transformed in one process.

        Returns
        -------
        ndarray or zarr.Array of shape (n, n_features_out)
            For attention clusters, g of equations 6 and 7. Its width is N·M, summed over the
            modalities. With the shifting operation, it has unit norm in every modality that is not
            masked. For other integrations, their output.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.

        ValueError
            If X is invalid, or its width differs from that seen in `fit`. Also if an output is
            not finite, or `batch_size` or `precision` was set to an invalid value after `fit`.

        FileExistsError
            If `out` exists.

        FileNotFoundError
            If the folder that is to hold `out` does not exist.

        acluster.sets.StoreError
            If another process is writing to `out`.

        RuntimeError
            If workers that write to `out` would round differently, because only they or only this
            process has compiled kernels (the extra "fast"). Forked workers have none.

        Warns
        -----
        UserWarning
            If an unfinished result at `out` is of another model or X, and is removed.
        """
        check_is_fitted(self)
        if out is not None and _get_output_config("transform", self)["dense"] != "default":
            raise ValueError(
                "out writes a zarr array, but set_output asks for another container. Call "
                "set_output(transform='default'), or do not pass out."
            )
        X = check_X(self, X, seen=self._architecture.widths)
        if out is None:
            return stacked_rows(global_feature_blocks, [self], X, n_jobs)
        write_rows(global_feature_blocks, self, X, n_jobs, out)
        return open_rows_array(out)

    @available_if(_has_attention_units)
    def attention_weights(self, X: Any) -> Any:
        """Return how much each unit attends to each local feature (a of equations 3 to 5).

        Available only if the integration has attention units.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path or URL of a store
            The items.

        Returns
        -------
        FeatureSets or MultimodalFeatureSets
            Item i is an array of shape (L_i, N) whose columns sum to 1. If X has named
            modalities, one such array in each; it is empty where the item lacks the modality.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.

        ValueError
            If X is invalid, or its width differs from that seen in `fit`. Also if an output is
            not finite, or `batch_size` or `precision` was set to an invalid value after `fit`.

        Examples
        --------
        >>> import numpy as np
        >>> from acluster import AttentionClusterClassifier
        >>> X = [np.eye(3), np.ones((2, 3)), np.eye(3)[:1], np.zeros((2, 3))]
        >>> clf = AttentionClusterClassifier(cluster_size=4, max_iter=5)
        >>> clf.fit(X, [0, 1, 0, 1]).attention_weights(X)[1]
        array([[0.5, 0.5, 0.5, 0.5],
               [0.5, 0.5, 0.5, 0.5]])
        """
        check_is_fitted(self)
        X = normalized(X)
        has_names = is_multimodal(X)
        X = check_X(self, X, seen=self._architecture.widths)
        like, weights = next(self.network_.parameters()), {}
        for i, name in enumerate(X.names):
            offsets = np.concatenate([[0], np.cumsum(X[name].lengths)])
            blocks = outputs(
                self,
                lambda packed, i=i: self.network_.attention_weights_of(i, *packed[0]),
                BatchSource([X[name]], like),
                offsets,
            )
            weights[name] = FeatureSets(stack_blocks(blocks, int(offsets[-1])), offsets)
        return as_given(weights, has_names)

    def to_torch(self) -> IntegrationNetwork | EnsembleNetwork:
        """Return a copy of the fitted network, for further training in torch.

        Returns
        -------
        acluster.nn.IntegrationNetwork or acluster.nn.EnsembleNetwork
            In evaluation mode, on the device of the estimator. Its `forward` takes packed local
            features and offsets for every modality and returns logits. A missing set is empty
            there; under ``missing_modality="mean"``, replace it by ``feature_means_``.

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
        >>> clf = AttentionClusterClassifier(max_iter=5).fit(X, [0, 1] * 5)
        >>> network = clf.to_torch()
        >>> two_sets = torch.eye(3, dtype=torch.float64), torch.tensor([0, 1, 3])
        >>> network([two_sets]).shape
        torch.Size([2, 1])
        """
        check_is_fitted(self)
        return copy.deepcopy(self.network_).eval()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted classifier to a file, for `acluster.load`.

        The file holds what predictions need: parameters, classes, the names and widths of the
        modalities and features, the network, the learning curve. It is in the safetensors format
        with a JSON description, and contains no code. It does not hold the state of the
        optimizer, a `random_state` that is an instance, callbacks, `set_output` or metadata
        requests; `pickle` keeps these.

        Parameters
        ----------
        path : str or path
            The file. An existing file is replaced once the new one is complete, and keeps its
            mode; a symbolic link is followed.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.

        TypeError
            If the class is not one of acluster's, or labels are neither text, numbers nor
            booleans.

        ValueError
            If a parameter was set to an invalid value after `fit`.

        OSError
            If the file cannot be written.

        See Also
        --------
        acluster.load : Load the file.
        """
        check_is_fitted(self)
        save_model(self, path)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "network_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "network_" in state:
            # NumPy arrays, so that a model trained on a GPU loads on a machine without one.
            state["network_"] = to_numpy_state(self.network_.state_dict())
            # The fitted integration: that of the parameters may have been set after `fit`.
            fitted = self._architecture
            state["_architecture"] = (fitted.integration, fitted.to_dict())
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(with_former_defaults(type(self), state))
        if hasattr(self, "network_"):
            is_softmax = self._coding.kind == "multiclass"
            integration, sizes = state["_architecture"]
            self._architecture = Architecture.from_dict(sizes, integration, is_softmax)
            self.network_ = self._architecture.build(
                self.dropout, self._dtype, to_torch_state(state["network_"]), device_name(self)
            )


def _ranks_of(classifier: Any) -> Ranks:
    """Return the processes of a fit, which begins with the check of the parameters.

    A parameter that is wrong in one process is therefore an error in all.
    """
    # A value that is not a bool is refused with the other parameters.
    is_valid = isinstance(classifier.distributed, (bool, np.bool_))
    return Ranks(is_valid and bool(classifier.distributed))


@_fit_context(prefer_skip_nested_validation=True)
def _fit_to(
    classifier: Any,
    ranks: Ranks,
    X: Any,
    y: Any,
    sample_weight: Any,
    X_val: Any,
    y_val: Any,
    checkpoint_dir: Any,
) -> None:
    if checkpoint_dir is not None:
        check_resumable(classifier.random_state, classifier.warm_start)
    resumes = classifier.warm_start and hasattr(classifier, "network_")
    arguments = classifier, X, y, sample_weight, X_val, y_val
    # A checkpoint compares the local features, and reads all of them on the host.
    may_defer = checkpoint_dir is None
    data = TrainingData.of(*arguments, resumes=resumes, ranks=ranks, may_defer=may_defer)
    is_plain = data.validation is None and checkpoint_dir is None
    with finite_first(lambda: data.unchecked):
        if not (is_plain and adopt(classifier, data)):
            fit_together([classifier], data, checkpoint_dir)


@_fit_context(prefer_skip_nested_validation=True)
def _fit_partially(
    classifier: Any, ranks: Ranks, X: Any, y: Any, classes: Any, sample_weight: Any
) -> None:
    resumes = hasattr(classifier, "network_")
    check_partial_fit(classifier, classes, resumes)
    data = TrainingData.of(
        classifier, X, y, sample_weight, classes=classes, resumes=resumes, ranks=ranks
    )
    targets = data.coding.encode(data.items.y)
    weights = data.coding.weigh(targets, data.items.sample_weight, classifier.class_weight)
    classifier._start(data)
    sets = TrainingSets(data, classifier.cache, next(classifier.network_.parameters()))
    fit = make_fit(classifier, sets, targets, weights)
    with fast_steps([(classifier, fit)]):
        [loss] = run_epoch([fit])
    fit.end_epoch(loss)
    classifier._record(fit, keep_optimizer=True)
