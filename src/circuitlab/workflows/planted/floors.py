"""What every method reaches on the planted models at least: a table that may only be raised, and how results stand against it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from circuitlab.workflows.planted.grading import PlantedResult

__all__ = ["FLOORS", "MEASURES", "Standing", "standings"]

MEASURES = ("auroc", "average_precision", "precision_at_k", "sign_accuracy")

FLOORS: dict[str, tuple[tuple[float, float, float, float], tuple[float, float, float, float]]] = {
    "activation_patching": ((0.99, 0.99, 0.99, 0.99), (0.89, 0.92, 0.89, 0.91)),
    "atp_star": ((0.99, 0.99, 0.99, 0.99), (0.70, 0.74, 0.59, 0.74)),
    "attribution_patching": ((0.99, 0.99, 0.99, 0.99), (0.84, 0.85, 0.74, 0.76)),
    "code_overlap": ((0.99, 0.99, 0.99, 0.99), (0.69, 0.64, 0.55, 0.61)),
    "contextual_decomposition": ((0.99, 0.99, 0.99, 0.99), (0.92, 0.95, 0.92, 0.92)),
    "copying_score": ((0.99, 0.99, 0.99, 0.99), (0.52, 0.63, 0.52, 0.52)),
    "eap": ((0.99, 0.99, 0.99, 0.99), (0.90, 0.90, 0.81, 0.75)),
    "eap_ig": ((0.99, 0.99, 0.99, 0.99), (0.99, 0.99, 0.99, 0.99)),
    "logit_attribution": ((0.99, 0.99, 0.99, 0.99), (0.62, 0.72, 0.62, 0.62)),
    "path_patching": ((0.99, 0.99, 0.99, 0.99), (0.89, 0.92, 0.89, 0.92)),
    "relp": ((0.99, 0.99, 0.99, 0.99), (0.73, 0.78, 0.69, 0.83)),
}
"""By method, in the order of `MEASURES`: the least mean over prompt seeds on any model that the method can see, and the mean over all
models, those with a reason included. Each lies a little below what the method reached when it was last set."""


@dataclass(frozen=True)
class Standing:
    """One method over several planted models.

    Parameters
    ----------
    method : str
    n_visible : int
        Models whose circuit it can see.
    least : dict of str to float
        Least value of each measure over these; empty where there are none.
    mean : dict of str to float
        Mean of each measure over all models, those it cannot see included.
    floor_least, floor_mean : dict of str to float
        What these must reach; empty for the random baseline, and for methods without a floor.
    below : tuple of str
        What does not: ``"least auroc"``, ``"mean sign_accuracy"``. Means are held against their floors only where every model was run.
    """

    method: str
    n_visible: int
    least: dict[str, float]
    mean: dict[str, float]
    floor_least: dict[str, float]
    floor_mean: dict[str, float]
    below: tuple[str, ...]


def standings(results: Sequence[PlantedResult]) -> list[Standing]:
    """How each method stands against its floors, in the order of the results."""
    from circuitlab.model.toy import planted_names  # noqa: PLC0415 - torch

    found = []
    for method in dict.fromkeys(one.method for one in results):
        own = [one for one in results if one.method == method]
        seen = [one for one in own if one.visible]
        least, mean = _over(seen, min) if seen else {}, _over(own, fmean)
        floors = [dict(zip(MEASURES, floor, strict=True)) for floor in FLOORS.get(method, ())] or [{}, {}]
        whole = {one.model for one in own} == set(planted_names())
        held = [("least", least, floors[0]), *([("mean", mean, floors[1])] if whole else [])]
        below = [f"{what} {name}" for what, reached, floor in held for name, value in reached.items() if value < floor.get(name, -inf)]
        found.append(Standing(method, len(seen), least, mean, floors[0], floors[1], tuple(below)))
    return found


def _over(results: Sequence[PlantedResult], join: Callable[[list[float]], float]) -> dict[str, float]:
    return {name: join([getattr(one, name)["mean"] for one in results]) for name in MEASURES}
