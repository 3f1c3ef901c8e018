"""Scores: labelled arrays with one value per pair and node, their intervals, tables and files."""
