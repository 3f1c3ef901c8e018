"""Grade methods on planted models: whether they rank the true nodes first, with the right signs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.execute.contract import weights_only
from circuitlab.methods import get_method, list_methods
from circuitlab.metrics import LogitDiff
from circuitlab.scores.intervals import mean_interval
from circuitlab.workflows.planted.paths import node_means, strongest_paths
from circuitlab.workflows.planted.reasons import why_invisible
from circuitlab.workflows.planted.statistics import auroc, average_precision, precision_at_k, sign_accuracy

if TYPE_CHECKING:
    from circuitlab.core.nodes import Node
    from circuitlab.methods import Method
    from circuitlab.model.toy import PlantedModel

__all__ = ["PLANTED_METHODS", "PlantedResult", "grade", "scoreboard"]

PLANTED_METHODS: dict[str, dict[str, Any]] = {"logit_attribution": {"run": "contrast"}}
"""Parameters that differ from a method's defaults. The truth is about the contrast of prompts, so attribution must be of the contrast."""

_PAIRS = 8
_METRIC = LogitDiff()


@dataclass(frozen=True)
class PlantedResult:
    """One method on one planted model.

    Parameters
    ----------
    model, method : str
        Name of the planted model, and of the method.
    auroc, average_precision, precision_at_k, sign_accuracy : dict
        ``{"mean", "low", "high"}`` over prompt seeds (Student's 95 % interval; limits are NaN with one seed, and for methods that read
        weights alone). Heads and MLPs are ranked by the magnitude of their mean score; k is the number of true nodes; signs are those of
        helpers and hinderers.
    visible : bool
        Whether the method can rank every true node first, with its sign.
    reason : str
        If not, the reason; otherwise empty.
    """

    model: str
    method: str
    auroc: dict[str, float]
    average_precision: dict[str, float]
    precision_at_k: dict[str, float]
    sign_accuracy: dict[str, float]
    visible: bool
    reason: str


def scoreboard(
    methods: Sequence[str] = (),
    models: Sequence[str] = (),
    *,
    seeds: int = 5,
    pairs: int = _PAIRS,
    progress: Callable[[int, int], None] | None = None,
) -> list[PlantedResult]:
    """Run methods on planted models.

    Parameters
    ----------
    methods : sequence of str
        Names of methods; all by default. Each runs with its defaults except those in `PLANTED_METHODS`, and path patching is run stage by
        stage (`circuitlab.workflows.planted.paths.strongest_paths`).
    models : sequence of str
        Names of planted models (`circuitlab.model.toy.planted_names`); all by default.
    seeds : int
        Number of prompt sets, over which intervals are taken.
    pairs : int
        Prompt pairs in each set.
    progress : callable, optional
        Called with the number of finished models and of all models.

    Returns
    -------
    list of PlantedResult
        Results model by model, with methods in the given order.

    Raises
    ------
    UnknownNameError
        If a method or a model does not exist; the closest name is suggested.
    BadParameterError
        If ``seeds`` or ``pairs`` is less than 1.
    """
    from circuitlab.model.toy import build_planted, planted_names  # noqa: PLC0415 - torch

    if min(seeds, pairs) < 1:
        what = f"seeds={seeds} or pairs={pairs} is less than 1."
        raise BadParameterError(what, "Use at least 1 of each.")
    if unknown := [name for name in models if name not in planted_names()]:
        raise UnknownNameError("planted model", unknown[0], planted_names())
    built_methods = [get_method(name, PLANTED_METHODS.get(name)) for name in methods or list_methods()]
    names = list(models or planted_names())
    results: list[PlantedResult] = []
    for done, name in enumerate(names, start=1):
        planted = build_planted(name)
        results += [grade(method, planted, seeds=seeds, pairs=pairs) for method in built_methods]
        if progress is not None:
            progress(done, len(names))
    return results


def grade(method: Method, planted: PlantedModel, *, seeds: int = 5, pairs: int = _PAIRS) -> PlantedResult:
    """Grade one method on one planted model; a method that does not score MLPs is graded on heads only.

    A method that reads weights alone gives the same scores for all prompts: it is graded once, without limits.
    """
    rows = [_one_seed(method, planted, seed, pairs) for seed in range(1 if weights_only(method) else seeds)]
    area, precision, at_k, sign = (mean_interval(np.array(column)).as_dict() for column in zip(*rows, strict=True))
    reason = why_invisible(method.name, planted)
    return PlantedResult(planted.name, method.name, area, precision, at_k, sign, visible=not reason, reason=reason)


def _one_seed(method: Method, planted: PlantedModel, seed: int, pairs: int) -> tuple[float, float, float, float]:
    """AUROC, average precision, precision at k and sign accuracy on the prompts of one seed."""
    means = _means(method, planted, seed, pairs)
    nodes = sorted(means)
    scores = np.array([means[node] for node in nodes])
    signs = np.array(list(_signs(planted, nodes)))
    size, truth = np.abs(scores), signs != 0
    return auroc(size, truth), average_precision(size, truth), precision_at_k(size, truth), sign_accuracy(scores, signs)


def _means(method: Method, planted: PlantedModel, seed: int, pairs: int) -> dict[Node, float]:
    from circuitlab.methods.path_patching import PathPatching  # noqa: PLC0415 - torch

    batch = planted.batch(pairs, seed=seed)
    if isinstance(method, PathPatching):
        return strongest_paths(method, planted.model, batch, _METRIC)
    return node_means(method(planted.model, batch, _METRIC))


def _signs(planted: PlantedModel, nodes: Sequence[Node]) -> Iterator[int]:
    return (int(node in planted.helpers) - int(node in planted.hinderers) for node in nodes)
