"""Classifiers that need no tuning: an ensemble of a portfolio, weighted by cross-validation."""

from __future__ import annotations

import os
import time
from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from acluster.estimators._attention_clusters import (
    AttentionClusterClassifier,
    AttentionClusters,
    MultimodalAttentionClusterClassifier,
)
from acluster.estimators._ensemble_selection import (
    SMALLEST_PROBABILITY,
    decided,
    expected_accuracy,
    greedy_weights,
)
from acluster.estimators._evidence import Evidence, evidence_of, explained, mean_evidence
from acluster.estimators._fitting import fit_together
from acluster.estimators._folds import splits_of
from acluster.estimators._inference import logits_of
from acluster.estimators._items import Items, check_items, check_X, copy_checked
from acluster.estimators._labels import LabelCoding, LabelledClassifierMixin, check_labels
from acluster.estimators._parameters import (
    TrainingParameters,
    boolean,
    estimator,
    integer,
    parameter,
    real,
)
from acluster.estimators._saved_model import save_model
from acluster.estimators._set_classifier import restore_on_error
from acluster.estimators._training_data import TrainingData
from acluster.sets import MultimodalFeatureSets
from acluster.training import Interrupted

# What is tried, the most useful first. Each is a set of parameters of the classifier. The study
# behind the choice is in docs/about/portfolio.rst.
PORTFOLIO: tuple[dict[str, Any], ...] = (
    {"hidden_features": 64, "max_iter": 30},
    {"pyramid_levels": 3},
    {"n_attended": 1},
    {"hidden_features": 64, "shifting": False, "max_iter": 30},
)
# A first fold with as many held-out items shows which configurations the ensemble needs.
_MANY_ITEMS = 1000


def _like(name: str) -> Any:
    """Declare a parameter of the classifiers of the portfolio."""
    declared = TrainingParameters.__dataclass_fields__[name]
    return field(default=declared.default, metadata=declared.metadata)


@dataclass(kw_only=True, eq=False, repr=False)
class CrossValidationParameters:
    """The parameters of the classifiers that choose for themselves."""

    cv: Any = parameter(
        default=None,
        type="int, splitter or iterable of (train, test)",
        constraints=["cv_object"],
        doc="""
        The folds. None: 5 stratified folds in random order, or fewer if a class has fewer items.
        The folds of an iterable or a splitter must divide the items into parts.
        """,
    )
    n_configurations: int | None = integer(
        default=None,
        type="int or None",
        doc="How many configurations of the portfolio to train. None: all of them.",
    )
    max_time: float | None = real(
        default=None,
        type="float or None",
        within=Interval(Real, 0, None, closed="neither"),
        doc="""
        About how many seconds `fit` may take. After the first fold, only as many configurations
        as the time allows are trained in the other folds, at least one.
        """,
    )
    max_iter: int | None = integer(
        default=None,
        type="int or None",
        doc="The maximum number of epochs of every network. None: that of its configuration.",
    )
    class_weight: dict[Any, float] | str | None = _like("class_weight")
    device: str = _like("device")
    dtype: str = _like("dtype")
    cache: str = _like("cache")
    random_state: int | np.random.RandomState | None = _like("random_state")
    verbose: bool = boolean(default=False, doc="Whether to print a line per fold.")


class CrossValidatedClassifier(
    LabelledClassifierMixin, BaseEstimator, CrossValidationParameters, ABC
):
    """The base class of the classifiers that choose for themselves.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The class labels, sorted; for an indicator y, the column numbers.

    portfolio_ : list of dict
        The configurations that were trained in all folds, as parameters of the classifier.

    weights_ : ndarray of shape (n_configurations,)
        The share of each configuration in the predictions. They add up to 1.

    oof_proba_ : ndarray of shape (n, n_classes) or (n, n_labels)
        The ensemble's probabilities for the training items, each predicted by the networks of the
        fold that did not train on it. Items of weight 0 are left out.

    oof_score_ : float
        The accuracy (for an indicator y, the fraction of correct entries) that can be expected on
        new items: that of out-of-fold predictions whose weights were chosen on the other folds.
        With 1,000 held-out items or more, the first fold has had a say in the configurations.

    estimators_ : list of list of classifier
        The fitted classifiers of every configuration, one per fold.

    n_iter_ : ndarray of shape (n_configurations, n_folds)
        The number of epochs of each of them.

    n_features_in_ : int
        The width M of a local feature, summed over the modalities.

    extraction_ : dict of str to (dict or None), or None
        How the local features of each modality were extracted, if X came from a store of
        `acluster.extraction.extract`. An X that was extracted in another way is an error later.
    """

    _classifier: ClassVar[type[AttentionClusters]]
    _is_multimodal: ClassVar[bool]

    @restore_on_error
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Train the portfolio in every fold, and choose the weights of the ensemble.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path or URL of a store
            The items, in any form listed in the notes of `AttentionClusterClassifier`.

        y : array-like of shape (n,), or indicator of shape (n, n_labels)
            One label per item, or a matrix of zeros and ones with any number of labels per item.

        sample_weight : array-like of shape (n,), optional
            The weight of each item; items of weight 0 are left out.

        groups : array-like of shape (n,), optional
            Items of one group are in the same fold.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If X, y, a weight or a parameter is invalid, or if the folds leave an item out.

        KeyboardInterrupt
            After Ctrl-C. The estimator is as it was before the call.
        """
        items = check_items(self, X, y, sample_weight, seen=None)
        coding = LabelCoding.of(items.y)
        random_state = check_random_state(self.random_state)
        y = check_labels(y, type(self).__name__)
        weight = 1.0 if sample_weight is None else np.asarray(sample_weight)
        kept = np.broadcast_to(weight, len(y)) > 0
        splits = splits_of(self.cv, y, kept, groups, random_state)
        self.portfolio_ = list(PORTFOLIO[: self.n_configurations])
        self.estimators_: list[list[Any]] = [[] for _ in self.portfolio_]
        predicted = np.empty((len(self.portfolio_), len(items), max(2, coding.n_outputs)))
        started = time.monotonic()
        for number, (train, test) in enumerate(splits):
            seed = int(random_state.randint(np.iinfo(np.int32).max))
            data = TrainingData(items[train], coding, is_weighted=sample_weight is not None)
            fitted = self._train(data, seed)
            self.estimators_ = [
                [*own, one] for own, one in zip(self.estimators_, fitted, strict=True)
            ]
            predicted = self._reduced(
                [i for i, one in enumerate(fitted) if one is not None], predicted
            )
            of_fold = [own[-1] for own in self.estimators_]
            predicted[:, test] = _probabilities(of_fold, items.X[test], coding)
            if number == 0:
                needed = self._needed(predicted[:, test], coding, items[test])
                if self.max_time is not None:
                    seconds = (time.monotonic() - started) * len(splits) / len(predicted)
                    needed = needed[: max(1, int(self.max_time / seconds))]
                predicted = self._reduced(sorted(needed), predicted)
            if self.verbose:
                print(f"fold {number + 1} of {len(splits)}: {time.monotonic() - started:.0f} s")
        self._coding, self.classes_ = coding, coding.classes
        self.n_iter_ = np.array([[one.n_iter_ for one in own] for own in self.estimators_])
        self.weights_ = greedy_weights(predicted, coding, items)
        self.oof_proba_ = np.tensordot(self.weights_, predicted, axes=1)
        self.oof_score_ = expected_accuracy(predicted, coding, items, splits)
        return self

    def _reduced(self, chosen: Sequence[int], predicted: NDArray[Any]) -> NDArray[Any]:
        """Drop the other configurations, and return the predictions of the chosen ones."""
        self.portfolio_ = [self.portfolio_[i] for i in chosen]
        self.estimators_ = [self.estimators_[i] for i in chosen]
        return predicted[chosen]

    @staticmethod
    def _needed(predicted: NDArray[Any], coding: LabelCoding, items: Items) -> list[int]:
        """Return the configurations to train in the other folds, the most useful first."""
        if len(items) < _MANY_ITEMS:
            return [*range(len(predicted))]
        weights = greedy_weights(predicted, coding, items)
        # At least two: one of them may diverge in another fold.
        ordered: list[int] = np.argsort(-weights, kind="stable").tolist()
        return ordered[: max(2, int(np.count_nonzero(weights)))]

    def _train(self, data: TrainingData, seed: int) -> list[Any]:
        """Return a fitted classifier per configuration; None for one that diverges."""
        names = ("class_weight", "device", "dtype", "cache")
        common = {name: getattr(self, name) for name in names}
        classifiers = [
            self._classifier(random_state=seed, **{**common, **own}) for own in self.portfolio_
        ]
        if self.max_iter is not None:
            for one in classifiers:
                one.set_params(max_iter=min(self.max_iter, one.max_iter))
        copy_checked(self, classifiers[0])
        try:
            members = fit_together(classifiers, data)
        except Interrupted:  # the networks of one fold are worth nothing alone
            raise KeyboardInterrupt("Interrupted: the estimator is as before the call.") from None
        for one in classifiers:
            # The tree of the epochs. In `fit` of a classifier alone, scikit-learn removes it.
            del one._callback_fit_ctx
        pairs = zip(classifiers, members, strict=True)
        fitted = [one if member.error is None else None for one, member in pairs]
        if not any(fitted):
            raise ValueError(f"All configurations diverged. The first: {members[0].error}")
        return fitted

    def predict_proba(self, X: Any, *, n_jobs: int | None = None) -> NDArray[Any]:
        """Return the class probabilities: the weighted mean of those of all networks.

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
            If X is invalid, or its width differs from that seen in `fit`.
        """
        check_is_fitted(self)
        widths = self.estimators_[0][0]._architecture.widths
        return self._checked_proba(check_X(self, X, seen=widths), n_jobs)

    def _checked_proba(self, X: MultimodalFeatureSets, n_jobs: int | None) -> NDArray[Any]:
        used = np.flatnonzero(self.weights_)
        # One pass per fold: where a modality is missing, folds have different means for it.
        folds = zip(*(self.estimators_[i] for i in used), strict=True)
        of_folds = [_probabilities(fold, X, self._coding, n_jobs) for fold in folds]
        probabilities: NDArray[Any] = np.tensordot(
            self.weights_[used], np.mean(of_folds, axis=0), axes=1
        )
        return probabilities

    def decision_function(self, X: Any, *, n_jobs: int | None = None) -> NDArray[Any]:
        """Return the logits of the class probabilities.

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
        ndarray of shape (n, n_classes), (n, n_labels) or (n,)
            For two classes, only the logit of the second class.
        """
        logits = self._logits_of(self.predict_proba(X, n_jobs=n_jobs))
        return logits[:, 0] if self._coding.kind == "binary" else logits

    def _logits_of(self, probabilities: NDArray[Any]) -> NDArray[Any]:
        """Return the logits, (n, n_outputs), of probabilities."""
        probabilities = np.clip(probabilities, SMALLEST_PROBABILITY, 1.0)
        if self._coding.kind == "multiclass":
            return np.log(probabilities)
        opposite = np.clip(1 - probabilities, SMALLEST_PROBABILITY, 1.0)
        logits: NDArray[Any] = np.log(probabilities / opposite)
        return logits[:, 1:] if self._coding.kind == "binary" else logits

    def local_evidence(
        self, X: Any, classes: ArrayLike | None = None, *, return_constants: bool = False
    ) -> Any:
        """Return how much each local feature speaks for each class.

        Evidence is positive for a class and negative against it. The evidence of an item and a
        constant add up to its `decision_function`.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path or URL of a store
            The items.

        classes : array-like of shape (C,), optional
            Labels from `classes_`, or from `label_names_`. By default, the columns of
            `decision_function`: all classes or labels and, of two classes, ``classes_[1]``. Name a
            few if there are many: the result has a number per local feature and class.

        return_constants : bool, default=False
            Whether to also return what the logits contain besides the evidence.

        Returns
        -------
        FeatureSets or MultimodalFeatureSets
            Item i is an array of shape (L_i, C), with the places of the local features. If X has
            named modalities, one such array in each; it is empty where the item lacks the modality.

        EvidenceConstants
            Only if `return_constants`. Its `total`, of shape (n, C), and the evidence of an item
            add up to its logits. `by_modality` is a dict with the part of every modality. `rest`
            has the bias and, for an ensemble, the logit of the mean probability less the mean
            logit.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.

        ValueError
            If X is invalid, its width differs from that seen in `fit`, or a class is unknown. Also
            if a result is not finite.

        See Also
        --------
        acluster.inspection.EvidenceDisplay : Plot the evidence of an item.
        acluster.inspection.evidence_faithfulness : Measure how well evidence explains predictions.

        Notes
        -----
        The evidence is the weighted mean of that of all networks; see
        :meth:`AttentionClusterClassifier.local_evidence
        <acluster.AttentionClusterClassifier.local_evidence>` for the equation. What the logits of
        the ensemble contain besides this mean is in ``constants.rest``.

        Examples
        --------
        >>> import numpy as np
        >>> from acluster import AttentionClusterClassifierCV
        >>> X = [np.eye(3), np.ones((2, 3)), np.eye(3)[:1], np.zeros((2, 3))] * 5
        >>> clf = AttentionClusterClassifierCV(cv=2, max_iter=5).fit(X, ["a", "b"] * 10)
        >>> evidence, constants = clf.local_evidence(X, return_constants=True)
        >>> evidence[0].shape
        (3, 1)
        >>> logits = [e.sum() + constant for e, [constant] in zip(evidence, constants.total)]
        >>> bool(np.allclose(logits, clf.decision_function(X)))
        True
        """
        check_is_fitted(self)
        seen = self.estimators_[0][0]._architecture.widths
        return explained(self, seen, X, classes, return_constants, self._evidence_of)

    def _evidence_of(self, X: MultimodalFeatureSets, contrasts: NDArray[Any]) -> Evidence:
        classifiers, weights = self._weighted_classifiers()
        proba = self._checked_proba(X, None)
        parts = (evidence_of(one, X, contrasts) for one in classifiers)
        return mean_evidence(parts, weights, X, self._logits_of(proba) @ contrasts)

    def _weighted_classifiers(self) -> tuple[list[Any], list[float]]:
        """Return the classifiers of all folds whose configuration has a weight, and the weights."""
        used, n_folds = np.flatnonzero(self.weights_), len(self.estimators_[0])
        classifiers = [one for i in used for one in self.estimators_[i]]
        return classifiers, np.repeat(self.weights_[used] / n_folds, n_folds).tolist()

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
            If X is invalid, or its width differs from that seen in `fit`.
        """
        return decided(self.predict_proba(X, n_jobs=n_jobs), self._coding)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted classifier to a file, for `acluster.load`.

        The file holds the networks of all configurations and folds, also of configurations with
        a weight of 0, so that all fitted attributes are restored. It is in the safetensors
        format with a JSON description, and contains no code. A `cv` that is not an int is
        restored as None, as is a `random_state` that is an instance; `pickle` keeps both.

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
            If a parameter was set to an invalid value after `fit`, or there are more than 500
            networks, or more than 2,000 modalities in all of them.

        OSError
            If the file cannot be written.

        See Also
        --------
        acluster.load : Load the file.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> import acluster
        >>> X, y = [np.eye(3), np.ones((2, 3))] * 5, ["sharp", "flat"] * 5
        >>> clf = acluster.AttentionClusterClassifierCV(cv=2, n_configurations=1).fit(X, y)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     clf.save(f"{folder}/notes.model")
        ...     acluster.load(f"{folder}/notes.model").predict(X[:2])
        array(['sharp', 'flat'], dtype='<U5')
        """
        check_is_fitted(self)
        save_model(self, path)

    def to_onnx(self, path: str | os.PathLike[str]) -> None:
        """Export `predict_proba` to an ONNX file, for use without this package.

        The file has the inputs and the output of
        :meth:`AttentionClusterClassifier.to_onnx <acluster.AttentionClusterClassifier.to_onnx>`.
        It holds the networks of all folds and of all configurations with a positive weight, and
        its inputs and its output have the dtype of the networks. The export takes a few seconds
        per network.

        Parameters
        ----------
        path : str or path
            The file. An existing file is replaced once the new one is complete, and keeps its
            mode; a symbolic link is followed. More than 1.5 GB of weights take a second file,
            named after the first with ".data" appended.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.

        ImportError
            Without the packages of the extra ``onnx``.

        ValueError
            If a modality is named "probabilities", or its name ends with "_lengths".

        OSError
            If the file cannot be written.
        """
        from acluster.estimators._onnx import write_onnx

        check_is_fitted(self)
        write_onnx(path, *self._weighted_classifiers())

    def __sklearn_tags__(self) -> Any:
        return self._classifier().__sklearn_tags__()


@estimator
class AttentionClusterClassifierCV(CrossValidatedClassifier):
    """Classify items by their sets of local features, without parameters to tune.

    A portfolio of attention clusters is trained in every fold of a cross-validation, in one pass
    over the data. Their out-of-fold predictions decide how much each counts (greedy ensemble
    selection, Caruana et al., 2004). Predictions average the networks of all folds. If the first
    fold holds out 1,000 items or more, the other folds train only the configurations that it gives
    a weight, but at least two.

    See Also
    --------
    AttentionClusterClassifier : One attention cluster, whose parameters you choose.
    acluster.model_selection : Searches over parameters.

    Notes
    -----
    X is what `AttentionClusterClassifier` takes.

    References
    ----------
    Caruana et al., "Ensemble Selection from Libraries of Models", ICML 2004.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster import AttentionClusterClassifierCV
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.normal(i % 2, size=(rng.integers(3, 9), 4)) for i in range(60)]
    >>> y = np.arange(60) % 2
    >>> clf = AttentionClusterClassifierCV(cv=3, n_configurations=2, random_state=0).fit(X, y)
    >>> clf.score(X, y), len(clf.portfolio_)
    (1.0, 2)
    """

    _classifier = AttentionClusterClassifier
    _is_multimodal = False


@estimator
class MultimodalAttentionClusterClassifierCV(CrossValidatedClassifier):
    """Classify items with several modalities, without parameters to tune.

    It is to `MultimodalAttentionClusterClassifier` what `AttentionClusterClassifierCV` is to
    `AttentionClusterClassifier`.

    See Also
    --------
    AttentionClusterClassifierCV : One modality.
    MultimodalAttentionClusterClassifier : One network, whose parameters you choose.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster import MultimodalAttentionClusterClassifierCV
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(60) % 2
    >>> rgb = [rng.normal(size=(5, 4)) + label for label in y]
    >>> audio = [rng.normal(size=(9, 2)) - label for label in y]
    >>> X = {"rgb": rgb, "audio": audio}
    >>> clf = MultimodalAttentionClusterClassifierCV(cv=3, n_configurations=1, random_state=0)
    >>> clf.fit(X, y).score(X, y)
    1.0
    """

    _classifier = MultimodalAttentionClusterClassifier
    _is_multimodal = True


def _probabilities(
    classifiers: Sequence[Any],
    X: MultimodalFeatureSets,
    coding: LabelCoding,
    n_jobs: int | None = 1,
) -> list[NDArray[np.float64]]:
    """Return the probabilities of the classifiers of a fold, which sum to 1 in float64."""
    return [
        coding.probabilities(one.astype(np.float64)) for one in logits_of(classifiers, X, n_jobs)
    ]
