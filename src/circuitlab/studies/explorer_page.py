"""The explorer's page of a study, from its stored runs. No model is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from circuitlab.explorer.page import explorer_page
from circuitlab.explorer.payload import build_payload
from circuitlab.explorer.sources import Sources
from circuitlab.explorer.stored import circuit_of_analysis, gather
from circuitlab.studies.drawings import top_k
from circuitlab.studies.types import AnalysisResult

if TYPE_CHECKING:
    from circuitlab.store import Cache
    from circuitlab.studies.results import StudyRuns

__all__ = ["study_page", "study_sources"]


def study_page(runs: StudyRuns, store: Cache) -> str:
    """The page; equal runs and records give equal text."""
    return explorer_page(build_payload(study_sources(runs, store)))


def study_sources(runs: StudyRuns, store: Cache) -> Sources:
    """Scores of a study, the results of its analyses, and what its ``[explorer]`` table measured."""
    records: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for result in _results(runs, "explorer"):
        records |= result.result["records"]
        refused |= result.result["refused"]
    scores = [run.scores for run in runs.runs]
    return replace(
        gather(store, scores, records),
        title=runs.study.title,
        refused=refused,
        circuits=tuple(circuit_of_analysis(result.runs[0].run_id, result.result) for result in _results(runs, "circuits")),
        transfers=tuple((_names(result), result.result) for result in _results(runs, "transfer")),
        planted=dict(_grades(runs)),
        tasks={run.scores.provenance.task.id: run.task for run in runs.runs},
        made_by={"study": runs.study.id, "command": f"circuitlab figures build {runs.file}"},
        top_k=top_k(runs),
    )


def _results(runs: StudyRuns, name: str) -> Iterator[AnalysisResult]:
    return (result for analysis, results in runs.results if analysis.name == name for result in results)


def _names(result: AnalysisResult) -> dict[str, str]:
    """Run ids by the names of tasks in a transfer table."""
    return {run.task_key: run.run_id for run in result.runs}


def _grades(runs: StudyRuns) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    return ((result.cell.key, result.result["rows"]) for result in _results(runs, "planted"))
