"""The estimators: an integration each, with its parameters, over the training of acluster's own.

They are dataclasses, so that a class states its parameters once; scikit-learn reads them from the
constructor that this makes.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar

from sklearn.base import ClassNamePrefixFeaturesOutMixin
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from acluster.estimators._modalities import ManyModalities
from acluster.nn import integrations as _integrations
from acluster.nn._score_fusion import ScoreFusionNetwork
from acluster.sets import MultimodalFeatureSets

__all__ = [
    "AttentionMILClassifier",
    "AverageClassifier",
    "BiLSTMClassifier",
    "EfficientProbingClassifier",
    "FlattenClassifier",
    "GatedAttentionMILClassifier",
    "NetVLADClassifier",
    "SetTransformerClassifier",
    "TSLSTMClassifier",
    "TemporalInceptionClassifier",
]

_NUMBER = Interval(Integral, 1, None, closed="left")


@dataclass(kw_only=True, eq=False, repr=False)
class Rival(ClassNamePrefixFeaturesOutMixin, ManyModalities):
    """What they share: sets with or without named modalities, and how to train."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Numbers of cells, steps and the like; a class with another parameter adds to them.
        numbers = {name: [_NUMBER] for name in cls._integration_parameters}
        cls._parameter_constraints = {**numbers, **cls._parameter_constraints}

    @property
    def _n_features_out(self) -> int:
        return sum(integration.global_size for integration in self.network_.integrations)


class _Attending:
    """A rival that has units, and says what they look at."""

    def attention_weights(self: Any, X: Any) -> MultimodalFeatureSets:
        """How much each unit attends to each local feature, per modality.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path of a store
            The items.

        Returns
        -------
        MultimodalFeatureSets
            In every modality (one is named "features"), item i is an array of shape (L_i, N)
            with columns that sum to 1.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        """
        check_is_fitted(self)
        X = self._check_X(X, reset=False)
        weights: dict[str, Any] = self._attention_weights(X)
        return MultimodalFeatureSets(weights)


@dataclass(kw_only=True, eq=False, repr=False)
class AverageClassifier(Rival):
    """The mean of an item's local features, and a linear layer (Table 4, "Average").

    Parameters
    ----------
    fusion : {"features", "scores"}, default="features"
        How modalities come together: their means side by side before the linear layer, or the
        probabilities that each modality comes to by itself, averaged. The paper does not say
        which; "scores" is trained as one network here, by the likelihood of the average.

    {training}

    Attributes
    ----------
    {modalities}

    {attributes}

    References
    ----------
    Long et al., "Attention Clusters: Purely Attention Based Local Feature Integration for Video
    Classification", CVPR 2018, equation 3 and Table 4.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.rivals import AverageClassifier
    >>> X, y = [np.eye(3)[[i % 3, 0]] for i in range(30)], np.arange(30) % 3
    >>> AverageClassifier(max_iter=100, tol=None, learning_rate=0.1).fit(X, y).score(X, y)
    1.0
    """

    fusion: str = "features"

    _integration = _integrations.Average
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **ManyModalities._parameter_constraints,
        "fusion": [StrOptions({"features", "scores"})],
    }

    def _network_options(self) -> dict[str, Any]:
        return {**super()._network_options(), "fusion": self.fusion}

    def _make_network(self, *args: Any, fusion: str = "features", **options: Any) -> Any:
        if fusion == "features":
            return super()._make_network(*args, **options)
        is_softmax = self._coding.kind == "multiclass"
        return ScoreFusionNetwork(*args, is_softmax=is_softmax, **options)


@dataclass(kw_only=True, eq=False, repr=False)
class FlattenClassifier(Rival):
    """Local features side by side in their order, and a linear layer (Table 4, "Flatten").

    Parameters
    ----------
    n_steps : int, default=25
        How many local features an item is brought to, at even distances: some of a longer set are
        left out, some of a shorter one are there more than once. Step k of K is the local feature
        at ``floor((k + 1/2) L / K)``.

    {training}

    Attributes
    ----------
    {modalities}

    {attributes}

    References
    ----------
    Long et al., "Attention Clusters", CVPR 2018, Table 4; it does not say how sets of different
    sizes are brought to one.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.rivals import FlattenClassifier
    >>> X, y = [np.eye(3)[[i % 3, 0]] for i in range(30)], np.arange(30) % 3
    >>> clf = FlattenClassifier(n_steps=2, max_iter=100, tol=None, learning_rate=0.1)
    >>> clf.fit(X, y).score(X, y)
    1.0
    """

    n_steps: int = 25
    learning_rate: float = 0.003

    _integration = _integrations.Flatten
    _integration_parameters = ("n_steps",)


@dataclass(kw_only=True, eq=False, repr=False)
class BiLSTMClassifier(Rival):
    """A bidirectional long short-term memory over the local features in their order.

    The last state forwards and the last backwards go through dropout and one linear layer.

    Parameters
    ----------
    hidden_size : int, default=128
        Cells in each direction. The paper does not give their number; with 128 a fit takes minutes
        on a processor.

    {training}

    Attributes
    ----------
    {modalities}

    {attributes}

    References
    ----------
    Long et al., "Attention Clusters", CVPR 2018, Table 4, "Bi-directional LSTM".

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.rivals import BiLSTMClassifier
    >>> X, y = [np.eye(3)[[i % 3, 0]] for i in range(30)], np.arange(30) % 3
    >>> clf = BiLSTMClassifier(hidden_size=8, max_iter=100, tol=None, learning_rate=0.1)
    >>> clf.fit(X, y).score(X, y)
    1.0
    """

    hidden_size: int = 128
    learning_rate: float = 0.003

    _integration = _integrations.BiLSTM
    _integration_parameters = ("hidden_size",)


@dataclass(kw_only=True, eq=False, repr=False)
class TSLSTMClassifier(Rival):
    """Temporal segments, pooled, and an LSTM over them ("TS-LSTM").

    An item's local features, in their order, are cut into contiguous segments of even sizes; each
    is batch-normalised, with parameters of its own, and pooled by the maximum over its local
    features; an LSTM reads the segments, and its last step goes through batch norm, dropout and a
    linear layer. The authors' code normalises each time step by statistics of its own, which sets
    of different sizes cannot have; segments have one normalisation each here.

    Parameters
    ----------
    n_segments : int, default=5
        Segments of an item. Shorter sets have local features in more than one of them.

    hidden_size : int, default=512
        Cells of the LSTM.

    {training}

    Attributes
    ----------
    {modalities}

    {attributes}

    References
    ----------
    Ma et al., "TS-LSTM and Temporal-Inception: Exploiting Spatiotemporal Dynamics for Activity
    Recognition", arXiv 1703.10667, 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.rivals import TSLSTMClassifier
    >>> X, y = [np.eye(3)[[i % 3, 0]] for i in range(30)], np.arange(30) % 3
    >>> clf = TSLSTMClassifier(n_segments=2, hidden_size=8, max_iter=100, tol=None)
    >>> clf.set_params(learning_rate=0.1).fit(X, y).score(X, y)
    1.0
    """

    n_segments: int = 5
    hidden_size: int = 512
    learning_rate: float = 0.001

    _integration = _integrations.TSLSTM
    _module_counts = ("n_segments",)
    _integration_parameters = ("n_segments", "hidden_size")


@dataclass(kw_only=True, eq=False, repr=False)
class TemporalInceptionClassifier(Rival):
    """Temporal convolutions of two widths, alike for every feature ("Temporal-Inception").

    Four modules, each of two convolutions over time, of widths 5 and 7, side by side, each with as
    many channels as come in (1, 2, 4, 8), and of pooling two steps to one by the maximum; what is
    left is pooled to one step, convolutions of width 1 bring the 16 channels to 4, 2 and 1, and a
    layer follows. There is batch norm before every rectifier, and zeros beyond the borders.

    Parameters
    ----------
    n_steps : int, default=25
        How many local features an item is brought to, as in `FlattenClassifier`.

    hidden_size : int, default=1024
        Cells of the last layer but one.

    {training}

    Attributes
    ----------
    {modalities}

    {attributes}

    References
    ----------
    Ma et al., "TS-LSTM and Temporal-Inception: Exploiting Spatiotemporal Dynamics for Activity
    Recognition", arXiv 1703.10667, 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.rivals import TemporalInceptionClassifier
    >>> X, y = [np.eye(3)[[i % 3, 0]] for i in range(30)], np.arange(30) % 3
    >>> clf = TemporalInceptionClassifier(n_steps=2, hidden_size=64, max_iter=100, tol=None)
    >>> clf.set_params(random_state=0, learning_rate=0.01).fit(X, y).score(X, y)
    1.0
    """

    n_steps: int = 25
    hidden_size: int = 1024
    learning_rate: float = 0.003

    _integration = _integrations.TemporalInception
    _integration_parameters = ("n_steps", "hidden_size")


@dataclass(kw_only=True, eq=False, repr=False)
class AttentionMILClassifier(_Attending, Rival):
    """Attention pooling of multiple-instance learning: one unit of two layers.

    ``a = softmax(wᵀ tanh(V x))``, and the weighted average goes through dropout and a linear layer.

    Parameters
    ----------
    hidden_size : int, default=128
        Hidden cells of the unit.

    {training}

    Attributes
    ----------
    {modalities}

    {attributes}

    References
    ----------
    Ilse, Tomczak and Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018,
    equation 8. Local features are taken as they are; theirs come from a network trained along.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.rivals import AttentionMILClassifier
    >>> X, y = [np.eye(3)[[i % 3, 0]] for i in range(30)], np.arange(30) % 3
    >>> clf = AttentionMILClassifier(max_iter=100, tol=None, learning_rate=0.1, random_state=0)
    >>> clf.fit(X, y).score(X, y)
    1.0
    """

    hidden_size: int = 128
    learning_rate: float = 0.001

    _integration = _integrations.AttentionMIL
    _integration_parameters = ("hidden_size",)


@dataclass(kw_only=True, eq=False, repr=False)
class GatedAttentionMILClassifier(AttentionMILClassifier):
    """Attention pooling of multiple-instance learning, with a gate.

    ``a = softmax(wᵀ (tanh(V x) ∘ sigmoid(U x)))``, and the weighted average goes through dropout
    and a linear layer.

    Parameters
    ----------
    hidden_size : int, default=128
        Hidden cells of the unit, and of its gate.

    {training}

    Attributes
    ----------
    {modalities}

    {attributes}

    References
    ----------
    Ilse, Tomczak and Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018,
    equation 9.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.rivals import GatedAttentionMILClassifier
    >>> X, y = [np.eye(3)[[i % 3, 0]] for i in range(30)], np.arange(30) % 3
    >>> clf = GatedAttentionMILClassifier(max_iter=100, tol=None, random_state=0)
    >>> clf.set_params(learning_rate=0.1).fit(X, y).score(X, y)
    1.0
    """

    learning_rate: float = 0.01

    _integration = _integrations.GatedAttentionMIL


@dataclass(kw_only=True, eq=False, repr=False)
class NetVLADClassifier(Rival):
    """Residuals from learnt centres, summed by soft assignment, with context gating.

    Every local feature is assigned to the centres by a batch-normalised softmax; its residuals are
    summed per centre and normalised, per centre and as a whole; a linear layer and its gate
    ``y ∘ sigmoid(W y + b)`` follow, then dropout and the last layer.

    Parameters
    ----------
    n_centres : int, default=32
        The number of centres.

    hidden_size : int, default=256
        The width of the layer that is gated.

    {training}

    Attributes
    ----------
    {modalities}

    {attributes}

    References
    ----------
    Arandjelović et al., "NetVLAD", CVPR 2016. Miech, Laptev and Sivic, "Learnable Pooling with
    Context Gating for Video Classification", arXiv 1706.06905, 2017: its gate after the pooling;
    the one after the classifier, its mixture of experts and the batch norms of the layer and the
    gate are left out, and weights start as torch's linear layers do.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.rivals import NetVLADClassifier
    >>> X, y = [np.eye(3)[[i % 3, 0]] for i in range(30)], np.arange(30) % 3
    >>> clf = NetVLADClassifier(n_centres=2, hidden_size=8, max_iter=100, tol=None)
    >>> clf.set_params(random_state=0, learning_rate=0.1).fit(X, y).score(X, y)
    1.0
    """

    n_centres: int = 32
    hidden_size: int = 256
    learning_rate: float = 0.001

    _integration = _integrations.NetVLAD
    _integration_parameters = ("n_centres", "hidden_size")


@dataclass(kw_only=True, eq=False, repr=False)
class SetTransformerClassifier(Rival):
    """Pooling by multihead attention from learnt seeds (PMA of the Set Transformer).

    Local features pass a layer; seeds attend to them with several heads, with residual connections,
    layer norm and a layer as in the source; what the seeds hold goes through dropout and a linear
    layer. There is no self-attention among the local features or the seeds.

    Parameters
    ----------
    n_seeds : int, default=4
        The number of seeds.

    hidden_size : int, default=128
        The width of the seeds, a multiple of `n_heads`.

    n_heads : int, default=4
        Heads of the attention.

    {training}

    Attributes
    ----------
    {modalities}

    {attributes}

    References
    ----------
    Lee et al., "Set Transformer", ICML 2019, equations 6, 7 and 11.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.rivals import SetTransformerClassifier
    >>> X, y = [np.eye(3)[[i % 3, 0]] for i in range(30)], np.arange(30) % 3
    >>> clf = SetTransformerClassifier(hidden_size=8, max_iter=100, tol=None, learning_rate=0.03)
    >>> clf.set_params(random_state=0).fit(X, y).score(X, y)
    1.0
    """

    n_seeds: int = 4
    hidden_size: int = 128
    n_heads: int = 4
    learning_rate: float = 0.001

    _integration = _integrations.SetTransformer
    _integration_parameters = ("n_seeds", "hidden_size", "n_heads")


@dataclass(kw_only=True, eq=False, repr=False)
class EfficientProbingClassifier(_Attending, Rival):
    """Attention of several queries without keys, each with a slice of the values.

    Query i attends by ``a_i = softmax(q_iᵀ x / √M)`` and averages ``V_i x``, of which each is
    ``M // n_queries`` wide; what all queries have goes through batch norm, dropout and a linear
    layer. The V_i are slices of one projection: a query adds no more than its own M numbers.

    Parameters
    ----------
    n_queries : int, default=32
        The number of queries. More than M have slices of width 1 each, and then parameters grow.

    {training}

    Attributes
    ----------
    {modalities}

    {attributes}

    References
    ----------
    "Attention, Please! Revisiting Attentive Probing Through the Lens of Efficiency", ICLR 2026,
    arXiv 2506.10178.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.rivals import EfficientProbingClassifier
    >>> X, y = [np.eye(3)[[i % 3, 0]] for i in range(30)], np.arange(30) % 3
    >>> clf = EfficientProbingClassifier(n_queries=3, dropout=0.0, max_iter=100, tol=None)
    >>> clf.set_params(random_state=0, learning_rate=0.1).fit(X, y).score(X, y)
    1.0
    """

    n_queries: int = 32

    _integration = _integrations.EfficientProbing
    _integration_parameters = ("n_queries",)
