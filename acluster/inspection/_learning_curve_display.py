"""How a classifier learnt, epoch by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from acluster.inspection._axes import as_axes

__all__ = ["LearningCurveDisplay"]


class LearningCurveDisplay:
    """The training loss of every epoch, and the accuracy on the validation set where there is one.

    Make one by `from_estimator`, which also draws it.

    Parameters
    ----------
    loss : sequence of float
        The loss of every epoch, in nats.

    validation_scores : sequence of float, optional
        The validation accuracy of every epoch.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Of the loss.

    score_ax_ : matplotlib Axes or None
        Of the accuracy, with its scale on the right.

    figure_ : matplotlib Figure
        The figure of these.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster import AttentionClusterClassifier
    >>> from acluster.inspection import LearningCurveDisplay
    >>> X = [np.eye(3), np.ones((2, 3))] * 5
    >>> clf = AttentionClusterClassifier(tol=None, max_iter=5).fit(X, [0, 1] * 5)
    >>> LearningCurveDisplay.from_estimator(clf).ax_.get_ylabel()
    'training loss (nats)'
    """

    def __init__(
        self, loss: Sequence[float], *, validation_scores: Sequence[float] | None = None
    ) -> None:
        if validation_scores is not None and len(validation_scores) != len(loss):
            raise ValueError(
                f"There are {len(validation_scores)} validation scores and {len(loss)} losses; "
                "pass one of each per epoch."
            )
        self.loss, self.validation_scores = loss, validation_scores

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None) -> Self:
        """Draw the curve of a fitted classifier.

        Parameters
        ----------
        estimator : set classifier
            Fitted: it has `loss_curve_` and, where there was a validation set,
            `validation_scores_`.

        ax : Axes, optional
            Where to draw; by default in a new figure.

        Returns
        -------
        LearningCurveDisplay

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.

        TypeError
            If the estimator keeps no learning curve.
        """
        check_is_fitted(estimator)
        if not hasattr(estimator, "loss_curve_"):
            raise TypeError(
                f"{type(estimator).__name__} has no loss_curve_. Pass a classifier that learns by "
                "epochs: of a search its best_estimator_, of a pipeline its last step."
            )
        scores = estimator.validation_scores_
        return cls(estimator.loss_curve_, validation_scores=scores).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw it.

        Parameters
        ----------
        ax : Axes, optional
            Where to draw; by default in a new figure.

        Returns
        -------
        LearningCurveDisplay
            Itself, with `ax_`, `score_ax_` and `figure_`.
        """
        (self.ax_,) = as_axes(ax, 1, (6, 4))
        self.figure_, self.score_ax_ = self.ax_.figure, None
        epochs = np.arange(1, len(self.loss) + 1)
        lines = self.ax_.plot(epochs, self.loss, color="C0", label="training loss")
        self.ax_.set(xlabel="epoch", ylabel="training loss (nats)")
        if self.validation_scores is not None:
            self.score_ax_ = self.ax_.twinx()
            label = "validation accuracy"
            lines += self.score_ax_.plot(epochs, self.validation_scores, color="C1", label=label)
            self.score_ax_.set_ylabel(label)
            self.ax_.legend(handles=lines, loc="center right")
        return self
