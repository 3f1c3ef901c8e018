"""Run a study cell by cell; a finished cell is never computed again, and an interruption loses only the running one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from circuitlab.errors import BadParameterError, CircuitlabError
from circuitlab.methods import get_method
from circuitlab.methods.base import report_progress
from circuitlab.store import RunStore
from circuitlab.study.index import StudyIndex
from circuitlab.study.progress import Progress, SilentProgress, format_seconds
from circuitlab.study.score import FITNESS_PAIRS, Scored, score_task
from circuitlab.study.spec import Cell, StudySpec

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["CellResult", "StudyResult", "run_study", "take_shard"]


class CellResult(msgspec.Struct, frozen=True):
    """What became of one cell: its run, whether it had been finished before, seconds spent now, or the error."""

    task: str
    method: str
    run_id: str | None
    cached: bool
    seconds: float
    error: str | None = None


class StudyResult(msgspec.Struct, frozen=True):
    """Every cell of a study that was visited."""

    study: str
    cells: list[CellResult]

    @property
    def failed(self) -> list[CellResult]:
        """Cells that ended in an error."""
        return [cell for cell in self.cells if cell.error is not None]


def run_study(
    study: StudySpec,
    store: RunStore,
    *,
    load: Callable[[str], Model] | None = None,
    shard: str | None = None,
    progress: Progress | None = None,
    score: Callable[[Any, Cell, StudySpec, RunStore], Scored] | None = None,
) -> StudyResult:
    """Run every cell of a study that is not finished.

    Parameters
    ----------
    study : StudySpec
        What to run.
    store : RunStore
        Holds finished runs and the study's index.
    load : callable, optional
        Loads the model by name; called once, and only if some cell is not finished. `load_model` by default.
    shard : str, optional
        ``"i/n"``: only every n-th cell, starting with the i-th (counted from 1), so that n processes share a study.
    progress : Progress, optional
        Told what happens.
    score : callable, optional
        Scores one cell; `score_task` by default.

    Returns
    -------
    StudyResult
        One entry per cell. An error in one cell does not stop the others.
    """
    told = progress or SilentProgress()
    index = StudyIndex(store, study)
    cells = take_shard(study.cells(), shard)
    before = {cell.label: index.finished(cell) for cell in cells}
    todo = [cell for cell in cells if before[cell.label] is None]
    done = {c.label: CellResult(c.task.id, c.method.name, before[c.label], True, 0.0) for c in cells if before[c.label]}
    if done:
        told.note(f"{len(done)} of {len(cells)} cells are finished already and are kept.")
    if todo:
        weights = [_weight(cell) for cell in todo]  # makes one pair of every task: a task that cannot be used is found here
        model = (load or _load)(study.model)
        told.start(weights)
        try:
            for i, cell in enumerate(todo):
                told.cell(i, cell.label)
                done[cell.label] = _run_cell(model, cell, study, index, told, score or _score)
        finally:
            told.stop()
    return StudyResult(study.id, [done[cell.label] for cell in cells])


def take_shard(cells: list[Cell], shard: str | None) -> list[Cell]:
    """The cells of one shard ``"i/n"``; all of them for None."""
    if shard is None:
        return cells
    first, _, count = shard.partition("/")
    if not (first.isdigit() and count.isdigit() and 1 <= int(first) <= int(count)):
        what = f"Shard {shard!r} is not of the form i/n with 1 <= i <= n."
        raise BadParameterError(what, "Write 1/4, 2/4, 3/4 and 4/4 for four processes.")
    return cells[int(first) - 1 :: int(count)]


def _run_cell(model: Any, cell: Cell, study: StudySpec, index: StudyIndex, told: Progress, score: Any) -> CellResult:
    try:
        with report_progress(told.step):
            scored = score(model, cell, study, index.store)
    except CircuitlabError as error:
        told.note(f"{cell.label}: {error}")
        return CellResult(cell.task.id, cell.method.name, None, False, 0.0, str(error))
    run_id = scored.scores.provenance.run_id()
    index.record(cell, run_id)
    how = "found in the store" if scored.cached else format_seconds(scored.seconds)
    told.note(f"{cell.label}: run {run_id}, {scored.scores.n_pairs} pairs, {how}")
    return CellResult(cell.task.id, cell.method.name, run_id, scored.cached, scored.seconds)


def _score(model: Model, cell: Cell, study: StudySpec, store: RunStore) -> Scored:
    method = get_method(cell.method.name, cell.method.params)
    return score_task(
        model,
        cell.task.id,
        method,
        n=cell.n,
        variant=cell.task.variant,
        seed=study.seed,
        metric=cell.method.metric,
        store=store,
    )


def _load(name: str) -> Model:
    from circuitlab.model import load_model  # noqa: PLC0415 - a finished study must not import torch

    return load_model(name)


def _weight(cell: Cell) -> float:
    """Relative cost: forward passes (patching runs one per node and pair; judging fitness adds two per pair) times prompt length."""
    from circuitlab.tasks import sample_pairs  # noqa: PLC0415

    example = next(sample_pairs(cell.task.id, variant=cell.task.variant))
    passes = 300 * cell.n if "patching" in cell.method.name else 4 * cell.n
    return (passes + 2 * FITNESS_PAIRS) * max(20, len(example.clean))
