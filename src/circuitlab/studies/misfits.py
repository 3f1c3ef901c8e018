"""Results of analyses whose data have another form than their analysis writes: named, set aside, and the rest is built without them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from circuitlab.store import MISFITS, Cache, misfit
from circuitlab.studies.results import ANALYSES, StudyRuns

__all__ = ["built_from"]

Built = TypeVar("Built")


def built_from(runs: StudyRuns, store: Cache, build: Callable[[StudyRuns], Built]) -> tuple[StudyRuns, Built]:
    """Build something from a study's runs; results that it cannot be built from are set aside, and count as not run.

    Parameters
    ----------
    runs : StudyRuns
        The study with its results.
    store : Cache
        Where they lie.
    build : callable
        Builds it. Where that fails, it is tried on each result alone.

    Returns
    -------
    tuple
        The runs without the results that were set aside, and what was built from them.
    """
    try:
        return runs, build(runs)
    except MISFITS:
        if misfit(lambda: build(replace(runs, results=()))):
            raise  # it is not the results
        kept = _without_misfits(runs, store, build)
        if kept is runs:
            raise
        return kept, build(kept)


def _without_misfits(runs: StudyRuns, store: Cache, build: Callable[[StudyRuns], object]) -> StudyRuns:
    groups, missing = [], list(runs.missing)
    for analysis, results in runs.results:
        sound = []
        for result in results:
            alone = replace(runs, results=((analysis, (result,)),))
            if problem := misfit(lambda alone=alone: build(alone)):  # type: ignore[misc]
                store.set_aside(result.record_id, ANALYSES, f"its values have another form ({problem})")
                missing.append(result.cell)
            else:
                sound.append(result)
        groups.append((analysis, tuple(sound)))
    return runs if len(missing) == len(runs.missing) else replace(runs, results=tuple(groups), missing=tuple(missing))
