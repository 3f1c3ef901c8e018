"""Every experiment by name, found in the folders of this package."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

import msgspec

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.experiments.types import Experiment

__all__ = ["experiment_classes", "get_experiment"]

_PACKAGE = "circuitlab.experiments"


@functools.cache
def experiment_classes() -> dict[str, type[Experiment]]:
    """Every experiment by name, in alphabetical order."""
    package = importlib.import_module(_PACKAGE)
    classes: dict[str, type[Experiment]] = {}
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
        if module.ispkg:
            for cls in vars(importlib.import_module(f"{_PACKAGE}.{module.name}")).values():
                if inspect.isclass(cls) and issubclass(cls, Experiment) and getattr(cls, "name", None) == module.name:
                    classes[module.name] = cls
    return classes


def get_experiment(name: str, settings: Mapping[str, Any] | None = None) -> Experiment:
    """An experiment by name, with settings other than its own.

    Raises
    ------
    UnknownNameError
        If there is no such experiment or setting; the closest known name is suggested.
    BadParameterError
        If a setting has an invalid value.

    Examples
    --------
    >>> get_experiment("memory_context", {"prompts": 8}).identity()["settings"]["prompts"]
    8
    """
    classes = experiment_classes()
    if name not in classes:
        raise UnknownNameError("experiment", name, classes)
    cls = classes[name]
    for key in settings or {}:
        if key not in cls.__struct_fields__:
            raise UnknownNameError(f"setting of experiment {name!r}", key, cls.__struct_fields__)
    try:
        return msgspec.convert(dict(settings or {}), cls)
    except msgspec.ValidationError as error:
        raise BadParameterError(f"The settings of experiment {name!r} cannot be used: {error}.", "Correct that setting.") from error
