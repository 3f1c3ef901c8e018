"""Contextual decomposition: every activation as a part that is due to a source and a part that is not (Hsu et al. 2024, CD-T)."""

from circuitlab.methods.decomposition.rule import RULES, Rule
from circuitlab.methods.decomposition.source import Options, Source

__all__ = ["RULES", "Options", "Rule", "Source"]
