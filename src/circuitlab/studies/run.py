"""Run a study cell by cell. A finished cell is never computed again, and an interruption loses only the running cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from circuitlab.core.errors import BadParameterError
from circuitlab.core.files import require_writable
from circuitlab.core.progress import report_progress
from circuitlab.store import Cache
from circuitlab.studies.types import AnalysisCell, Cell, StudySpec
from circuitlab.studies.work import CellResult, Work, cells_of, cost_of
from circuitlab.workflows.score import Scored
from circuitlab.workflows.terminal import Progress, SilentProgress

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["StudyResult", "run_study", "take_shard", "visit"]

T = TypeVar("T")

Runner = Callable[[Work, Sequence[Cell | AnalysisCell], Progress], list[CellResult]]
"""Runs cells that are not finished, and returns their results in the same order."""


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
    cache: Cache,
    *,
    load: Callable[[str], Model] | None = None,
    shard: str | None = None,
    progress: Progress | None = None,
    score: Callable[[Any, Cell, StudySpec, Cache], Scored] | None = None,
) -> StudyResult:
    """Run every cell of a study that is not finished.

    Two processes that run the same study share its cells: a cell that one process is running is left for later by the other.

    Parameters
    ----------
    study : StudySpec
        The study.
    cache : Cache
        Cache of finished cells.
    load : callable, optional
        Loads the model by name; called once, and only if a cell is not finished. `load_model` by default.
    shard : str, optional
        ``"i/n"``: only every n-th cell, starting with the i-th (counted from 1), so that n processes share a study. Analyses of scores
        that another shard has not finished wait; run the study once more when all shards are done.
    progress : Progress, optional
        Shows the progress; nothing is shown by default.
    score : callable, optional
        Scores one cell; `score_task` with the cell's settings by default.

    Returns
    -------
    StudyResult
        One entry per cell, scores first and then analyses. An error in one cell does not stop the others.

    Raises
    ------
    StoreError
        If there are cells to run and the store cannot be written.
    """
    return visit(Work.of(study, cache, load, score), shard, progress or SilentProgress(), _one_by_one)


def visit(work: Work, shard: str | None, reporter: Progress, run: Runner) -> StudyResult:
    """Look up every cell of a shard, let ``run`` run those that are not finished, and return all in the order of the study.

    Raises
    ------
    BadParameterError
        If the shard is not of the form i/n.
    StoreError
        If there are cells to run and the store cannot be written.
    """
    cells = take_shard(cells_of(work.study), shard)
    before = [work.finished(cell) for cell in cells]
    todo = [cell for cell, result in zip(cells, before, strict=True) if result is None]
    done = len(cells) - len(todo)
    if done:
        reporter.note(f"{done} of {len(cells)} cells are finished already and are kept.")
    if todo:
        require_writable(work.cache.root)
    results = iter(run(work, todo, reporter) if todo else [])
    return StudyResult(work.study.id, [result or next(results) for result in before])


def _one_by_one(work: Work, cells: Sequence[Cell | AnalysisCell], reporter: Progress) -> list[CellResult]:
    """Run cells: scores before the analyses that read them, and of each kind last those that another process is running."""
    reporter.start([cost_of(cell) for cell in cells])  # makes one pair of every task, so that invalid tasks raise here
    results: dict[int, CellResult] = {}
    kinds = ([i for i, cell in enumerate(cells) if isinstance(cell, kind)] for kind in (Cell, AnalysisCell))
    try:
        for kind in kinds:
            for wait in (False, True):
                for i in [i for i in kind if i not in results]:
                    reporter.cell(i, cells[i].label)
                    result = _run_one(work, cells[i], reporter, wait=wait)
                    if result is not None:
                        results[i] = result
    finally:
        reporter.stop()
    return [results[i] for i in range(len(cells))]


def _run_one(work: Work, cell: Cell | AnalysisCell, reporter: Progress, *, wait: bool) -> CellResult | None:
    """Run a cell; None if another process is running it and ``wait`` is false."""
    with report_progress(reporter.step):
        outcome = work.attempt(cell, wait=wait)
    if outcome is None:
        return None
    result, note = outcome
    reporter.note(f"{cell.label}: {note}")
    return result


def take_shard(cells: list[T], shard: str | None) -> list[T]:
    """The cells of shard ``"i/n"``, or all cells for None."""
    if shard is None:
        return cells
    first, _, count = shard.partition("/")
    if not (first.isdigit() and count.isdigit() and 1 <= int(first) <= int(count)):
        what = f"Shard {shard!r} is not of the form i/n with 1 <= i <= n."
        raise BadParameterError(what, "Write 1/4, 2/4, 3/4 and 4/4 for four processes.")
    return cells[int(first) - 1 :: int(count)]
