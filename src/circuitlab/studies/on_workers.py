"""Hand the cells of a study out to workers that may die: analyses after what they read, and the cells of dead workers again."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from circuitlab.core.errors import StoreError
from circuitlab.studies.types import AnalysisCell, Cell
from circuitlab.studies.work import CellResult, Work, cells_of, cost_of
from circuitlab.workflows.terminal import Progress

__all__ = ["Pool", "hand_out"]

_MOST_DEATHS = 3
"""A cell whose worker died this often is not run again; nor are workers replaced that die this often in a row while they start."""

_FINE = 1000
"""Steps of the bar."""


class Pool(Protocol):
    """Workers that answer one call at a time, in any order."""

    size: int

    def start(self, tag: object) -> None:
        """Start a worker, which answers with a sentence on where it runs."""
        ...

    def call(self, worker: Any, cell: int, *, wait: bool, tag: object) -> None:
        """Let an idle worker run the cell of the study with this number."""
        ...

    def next(self) -> tuple[Any, Any, Any]:
        """Wait for one answer: its tag, the worker and the value; None and a sentence for a worker that died."""
        ...


def hand_out(work: Work, cells: Sequence[Cell | AnalysisCell], reporter: Progress, pool: Pool) -> list[CellResult]:
    """Run cells on workers, expensive ones first, and return their results in the given order.

    Parameters
    ----------
    work : Work
        The study and its store.
    cells : sequence of cells
        Those that are not finished.
    reporter : Progress
        Shows which worker runs what, and every outcome.
    pool : Pool
        The workers.

    Raises
    ------
    StoreError
        If workers die while they start, or what a worker stored is not found.
    """
    return _HandOut(work, cells, reporter, pool).run()


@dataclass(eq=False)
class _HandOut:
    """The state of a study on its workers."""

    work: Work
    cells: Sequence[Cell | AnalysisCell]
    reporter: Progress
    pool: Pool
    results: dict[int, CellResult] = field(default_factory=dict)
    running: set[int] = field(default_factory=set)
    deaths: Counter[int | None] = field(default_factory=Counter)
    elsewhere: set[int] = field(default_factory=set)
    """Cells that another process was running when they were tried: they come last, and are waited for."""
    waiting: list[int] = field(default_factory=list)
    idle: list[tuple[Any, str]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    """Of each cell its number in the study, by which workers know it."""

    def run(self) -> list[CellResult]:
        costs = [cost_of(cell) for cell in self.cells]  # makes one pair of every task, so that invalid tasks raise before workers start
        self.waiting = sorted(range(len(costs)), key=lambda i: -costs[i])
        everything = cells_of(self.work.study)
        self.numbers = [everything.index(cell) for cell in self.cells]
        self.reporter.start([1.0])
        try:
            for _ in range(self.pool.size):
                self.pool.start(None)
            while len(self.results) < len(self.cells):
                self._take(*self.pool.next())
                while self.idle and (i := self._ready()) is not None:
                    self._give(self.idle.pop(), i)
                self.reporter.step(round(_FINE * sum(costs[i] for i in self.results) / sum(costs)), _FINE)
        finally:
            self.reporter.stop()
        return [self.results[i] for i in range(len(self.cells))]

    def _ready(self) -> int | None:
        """The next cell to run: one whose scores are finished or will not be, and which nobody else was running as long as there is one."""
        unfinished = [self.cells[i] for i in (*self.waiting, *self.running)]
        for late in (False, True):
            for i in self.waiting:
                cell = self.cells[i]
                reads = cell.reads if isinstance(cell, AnalysisCell) else ()
                if (i in self.elsewhere) == late and not any(source in unfinished for source in reads):
                    return i
        return None

    def _give(self, worker: Any, i: int) -> None:
        self.waiting.remove(i)
        self.running.add(i)
        name, where = worker
        self.reporter.cell(0, self.cells[i].label)
        self.reporter.note(f"{self.cells[i].label}: runs in {where}")
        self.pool.call(name, self.numbers[i], wait=i in self.elsewhere, tag=(i, where))

    def _take(self, tag: Any, worker: Any, value: Any) -> None:
        """Take the answer of one worker: it has started (no tag), finished its cell, or died."""
        if worker is None:
            self._bury(tag, value)
        elif tag is None:
            self.deaths[None] = 0
            self.idle.append((worker, value))
        else:
            i, where = tag
            outcome, caught = value
            self.idle.append((worker, where))
            self.running.discard(i)
            for message in caught:
                warnings.warn(message, stacklevel=2)
            if outcome is None:
                self.elsewhere.add(i)
                self.waiting.append(i)
            else:
                self._finish(i, *outcome)

    def _bury(self, tag: Any, reason: str) -> None:
        """Start another worker for one that died; its cell waits again, unless it has cost too many."""
        i = None if tag is None else tag[0]
        self.deaths[i] += 1
        if i is None:
            if self.deaths[None] >= _MOST_DEATHS:
                what = f"{_MOST_DEATHS} workers in a row died while they started: {reason}"
                raise StoreError(what, "Finished cells are kept; look into Ray's logs, or ask for fewer workers.")
        else:
            self.running.discard(i)
            label, count = self.cells[i].label, self.deaths[i]
            if count < _MOST_DEATHS:
                self.reporter.note(f"{label}: {tag[1]} died, and the cell is run again ({reason})")
                self.waiting.insert(0, i)
            else:
                what = f"{count} workers died while they ran it, the last one {tag[1]}: {reason} The machine may have too little memory."
                self._finish(i, self.work.result(self.cells[i], None, error=what), what)
        if self.waiting:
            self.pool.start(None)

    def _finish(self, i: int, result: CellResult, note: str) -> None:
        if result.run_id is not None and self.work.finished(self.cells[i]) is None:
            what = f"A worker has finished {self.cells[i].label}, but {self.work.cache.root} does not hold it."
            raise StoreError(what, "All workers must write to this folder; check that the file system is shared.")
        self.results[i] = result
        self.reporter.note(f"{self.cells[i].label}: {note}")
