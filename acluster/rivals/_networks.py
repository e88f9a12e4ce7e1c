"""Rival classifiers with a network: other integrations behind the same `fit`."""

from acluster.estimators import BaseIntegrationClassifier, choice, estimator, integer
from acluster.nn import integrations


@estimator
class AverageClassifier(BaseIntegrationClassifier):
    """Average the local features of an item, and apply a linear layer (Table 4, "Average").

    References
    ----------
    Long et al., "Attention Clusters: Purely Attention Based Local Feature Integration for Video
    Classification", CVPR 2018, equation 3 and Table 4.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.rivals import AverageClassifier
    >>> X, y = [np.eye(3)[[i % 3, 0]] for i in range(30)], np.arange(30) % 3
    >>> clf = AverageClassifier(max_iter=100, tol=None, learning_rate=0.1)
    >>> clf.fit(X, y).score(X, y)
    1.0
    """

    fusion: str = choice(
        default="features",
        options=("features", "scores"),
        doc="""
        How modalities are combined. "features": their means are concatenated before the linear
        layer. "scores": every modality predicts its own class probabilities, which are averaged.
        The loss is the negative log-likelihood of the average. The paper does not say which it
        uses.
        """,
    )

    _integration = integrations.Average


@estimator
class FlattenClassifier(BaseIntegrationClassifier):
    """Concatenate local features in their order, and apply a linear layer (Table 4, "Flatten").

    References
    ----------
    Long et al., "Attention Clusters: Purely Attention Based Local Feature Integration for Video
    Classification", CVPR 2018, Table 4.
    The paper does not say how it handles sets of different sizes.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.rivals import FlattenClassifier
    >>> X, y = [np.eye(3)[[i % 3, 0]] for i in range(30)], np.arange(30) % 3
    >>> clf = FlattenClassifier(n_steps=2, max_iter=100, tol=None, learning_rate=0.1)
    >>> clf.fit(X, y).score(X, y)
    1.0
    """

    n_steps: int = integer(
        default=25,
        doc="""
        The number of local features to which every item is resampled at even distances. Longer
        sets lose some local features, and shorter ones repeat some. Step k of K is the local
        feature at position ``floor((k + 1/2) L / K)``.
        """,
    )
    learning_rate: float = 0.003

    _integration = integrations.Flatten
    _integration_parameters = ("n_steps",)


@estimator
class BiLSTMClassifier(BaseIntegrationClassifier):
    """Read the local features in their order with a bidirectional LSTM.

    The last forward state and the last backward state pass through dropout and a linear layer.

    References
    ----------
    Long et al., "Attention Clusters: Purely Attention Based Local Feature Integration for Video
    Classification", CVPR 2018, Table 4,
    "Bi-directional LSTM".

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.rivals import BiLSTMClassifier
    >>> X, y = [np.eye(3)[[i % 3, 0]] for i in range(30)], np.arange(30) % 3
    >>> clf = BiLSTMClassifier(hidden_size=8, max_iter=100, tol=None, learning_rate=0.1)
    >>> clf.fit(X, y).score(X, y)
    1.0
    """

    hidden_size: int = integer(
        default=128,
        doc="""
        The hidden size of the LSTM in each direction. The paper does not give it. With 128, a fit
        takes minutes on a CPU.
        """,
    )
    learning_rate: float = 0.003

    _integration = integrations.BiLSTM
    _integration_parameters = ("hidden_size",)


@estimator
class TSLSTMClassifier(BaseIntegrationClassifier):
    """Pool temporal segments by their maximum, and read them with an LSTM ("TS-LSTM").

    The local features of an item, in their order, are divided into contiguous segments of equal
    size. Each segment is batch-normalized with its own parameters and pooled by the maximum. An
    LSTM reads the segments. Its last state passes through batch normalization, dropout and a linear
    layer. The authors' code normalizes every time step with its own statistics, which is not
    possible for sets of different sizes.

    References
    ----------
    Ma et al., "TS-LSTM and Temporal-Inception: Exploiting Spatiotemporal Dynamics for Activity
    Recognition", arXiv 1703.10667, 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.rivals import TSLSTMClassifier
    >>> X, y = [np.eye(3)[[i % 3, 0]] for i in range(30)], np.arange(30) % 3
    >>> clf = TSLSTMClassifier(
    ...     n_segments=2, hidden_size=8, max_iter=100, tol=None, learning_rate=0.1
    ... )
    >>> clf.fit(X, y).score(X, y)
    1.0
    """

    n_segments: int = integer(
        default=5,
        doc="""
        The number of segments. In sets with fewer local features, a local feature belongs to
        several segments.
        """,
    )
    hidden_size: int = integer(default=512, doc="The hidden size of the LSTM.")
    learning_rate: float = 0.001

    _integration = integrations.TSLSTM
    _integration_parameters = ("n_segments", "hidden_size")


@estimator
class TemporalInceptionClassifier(BaseIntegrationClassifier):
    """Convolve every feature over time with two kernel widths ("Temporal-Inception").

    Each of four modules applies convolutions of widths 5 and 7 over time side by side, then
    max-pools pairs of steps. Each convolution has as many output channels as input channels (1, 2,
    4, 8). The result is pooled to one step. Convolutions of width 1 reduce the 16 channels to 4, 2
    and 1, and a fully connected layer follows. Batch normalization precedes every ReLU; borders are
    zero-padded.

    References
    ----------
    Ma et al., "TS-LSTM and Temporal-Inception: Exploiting Spatiotemporal Dynamics for Activity
    Recognition", arXiv 1703.10667, 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.rivals import TemporalInceptionClassifier
    >>> X, y = [np.eye(3)[[i % 3, 0]] for i in range(30)], np.arange(30) % 3
    >>> clf = TemporalInceptionClassifier(
    ...     n_steps=2, hidden_size=64, max_iter=100, tol=None, random_state=0, learning_rate=0.01
    ... )
    >>> clf.fit(X, y).score(X, y)
    1.0
    """

    n_steps: int = integer(
        default=25,
        doc="The number of local features per item after resampling, as in `FlattenClassifier`.",
    )
    hidden_size: int = integer(default=1024, doc="The size of the last hidden layer.")
    learning_rate: float = 0.003

    _integration = integrations.TemporalInception
    _integration_parameters = ("n_steps", "hidden_size")


@estimator
class AttentionMILClassifier(BaseIntegrationClassifier):
    """Pool by attention with one two-layer unit, from multiple-instance learning.

    ``a = softmax(wᵀ tanh(V x))``; the weighted average passes through dropout and a linear layer.

    References
    ----------
    Ilse, Tomczak and Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018,
    equation 8. Here the local features are fixed, while the authors also train their extractor.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.rivals import AttentionMILClassifier
    >>> X, y = [np.eye(3)[[i % 3, 0]] for i in range(30)], np.arange(30) % 3
    >>> clf = AttentionMILClassifier(max_iter=100, tol=None, learning_rate=0.1, random_state=0)
    >>> clf.fit(X, y).score(X, y)
    1.0
    """

    hidden_size: int = integer(default=128, doc="The hidden layer size of the attention unit.")
    learning_rate: float = 0.001

    _integration = integrations.AttentionMIL
    _integration_parameters = ("hidden_size",)


@estimator
class GatedAttentionMILClassifier(AttentionMILClassifier):
    """Pool by gated attention with one two-layer unit, from multiple-instance learning.

    ``a = softmax(wᵀ (tanh(V x) ∘ sigmoid(U x)))``; the weighted average passes through dropout and
    a linear layer.

    References
    ----------
    Ilse, Tomczak and Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018,
    equation 9.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.rivals import GatedAttentionMILClassifier
    >>> X, y = [np.eye(3)[[i % 3, 0]] for i in range(30)], np.arange(30) % 3
    >>> clf = GatedAttentionMILClassifier(
    ...     max_iter=100, tol=None, random_state=0, learning_rate=0.1
    ... )
    >>> clf.fit(X, y).score(X, y)
    1.0
    """

    hidden_size: int = integer(
        default=128, doc="The hidden layer size of the attention unit, and the size of its gate."
    )
    learning_rate: float = 0.01

    _integration = integrations.GatedAttentionMIL


@estimator
class NetVLADClassifier(BaseIntegrationClassifier):
    """Sum the residuals from learned centers, with context gating (NetVLAD).

    A batch-normalized softmax assigns every local feature to the centers. The residuals are summed
    per center, and normalized per center and as a whole. A linear layer and a gate,
    ``y ∘ sigmoid(W y + b)``, follow, then dropout and the last layer.

    References
    ----------
    Arandjelović et al., "NetVLAD: CNN Architecture for Weakly Supervised Place Recognition", CVPR
    2016. Miech, Laptev and Sivic, "Learnable Pooling with Context Gating for Video Classification",
    arXiv 1706.06905, 2017, for the gate after pooling. Their gate after the classifier, the mixture
    of experts, and the batch normalization of layer and gate are omitted.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.rivals import NetVLADClassifier
    >>> X, y = [np.eye(3)[[i % 3, 0]] for i in range(30)], np.arange(30) % 3
    >>> clf = NetVLADClassifier(
    ...     n_centres=2, hidden_size=8, max_iter=100, tol=None, random_state=0, learning_rate=0.1
    ... )
    >>> clf.fit(X, y).score(X, y)
    1.0
    """

    n_centres: int = integer(default=32, doc="The number of centers.")
    hidden_size: int = integer(default=256, doc="The width of the gated layer.")
    learning_rate: float = 0.001

    _integration = integrations.NetVLAD
    _integration_parameters = ("n_centres", "hidden_size")


@estimator
class SetTransformerClassifier(BaseIntegrationClassifier):
    """Pool by multihead attention from learned seeds (PMA of the Set Transformer).

    Local features pass through a layer. Seeds attend to them with several heads, with residual
    connections, layer normalization and a feed-forward layer as in the reference. The outputs of
    the seeds pass through dropout and a linear layer. Neither local features nor seeds attend to
    each other.

    References
    ----------
    Lee et al., "Set Transformer", ICML 2019, equations 6, 7 and 11.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.rivals import SetTransformerClassifier
    >>> X, y = [np.eye(3)[[i % 3, 0]] for i in range(30)], np.arange(30) % 3
    >>> clf = SetTransformerClassifier(
    ...     hidden_size=8, max_iter=100, tol=None, learning_rate=0.03, random_state=0
    ... )
    >>> clf.fit(X, y).score(X, y)
    1.0
    """

    n_seeds: int = integer(default=4, doc="The number of seeds, each of which gives one vector.")
    hidden_size: int = integer(
        default=128, doc="The width of seeds and embedded local features, a multiple of `n_heads`."
    )
    n_heads: int = integer(default=4, doc="The number of attention heads.")
    learning_rate: float = 0.001

    _integration = integrations.SetTransformer
    _integration_parameters = ("n_seeds", "hidden_size", "n_heads")


@estimator
class EfficientProbingClassifier(BaseIntegrationClassifier):
    """Pool by several queries without keys, each with a slice of the values.

    Query i attends with ``a_i = softmax(q_iᵀ x / √M)`` and averages ``V_i x``, which is
    ``M // n_queries`` wide. The averages of all queries pass through batch normalization, dropout
    and a linear layer. The V_i are slices of one projection, so a query adds only its own M
    parameters.

    References
    ----------
    "Attention, Please! Revisiting Attentive Probing Through the Lens of Efficiency", ICLR 2026,
    arXiv 2506.10178.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.rivals import EfficientProbingClassifier
    >>> X, y = [np.eye(3)[[i % 3, 0]] for i in range(30)], np.arange(30) % 3
    >>> clf = EfficientProbingClassifier(
    ...     n_queries=3, dropout=0.0, max_iter=100, tol=None, random_state=0, learning_rate=0.1
    ... )
    >>> clf.fit(X, y).score(X, y)
    1.0
    """

    n_queries: int = integer(
        default=32,
        doc="The number of queries. If it exceeds M, slices have width 1, which adds parameters.",
    )

    _integration = integrations.EfficientProbing
    _integration_parameters = ("n_queries",)
