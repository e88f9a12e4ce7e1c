"""Integrations of local feature sets other than the attention cluster, one per file.

Each module maps packed sets, i.e. local features (R, M) and int64 offsets (n + 1,) on the CPU, to
one vector per set, (n, global_size), as `acluster.nn.AttentionCluster` does. Use them in an
`acluster.nn.IntegrationNetwork`, or in your own network.

The result does not depend on the order of the local features, except with `Flatten`, `BiLSTM`,
`TSLSTM` and `TemporalInception`.
"""

from acluster.nn.integrations._attention_mil import AttentionMIL, GatedAttentionMIL
from acluster.nn.integrations._average import Average
from acluster.nn.integrations._bilstm import BiLSTM
from acluster.nn.integrations._efficient_probing import EfficientProbing
from acluster.nn.integrations._flatten import Flatten
from acluster.nn.integrations._net_vlad import NetVLAD
from acluster.nn.integrations._set_transformer import SetTransformer
from acluster.nn.integrations._temporal_inception import TemporalInception
from acluster.nn.integrations._ts_lstm import TSLSTM

__all__ = [
    "TSLSTM",
    "AttentionMIL",
    "Average",
    "BiLSTM",
    "EfficientProbing",
    "Flatten",
    "GatedAttentionMIL",
    "NetVLAD",
    "SetTransformer",
    "TemporalInception",
]
