"""Pictures of scores: pure functions from scores to plotly figures, each usable on its own in a notebook."""

from circuitlab.figures.bars import top_heads
from circuitlab.figures.fitness import fitness_table
from circuitlab.figures.heatmap import head_heatmap
from circuitlab.figures.marks import mark_heatmap
from circuitlab.figures.overlap import overlap_matrix
from circuitlab.figures.scatter import scatter_methods
from circuitlab.figures.theme import template, themed

__all__ = ["fitness_table", "head_heatmap", "mark_heatmap", "overlap_matrix", "scatter_methods", "template", "themed", "top_heads"]
