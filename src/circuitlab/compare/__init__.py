"""Comparing circuits across tasks: overlap, rank agreement, what chance alone would give, and how sure the numbers are."""

from circuitlab.compare.matrix import OverlapTable, PairRow, compare_tasks
from circuitlab.compare.nulls import OverlapNull, overlap_null, spearman_null
from circuitlab.compare.overlap import containment, jaccard
from circuitlab.compare.ranks import rank_biased_overlap, spearman
from circuitlab.compare.stability import top_k_stability

__all__ = [
    "OverlapNull",
    "OverlapTable",
    "PairRow",
    "compare_tasks",
    "containment",
    "jaccard",
    "overlap_null",
    "rank_biased_overlap",
    "spearman",
    "spearman_null",
    "top_k_stability",
]
