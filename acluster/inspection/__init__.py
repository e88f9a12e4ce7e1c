"""What the attention units of a fitted classifier look at."""

from acluster.inspection._diversity import unit_entropy, unit_similarity

__all__ = ["unit_entropy", "unit_similarity"]
