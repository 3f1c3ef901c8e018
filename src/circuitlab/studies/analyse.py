"""Cells of analyses: which a study has, where their results lie, and running one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from circuitlab.store import RunStore
from circuitlab.studies.analyses.base import Analysis, Found, Given, Unit
from circuitlab.studies.model_identity import model_identity

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model
    from circuitlab.store.documents import Document, DocumentStore
    from circuitlab.studies.collect import Run
    from circuitlab.studies.spec import StudySpec

__all__ = ["Planned", "Stored", "documents", "planned_units", "read_found", "run_unit", "stored"]


@dataclass(frozen=True)
class Planned:
    """One cell of one analysis of a study."""

    analysis: Analysis
    unit: Unit

    @property
    def label(self) -> str:
        """Name for people."""
        return f"{self.analysis.name} of {self.unit.key}" if self.unit.key else self.analysis.name

    def about(self, study: StudySpec, runs: Iterable[str]) -> dict[str, Any]:
        """Everything that the result depends on, for a study whose score runs have these ids."""
        return {
            "analysis": self.analysis.name,
            "version": self.analysis.version,
            "settings": self.analysis.identity(),
            "unit": self.unit.key,
            "model": model_identity(study.model),
            "seed": study.seed,
            "cells": [study.key(cell) for cell in self.unit.cells],
            "runs": list(runs),
        }


def planned_units(study: StudySpec) -> list[Planned]:
    """Every cell of every analysis, in the order of the study file."""
    return [Planned(analysis, unit) for analysis in study.analyses for unit in analysis.units(study)]


def documents(store: RunStore) -> DocumentStore:
    """Where the results of analyses lie."""
    return store.documents("analyses")


@dataclass(frozen=True)
class Stored:
    """A result in the store: the name of its file, and what the file holds."""

    id: str
    document: Document


def stored(planned: Planned, study: StudySpec, store: RunStore, runs: Iterable[str | None]) -> Stored | None:
    """The stored result of a cell whose score runs have these ids; None where it, or one of the runs, is not finished."""
    known = list(runs)
    if None in known:
        return None
    about = planned.about(study, [run for run in known if run is not None])
    found = documents(store).get(about)
    return None if found is None else Stored(documents(store).path(about).stem, found)


def read_found(planned: Planned, study: StudySpec, store: RunStore, runs: Mapping[str, Run]) -> Found | None:
    """A cell's result with the score runs it was made from, by the slug of their cells; None where it is not finished."""
    own = tuple(runs[study.slug(cell)] for cell in planned.unit.cells)
    known = stored(planned, study, store, [run.run_id for run in own])
    return None if known is None else Found(planned.unit, known.id, known.document.result, own, known.document.environment)


def run_unit(planned: Planned, study: StudySpec, store: RunStore, runs: tuple[Run, ...], load: Callable[[], Model]) -> tuple[str, float]:
    """Run a cell and store its result; its id, and the seconds it took."""
    given = Given(study, planned.unit, runs, store, load)
    about = planned.about(study, [run.run_id for run in runs])
    started = time.perf_counter()
    result = planned.analysis.run(given)
    seconds = time.perf_counter() - started
    documents(store).put(about, result, seconds=seconds)
    return documents(store).path(about).stem, seconds
