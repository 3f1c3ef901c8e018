"""Read the finished cells of a study from the cache, for figures, tables and the report. No model is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuitlab.core.errors import StoreError
from circuitlab.store import HEAD_SCORES, Cache, Document, Documents
from circuitlab.studies.load import load_study
from circuitlab.studies.types import Analysis, AnalysisCell, AnalysisResult, Cell, ScoredCell, StudySpec
from circuitlab.tasks import load_task

__all__ = ["ANALYSES", "StudyRuns", "collect", "finished", "read_runs", "record", "require_finished", "stored_analysis"]

_CELLS = Documents("cells", check=lambda document: HEAD_SCORES.name(document.result["run"]))
"""The run id of each cell: a run's id is known only after its model is loaded, but a cell's key is known before."""

ANALYSES = Documents("analyses")
"""Results of analyses."""


@dataclass(frozen=True, eq=False)
class StudyRuns:
    """A study with every run that it declares, and the results of its analyses so far.

    ``results`` holds the finished cells of each analysis, in the order of the study file, and ``missing`` the cells that have not been run.
    """

    study: StudySpec
    file: Path
    runs: tuple[ScoredCell, ...]
    results: tuple[tuple[Analysis, tuple[AnalysisResult, ...]], ...] = ()
    missing: tuple[AnalysisCell, ...] = ()

    def tasks(self) -> dict[str, list[ScoredCell]]:
        """Runs by task, in the order of the study file."""
        return _grouped(self.runs, "task_key")

    def methods(self) -> dict[str, list[ScoredCell]]:
        """Runs by method, in the order of the study file."""
        return _grouped(self.runs, "method_key")


def finished(cache: Cache, study: StudySpec, cell: Cell) -> str | None:
    """Run id of a cell whose run is stored and undamaged, or None."""
    document = cache.find(_identity(study, cell), _CELLS)
    run_id = None if document is None else str(document.result["run"])
    return run_id if run_id and cache.has(run_id) else None


def record(cache: Cache, study: StudySpec, cell: Cell, run_id: str) -> None:
    """Store the run id of a cell's scores."""
    cache.put(_identity(study, cell), _CELLS, {"run": run_id})


def _identity(study: StudySpec, cell: Cell) -> dict[str, Any]:
    return {"cell": study.key(cell)}


def require_finished(cache: Cache, study: StudySpec, command: str) -> list[tuple[Cell, str]]:
    """Every score cell of a study with its run id, in order.

    Raises
    ------
    StoreError
        If some are not finished; the message names them, the store and the command to run.
    """
    cells = study.cells()
    ids = [finished(cache, study, cell) for cell in cells]
    if missing := [cell.label for cell, run_id in zip(cells, ids, strict=True) if run_id is None]:
        what = f"{len(missing)} of {len(cells)} cells of study {study.id!r} are not finished in {cache.root}: {', '.join(missing)}."
        raise StoreError(what, f"Run `{command}`; finished cells are not computed again.")
    return [(cell, run_id) for cell, run_id in zip(cells, ids, strict=True) if run_id is not None]


def stored_analysis(cell: AnalysisCell, study: StudySpec, cache: Cache, runs: Iterable[str | None]) -> tuple[str, Document] | None:
    """Id and stored result of a cell whose score runs have these ids; None if it, or one of the runs, is not finished."""
    run_ids = list(runs)
    if None in run_ids:
        return None
    identity = cell.identity(study, [run for run in run_ids if run is not None])
    document = cache.find(identity, ANALYSES)
    return None if document is None else (ANALYSES.name(identity), document)


def collect(file: str | Path, cache: Cache) -> StudyRuns:
    """Read every run of a study; no model is loaded.

    Parameters
    ----------
    file : str or Path
        Study file.
    cache : Cache
        Cache of its runs.

    Raises
    ------
    StoreError
        If cells are not finished; the message names them and the command that runs them.
    ScoreFileError
        If a stored run cannot be read.
    """
    study, path = load_study(file), Path(file)
    runs = read_runs(study, cache, require_finished(cache, study, f"circuitlab study run {path}"))
    if len({run.slug for run in runs}) != len(runs):
        what = f"Study file {path} lists the same task and method twice."
        raise StoreError(what, "Remove one, or give it another variant or other parameters.")
    by_slug = {run.slug: run for run in runs}
    results = [(cell, _result(cell, study, cache, by_slug)) for cell in study.analysis_cells()]
    groups = tuple(
        (analysis, tuple(r for cell, r in results if cell.analysis is analysis and r is not None)) for analysis in study.analyses
    )
    return StudyRuns(study, path, runs, groups, tuple(cell for cell, result in results if result is None))


def _result(cell: AnalysisCell, study: StudySpec, cache: Cache, runs: Mapping[str, ScoredCell]) -> AnalysisResult | None:
    reads = tuple(runs[study.slug(source)] for source in cell.reads)
    stored = stored_analysis(cell, study, cache, [run.run_id for run in reads])
    return None if stored is None else AnalysisResult(cell, stored[0], stored[1].result, reads, stored[1].environment)


def read_runs(study: StudySpec, cache: Cache, cells: Sequence[tuple[Cell, str]]) -> tuple[ScoredCell, ...]:
    """Finished cells with their scores, in the given order."""
    return tuple(
        ScoredCell(
            cell=cell,
            run_id=run_id,
            scores=cache.read(run_id),
            task=load_task(cell.task.id),
            task_key=study.task_key(cell.task),
            method_key=study.method_key(cell.method),
        )
        for cell, run_id in cells
    )


def _grouped(runs: tuple[ScoredCell, ...], key: str) -> dict[str, list[ScoredCell]]:
    groups: dict[str, list[ScoredCell]] = {}
    for run in runs:
        groups.setdefault(getattr(run, key), []).append(run)
    return groups
