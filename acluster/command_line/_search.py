"""Search for the parameters of a classifier by cross-validation."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from acluster.command_line import _splits
from acluster.command_line._output import check_path, is_terminal, show, write_table
from acluster.command_line._training import Task, new_classifier, open_task, parse_value, show_model
from acluster.command_line._training import train as train_classifier

# The candidates without --param: the single configurations of docs/about/portfolio.rst, without
# those that are weak alone (no shifting) or have a constant learning rate.
_CANDIDATES: tuple[dict[str, Any], ...] = (
    {},
    {"n_attended": None},
    {"n_attended": 1},
    {"weight_decay": 0.001},
    {"hidden_features": 64, "max_iter": 30},
    {"pyramid_levels": 3},
)
_RESOURCE = "max_iter"  # what successive halving gives more of to better candidates
_N_SHOWN = 10
# How warnings of scikit-learn begin about fits and scores that have failed, which are shown in
# another way.
_ABOUT_FAILURES = "Scoring failed|One or more of the test scores are non-finite"

Grid = dict[str, list[Any]]


@dataclass(frozen=True)
class _Result:
    """The scores of a candidate.

    Attributes
    ----------
    parameters : dict
        Those that it does not share with all candidates.

    scores : list of float
        One per fold; NaN where training has failed.

    seconds : float or None
        The training time in all folds, if it is known.
    """

    parameters: dict[str, Any]
    scores: list[float]
    seconds: float | None = None

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores))

    @property
    def std(self) -> float:
        return float(np.std(self.scores))


@dataclass
class _Scores:
    """A scorer that keeps what it returns, since an interrupted search has no results.

    Attributes
    ----------
    scorer : callable
        What computes the scores.

    names : list of str
        The parameters that tell candidates apart.

    by_candidate : dict of str to (dict, list of float)
        The parameters and the scores of each candidate, in the order of the folds.

    error : Exception or None
        The first error of the scorer.
    """

    scorer: Any
    names: Sequence[str]
    by_candidate: dict[str, tuple[dict[str, Any], list[float]]] = field(default_factory=dict)
    error: Exception | None = None

    def __call__(self, classifier: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
        # As in `acluster fit --cv`, all items count alike; scikit-learn passes the sample weights.
        parameters = {name: getattr(classifier, name) for name in self.names}
        try:
            score = float(self.scorer(classifier, X, y))
        except Exception as error:
            self.error = self.error or error
            raise
        own = self.by_candidate.setdefault(json.dumps(parameters, default=repr), (parameters, []))
        own[1].append(score)
        return score

    def results(self) -> list[_Result]:
        """Return the candidates that have been scored in the most folds, which are the same."""
        n_folds = max((len(scores) for _, scores in self.by_candidate.values()), default=0)
        return [_Result(*own) for own in self.by_candidate.values() if len(own[1]) == n_folds]


@dataclass(frozen=True)
class _Table:
    """Prints and writes the results of a search.

    Attributes
    ----------
    options : argparse.Namespace
        The options of the command.

    defaults : dict
        The values of parameters that a candidate does not name.

    names : sequence of str
        The parameters that are searched.

    has_groups : bool
        Whether folds keep groups together.

    n_folds : int
        The number of folds; after an interrupt, there may be scores of fewer.
    """

    options: argparse.Namespace
    defaults: dict[str, Any]
    names: Sequence[str]
    has_groups: bool
    n_folds: int

    def show(self, results: list[_Result]) -> None:
        """Write the table of --csv, and print the best results unless JSON is printed."""
        n_done = len(results[0].scores)
        if self.options.csv is not None:
            folds = [f"fold {k}" for k in range(1, n_done + 1)]
            header = ["rank", "mean", "std", *folds, "seconds", *self.names]
            write_table(
                self.options.csv, header, map(self._row, range(1, len(results) + 1), results)
            )
        if self.options.json:
            return
        kept = ", which keep groups together" if self.has_groups else ""
        n_folds = f"{n_done} of {self.n_folds}" if n_done < self.n_folds else n_done
        # Successive halving has several results of the candidates that it keeps.
        distinct = {json.dumps(_without_epochs(one, self.options)) for one in results}
        show(
            f"{self.options.scoring}, mean and standard deviation over {n_folds} folds{kept}; the "
            f"best of {len(distinct)} candidate{'s' * (len(distinct) != 1)}:"
        )
        for result in results[:_N_SHOWN]:
            own = " ".join(_settings(result.parameters)) or "the defaults"
            show(f"  {result.mean:.4f} ± {result.std:.4f}  {own}")

    def _row(self, rank: int, result: _Result) -> list[Any]:
        numbers = [*map("{:.6g}".format, [result.mean, result.std, *result.scores])]
        seconds = "" if result.seconds is None else f"{result.seconds:.3g}"
        parameters = self.defaults | result.parameters
        return [rank, *numbers, seconds, *(_text(parameters[name]) for name in self.names)]

    def show_json(self, results: list[_Result], accuracy: float | None) -> None:
        """Print all results, and the accuracy on held-out items, as one line of JSON."""
        candidates = [
            {
                "parameters": result.parameters,
                "mean": _finite(result.mean),
                "std": _finite(result.std),
                "scores": [*map(_finite, result.scores)],
                "seconds": result.seconds,
            }
            for result in results
        ]
        found = {
            "model": self.options.out,
            "scoring": self.options.scoring,
            "keeps_groups_together": self.has_groups,
            "best_parameters": results[0].parameters,
            "held_out_accuracy": accuracy,
            "candidates": candidates,
        }
        show(json.dumps(found))


def _finite(number: float) -> float | None:
    """Return a number as JSON has it, which knows no NaN."""
    return number if np.isfinite(number) else None


def search(options: argparse.Namespace) -> None:
    """Run the command.

    Raises
    ------
    ValueError
        If an option is invalid, the items cannot be divided into folds, or no candidate could be
        trained and scored.

    KeyboardInterrupt
        If the search is interrupted, after what is known has been printed and written.
    """
    _check_outputs(options)
    task = open_task(options)
    classifier = new_classifier(task.X, options.set)
    grids = _grids(options, classifier)
    folds = _splits.folds(task.group, task.y, options.cv)
    names = {name for grid in grids for name in grid} | ({_RESOURCE} if options.halving else set())
    scores = _Scores(_scorer(options.scoring), sorted(names))
    _warn_of_early_stopping(classifier, names, task)
    table = _Table(
        options, classifier.get_params(), scores.names, task.group is not None, len(folds)
    )
    try:
        found = _cross_validate(classifier, grids, folds, scores, task, options)
    except KeyboardInterrupt:
        if results := _ranked(scores.results(), options):
            table.show(results)
            show(f"Train the best so far: {_fit_command(results[0], options)}", error=True)
        raise
    results = _ranked(found, options)
    table.show(results)
    # The table shows the progress of the search on a terminal; JSON is for programs.
    is_shown = is_terminal() and not options.json
    best = {**results[0].parameters, "verbose": is_shown}
    if options.halving:
        best[_RESOURCE] = classifier.max_iter  # the rounds end at a multiple of 3 below it
    classifier.set_params(**best)
    accuracy = train_classifier(classifier, task, options.out)
    if options.json:
        table.show_json(results, accuracy)
    else:
        show_model(classifier, task, options.out, accuracy)


def _check_outputs(options: argparse.Namespace) -> None:
    for path in (options.out, options.csv):
        check_path(path, options.store)
    if options.csv and os.path.realpath(options.csv) == os.path.realpath(options.out):
        raise ValueError(f"--out and --csv both name {options.csv!r}. Write to two files.")


def _grids(options: argparse.Namespace, classifier: Any) -> list[Grid]:
    """Return the values of the parameters to try, in one or several grids."""
    fixed = {text.partition("=")[0] for text in options.set}
    classifier._validate_params()  # those of --set
    if not options.param:
        fixed |= {_RESOURCE} if options.halving else set()
        grids: list[Grid] = []
        for candidate in _CANDIDATES:
            grid = {name: [value] for name, value in candidate.items() if name not in fixed}
            if grid not in grids:
                grids.append(grid)
        return grids
    grid = {}
    for name, *texts in options.param:
        problem = None
        if name in grid:
            problem = "is given twice. Pass all of its values after one --param."
        elif name in fixed:
            problem = "is given by --set as well. Leave one of them out."
        elif name == _RESOURCE and options.halving:
            problem = (
                f"cannot be searched with --halving, which varies it itself. Set the largest "
                f"number of epochs: --set {_RESOURCE}=60."
            )
        if problem:
            raise ValueError(f"--param {name!s:.100}: it {problem}")
        grid[name] = _checked_values(classifier, name, texts)
    return [grid]


def _checked_values(classifier: Any, name: str, texts: Sequence[str]) -> list[Any]:
    """Return the distinct values of a parameter that texts stand for."""
    from sklearn.base import clone

    known = classifier.get_params()
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        hint = f"Did you mean {close[0]}? " if close else ""
        raise ValueError(
            f"--param {name!s:.100}: there is no such parameter. {hint}The parameters are "
            f"{', '.join(sorted(known))}. Write --param NAME VALUE VALUE ..."
        )
    if not texts:
        raise ValueError(f"--param {name}: it has no values. Pass --param {name} VALUE VALUE ...")
    values = {json.dumps(value): value for value in map(parse_value, texts)}
    for value in values.values():
        try:
            clone(classifier).set_params(**{name: value})._validate_params()
        except (ValueError, TypeError) as error:
            raise ValueError(f"--param {name}: {error}") from None
    return [*values.values()]


def _scorer(name: str) -> Any:
    from sklearn.metrics import get_scorer, get_scorer_names

    if name not in get_scorer_names():
        close = difflib.get_close_matches(name, get_scorer_names(), 3) or ["accuracy"]
        raise ValueError(
            f"--scoring {name!r:.100} is no scorer of scikit-learn. Choose one, such as "
            f"{', '.join(close)}; sklearn.metrics.get_scorer_names() lists all."
        )
    return get_scorer(name)


def _warn_of_early_stopping(classifier: Any, names: set[str], task: Task) -> None:
    if task.group is not None and (classifier.early_stopping or "early_stopping" in names):
        warnings.warn(
            "In the search, early_stopping validates on single items rather than whole groups, so "
            "training may last too long. The final training keeps groups together.",
            stacklevel=2,
        )


def _cross_validate(
    classifier: Any,
    grids: list[Grid],
    folds: Sequence[Any],
    scores: _Scores,
    task: Task,
    options: argparse.Namespace,
) -> list[_Result]:
    """Train and score all candidates; the classifier is left as it is."""
    from sklearn.base import clone
    from sklearn.exceptions import FitFailedWarning

    from acluster.model_selection import GridSearchCV, HalvingGridSearchCV

    estimator = clone(classifier).set_params(verbose=False)
    kind, more = GridSearchCV, {}
    if options.halving:
        more = {"resource": _RESOURCE, "max_resources": classifier.max_iter, "random_state": 0}
        kind = HalvingGridSearchCV
    is_shown = is_terminal() and not options.json
    found = kind(
        estimator, grids, cv=folds, scoring=scores, refit=False, verbose=int(is_shown), **more
    )
    weight = {} if task.X.weight is None else {"sample_weight": task.X.weight}
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", category=FitFailedWarning)
        warnings.filterwarnings("always", message=_ABOUT_FAILURES)
        try:
            found.fit(task.X, task.y, **weight)
        except ValueError as error:
            if "fits failed" not in str(error):
                raise
            raise ValueError(f"no candidate could be trained: {_last_line(error)}") from None
    if scores.error is not None:
        raise ValueError(
            f"--scoring {options.scoring} is not possible here: {scores.error} Choose another "
            "scorer, such as accuracy."
        )
    for warning in caught:
        if issubclass(warning.category, FitFailedWarning):
            show(f"warning: some fits failed: {_last_line(warning.message)}", error=True)
        elif not re.match(_ABOUT_FAILURES, str(warning.message)):
            warnings.warn(warning.message, warning.category, stacklevel=2)
    return _results(found.cv_results_, len(folds))


def _last_line(text: object) -> str:
    """Return the last line of a traceback, which has the error itself."""
    return str(text).strip().splitlines()[-1]


def _results(cv_results: Mapping[str, Any], n_folds: int) -> list[_Result]:
    scores = np.transpose([cv_results[f"split{k}_test_score"] for k in range(n_folds)])
    seconds = cv_results["mean_fit_time"] * n_folds
    return [
        _Result(parameters, own.tolist(), float(time))
        for parameters, own, time in zip(cv_results["params"], scores, seconds, strict=True)
    ]


def _ranked(results: list[_Result], options: argparse.Namespace) -> list[_Result]:
    """Return the results, the best one first.

    Successive halving trains the best candidates for the most epochs; only scores after equal
    numbers of epochs are comparable there.
    """

    def key(result: _Result) -> tuple[bool, int, float]:
        n_epochs = result.parameters[_RESOURCE] if options.halving else 0
        return bool(np.isnan(result.mean)), -n_epochs, -result.mean

    return sorted(results, key=key)


def _fit_command(result: _Result, options: argparse.Namespace) -> str:
    """Return the command that trains a classifier with the parameters of a candidate.

    The few epochs after which successive halving was interrupted are not among them.
    """
    settings = [*options.set, *_settings(_without_epochs(result, options))]
    more = {True: ["--group"], False: ["--no-group"], None: []}[options.group]
    if options.hold_out is not None:
        more += ["--hold-out", str(options.hold_out)]
    if settings:
        more += ["--set", *settings]
    return shlex.join(["acluster", "fit", options.store, "--out", options.out, *more])


def _without_epochs(result: _Result, options: argparse.Namespace) -> dict[str, Any]:
    """Return the parameters without the number of epochs that successive halving has chosen."""
    varied = {_RESOURCE} if options.halving else set()
    return {name: value for name, value in result.parameters.items() if name not in varied}


def _settings(parameters: Mapping[str, Any]) -> list[str]:
    """Return parameters as --set takes them."""
    return [f"{name}={_text(value)}" for name, value in parameters.items()]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
