"""Comparing circuits across tasks: overlap and rank agreement with intervals, and what they would be by chance alone."""

from circuitlab.comparison.families import Families, prompt_families
from circuitlab.comparison.matrix import compare_methods, compare_models, compare_tasks
from circuitlab.comparison.nulls import OverlapNull, overlap_null, score_null, spearman_null
from circuitlab.comparison.overlap import containment, jaccard, overlap_coefficient
from circuitlab.comparison.pairwise import Sampling
from circuitlab.comparison.ranks import rank_biased_overlap, spearman
from circuitlab.comparison.stability import (
    SelectionStability,
    StabilityCurve,
    Sweep,
    bootstrap_stability,
    sample_size_curve,
    sweep_stability,
    top_k_stability,
)
from circuitlab.comparison.stages import compare_stages, stage_circuits, union_of_stages
from circuitlab.comparison.table import OverlapTable, PairRow

__all__ = [
    "Families",
    "OverlapNull",
    "OverlapTable",
    "PairRow",
    "Sampling",
    "SelectionStability",
    "StabilityCurve",
    "Sweep",
    "bootstrap_stability",
    "compare_methods",
    "compare_models",
    "compare_stages",
    "compare_tasks",
    "containment",
    "jaccard",
    "overlap_coefficient",
    "overlap_null",
    "prompt_families",
    "rank_biased_overlap",
    "sample_size_curve",
    "score_null",
    "spearman",
    "spearman_null",
    "stage_circuits",
    "sweep_stability",
    "top_k_stability",
    "union_of_stages",
]
