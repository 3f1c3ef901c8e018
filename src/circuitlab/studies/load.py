"""Read a study file, and check every name in it before anything is run."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.studies.analyses import analysis_classes, get_analyses
from circuitlab.studies.types import StudySpec
from circuitlab.tasks.load import load_task
from circuitlab.tasks.text import read_toml

__all__ = ["load_study"]


def load_study(path: str | Path) -> StudySpec:
    """Read a study file and check every name in it.

    Raises
    ------
    BadParameterError
        If the file is missing, not UTF-8 or not TOML, has missing, unknown or invalid fields, its id cannot be a file name, or a method
        reads weights alone, cannot run on a streamed model (``stream``), or does not plan its memory (``memory``).
    UnknownNameError
        If a task, variant or method does not exist; the closest name is suggested.
    """
    path = Path(path)
    if not path.is_file():
        what = f"There is no study file {path}."
        raise BadParameterError(what, "Check the path; figures/core.toml is the main study.")
    try:
        spec = _converted(read_toml(path, BadParameterError))
    except (tomllib.TOMLDecodeError, RecursionError, msgspec.ValidationError) as error:
        what = f"Study file {path} cannot be used: {error}."
        raise BadParameterError(what, "See figures/core.toml for the fields of a study.") from error
    for entry in spec.tasks:
        variants = load_task(entry.id).variants
        if entry.variant is not None and entry.variant not in variants:
            raise UnknownNameError(f"variant of task {entry.id!r}", entry.variant, variants)
    if (not spec.tasks or not spec.methods) and (spec.tasks or spec.methods or not spec.analyses):
        what = f"Study file {path} has {len(spec.tasks)} tasks and {len(spec.methods)} methods."
        raise BadParameterError(what, "List at least one of each, or neither beside an analysis that needs none.")
    from circuitlab.execute.contract import weights_only  # noqa: PLC0415 - only needed once the file is valid
    from circuitlab.methods import get_method  # noqa: PLC0415

    for method in spec.methods:
        if weights_only(get_method(method.name, method.params)):
            what = f"Study {spec.id!r} lists {method.name!r}, which reads weights alone, and a study scores tasks."
            raise BadParameterError(what, "Take it out, and use circuitlab.score or circuitlab.compare beside a method of the study.")
        _check_streaming(spec, get_method(method.name, method.params))
    if spec.compare and spec.compare.method not in {method.name for method in spec.methods}:
        raise UnknownNameError("method in compare", spec.compare.method, {method.name for method in spec.methods})
    _check_analyses(spec)
    return spec


def _converted(raw: dict[str, Any]) -> StudySpec:
    """The study of a file: tables named after an analysis hold its settings, and everything else is a field of the study."""
    fields = [name for name in StudySpec.__struct_fields__ if name != "analyses"]
    for name, value in raw.items():
        if name not in {*fields, *analysis_classes()} and isinstance(value, dict | list):
            raise UnknownNameError("table of a study file", name, [*fields, *analysis_classes()])
    spec = msgspec.convert({name: value for name, value in raw.items() if name not in analysis_classes()}, StudySpec)
    analyses = [analysis for name, value in raw.items() if name in analysis_classes() for analysis in get_analyses(name, value)]
    return msgspec.structs.replace(spec, analyses=tuple(analyses))


def _check_streaming(spec: StudySpec, method: Any) -> None:
    """Raise unless a method can run with the study's ``stream`` and ``memory``."""
    from circuitlab.execute.memory import gibibytes  # noqa: PLC0415 - only needed once the file is valid
    from circuitlab.execute.needs import streaming_fault  # noqa: PLC0415
    from circuitlab.execute.plan import PlansMemory  # noqa: PLC0415

    if spec.memory is not None:
        gibibytes(spec.memory)
        if not isinstance(method, PlansMemory):
            what = f"Study {spec.id!r} sets memory={spec.memory!r}, and {method.name} does not say how much memory it takes."
            raise BadParameterError(what, "Take one of the two out.")
    if spec.stream and (fault := streaming_fault(method)):
        what = f"Study {spec.id!r} streams its model, one layer at a time is in memory, and {method.name} cannot run so: {fault}."
        raise BadParameterError(what, "Take the method out, or stream = true.")


def _check_analyses(spec: StudySpec) -> None:
    """Raise unless every analysis is possible in the study and all of its cells have different names."""
    seen: set[tuple[str, str]] = set()
    for analysis in spec.analyses:
        for cell in analysis.cells(spec):
            if (analysis.name, cell.key) in seen:
                what = f"Study {spec.id!r} declares {analysis.name} of {cell.key or 'everything'} twice."
                raise BadParameterError(what, "Give the two tables different tasks, methods or rules.")
            seen.add((analysis.name, cell.key))
