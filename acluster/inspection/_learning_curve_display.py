"""A display of the learning curve of a classifier."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from acluster.inspection._axes import as_axes


class LearningCurveDisplay:
    """Training loss and, if there is a validation set, validation accuracy of each epoch.

    Create a display with `from_estimator`, which also plots it.

    Parameters
    ----------
    loss : sequence of float
        The training loss of each epoch, in nats.

    validation_scores : sequence of float, optional
        The validation accuracy of each epoch.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The Axes of the loss.

    score_ax_ : matplotlib Axes or None
        The Axes of the accuracy, with its scale on the right.

    figure_ : matplotlib Figure
        The figure that contains them.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster import AttentionClusterClassifier
    >>> from acluster.inspection import LearningCurveDisplay
    >>> X = [np.eye(3), np.ones((2, 3))] * 5
    >>> clf = AttentionClusterClassifier(max_iter=5).fit(X, [0, 1] * 5)
    >>> LearningCurveDisplay.from_estimator(clf).ax_.get_ylabel()
    'training loss (nats)'
    """

    def __init__(
        self, loss: Sequence[float], *, validation_scores: Sequence[float] | None = None
    ) -> None:
        if validation_scores is not None and len(validation_scores) != len(loss):
            raise ValueError(
                f"validation_scores has {len(validation_scores)} epochs, but loss has {len(loss)}. "
                "Pass one value of each per epoch."
            )
        self.loss, self.validation_scores = loss, validation_scores

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None) -> Self:
        """Plot the learning curve of a fitted classifier.

        Parameters
        ----------
        estimator : fitted set classifier
            Its `loss_curve_` and `validation_scores_` are drawn.

        ax : Axes, optional
            Axes to draw in. By default a new figure is created.

        Returns
        -------
        LearningCurveDisplay

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the estimator is not fitted.

        TypeError
            If the estimator has no learning curve.
        """
        check_is_fitted(estimator)
        if not hasattr(estimator, "loss_curve_"):
            raise TypeError(
                f"{type(estimator).__name__} has no loss_curve_. Pass a classifier that is trained "
                "in epochs. For a search, pass best_estimator_; for a pipeline, its last step."
            )
        return cls(estimator.loss_curve_, validation_scores=estimator.validation_scores_).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the learning curve.

        Parameters
        ----------
        ax : Axes, optional
            Axes to draw in. By default a new figure is created.

        Returns
        -------
        LearningCurveDisplay
            The display, with `ax_`, `score_ax_` and `figure_` set.
        """
        (self.ax_,) = as_axes(ax, 1, (6, 4))
        from matplotlib.ticker import MaxNLocator  # whose absence as_axes has reported

        self.figure_, self.score_ax_ = self.ax_.figure, None
        epochs = np.arange(1, len(self.loss) + 1)
        lines = self.ax_.plot(epochs, self.loss, color="C0", label="training loss")
        self.ax_.xaxis.set_major_locator(MaxNLocator(integer=True))
        self.ax_.set(xlabel="epoch", ylabel="training loss (nats)")
        if self.validation_scores is not None:
            self.score_ax_ = self.ax_.twinx()
            label = "validation accuracy"
            lines += self.score_ax_.plot(epochs, self.validation_scores, color="C1", label=label)
            self.score_ax_.set_ylabel(label)
            # A style may hide this spine, which is the axis of the accuracy.
            self.score_ax_.spines.right.set_visible(True)
            # The best place of a legend is one beside the curves of its own Axes, which are those
            # in front: they get an unseen copy of the loss.
            self.score_ax_.plot(
                epochs, self.loss, linestyle="none", transform=self.ax_.transData, label="_loss"
            )
            self.score_ax_.legend(handles=lines, loc="best")
        return self
