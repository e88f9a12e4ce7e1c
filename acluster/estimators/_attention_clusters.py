"""The classifiers of the paper: attention clusters for one modality and for several."""

import os
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from acluster.estimators._evidence import evidence_of, explained
from acluster.estimators._parameters import BELOW_ONE, ClusterParameters, choice, estimator, real
from acluster.estimators._set_classifier import SetClassifier
from acluster.nn import AttentionCluster, Weighting


class AttentionClusters(SetClassifier, ClusterParameters):
    """The base class of both classifiers."""

    _integration = AttentionCluster
    _integration_parameters = (
        "cluster_size",
        "weighting",
        "hidden_size",
        "shifting",
        "n_attended",
        "pyramid_levels",
        "hidden_features",
    )

    def to_onnx(self, path: str | os.PathLike[str]) -> None:
        """Export `predict_proba` to an ONNX file, for use without this package.

        Each modality NAME ("features" if there is only one) has two inputs. ``NAME`` takes padded
        sets of shape (n, L, M). ``NAME_lengths`` takes the number of local features of each item,
        as int64 of shape (n,). n and L may vary; L is at least 1. The padding is ignored. An item
        of length 0 lacks the modality.

        The output, "probabilities", has the columns of `predict_proba`. The metadata of the file
        holds the classes as JSON, under "classes". Features and probabilities have the dtype of
        the network, which is float32 if it was fitted on float32 features.

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
        write_onnx(path, [self], [1.0])

    def local_evidence(
        self, X: Any, classes: ArrayLike | None = None, *, return_constants: bool = False
    ) -> Any:
        """Return how much each local feature speaks for each class.

        With the norm of every unit's output held at its value, the logit of class c is a sum over
        the local features ``x_l`` of an item and a constant:
        ``logit_c = constant_c + Σ_l Σ_k a_kl·α_k·⟨w_kc, x_l⟩ / (√N·‖α_k·v_k + β_k‖)``,
        where k runs over the N units, ``v_k`` is the average of unit k (equation 2) and ``w_kc``
        its part of the weights of class c. The term of a local feature is its evidence: positive
        for the class, negative against it. With `standardize`, it is that of standardized local
        features, so that the mean local feature of the training set has no evidence, unless there
        are learned features.

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
            if a result is not finite, or `batch_size` or `precision` was set to an invalid value
            after `fit`.

        See Also
        --------
        acluster.inspection.EvidenceDisplay : Plot the evidence of an item.
        acluster.inspection.evidence_faithfulness : Measure how well evidence explains predictions.

        Notes
        -----
        Local features that no unit attends to, because of `n_attended`, have no evidence. For a map
        of all of them, fit with ``n_attended=None``.

        The evidence of an ensemble (`n_members`) is the mean over its members. It is always
        computed in full precision, also after a fit with ``precision="mixed"``.

        Examples
        --------
        >>> import numpy as np
        >>> from acluster import AttentionClusterClassifier
        >>> X = [np.eye(3), np.ones((2, 3)), np.eye(3)[:1], np.zeros((2, 3))] * 5
        >>> clf = AttentionClusterClassifier(cluster_size=4, max_iter=5).fit(X, ["a", "b"] * 10)
        >>> evidence, constants = clf.local_evidence(X, return_constants=True)
        >>> evidence[0].shape
        (3, 1)
        >>> logits = [e.sum() + constant for e, [constant] in zip(evidence, constants.total)]
        >>> bool(np.allclose(logits, clf.decision_function(X)))
        True
        """
        check_is_fitted(self)
        seen = self._architecture.widths
        return explained(self, seen, X, classes, return_constants, partial(evidence_of, self))

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """Return the names of the global feature's columns: ``unit3_x7``, or ``rgb_unit3_x7``.

        Those of learned features (`hidden_features`) end as in ``unit3_hidden5``.
        Those of an ensemble begin with the number of the network, as in ``member0_unit3_x7``.

        Parameters
        ----------
        input_features : array-like of str, shape (M,), optional
            The column names of the local features, one modality after the other. By default these
            are the names seen in `fit`, or x0, x1, … in each modality if X had none.

        Returns
        -------
        ndarray of str objects, shape (n_features_out,)
            The names, in the order of the columns of `transform`.

        Raises
        ------
        ValueError
            If `input_features` do not match those seen in `fit`.
        """
        check_is_fitted(self)
        is_named = input_features is not None or hasattr(self, "feature_names_in_")
        columns = _check_feature_names_in(self, input_features)
        names, first = [], 0
        for modality, arguments in self._architecture.modalities.items():
            width = arguments["n_features"]
            own = columns[first : first + width] if is_named else [f"x{i}" for i in range(width)]
            hidden = [f"hidden{i}" for i in range(arguments["hidden_features"])]
            prefix = f"{modality}_" if self._is_multimodal else ""
            names += [
                f"{prefix}unit{unit}_{name}"
                for unit in range(arguments["cluster_size"])
                for name in [*own, *hidden]
            ]
            first += width
        if self._architecture.n_members > 1:
            members = range(self._architecture.n_members)
            names = [f"member{member}_{name}" for member in members for name in names]
        return np.array(names, dtype=object)


@estimator
class AttentionClusterClassifier(AttentionClusters):
    """Classify items by their sets of local features, with one attention cluster.

    N attention units each take a weighted average of an item's local features (equations 2 to
    5). The shifting operation shifts, scales and normalizes each average (equation 7). Their
    concatenation, the global feature (equation 6), passes through dropout and one linear layer.
    As a transformer, the estimator returns the global feature.

    See Also
    --------
    MultimodalAttentionClusterClassifier : Several modalities per item.
    acluster.IntegrationClassifier : Another way to integrate the local features.
    acluster.FeatureSets : The container for sets of varying size.
    acluster.nn : The torch modules, usable on their own.

    Notes
    -----
    A two-dimensional X means *one local feature per item*: n sets of size 1. Pass sets as
    `FeatureSets` (in memory or from :func:`~acluster.open_feature_sets`), a list of (L_i, M)
    arrays, an (n, L, M) array, or the path or zarr group of a store.

    Networks learn best from features of about unit variance: `fit` standardizes them unless you
    set ``standardize=False``.

    The global features that `transform` returns for the training set are in-sample: a model
    stacked on them sees items that the attention has been trained on. Use
    :class:`sklearn.ensemble.StackingClassifier`, which cross-fits, instead.

    Predicting a batch and predicting its items one by one give the same results up to rounding.

    References
    ----------
    Long et al., "Attention Clusters: Purely Attention Based Local Feature Integration for Video
    Classification", CVPR 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster import AttentionClusterClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.normal(size=(rng.integers(3, 9), 4)) for _ in range(60)]
    >>> y = np.arange(60) % 2
    >>> for features, label in zip(X, y):
    ...     features[0] += 5 * label  # one local feature determines the class
    >>> clf = AttentionClusterClassifier(cluster_size=4, max_iter=100, random_state=0)
    >>> clf.fit(X, y).score(X, y)
    1.0
    >>> clf.transform(X).shape
    (60, 16)
    """

    learning_rate_schedule: str = "cosine"
    max_iter: int = 60

    _is_multimodal = False
    missing_modality = "mask"  # an item without local features is an error here


@estimator
class MultimodalAttentionClusterClassifier(AttentionClusters):
    """Classify items with several modalities, with one attention cluster per modality.

    Every modality has its own attention cluster (equations 2 to 7). Their global features are
    concatenated and pass through dropout and one linear layer (section 3.5). The names and
    widths of the modalities are learned from the data. Items may lack modalities.

    The parameters of the clusters, down to `n_local_features`, take one value for all modalities
    or a dict with one for each: ``{"rgb": 64, "flow": 32, "audio": 32}``.

    See Also
    --------
    AttentionClusterClassifier : One modality.
    acluster.MultimodalFeatureSets : The container for several modalities.

    Notes
    -----
    Pass X as a `MultimodalFeatureSets` (in memory or from :func:`~acluster.open_feature_sets`), or
    as the path or zarr group of a store. It may also be a dict of modality names to sets in any
    form of `AttentionClusterClassifier`, or a list with one dict per item. Sets without a name are
    one modality, "features". scikit-learn's searches and splitters need the container.

    An item lacks a modality if its set there is empty, or None in a list. If X lacks a modality
    of `fit` altogether, it is missing from every item.

    References
    ----------
    Long et al., "Attention Clusters: Purely Attention Based Local Feature Integration for Video
    Classification", CVPR 2018, sections 3.5, 5.2 and 5.6.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster import MultimodalAttentionClusterClassifier
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(60) % 2
    >>> rgb = [rng.normal(size=(5, 4)) + label for label in y]
    >>> audio = [rng.normal(size=(9, 2)) - label for label in y]
    >>> audio[7] = None  # a video without sound
    >>> X = {"rgb": rgb, "audio": audio}
    >>> clf = MultimodalAttentionClusterClassifier(
    ...     cluster_size={"rgb": 8, "audio": 4}, max_iter=50, random_state=0
    ... )
    >>> clf.fit(X, y).score(X, y) > 0.9
    True
    >>> clf.transform(X).shape
    (60, 40)
    >>> clf.get_feature_names_out()[-1]
    'audio_unit3_x1'
    """

    cluster_size: int | dict[str, int] = 32  # type: ignore[assignment]
    weighting: str | type[Weighting] | dict[str, str | type[Weighting]] = "fc1"  # type: ignore[assignment]
    hidden_size: int | dict[str, int] = 10  # type: ignore[assignment]
    shifting: bool | dict[str, bool] = True  # type: ignore[assignment]
    n_attended: int | dict[str, int | None] | None = 5  # type: ignore[assignment]
    pyramid_levels: int | dict[str, int] = 1  # type: ignore[assignment]
    hidden_features: int | dict[str, int] = 0  # type: ignore[assignment]
    n_local_features: int | dict[str, int | None] | None = None  # type: ignore[assignment]
    learning_rate_schedule: str = "cosine"
    max_iter: int = 60
    missing_modality: str = choice(
        default="mean",
        options=("mean", "mask"),
        doc="""
        What replaces a modality that an item lacks. "mean": one local feature, the mean of that
        modality over the training set (section 5.2). "mask": nothing. Its part of the global
        feature is zero, and the other parts are scaled up by the number of modalities divided by
        the number that the item has.
        """,
    )
    modality_dropout: float = real(
        default=0.0,
        type="float in [0, 1)",
        within=BELOW_ONE,
        doc="""
        The probability of hiding each modality of a training item, drawn anew at every step.
        Every item keeps at least one modality. Raise it if modalities are missing more often at
        prediction time than in the training data.
        """,
    )

    _per_modality: ClassVar[tuple[str, ...]] = (
        *AttentionClusters._integration_parameters,
        "n_local_features",
    )
