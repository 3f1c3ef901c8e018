"""Analyses of a study's scores, one file for each. Study files can name every analysis in this package."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.studies.types import Analysis, AnalysisCell, AnalysisContext, AnalysisResult, Table

__all__ = ["Analysis", "AnalysisCell", "AnalysisContext", "AnalysisResult", "Table", "analysis_classes", "get_analyses"]


@functools.cache
def analysis_classes() -> dict[str, type[Analysis]]:
    """Every analysis by name, found in the modules of this package."""
    classes: dict[str, type[Analysis]] = {}
    for module in pkgutil.iter_modules(__path__):
        for cls in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if inspect.isclass(cls) and issubclass(cls, Analysis) and getattr(cls, "name", None) == module.name:
                classes[module.name] = cls
    return classes


def get_analyses(name: str, settings: Any) -> list[Analysis]:
    """The analyses that a study file declares under one name.

    Parameters
    ----------
    name : str
        Name of the table.
    settings : mapping or sequence of mappings
        One table, or several.

    Raises
    ------
    UnknownNameError
        If there is no such analysis, or a setting does not exist; the closest known name is suggested.
    BadParameterError
        If a setting has an invalid value.
    """
    classes = analysis_classes()
    if name not in classes:
        raise UnknownNameError("analysis", name, classes)
    tables = [settings] if isinstance(settings, Mapping) else settings
    if not isinstance(tables, Sequence) or not all(isinstance(table, Mapping) for table in tables):
        what = f"{name} = {settings!r} is not a table of settings."
        raise BadParameterError(what, f"Write [{name}] with its settings below it.")
    analyses = []
    for table in tables:
        for key in table:
            if key not in classes[name].__struct_fields__:
                raise UnknownNameError(f"setting of {name}", key, classes[name].__struct_fields__)
        try:
            analyses.append(msgspec.convert(dict(table), classes[name]))
        except msgspec.ValidationError as error:
            raise BadParameterError(f"[{name}] cannot be used: {error}.", "Correct that setting.") from error
    return analyses
