"""The cells of a study as work: whether one is finished, what it costs, and running it once."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from circuitlab.core.errors import CircuitlabError
from circuitlab.core.provenance import digest
from circuitlab.execute.cost import RunSize, forward_passes
from circuitlab.methods import get_method
from circuitlab.store import Cache
from circuitlab.studies.results import ANALYSES, finished, read_runs, record, stored_analysis
from circuitlab.studies.types import AnalysisCell, AnalysisContext, Cell, StudySpec
from circuitlab.workflows.prompts import FITNESS_PAIRS, Draws
from circuitlab.workflows.score import Scored, score_task
from circuitlab.workflows.terminal import format_seconds

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["CellResult", "Work", "cells_of", "cost_of"]

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


def cells_of(study: StudySpec) -> list[Cell | AnalysisCell]:
    """Every cell of a study, scores before analyses, each in the order of the file."""
    return [*study.cells(), *study.analysis_cells()]


@dataclass(frozen=True)
class Work:
    """Runs the cells of a study.

    Parameters
    ----------
    study : StudySpec
        The study.
    cache : Cache
        Where finished cells are kept.
    load : callable
        The study's model.
    score : callable
        Scores one cell with that model.
    """

    study: StudySpec
    cache: Cache
    load: Callable[[], Any]
    score: Callable[[Any, Cell, StudySpec, Cache], Scored]

    @classmethod
    def of(
        cls,
        study: StudySpec,
        cache: Cache,
        load: Callable[[str], Any] | None = None,
        score: Callable[[Any, Cell, StudySpec, Cache], Scored] | None = None,
    ) -> Work:
        """The work of a study with a store; the model is loaded once, and only if it is needed. The last two are for tests."""
        loading = load or functools.partial(_load, stream=study.stream)
        return cls(study, cache, functools.cache(functools.partial(loading, study.model)), score or _score)

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

    def attempt(self, cell: Cell | AnalysisCell, *, wait: bool) -> tuple[CellResult, str] | None:
        """Run a cell and hold its lock meanwhile; None if another process is running it and ``wait`` is false.

        An error that circuitlab raises on purpose is the cell's outcome; any other is raised.
        """
        try:
            with self.cache.lock(self.lock_name(cell), wait=wait) as acquired:
                return self.run(cell) if acquired else None
        except CircuitlabError as error:
            return self.result(cell, None, error=str(error)), str(error)

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
    return score_task(model, cell.task.id, method, draws, metric=cell.method.metric, store=cache, memory=study.memory)


def _load(name: str, *, stream: bool) -> Model:
    from circuitlab.model import load_model  # noqa: PLC0415 - a finished study must not import torch

    return load_model(name, stream=True) if stream else load_model(name)


def cost_of(cell: Cell | AnalysisCell) -> float:
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
