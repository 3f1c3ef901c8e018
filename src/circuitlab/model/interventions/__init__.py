"""Interventions: changes of a model's forward pass, which apply to every run of an edited model.

>>> import circuitlab as cl
>>> from circuitlab.model.toy import build_planted
>>> model = build_planted("copy-gqa").model
>>> model.edited(cl.interventions.Knockout("a1.h1"))
HookedModel(copy-gqa: llama, 2 layers x 4 heads, edited: knock out (zero) a1.h1)
"""

from circuitlab.model.interventions.base import Intervention
from circuitlab.model.interventions.cache import KeepKeys
from circuitlab.model.interventions.heads import KeepHeads
from circuitlab.model.interventions.knockout import Knockout
from circuitlab.model.interventions.pattern import EditPattern
from circuitlab.model.interventions.positions import Positions
from circuitlab.model.interventions.standing import Applied, Composed, Standing, compose
from circuitlab.model.interventions.vectors import Add, Project, Replace, Scale

__all__ = [
    "Add",
    "Applied",
    "Composed",
    "EditPattern",
    "Intervention",
    "KeepHeads",
    "KeepKeys",
    "Knockout",
    "Positions",
    "Project",
    "Replace",
    "Scale",
    "Standing",
    "compose",
]
