"""Replications of published experiments on any model, one folder each."""
