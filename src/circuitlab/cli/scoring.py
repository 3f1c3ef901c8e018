"""What commands that score a task share: what was asked for, the scored tasks, and a warning where a model cannot do one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model
    from circuitlab.scores.head_scores import HeadScores
    from circuitlab.workflows.score import Scored

__all__ = ["Request", "method_params", "scored_cells", "scored_tasks", "warn_if_unfit"]


@dataclass(frozen=True)
class Request:
    """Options that `score`, `circuit` and `compare` share."""

    model: str
    method: str
    pairs: int
    variant: str | None
    seed: int
    metric: str | None
    params: list[str]
    store: Path | None


def scored_tasks(tasks: list[str], request: Request) -> tuple[list[Scored], Model]:
    """Score tasks by the method that was asked for; see `scored_cells`."""
    return scored_cells([(task, request.method) for task in tasks], request)


def scored_cells(cells: list[tuple[str, str]], request: Request) -> tuple[list[Scored], Model]:
    """Score tasks, each by a method, and give the model; before it is loaded every name is checked and a pair of every task made."""
    from circuitlab.methods import get_method  # noqa: PLC0415
    from circuitlab.metrics import get_metric  # noqa: PLC0415
    from circuitlab.store import RunStore  # noqa: PLC0415
    from circuitlab.tasks import sample_pairs  # noqa: PLC0415

    for task in dict.fromkeys(task for task, _ in cells):
        next(sample_pairs(task, variant=request.variant, seed=request.seed))
    methods = [get_method(name, method_params(request.params)) for _, name in cells]
    if request.metric:
        get_metric(request.metric)
    from circuitlab.model import load_model  # noqa: PLC0415
    from circuitlab.workflows.score import score_task  # noqa: PLC0415
    from circuitlab.workflows.terminal import CellProgress  # noqa: PLC0415

    model, store = load_model(request.model), RunStore(request.store)
    found = []
    for (task, _), method in zip(cells, methods, strict=True):
        with CellProgress(f"{task} x {method.name}"):
            one = score_task(
                model,
                task,
                method,
                n=request.pairs,
                variant=request.variant,
                seed=request.seed,
                metric=request.metric,
                store=store,
            )
        found.append(one)
    return found, model


def method_params(given: list[str]) -> dict[str, Any]:
    """``name=value`` pairs; values are read as JSON where they are JSON, as text otherwise."""
    import msgspec  # noqa: PLC0415

    from circuitlab.core.errors import BadParameterError  # noqa: PLC0415

    found: dict[str, Any] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign:
            what = f"--param {text!r} has no value."
            raise BadParameterError(what, "Write name=value, for example --param direction=noising.")
        try:
            found[name] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            found[name] = value
    return found


def warn_if_unfit(scores: HeadScores) -> None:
    """Say on standard error where the model cannot do the task."""
    flag = scores.provenance.fitness
    if flag is not None and not flag.ready:
        typer.echo(f"\nWarning: {flag.reason}", err=True)
