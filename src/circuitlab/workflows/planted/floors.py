"""Floors: the grades that every method must reach on the planted models, and results compared with them. Floors may only be raised."""

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
    "screened_patching": ((0.99, 0.99, 0.99, 0.99), (0.89, 0.92, 0.89, 0.91)),
}
"""By method, in the order of `MEASURES`: the smallest mean over prompt seeds on any model whose circuit the method can see, and the mean
over all models. Each is a little below what the method reached when the floor was last set."""


@dataclass(frozen=True)
class Standing:
    """One method over several planted models.

    Parameters
    ----------
    method : str
        Name of the method.
    n_visible : int
        Number of models whose circuit it can see.
    least : dict of str to float
        Smallest value of each measure over these models; empty if there are none.
    mean : dict of str to float
        Mean of each measure over all models.
    floor_least, floor_mean : dict of str to float
        Floors of these; empty for the random baseline, and for methods without a floor.
    below : tuple of str
        Measures below their floors, such as ``"least auroc"`` or ``"mean sign_accuracy"``. Means are compared with their floors only if
        every model was run.
    """

    method: str
    n_visible: int
    least: dict[str, float]
    mean: dict[str, float]
    floor_least: dict[str, float]
    floor_mean: dict[str, float]
    below: tuple[str, ...]


def standings(results: Sequence[PlantedResult]) -> list[Standing]:
    """Each method compared with its floors, in the order of the results."""
    from circuitlab.model.toy import planted_names  # noqa: PLC0415 - torch

    table = []
    for method in dict.fromkeys(result.method for result in results):
        results_of_method = [result for result in results if result.method == method]
        seen = [result for result in results_of_method if result.visible]
        least, mean = _over(seen, min) if seen else {}, _over(results_of_method, fmean)
        floors = [dict(zip(MEASURES, floor, strict=True)) for floor in FLOORS.get(method, ())] or [{}, {}]
        complete = {result.model for result in results_of_method} == set(planted_names())
        compared = [("least", least, floors[0]), *([("mean", mean, floors[1])] if complete else [])]
        below = [f"{what} {name}" for what, reached, floor in compared for name, value in reached.items() if value < floor.get(name, -inf)]
        table.append(Standing(method, len(seen), least, mean, floors[0], floors[1], tuple(below)))
    return table


def _over(results: Sequence[PlantedResult], join: Callable[[list[float]], float]) -> dict[str, float]:
    return {name: join([getattr(result, name)["mean"] for result in results]) for name in MEASURES}
