"""Figures of scores and circuits: pure functions from results to plotly figures, each usable on its own in a notebook."""

from circuitlab.figures.agreement import method_agreement
from circuitlab.figures.attention import attention_pattern
from circuitlab.figures.bars import top_heads
from circuitlab.figures.category_bars import category_bars
from circuitlab.figures.code_map import code_map, code_table
from circuitlab.figures.completeness import Removal, completeness_scatter
from circuitlab.figures.curve import SizeCurve, faithfulness_curve
from circuitlab.figures.diagram import circuit_diagram
from circuitlab.figures.dissociation import dissociation_bars
from circuitlab.figures.fitness import fitness_table
from circuitlab.figures.grid import value_grid
from circuitlab.figures.heatmap import head_heatmap
from circuitlab.figures.lens import logit_lens_heatmap
from circuitlab.figures.marks import mark_heatmap
from circuitlab.figures.overlap import overlap_matrix
from circuitlab.figures.query_key import query_key_heatmap
from circuitlab.figures.recursion import StageLike, recursion_diagram
from circuitlab.figures.relevance import phrase_highlights, relevance_heatmap
from circuitlab.figures.repair import repair_bars
from circuitlab.figures.roc import auroc_by_examples, roc_curves
from circuitlab.figures.scatter import scatter_methods
from circuitlab.figures.scoreboard import scoreboard_table
from circuitlab.figures.sensitivity import sensitivity_dots
from circuitlab.figures.series import Series, line_series
from circuitlab.figures.stability import stability_curves
from circuitlab.figures.stages import stage_heatmaps
from circuitlab.figures.theme import template, themed
from circuitlab.figures.transfer import transfer_matrix
from circuitlab.figures.upset import upset
from circuitlab.figures.value_map import value_map
from circuitlab.figures.wording import Wording

__all__ = [
    "Removal",
    "Series",
    "SizeCurve",
    "StageLike",
    "Wording",
    "attention_pattern",
    "auroc_by_examples",
    "category_bars",
    "circuit_diagram",
    "code_map",
    "code_table",
    "completeness_scatter",
    "dissociation_bars",
    "faithfulness_curve",
    "fitness_table",
    "head_heatmap",
    "line_series",
    "logit_lens_heatmap",
    "mark_heatmap",
    "method_agreement",
    "overlap_matrix",
    "phrase_highlights",
    "query_key_heatmap",
    "recursion_diagram",
    "relevance_heatmap",
    "repair_bars",
    "roc_curves",
    "scatter_methods",
    "scoreboard_table",
    "sensitivity_dots",
    "stability_curves",
    "stage_heatmaps",
    "template",
    "themed",
    "top_heads",
    "transfer_matrix",
    "upset",
    "value_grid",
    "value_map",
]
