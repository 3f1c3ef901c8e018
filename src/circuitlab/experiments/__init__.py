"""Experiments of papers, run again on any model: one folder each."""
