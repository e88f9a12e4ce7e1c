"""Inspect a fitted classifier: evidence, attention, modalities, learning curve, a report."""

from acluster.inspection._attention_display import AttentionDisplay
from acluster.inspection._attention_map_display import AttentionMapDisplay
from acluster.inspection._diversity import unit_entropy, unit_similarity
from acluster.inspection._diversity_display import UnitDiversityDisplay
from acluster.inspection._evidence_display import EvidenceDisplay
from acluster.inspection._faithfulness import evidence_faithfulness
from acluster.inspection._importance import modality_importance
from acluster.inspection._learning_curve_display import LearningCurveDisplay
from acluster.inspection._modality_evidence import modality_evidence
from acluster.inspection._report import Report, report

__all__ = [
    "AttentionDisplay",
    "AttentionMapDisplay",
    "EvidenceDisplay",
    "LearningCurveDisplay",
    "Report",
    "UnitDiversityDisplay",
    "evidence_faithfulness",
    "modality_evidence",
    "modality_importance",
    "report",
    "unit_entropy",
    "unit_similarity",
]
