"""Scores: labelled arrays with one value per prompt pair and node or edge, their intervals, tables and files."""
