"""Interventions: what can be changed in a model's forward pass, for one run or for good.

>>> import circuitlab as cl
>>> model = cl.load_model("smollm2-135m")  # doctest: +SKIP
>>> model.edited(cl.interventions.Knockout("a20.h0"))  # doctest: +SKIP
"""

from circuitlab.model.interventions.base import Intervention
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
    "Knockout",
    "Positions",
    "Project",
    "Replace",
    "Scale",
    "Standing",
    "compose",
]
