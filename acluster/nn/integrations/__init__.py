"""Ways to integrate the local features of a set into one vector, one file each.

Every module takes packed sets, as `acluster.nn.AttentionCluster` does. Those that depend on the
order read the local features in the order in which they lie in the set.
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
