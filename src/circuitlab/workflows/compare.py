"""Compare the circuits of tasks, or of methods on one task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitlab.circuits import TopEdges, TopK
from circuitlab.comparison import OverlapTable, Sampling, compare_methods, compare_tasks
from circuitlab.core.errors import BadParameterError
from circuitlab.execute.contract import require_prompts
from circuitlab.methods import MethodLike, get_method
from circuitlab.model.batch import ContrastBatch
from circuitlab.tasks.spec import Task
from circuitlab.workflows.circuit import require_heads
from circuitlab.workflows.functional import FunctionalComparison, FunctionalResult
from circuitlab.workflows.score import as_cache, edge_method, score, score_edges
from circuitlab.workflows.terminal import CellProgress

if TYPE_CHECKING:
    from circuitlab.metrics import Metric
    from circuitlab.model.protocol import Model
    from circuitlab.store import Cache
    from circuitlab.workflows.prompts import Prompts

__all__ = ["compare", "prompt_names", "transfer"]


def compare(
    model: Model,
    tasks: Sequence[Prompts],
    method: MethodLike | Sequence[MethodLike] = "activation_patching",
    *,
    rule: int | TopK | TopEdges = 20,
    n: int = 16,
    variant: str | None = None,
    seed: int = 0,
    metric: str | Metric | None = None,
    sampling: Sampling | None = None,
    store: Cache | str | Path | None = None,
) -> OverlapTable:
    """Are they the same heads? Circuits of several tasks by one method, or of several methods on one task.

    Parameters
    ----------
    model : Model
        From `circuitlab.load_model`.
    tasks : sequence of str, Path, Task or ContrastBatch
        Two or more tasks; one where several methods are given.
    method : str, Method or type, or several of them
        What scores them.
    rule : int, TopK or TopEdges
        How circuits are picked: a number of heads, the strongest by magnitude, or a rule.
    n, variant, seed, metric, store
        As in `circuitlab.score`.
    sampling : Sampling, optional
        Resamples, permutations and the null model that p-values come from.

    Returns
    -------
    OverlapTable
        Overlap measures with intervals, chance levels, p- and q-values for every two tasks (or methods).

    Raises
    ------
    BadParameterError
        If fewer than two tasks or methods are named, or several of both; or if tasks are compared by a method that reads weights alone.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("copy-gqa")  # a small model whose circuit is known
    >>> table = cl.compare(planted.model, [planted.batch(4), planted.batch(4, seed=1)], rule=2)
    >>> table.rows[0].shared
    ['a1.h1', 'a1.h2']
    >>> model = cl.load_model("smollm2-135m")  # doctest: +SKIP
    >>> cl.compare(model, ["ioi", "successor"])  # doctest: +SKIP
    """
    methods = [method] if isinstance(method, str | type) or callable(method) else list(method)
    listed = [tasks] if isinstance(tasks, str | Path | Task | ContrastBatch) else list(tasks)
    _require_comparable(len(listed), len(methods))
    picked: Any = TopK(rule) if isinstance(rule, int) else rule
    if isinstance(picked, TopK):
        require_heads(model, picked.k)
    edges = isinstance(picked, TopEdges)
    built = [edge_method(one) if edges else get_method(one) for one in methods]
    if len(built) == 1:
        require_prompts(built[0], "difference between tasks")
    names = [one.name for one in built] if len(built) > 1 else prompt_names(listed)
    cells = [(listed[0], one) for one in built] if len(built) > 1 else [(task, built[0]) for task in listed]
    scoring: dict[str, Any] = {"n": n, "variant": variant, "seed": seed, "metric": metric, "store": store}
    scores = {name: (score_edges if edges else score)(model, *cell, **scoring) for name, cell in zip(names, cells, strict=True)}
    over = compare_methods if len(built) > 1 else compare_tasks
    return over(scores, picked, sampling or Sampling())


def _require_comparable(tasks: int, methods: int) -> None:
    """Raise `BadParameterError` unless there are several tasks by one method, or several methods on one task."""
    if methods > 1 and tasks != 1:
        what = f"Comparing methods needs one task; got {tasks}."
        raise BadParameterError(what, "Name one task, or one method to compare tasks.")
    if methods <= 1 and tasks <= 1:
        what = f"Comparing needs two different tasks, or methods; got {tasks} and {methods}."
        raise BadParameterError(what, "Name another task, or another method.")


def prompt_names(tasks: Sequence[Prompts]) -> list[str]:
    """A name for each: the task's id, counted on where two have one.

    Raises
    ------
    BadParameterError
        If the same task is named twice.
    """
    names: list[str] = []
    for number, task in enumerate(tasks, start=1):
        if isinstance(task, ContrastBatch):
            name = f"batch {number}" if task.task.id == "tokens" else task.task.id
        else:
            name = task.id if isinstance(task, Task) else Path(task).stem if Path(task).suffix else str(task)
        if name in names:
            raise BadParameterError(f"{name!r} is named twice.", "Name two different tasks, or give a task of your own another id.")
        names.append(name)
    return names


def transfer(
    model: Model,
    tasks: Sequence[Prompts],
    method: MethodLike = "activation_patching",
    *,
    rule: int | TopK = 20,
    settings: FunctionalComparison | None = None,
    n: int = 16,
    variant: str | None = None,
    seed: int = 0,
    metric: str | Metric | None = None,
    store: Cache | str | Path | None = None,
) -> FunctionalResult:
    """Does one task's circuit do the other task? Every circuit is run on every task, and double dissociations are tested.

    Parameters
    ----------
    model, tasks, method, n, variant, seed, metric, store
        As in `compare`; scores that are in the store are not made again.
    rule : int or TopK
        How circuits are picked.
    settings : FunctionalComparison, optional
        Pairs, ablation and random circuits.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("copy-gqa")  # a small model whose circuit is known
    >>> found = cl.transfer(planted.model, [planted.batch(4), planted.batch(4, seed=1)], rule=2)
    >>> [f"{cell.faithfulness['mean']:.2f}" for cell in found.transfer.cells]
    ['0.97', '0.99', '0.97', '0.99']
    >>> model = cl.load_model("smollm2-135m")  # doctest: +SKIP
    >>> cl.transfer(model, ["ioi", "successor"]).transfer  # doctest: +SKIP
    """
    _require_comparable(len(tasks), 1)
    pick, names = TopK(rule) if isinstance(rule, int) else rule, prompt_names(tasks)
    require_heads(model, pick.k)
    require_prompts(get_method(method), "difference between tasks")
    scoring: dict[str, Any] = {"n": n, "variant": variant, "seed": seed, "metric": metric, "store": store}
    scores = {name: score(model, task, method, **scoring) for name, task in zip(names, tasks, strict=True)}
    circuits = {name: pick(one) for name, one in scores.items()}
    chosen = replace(settings or FunctionalComparison(), prompts=dict(zip(names, tasks, strict=True)))
    with CellProgress("circuits on each other's tasks"):
        return chosen(model, scores, circuits, as_cache(store))
