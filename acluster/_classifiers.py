"""The public estimators, each a face of the one set classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from acluster._set_classifier import SetClassifier
from acluster.sets import FeatureSets, check_sets

__all__ = ["AttentionClusterClassifier"]


class AttentionClusterClassifier(SetClassifier):
    """Classify items from their sets of local features, by one attention cluster.

    N attention units each take a weighted average of an item's local features
    (equations 2 to 5); the shifting operation sets the units apart and normalises them
    (equation 7); their concatenation, the global feature (equation 6), goes through
    dropout and one linear layer. As a transformer it gives the global feature.

    Parameters
    ----------
    cluster_size : int, default=32
        The number N of attention units.

    weighting : {"fc1", "fc2", "average"}, default="fc1"
        How a unit weighs a local feature: one linear layer, two with a tanh between, or
        all alike (the paper's baseline: the mean, N times).

    hidden_size : int, default=10
        The number H of hidden cells of each unit of "fc2".

    shifting : bool, default=True
        Whether the shifting operation follows each unit.

    dropout : float in [0, 1), default=0.5
        The share of the global feature that is zeroed at random in training.

    n_local_features : int, default=None
        Local feature set augmentation: in training, every step sees this many local
        features of each set, drawn anew; prediction sees all. None: always all.

    optimizer : {"rmsprop", "adam", "adamw"}, default="rmsprop"
        The paper's choice for video is RMSprop; its toy experiment used Adam.

    learning_rate : float, default=0.001
        Step size of the optimiser.

    weight_decay : float, default=0.0
        l2 penalty ("adamw": decoupled weight decay) on all parameters.

    max_grad_norm : float, default=5.0
        The l2 norm over all parameters to which gradients are scaled down. None: never.

    batch_size : int, default=128
        Items per step, and per block of a prediction.

    max_iter : int, default=200
        The number of epochs at most.

    tol : float, default=1e-4
        Training stops once the loss (with `early_stopping`, the validation score) has
        not improved by more than this for `n_iter_no_change` epochs. None: train for
        exactly `max_iter` epochs.

    n_iter_no_change : int, default=10
        Epochs to wait for an improvement.

    early_stopping : bool, default=False
        Whether to stop by the accuracy on a validation set (with an indicator y, the share
        of right entries), and return to the weights of the best epoch. The set is `X_val`
        of `fit`, else a part of X.

    validation_fraction : float in (0, 1), default=0.1
        The part of X set aside for early stopping, stratified by class.

    class_weight : dict or "balanced", default=None
        Weights of the classes. "balanced" is the paper's 1/S for a class of S items.

    warm_start : bool, default=False
        Whether `fit` goes on from the weights, the dtype and the optimiser of the last fit.
        A validation set drawn from X is drawn anew.

    device : str, default="auto"
        Where to compute: "auto" (a GPU when there is one), "cpu", "cuda", "cuda:1".

    dtype : {"auto", "float32", "float64"}, default="auto"
        The precision of the parameters. "auto": float32 for float16 and float32
        features, else float64.

    random_state : int, RandomState instance or None, default=None
        Draws the initial weights, the validation set, the order, the local features
        and the dropout. The same int gives the same bits on the same device.

    verbose : bool, default=False
        Whether to print a line per epoch. For a progress bar, see `set_callbacks`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted; with an indicator y, the numbers of its columns.

    n_features_in_ : int
        The width M of a local feature.

    feature_names_in_ : ndarray of str, shape (M,)
        Only there when X was a data frame.

    n_iter_ : int
        Epochs trained.

    loss_curve_ : list of float
        The training loss of every epoch: the weighted mean over items of the negative
        log-likelihood (nats); with an indicator y, summed over labels and divided by the
        number of items.

    validation_scores_ : list of float or None
        The validation accuracy of every epoch, when there was a validation set.

    best_validation_score_ : float or None
        The highest of them.

    network_ : acluster.nn.AttentionClusterNetwork
        The fitted torch module.

    See Also
    --------
    acluster.FeatureSets : The container for sets of varying size.
    acluster.nn : The torch modules, to use alone.

    Notes
    -----
    A two-dimensional X means *one local feature per item*: n sets of size 1. Sets are
    passed as `FeatureSets`, a list of (L_i, M) arrays, or an (n, L, M) array.

    Standardise local features first, as `make_pipeline(LocalFeatureTransformer(
    StandardScaler()), AttentionClusterClassifier())` does.

    The global features that `transform` gives for the training set are in-sample: a
    model stacked on them sees items that the attention has already learnt. Use
    :class:`sklearn.ensemble.StackingClassifier`, which cross-fits, instead.

    Predictions of a batch and of its items one by one agree to rounding, not to the bit.

    References
    ----------
    Long et al., "Attention Clusters: Purely Attention Based Local Feature Integration for
    Video Classification", CVPR 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster import AttentionClusterClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.normal(size=(rng.integers(3, 9), 4)) for _ in range(60)]
    >>> y = np.arange(60) % 2
    >>> for features, label in zip(X, y):
    ...     features[0] += 5 * label  # one local feature tells the class
    >>> clf = AttentionClusterClassifier(cluster_size=4, tol=None, max_iter=100, random_state=0)
    >>> clf.fit(X, y).score(X, y)
    1.0
    >>> clf.transform(X).shape
    (60, 16)
    """

    def _check_X(self, X: Any, reset: bool) -> FeatureSets:
        return check_sets(X, estimator=self, reset=reset)

    def _modalities(self, X: FeatureSets) -> list[FeatureSets]:
        return [X]

    def attention_weights(self, X: Any) -> FeatureSets:
        """How much each unit attends to each local feature: a of equations 3 to 5.

        Parameters
        ----------
        X : FeatureSets, list of (L_i, M) arrays, (n, L, M) array, or (n, M) array
            The items.

        Returns
        -------
        FeatureSets
            Item i is an array of shape (L_i, N) with columns that sum to 1.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.

        Examples
        --------
        >>> import numpy as np
        >>> from acluster import AttentionClusterClassifier
        >>> X = [np.eye(3), np.ones((2, 3)), np.eye(3)[:1], np.zeros((2, 3))]
        >>> clf = AttentionClusterClassifier(cluster_size=4, tol=None, max_iter=5)
        >>> clf.fit(X, [0, 1, 0, 1]).attention_weights(X)[1]
        array([[0.5, 0.5, 0.5, 0.5],
               [0.5, 0.5, 0.5, 0.5]])
        """
        check_is_fitted(self)
        X = self._check_X(X, reset=False)
        blocks = self._infer(lambda sets: self.network_.attention_weights(sets)[0], X)
        return FeatureSets(np.concatenate(blocks), np.concatenate([[0], np.cumsum(X.lengths)]))

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """Names of the components of the global feature: ``unit3_x7`` and so on.

        Parameters
        ----------
        input_features : array-like of str, shape (M,), optional
            Names of a local feature's columns; by default those seen in `fit`, else x0, x1, ….

        Returns
        -------
        ndarray of str objects, shape (N·M,)
            Unit by unit, as the columns of `transform`.

        Raises
        ------
        ValueError
            If `input_features` do not match those seen in `fit`.
        """
        check_is_fitted(self)
        names = _check_feature_names_in(self, input_features)
        units = range(self._architecture["clusters"][0]["cluster_size"])
        return np.array([f"unit{unit}_{name}" for unit in units for name in names], dtype=object)
