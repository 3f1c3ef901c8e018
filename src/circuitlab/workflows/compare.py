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
from circuitlab.execute.needs import require_in_memory
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
    """Overlap of the circuits of several tasks by one method, or of several methods on one task.

    Parameters
    ----------
    model : Model
        From `circuitlab.load_model`.
    tasks : sequence of str, Path, Task or ContrastBatch
        Two or more tasks, or one task with several methods.
    method : str, Method or type, or several of them
        The method that scores the tasks, or several methods to compare.
    rule : int, TopK or TopEdges
        How circuits are selected: a number of heads (the strongest by magnitude), or a rule.
    n, variant, seed, metric, store
        As in `circuitlab.score`.
    sampling : Sampling, optional
        Numbers of resamples and permutations, and the null model of p-values.

    Returns
    -------
    OverlapTable
        Overlap measures with intervals, chance levels, p- and q-values for every two tasks (or methods).

    Raises
    ------
    BadParameterError
        If there are fewer than two tasks or methods, or several of both; or if tasks are compared by a method that reads weights alone.

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
    prompts = [tasks] if isinstance(tasks, str | Path | Task | ContrastBatch) else list(tasks)
    _require_comparable(len(prompts), len(methods))
    picker: Any = TopK(rule) if isinstance(rule, int) else rule
    if isinstance(picker, TopK):
        require_heads(model, picker.k)
    edges = isinstance(picker, TopEdges)
    methods_built = [edge_method(each) if edges else get_method(each) for each in methods]
    if len(methods_built) == 1:
        require_prompts(methods_built[0], "difference between tasks")
    names = [each.name for each in methods_built] if len(methods_built) > 1 else prompt_names(prompts)
    cells = [(prompts[0], each) for each in methods_built] if len(methods_built) > 1 else [(task, methods_built[0]) for task in prompts]
    scoring: dict[str, Any] = {"n": n, "variant": variant, "seed": seed, "metric": metric, "store": store}
    scores = {name: (score_edges if edges else score)(model, *cell, **scoring) for name, cell in zip(names, cells, strict=True)}
    over = compare_methods if len(methods_built) > 1 else compare_tasks
    return over(scores, picker, sampling or Sampling())


def _require_comparable(tasks: int, methods: int) -> None:
    """Raise `BadParameterError` unless there are several tasks by one method, or several methods on one task."""
    if methods > 1 and tasks != 1:
        what = f"Comparing methods needs one task; got {tasks}."
        raise BadParameterError(what, "Name one task, or one method to compare tasks.")
    if methods <= 1 and tasks <= 1:
        what = f"Comparing needs two different tasks, or methods; got {tasks} and {methods}."
        raise BadParameterError(what, "Name another task, or another method.")


def prompt_names(tasks: Sequence[Prompts]) -> list[str]:
    """A name for each task: its id, or a number for batches of token ids.

    Raises
    ------
    BadParameterError
        If two have the same name.
    """
    names: list[str] = []
    for number, task in enumerate(tasks, start=1):
        if isinstance(task, ContrastBatch):
            name = f"batch {number}" if task.task.id == "tokens" else task.task.id
        else:
            name = task.id if isinstance(task, Task) else Path(task).stem if Path(task).suffix else str(task)
        if name in names:
            raise BadParameterError(f"{name!r} is named twice.", "Name two different tasks, or give your own task another id.")
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
    """Run every task's circuit on every task, and test for double dissociations.

    Parameters
    ----------
    model, tasks, method, n, variant, seed, metric, store
        As in `compare`; stored scores are not computed again.
    rule : int or TopK
        How circuits are selected.
    settings : FunctionalComparison, optional
        Pairs, ablation and random circuits.

    Returns
    -------
    FunctionalResult
        The transfer table and the table of double dissociations.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("copy-gqa")  # a small model whose circuit is known
    >>> result = cl.transfer(planted.model, [planted.batch(4), planted.batch(4, seed=1)], rule=2)
    >>> [f"{cell.faithfulness['mean']:.2f}" for cell in result.transfer.cells]
    ['0.97', '0.99', '0.97', '0.99']
    >>> model = cl.load_model("smollm2-135m")  # doctest: +SKIP
    >>> cl.transfer(model, ["ioi", "successor"]).transfer  # doctest: +SKIP
    """
    _require_comparable(len(tasks), 1)
    require_in_memory(model, "Circuits on other tasks")
    picker, names = TopK(rule) if isinstance(rule, int) else rule, prompt_names(tasks)
    require_heads(model, picker.k)
    require_prompts(get_method(method), "difference between tasks")
    scoring: dict[str, Any] = {"n": n, "variant": variant, "seed": seed, "metric": metric, "store": store}
    scores = {name: score(model, task, method, **scoring) for name, task in zip(names, tasks, strict=True)}
    circuits = {name: picker(task_scores) for name, task_scores in scores.items()}
    comparison = replace(settings or FunctionalComparison(), prompts=dict(zip(names, tasks, strict=True)))
    with CellProgress("circuits on each other's tasks"):
        return comparison(model, scores, circuits, as_cache(store))
