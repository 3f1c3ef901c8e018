"""Circuits from the literature as named data: one TOML file for each, with its source and what is uncertain about it."""

from circuitlab.circuits.published.published import PublishedCircuit, list_published, published_circuit

__all__ = ["PublishedCircuit", "list_published", "published_circuit"]
