"""The public estimators, each a face of the one set classifier."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from acluster._utils._model_file import ModelFileError, Tensors
from acluster.estimators._modalities import ManyModalities
from acluster.estimators._onnx import write_onnx
from acluster.estimators._set_classifier import SetClassifier
from acluster.nn import WEIGHTINGS, AttentionCluster, Weighting
from acluster.sets import FeatureSets, MultimodalFeatureSets, check_sets

__all__ = ["AttentionClusterClassifier", "MultimodalAttentionClusterClassifier"]


_NUMBER = Interval(Integral, 1, None, closed="left")


@dataclass(kw_only=True, eq=False, repr=False)
class ClusterParameters:
    """The parameters of attention clusters, to come before those of training."""

    cluster_size: int = 32
    weighting: str | type[Weighting] = "fc1"
    hidden_size: int = 10
    shifting: bool = True
    n_attended: int | None = None
    pyramid_levels: int = 1
    n_local_features: int | None = None


class AttentionClusters(SetClassifier, ClusterParameters):
    """What both share."""

    _integration = AttentionCluster
    _integration_parameters = (
        "cluster_size",
        "weighting",
        "hidden_size",
        "shifting",
        "n_attended",
        "pyramid_levels",
    )

    _later_parameters: ClassVar[dict[str, Any]] = {"n_attended": None, "pyramid_levels": 1}

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **SetClassifier._parameter_constraints,
        "cluster_size": [_NUMBER],
        "weighting": [StrOptions(set(WEIGHTINGS)), callable],
        "hidden_size": [_NUMBER],
        "shifting": ["boolean"],
        "n_attended": [_NUMBER, None],
        "pyramid_levels": [_NUMBER],
        "n_local_features": [_NUMBER, None],
    }

    def to_onnx(self, path: str | os.PathLike[str]) -> None:
        """Write what `predict_proba` computes as an ONNX file, for use without this package.

        The inputs are, for every modality by its name ("features" where there is but one),
        padded sets of shape (n, L, M) and, as ``NAME_lengths``, the int64 number of local
        features of each item, of shape (n,); n and L are free, L at least 1. What pads does
        not matter. An item of length 0 lacks the modality. The output, "probabilities", has
        the columns of `predict_proba`; the metadata of the file has the classes, as JSON, under
        "classes". Numbers have the dtype of the network: float32 after float32 features.

        Parameters
        ----------
        path : str or path
            The file; one that is there is replaced.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.

        ImportError
            Without the packages of the extra ``onnx``.

        ValueError
            If the name of a modality is "probabilities", or ends with "_lengths".
        """
        check_is_fitted(self)
        parts = self._architecture["integrations"]
        widths = {name: part["n_features"] for name, part in parts.items()}
        write_onnx(path, self.network_, self._stand_ins(), widths, self._coding)


@dataclass(kw_only=True, eq=False, repr=False)
class AttentionClusterClassifier(AttentionClusters):
    """Classify items from their sets of local features, by one attention cluster.

    N attention units each take a weighted average of an item's local features
    (equations 2 to 5); the shifting operation shifts, scales and normalises them
    (equation 7); their concatenation, the global feature (equation 6), goes through
    dropout and one linear layer. As a transformer it gives the global feature.

    Parameters
    ----------
    cluster_size : int, default=32
        The number N of attention units.

    weighting : {"fc1", "fc2", "average"} or subclass of acluster.nn.Weighting, default="fc1"
        How a unit weighs a local feature: one linear layer, two with a tanh between, or
        all alike (the paper's baseline: the mean, N times); or in a way of your own.

    hidden_size : int, default=10
        The number H of hidden cells of each unit of "fc2".

    shifting : bool, default=True
        Whether the shifting operation follows each unit.

    n_attended : int, default=None
        Each unit attends to the so many local features of a set that have its highest logits, by a
        softmax over these; logits that are equal to the lowest of them count too (with "average"
        all are equal). None: to all.

    pyramid_levels : int, default=1
        The levels of a temporal pyramid, for sets in an order that matters: level l = 0, 1, ...
        cuts a set into 2^l parts, and each of all parts (with 3 levels 7) has its share of the
        units, one at least, which attend to its local features only. A part of a short set has one
        local feature at least. 1: all units attend to the whole set, whose order does not matter.

    n_local_features : int, default=None
        Local feature set augmentation: in training, every step sees this many local
        features of each set, drawn anew; prediction sees all. None: always all.

    {training}

    Attributes
    ----------
    {attributes}

    See Also
    --------
    MultimodalAttentionClusterClassifier : Several modalities per item.
    acluster.FeatureSets : The container for sets of varying size.
    acluster.nn : The torch modules, to use alone.

    Notes
    -----
    A two-dimensional X means *one local feature per item*: n sets of size 1. Sets are
    passed as `FeatureSets` (in memory or from :func:`~acluster.open_feature_sets`), a list of
    (L_i, M) arrays, an (n, L, M) array, or the path or zarr group of a store.

    Networks learn best from local features with a spread of about 1: those of other scales want
    ``standardize=True``, and `fit` says so.

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

    def _modalities(self, X: FeatureSets) -> dict[str, FeatureSets]:
        return {"features": X}

    def _restore(self, description: dict[str, Any], tensors: Tensors) -> set[str]:
        if set(description["modalities"]) != {"features"}:
            raise ModelFileError("its one modality is not 'features'")
        return super()._restore(description, tensors)

    def attention_weights(self, X: Any) -> FeatureSets:
        """How much each unit attends to each local feature: a of equations 3 to 5.

        Parameters
        ----------
        X : FeatureSets, arrays, or the path of a store
            The items, in any form that the notes of the class list.

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
        return self._attention_weights(X)["features"]

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
        cluster = self._architecture["integrations"]["features"]
        return np.array(unit_names(cluster, names), dtype=object)


@dataclass(kw_only=True, eq=False, repr=False)
class MultimodalAttentionClusterClassifier(ManyModalities, AttentionClusters):
    """Classify items from several local feature sets each, by one attention cluster per modality.

    Every modality has an independent attention cluster (equations 2 to 7); their global
    features are concatenated and go through dropout and one linear layer (section 3.5).
    The modalities and their widths are found in the data, and items may lack some.

    Parameters
    ----------
    cluster_size : int or dict of str to int, default=32
        The number N of attention units; one for all modalities, or one for each:
        ``{"rgb": 64, "flow": 32, "audio": 32}``. So also what follows, down to `n_local_features`.

    weighting : {"fc1", "fc2", "average"}, subclass of acluster.nn.Weighting, or dict of str to \
such, default="fc1"
        How a unit weighs a local feature: one linear layer, two with a tanh between, or
        all alike (the paper's baseline: the mean, N times); or in a way of your own.

    hidden_size : int or dict of str to int, default=10
        The number H of hidden cells of each unit of "fc2".

    shifting : bool or dict of str to bool, default=True
        Whether the shifting operation follows each unit. It brings modalities of different
        scales to one.

    n_attended : int, None, or dict of str to such, default=None
        Each unit attends to the so many local features of a set that have its highest logits, by a
        softmax over these; logits that are equal to the lowest of them count too (with "average"
        all are equal). None: to all.

    pyramid_levels : int or dict of str to int, default=1
        The levels of a temporal pyramid, for sets in an order that matters: level l = 0, 1, ...
        cuts a set into 2^l parts, and each of all parts (with 3 levels 7) has its share of the
        units, one at least, which attend to its local features only. A part of a short set has one
        local feature at least. 1: all units attend to the whole set, whose order does not matter.

    n_local_features : int, None, or dict of str to such, default=None
        Local feature set augmentation: in training, every step sees this many local
        features of each set, drawn anew; prediction sees all. None: always all.

    missing_modality : {"mean", "mask"}, default="mean"
        What stands for a modality that an item lacks. "mean": one local feature, the mean
        of that modality over the training set (section 5.2). "mask": nothing; its part of
        the global feature is zero and the other parts are scaled up by the number of
        modalities over those the item has.

    modality_dropout : float in [0, 1), default=0.0
        The probability with which a training item goes without each of its modalities, drawn
        anew at every step; one at least stays. It prepares for items that lack some.

    {training}

    Attributes
    ----------
    {modalities}

    {attributes}

    See Also
    --------
    AttentionClusterClassifier : One modality.
    acluster.MultimodalFeatureSets : The container for several modalities.

    Notes
    -----
    X is a `MultimodalFeatureSets` (in memory or from :func:`~acluster.open_feature_sets`), a dict
    of modality names to sets in any form of `AttentionClusterClassifier`, a list with one such
    dict per item, or the path or zarr group of a store. Sets without a name are the
    one modality "features". Scikit-learn's searches and splitters take the
    container, not the dict.

    An item lacks a modality if its set there is empty, or None in a list. A modality of `fit`
    that a later X lacks altogether is missing from all its items.

    References
    ----------
    Long et al., "Attention Clusters: Purely Attention Based Local Feature Integration for
    Video Classification", CVPR 2018, sections 3.5, 5.2 and 5.6.

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
    ...     cluster_size={"rgb": 8, "audio": 4}, tol=None, max_iter=50, random_state=0
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
    n_attended: int | dict[str, int | None] | None = None  # type: ignore[assignment]
    pyramid_levels: int | dict[str, int] = 1  # type: ignore[assignment]
    n_local_features: int | dict[str, int | None] | None = None  # type: ignore[assignment]
    missing_modality: str = "mean"
    modality_dropout: float = 0.0

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **AttentionClusters._parameter_constraints,
        **{
            parameter: [*AttentionClusters._parameter_constraints[parameter], dict]
            for parameter in (*AttentionClusters._integration_parameters, "n_local_features")
        },
        "missing_modality": [StrOptions({"mean", "mask"})],
        "modality_dropout": [Interval(Real, 0, 1, closed="left")],
    }

    def attention_weights(self, X: Any) -> MultimodalFeatureSets:
        """How much each unit attends to each local feature, per modality.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path of a store
            The items.

        Returns
        -------
        MultimodalFeatureSets
            In every modality, item i is an array of shape (L_i, N) with columns that sum
            to 1; an item that lacks the modality has none there.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.

        Examples
        --------
        >>> import numpy as np
        >>> from acluster import MultimodalAttentionClusterClassifier
        >>> X = {"rgb": np.ones((4, 3, 2)), "audio": np.ones((4, 5, 2))}
        >>> clf = MultimodalAttentionClusterClassifier(cluster_size=1, tol=None, max_iter=5)
        >>> clf.fit(X, [0, 1, 0, 1]).attention_weights(X)["audio"][0].T
        array([[0.2, 0.2, 0.2, 0.2, 0.2]])
        """
        check_is_fitted(self)
        X = self._check_X(X, reset=False)
        return MultimodalFeatureSets(self._attention_weights(X))

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """Names of the components of the global feature: ``rgb_unit3_x7`` and so on.

        Parameters
        ----------
        input_features : array-like of str, shape (Σ M,), optional
            Names of all modalities' columns, one modality after the other; by default x0,
            x1, … in each.

        Returns
        -------
        ndarray of str objects, shape (Σ N·M,)
            Modality by modality and unit by unit, as the columns of `transform`.

        Raises
        ------
        ValueError
            If the number of `input_features` is not that of all columns.
        """
        check_is_fitted(self)
        given = input_features is not None or hasattr(self, "feature_names_in_")
        columns = _check_feature_names_in(self, input_features)
        names, first = [], 0
        for modality, width in self._widths.items():
            cluster = self._architecture["integrations"][modality]
            own = columns[first : first + width] if given else [f"x{i}" for i in range(width)]
            names += [f"{modality}_{name}" for name in unit_names(cluster, own)]
            first += width
        return np.array(names, dtype=object)


def unit_names(cluster: dict[str, Any], columns: Iterable[str]) -> list[str]:
    """Names of a cluster's part of the global feature, unit by unit."""
    columns = list(columns)
    return [f"unit{unit}_{name}" for unit in range(cluster["cluster_size"]) for name in columns]
