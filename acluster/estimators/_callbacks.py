"""Call scikit-learn's callbacks in every epoch of a fit."""

from typing import Any

from acluster.training import Fit, Ranks


class EstimatorCallbacks:
    """The callbacks set on an estimator, in the form that a `Fit` calls.

    Parameters
    ----------
    estimator : SetClassifier
        The estimator. Its fitted attributes are updated before the callbacks of each epoch run.

    ranks : Ranks
        The processes of the fit. Rank 0 runs the callbacks and tells the others when to stop.

    **data : object
        X, y and metadata, which callbacks may use to score the estimator.
    """

    def __init__(self, estimator: Any, ranks: Ranks, **data: Any) -> None:
        self._estimator = estimator
        self._ranks = ranks
        self._data = data
        self._fit_task: Any = None
        self._epoch_task: Any = None
        if ranks.rank == 0:
            self._fit_task = estimator._init_callback_context(max_subtasks=estimator.max_iter)

    def begin_fit(self) -> None:
        """Notify the callbacks that the fit begins."""
        self._begin(self._fit_task)

    def begin_epoch(self) -> None:
        """Notify the callbacks that an epoch begins."""
        if self._fit_task is not None:
            self._epoch_task = self._fit_task.subcontext(task_name="epoch")
        self._begin(self._epoch_task)

    def end_epoch(self, fit: Fit) -> bool:
        """Notify the callbacks that an epoch has ended; return whether one stops the training."""
        self._estimator._record(fit)
        return self._ranks.same(bool(self._end(self._epoch_task)))

    def end_fit(self) -> None:
        """Notify the callbacks that the fit has ended."""
        self._end(self._fit_task)

    def _begin(self, task: Any) -> None:
        if task is not None:
            task.call_on_fit_task_begin(estimator=self._estimator, **self._data)

    def _end(self, task: Any) -> Any:
        if task is None:
            return False
        return task.call_on_fit_task_end(
            estimator=self._estimator, reconstruction_attributes={}, **self._data
        )
