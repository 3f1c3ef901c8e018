"""Find the stored runs of some tasks and methods on one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from circuitlab.core.errors import BadParameterError
from circuitlab.core.provenance import digest
from circuitlab.execute.contract import effective_params
from circuitlab.explorer.documents import stored_provenances
from circuitlab.methods import get_method, method_classes
from circuitlab.tasks import list_tasks, load_task

if TYPE_CHECKING:
    from circuitlab.core.provenance import Provenance
    from circuitlab.store import Cache

__all__ = ["Wanted", "find_runs", "stored_cells"]


@dataclass(frozen=True)
class Wanted:
    """Which runs a page shows.

    Parameters
    ----------
    model : str
        Name of the model, as it was loaded by; empty for the model of whatever is stored.
    tasks, methods : tuple of str
        Names; empty for every stored one. A variant stands behind a colon: ``"ioi:names"``.
    n : int, optional
        Number of pairs; any if not given.
    """

    model: str = ""
    tasks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    n: int | None = None


def find_runs(cache: Cache, wanted: Wanted) -> tuple[list[str], list[tuple[str, str]]]:
    """Run ids of the wanted cells, task by task, and the cells (task, method) that are not stored.

    Of several runs of a cell the one with the method's own parameters, the task's own variant and seed 0 comes first, then the one with
    the most pairs, then the newest. Runs of edited models are left out: give their scores themselves.

    Raises
    ------
    BadParameterError
        If the store holds runs of several models, or of several sets of weights of that name, that fit.
    """
    runs = {
        run_id: about
        for run_id, about in stored_provenances(cache).items()
        if _fits(about, wanted) and not about.model.edits and (wanted.n is None or about.weights_only or about.task.n_pairs == wanted.n)
    }
    _require_one_model(runs, cache, wanted)
    return stored_cells(runs, wanted)


def stored_cells(runs: Mapping[str, Provenance], wanted: Wanted) -> tuple[list[str], list[tuple[str, str]]]:
    """As `find_runs`, among runs of one model."""
    tasks = wanted.tasks or tuple(dict.fromkeys(_name(about) for about in _ordered(runs) if not about.weights_only))
    methods = wanted.methods or tuple(dict.fromkeys(about.method for about in _ordered(runs)))
    chosen, missing = [], []
    for task in tasks:
        for method in methods:
            cell = {run_id: about for run_id, about in runs.items() if about.method == method and (about.weights_only or _of(about, task))}
            if cell:
                chosen.append(max(cell, key=lambda run_id: _preference(cell[run_id])))
            elif wanted.tasks and wanted.methods:
                missing.append((task, method))
    return list(dict.fromkeys(chosen)), missing


def _fits(about: Provenance, wanted: Wanted) -> bool:
    if wanted.model and about.model.name != wanted.model:
        return False
    if wanted.methods and about.method not in wanted.methods:
        return False
    return not wanted.tasks or about.weights_only or any(_of(about, task) for task in wanted.tasks)


def _of(about: Provenance, task: str) -> bool:
    """Whether a run is of a task, named with its variant or without."""
    if task == _name(about):
        return True
    name, _, variant = task.partition(":")
    return about.task.id == name and (not variant or about.task.variant == variant)


def _name(about: Provenance) -> str:
    """Name of a run's task; batches of token ids have none of their own."""
    return f"tokens#{about.task.digest}" if about.task.id == "tokens" else about.task.id


def _ordered(runs: Mapping[str, Provenance]) -> list[Provenance]:
    return sorted(runs.values(), key=lambda about: (about.method, about.task.id))


def _preference(about: Provenance) -> tuple[bool, bool, bool, int, str]:
    usual = about.method not in method_classes() or about.params == effective_params(get_method(about.method))
    own = about.task.id not in list_tasks() or about.task.variant == load_task(about.task.id).default_variant
    created = "" if about.environment is None else about.environment.created
    return (usual, own, about.task.seed == 0, about.task.n_pairs, created)


def _require_one_model(runs: Mapping[str, Provenance], cache: Cache, wanted: Wanted) -> None:
    models = {digest(about.model.identity()): about.model for about in runs.values()}
    if len(models) <= 1:
        return
    listed = _listed([f"{spec.name} (weights {spec.weights[:8]}, {spec.dtype})" for spec in models.values()])
    fix = "Give the scores that you mean: circuitlab.explore([scores, ...])." if wanted.model else "Name one of them."
    what = f"{cache.root} holds runs of {len(models)} models that fit: {listed}."
    raise BadParameterError(what, fix)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(sorted(set(names)))
