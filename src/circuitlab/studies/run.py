"""Run a study cell by cell. A finished cell is never computed again, and an interruption loses only the running cell."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from circuitlab.core.errors import BadParameterError, CircuitlabError
from circuitlab.core.files import require_writable
from circuitlab.core.progress import report_progress
from circuitlab.core.provenance import digest
from circuitlab.execute.cost import RunSize, forward_passes
from circuitlab.methods import get_method
from circuitlab.store import Cache
from circuitlab.studies.results import ANALYSES, finished, read_runs, record, stored_analysis
from circuitlab.studies.types import AnalysisCell, AnalysisContext, Cell, StudySpec
from circuitlab.workflows.prompts import FITNESS_PAIRS, Draws
from circuitlab.workflows.score import Scored, score_task
from circuitlab.workflows.terminal import Progress, SilentProgress, format_seconds

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["CellResult", "StudyResult", "run_study", "take_shard"]

T = TypeVar("T")

_TYPICAL_LENGTH = 100
"""Characters of a prompt in the cost of an analysis."""

_SHORTEST, _LETTERS_PER_TOKEN = 20, 4.5


class CellResult(msgspec.Struct, frozen=True):
    """The outcome of one cell: its run, whether it had been finished before, the seconds spent now, or the error.

    A cell of an analysis has the analysis' name in ``analysis``, its key in ``task``, and the id of its record in ``run_id``; ``waits`` is
    true if a score run that it needs is not finished, because it is in another shard or failed.
    """

    task: str
    method: str
    run_id: str | None
    cached: bool
    seconds: float
    error: str | None = None
    analysis: str | None = None
    waits: bool = False

    @property
    def label(self) -> str:
        """Display name."""
        if self.analysis is None:
            return f"{self.task} x {self.method}"
        return f"{self.analysis} of {self.task}" if self.task else self.analysis


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
        Scores one cell; `score_cell` by default.

    Returns
    -------
    StudyResult
        One entry per cell, scores first and then analyses. An error in one cell does not stop the others.

    Raises
    ------
    StoreError
        If there are cells to run and the store cannot be written.
    """
    work = _Work(study, cache, functools.cache(functools.partial(load or _load, study.model)), score or _score)
    reporter = progress or SilentProgress()
    everything: list[Cell | AnalysisCell] = [*study.cells(), *study.analysis_cells()]
    cells = take_shard(everything, shard)
    before = [work.finished(cell) for cell in cells]
    todo = [cell for cell, result in zip(cells, before, strict=True) if result is None]
    done = len(cells) - len(todo)
    if done:
        reporter.note(f"{done} of {len(cells)} cells are finished already and are kept.")
    if todo:
        require_writable(cache.root)
    results = iter(_run_all(work, todo, reporter))
    return StudyResult(study.id, [result or next(results) for result in before])


def _run_all(work: _Work, cells: Sequence[Cell | AnalysisCell], reporter: Progress) -> list[CellResult]:
    """Run cells: scores before the analyses that read them, and of each kind last those that another process is running."""
    if not cells:
        return []
    reporter.start([_weight(cell) for cell in cells])  # makes one pair of every task, so that invalid tasks raise here
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


def _run_one(work: _Work, cell: Cell | AnalysisCell, reporter: Progress, *, wait: bool) -> CellResult | None:
    """Run a cell; None if another process is running it and ``wait`` is false."""
    try:
        with work.cache.lock(work.lock_name(cell), wait=wait) as acquired:
            if not acquired:
                return None
            with report_progress(reporter.step):
                result, note = work.run(cell)
    except CircuitlabError as error:
        result, note = work.result(cell, None, error=str(error)), str(error)
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


@dataclass(frozen=True)
class _Work:
    """Runs the cells of a study."""

    study: StudySpec
    cache: Cache
    load: Callable[[], Any]
    score: Callable[[Any, Cell, StudySpec, Cache], Scored]

    def lock_name(self, cell: Cell | AnalysisCell) -> str:
        """Name of the lock of a cell, the same in all processes."""
        about = self.study.key(cell) if isinstance(cell, Cell) else cell.identity(self.study, ())
        return f"cell-{digest(about)[:16]}"

    def finished(self, cell: Cell | AnalysisCell) -> CellResult | None:
        """The result of a cell that is stored, or None."""
        if isinstance(cell, Cell):
            run_id = finished(self.cache, self.study, cell)
            return None if run_id is None else self.result(cell, run_id, cached=True)
        stored = stored_analysis(cell, self.study, self.cache, [finished(self.cache, self.study, source) for source in cell.reads])
        return None if stored is None else self.result(cell, stored[0], cached=True)

    def result(
        self, cell: Cell | AnalysisCell, run_id: str | None, *, cached: bool = False, seconds: float = 0.0, error: str | None = None
    ) -> CellResult:
        """The outcome of a cell."""
        if isinstance(cell, Cell):
            return CellResult(cell.task.id, cell.method.name, run_id, cached, seconds, error)
        return CellResult(cell.key, "", run_id, cached, seconds, error, cell.analysis.name)

    def run(self, cell: Cell | AnalysisCell) -> tuple[CellResult, str]:
        """Run a cell unless another process has finished it; returns its outcome and a note for display."""
        if (result := self.finished(cell)) is not None:
            return result, "found in the store"
        return self._run_score(cell) if isinstance(cell, Cell) else self._run_analysis(cell)

    def _run_score(self, cell: Cell) -> tuple[CellResult, str]:
        scored = self.score(self.load(), cell, self.study, self.cache)
        run_id = scored.scores.provenance.run_id()
        record(self.cache, self.study, cell, run_id)
        duration = "found in the store" if scored.cached else format_seconds(scored.seconds)
        note = f"run {run_id}, {scored.scores.n_pairs} pairs, {duration}"
        return self.result(cell, run_id, cached=scored.cached, seconds=scored.seconds), note

    def _run_analysis(self, cell: AnalysisCell) -> tuple[CellResult, str]:
        runs = [(source, finished(self.cache, self.study, source)) for source in cell.reads]
        if missing := [source.label for source, run_id in runs if run_id is None]:
            return msgspec.structs.replace(self.result(cell, None), waits=True), f"waits for {', '.join(missing)}"
        read = read_runs(self.study, self.cache, [(source, run_id) for source, run_id in runs if run_id is not None])
        identity = cell.identity(self.study, [run.run_id for run in read])
        context = AnalysisContext(self.study, cell, read, self.cache, self.load)
        document, _ = self.cache.get_or_compute(identity, ANALYSES, lambda: cell.analysis.run(context))
        seconds = document.environment.seconds
        return self.result(cell, ANALYSES.name(identity), seconds=seconds), f"record {ANALYSES.name(identity)}, {format_seconds(seconds)}"


def _score(model: Model, cell: Cell, study: StudySpec, cache: Cache) -> Scored:
    method = get_method(cell.method.name, cell.method.params)
    draws = Draws(cell.n, cell.task.variant, study.seed)
    return score_task(model, cell.task.id, method, draws, metric=cell.method.metric, store=cache)


def _load(name: str) -> Model:
    from circuitlab.model import load_model  # noqa: PLC0415 - a finished study must not import torch

    return load_model(name)


def _weight(cell: Cell | AnalysisCell) -> float:
    """Relative cost: the method's estimate of forward passes, and two per pair to judge fitness, times the prompt's length."""
    from circuitlab.tasks import sample_pairs  # noqa: PLC0415

    if isinstance(cell, AnalysisCell):
        return cell.cost * _TYPICAL_LENGTH
    example = next(sample_pairs(cell.task.id, variant=cell.task.variant))
    letters = max(_SHORTEST, len(example.clean))
    n_common = sum(
        1 for _ in itertools.takewhile(lambda characters: characters[0] == characters[1], zip(example.clean, example.corrupt, strict=False))
    )
    size = RunSize(cell.n, letters / _LETTERS_PER_TOKEN, 1 - min(n_common, letters - 1) / letters)
    passes = forward_passes(get_method(cell.method.name, cell.method.params), size)
    return (passes + 2 * FITNESS_PAIRS) * letters
