"""Searches over parameters whose candidates are trained together.

The searches are scikit-learn's, with the same parameters, results and attributes. The candidates
of a fold read each batch of the fold once, and small networks share one compiled step.

Examples
--------
>>> import numpy as np
>>> from acluster import AttentionClusterClassifier
>>> from acluster.model_selection import GridSearchCV
>>> rng = np.random.default_rng(0)
>>> X, y = [rng.normal(i % 2, size=(3 + i % 4, 5)) for i in range(40)], np.arange(40) % 2
>>> clf = AttentionClusterClassifier(cluster_size=4, max_iter=30, random_state=0)
>>> search = GridSearchCV(clf, {"dropout": [0.0, 0.5], "learning_rate": [0.01, 0.003]}).fit(X, y)
>>> sorted(search.best_params_)
['dropout', 'learning_rate']
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import sklearn
from joblib import parallel_config
from sklearn import model_selection as sk
from sklearn.base import clone
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state, indexable
from sklearn.utils.metaestimators import _safe_split
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _check_method_params

from acluster._utils._progress import progress
from acluster.estimators import (
    TrainingData,
    adopting,
    can_train_together,
    fit_key,
    fit_together,
    network_size,
    pays_together,
)
from acluster.training import resolve_device, warn_of_convergence

__all__ = ["GridSearchCV", "HalvingGridSearchCV", "HalvingRandomSearchCV", "RandomizedSearchCV"]


# What `fit` may be given. A pipeline names parameters of its steps in other ways.
_FIT_PARAMS = {"sample_weight", "groups"}


@dataclass(eq=False)
class _Together:
    """Trains the candidates of a search together, and hands out the results one by one.

    Scikit-learn evaluates candidate by candidate, and fold by fold within it. When it asks for a
    candidate that is not trained yet, that one and as many of the next ones as memory allows are
    trained in all folds. A candidate whose training fails here is not handed out: it is fitted
    again, alone, and scikit-learn treats its error as usual.

    Parameters
    ----------
    estimator : estimator
        A classifier of this package, or a pipeline that ends with one.

    candidates : sequence of dict
        Their parameters, in the order in which they are asked for.

    splits : sequence of (train, test)
        The folds.

    X, y : object
        The items.

    fit_params : dict
        What `fit` is given besides.

    parallel : Parallel
        Runs the fits that take less time in processes of their own.

    verbose : bool
        Whether to count the folds on the terminal.
    """

    estimator: Any
    candidates: Sequence[dict[str, Any]]
    splits: Sequence[tuple[Any, Any]]
    X: Any
    y: Any
    fit_params: dict[str, Any]
    parallel: Parallel
    verbose: bool

    def __post_init__(self) -> None:
        self.seconds = np.zeros(len(self.candidates))  # of training, in all folds
        # Without a seed any batches will do, so that all candidates may draw the same.
        self._seed = int(check_random_state(None).randint(np.iinfo(np.int32).max))
        self._waiting = list(range(len(self.candidates)))
        self._fitted: dict[Hashable, list[tuple[Any, bool]]] = {}
        self._sizes: dict[int, int] = {}  # of the networks; 0 for candidates that cannot start
        self.is_interrupted = False

    def find(self, estimator: Any, data: TrainingData) -> Any:
        """Return an estimator with these parameters that has been fitted to these items."""
        key = fit_key(estimator, data)
        while key not in self._fitted and self._waiting:
            self._train_some()
        found = self._fitted.get(key)
        if not found:
            if self.is_interrupted:
                raise _UntrainedError("The search was interrupted before this fit.")
            return None
        fitted, is_unsettled = found.pop()
        if is_unsettled:
            warn_of_convergence(estimator.max_iter)
        return fitted

    def _train_some(self) -> None:
        numbers = self._affordable()
        self._waiting = self._waiting[len(numbers) :]
        label = f"{len(numbers)} candidates, {len(self._waiting)} to come: folds"
        for train, _ in progress(self.splits, label, len(self.splits), is_shown=self.verbose):
            started = time.perf_counter()
            try:
                for data, classifiers in self._by_data(numbers, train):
                    self._train(data, {i: one for i, one in classifiers.items() if self._sizes[i]})
            except KeyboardInterrupt:
                # What has been trained in the folds before is still scored.
                self.is_interrupted, self._waiting = True, []
                return
            seconds = time.perf_counter() - started
            self.seconds[numbers] += seconds / len(numbers)
            # Scikit-learn counts all of it as time of the candidate that it has asked for.
            self.seconds[numbers[0]] -= seconds

    def _affordable(self) -> list[int]:
        """Return the next candidates whose networks take at most `working_memory` together."""
        if not self._sizes:
            self._sizes = dict.fromkeys(self._waiting, 0)
            for data, classifiers in self._by_data(self._waiting, self.splits[0][0]):
                sizes = {i: _network_size(one, data) for i, one in classifiers.items()}
                self._sizes.update(sizes)
        # Those of a fold that are being trained have gradients and two running averages as well.
        total = np.cumsum([self._sizes[i] for i in self._waiting]) * (len(self.splits) + 3)
        budget = sklearn.get_config()["working_memory"] * 2**20
        return self._waiting[: max(1, int(np.searchsorted(total, budget, side="right")))]

    def _by_data(
        self, numbers: Sequence[int], train: Any
    ) -> Iterator[tuple[TrainingData, dict[int, Any]]]:
        """Yield the items of a fold, as transformed by a pipeline, and the classifiers for them."""
        X, y = _safe_split(self.estimator, self.X, self.y, train)
        fit_params = _check_method_params(self.X, params=self.fit_params, indices=train)
        groups: dict[Hashable, list[tuple[int, Any, Any]]] = {}
        for number in numbers:
            with suppress(Exception):
                transformers, classifier = self._parts(number)
                key = type(classifier), repr(transformers)
                groups.setdefault(key, []).append((number, transformers, classifier))
        for group in groups.values():
            _, transformers, first = group[0]
            with suppress(Exception):
                transformed = X if transformers is None else transformers.fit_transform(X, y)
                data = TrainingData.of(first, transformed, y, fit_params.get("sample_weight"))
                yield data, {number: classifier for number, _, classifier in group}

    def _parts(self, number: int) -> tuple[Any, Any]:
        """Return the transformers of a pipeline, if there are any, and the classifier."""
        parameters = clone(self.candidates[number], safe=False)
        estimator = clone(self.estimator).set_params(**parameters)
        transformers, classifier = None, estimator
        if isinstance(estimator, Pipeline):
            transformers, classifier = estimator[:-1] or None, estimator[-1]
        classifier._validate_params()
        return transformers, classifier

    def _train(self, data: TrainingData, classifiers: dict[int, Any]) -> None:
        keys = [fit_key(classifier, data) for classifier in classifiers.values()]
        for number, classifier in classifiers.items():
            if classifier.random_state is None:
                classifier.random_state = self._seed
                classifier._place = number
        together: list[tuple[Hashable, Any]] = []
        alone: list[tuple[Hashable, Any]] = []
        for key, classifier in zip(keys, classifiers.values(), strict=True):
            is_one = self.parallel.n_jobs == 1 or pays_together(classifier, data)
            (together if is_one else alone).append((key, classifier))
        found = _fitted([one for _, one in together], data) if together else []
        for fitted in self.parallel(delayed(_fitted)([one], data) for _, one in alone):
            found += fitted
        for (key, _), (classifier, state) in zip([*together, *alone], found, strict=True):
            if state is not None:
                self._fitted.setdefault(key, []).append((classifier, state))


def _network_size(classifier: Any, data: TrainingData) -> int:
    """Return the size of a network; 0 if its device or its structure is invalid."""
    with suppress(Exception):
        resolve_device(classifier.device)
        return network_size(classifier, data)
    return 0


def _fitted(classifiers: list[Any], data: TrainingData) -> list[tuple[Any, bool | None]]:
    """Return fitted classifiers with whether each is unsettled, or None where training failed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            members = fit_together(classifiers, data)
        except Exception:  # the only one has diverged, or memory does not suffice for all
            return [(classifier, None) for classifier in classifiers]
    return [
        (classifier, member.is_unsettled if member.error is None else None)
        for classifier, member in zip(classifiers, members, strict=True)
    ]


class _UntrainedError(Exception):
    """A search was interrupted before a candidate was trained in a fold."""


class _Splits:
    """The splits of a splitter, drawn once."""

    def __init__(self, splits: Sequence[tuple[Any, Any]]) -> None:
        self._splits = splits

    def split(self, *_: Any, **__: Any) -> Iterator[tuple[Any, Any]]:
        return iter(self._splits)


def _check_divisible(X: Any) -> None:
    """Raise a TypeError for an X that a classifier takes, but whose length is not that of y."""
    # Some sparse matrices are mappings; scikit-learn has its own message for them.
    if isinstance(X, str | os.PathLike | Mapping) and not hasattr(X, "shape"):
        raise TypeError(
            f"A search cannot divide X of type {type(X).__name__}. Open the path of a store with "
            "acluster.open_feature_sets; wrap a dict in acluster.MultimodalFeatureSets."
        )


class _TogetherMixin(BaseSearchCV):
    """A search of scikit-learn whose candidates are trained together."""

    def fit(self, X: Any, y: Any = None, **params: Any) -> Self:
        """Run `fit` with all sets of parameters.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, or a list of arrays
            The items.

        y : array-like of shape (n,) or (n, n_labels)
            Their labels.

        **params : dict
            Passed to `fit` of the estimator, the scorer and the splitter, as in scikit-learn.

        Returns
        -------
        self

        Raises
        ------
        TypeError
            If X is a dict of modalities, or the path of a store.

        KeyboardInterrupt
            After Ctrl-C. If all candidates that are trained together have been trained in some
            folds, `cv_results_` has their scores there, and NaN elsewhere.

        Notes
        -----
        The results of an earlier call are dropped first, so that those of two calls are not mixed
        if this one fails.
        """
        _check_divisible(X)
        for name in [name for name in vars(self) if name.endswith("_") and name[0] != "_"]:
            delattr(self, name)  # scikit-learn replaces some of them at the end only
        classifier = self.estimator[-1] if isinstance(self.estimator, Pipeline) else self.estimator
        has_callbacks = bool(getattr(self, "_skl_callbacks", None))
        if has_callbacks or not (set(params) <= _FIT_PARAMS and can_train_together(classifier)):
            return super().fit(X, y, **params)
        given = indexable(X, y)
        routed = self._get_routed_params_for_fit(params)
        self._given = *given, routed
        self._seconds: list[float] = []
        self._parallel = Parallel(n_jobs=self.n_jobs, pre_dispatch=self.pre_dispatch)
        try:
            # The candidates of a process could not be trained together with those of another.
            with parallel_config(backend="sequential"):
                super().fit(X, y, **params)
        finally:
            seconds = self.__dict__.pop("_seconds")
            del self._given, self._parallel
        self.cv_results_["mean_fit_time"] += np.array(seconds) / self.n_splits_
        return self

    def _run_search(self, evaluate_candidates: Any, *, callback_ctx: Any = None) -> None:
        if not hasattr(self, "_given"):
            super()._run_search(evaluate_candidates, callback_ctx=callback_ctx)
            return
        X, y, routed = self._given

        def evaluate(candidates: Any, cv: Any = None, **options: Any) -> Any:
            candidates = list(candidates)
            # A shuffling splitter would draw other splits at the second call.
            cv = self._checked_cv_orig if cv is None else cv
            splits = list(cv.split(X, y, **routed.splitter.split))
            fit_params = routed.estimator.fit
            together = _Together(
                self.estimator,
                candidates,
                splits,
                X,
                y,
                fit_params,
                self._parallel,
                verbose=bool(self.verbose),
            )
            try:
                with adopting(together.find):
                    results = evaluate_candidates(candidates, _Splits(splits), **options)
            except Exception:
                if together.is_interrupted:  # in the first fold, so that nothing is trained
                    raise KeyboardInterrupt from None
                raise
            if together.is_interrupted:
                self.cv_results_ = results
                raise KeyboardInterrupt
            self._seconds.extend(together.seconds)
            return results

        super()._run_search(evaluate, callback_ctx=callback_ctx)


class GridSearchCV(_TogetherMixin, sk.GridSearchCV):
    """Exhaustive search over a grid of parameters, whose candidates are trained together.

    Parameters, attributes and results are those of `sklearn.model_selection.GridSearchCV`.
    """


class RandomizedSearchCV(_TogetherMixin, sk.RandomizedSearchCV):
    """Search over parameters drawn at random, whose candidates are trained together.

    Parameters, attributes and results are those of `sklearn.model_selection.RandomizedSearchCV`.
    """


class HalvingGridSearchCV(_TogetherMixin, sk.HalvingGridSearchCV):
    """Search over a grid by successive halving, whose candidates are trained together.

    Parameters, attributes and results are those of `sklearn.model_selection.HalvingGridSearchCV`.
    """


class HalvingRandomSearchCV(_TogetherMixin, sk.HalvingRandomSearchCV):
    """Search over parameters drawn at random by successive halving, trained together.

    Parameters, attributes and results are those of `sklearn.model_selection.HalvingRandomSearchCV`.
    """
