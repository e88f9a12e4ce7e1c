"""A page about a fitted classifier: its data, scores, mistakes and attention units."""

from acluster.inspection._report._report import Report, report
