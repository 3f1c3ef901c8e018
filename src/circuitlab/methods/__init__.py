"""Methods: one method, one file, one frozen callable dataclass. Adding a file here adds the method everywhere."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.execute.contract import Method

__all__ = ["Method", "get_method", "list_methods", "method_classes"]


@functools.cache
def method_classes() -> dict[str, type[Any]]:
    """Every method class by name, found by looking through the modules of this package."""
    found: dict[str, type[Any]] = {}
    for module in pkgutil.iter_modules(__path__):
        members = vars(importlib.import_module(f"{__name__}.{module.name}")).values()
        for cls in members:
            if inspect.isclass(cls) and dataclasses.is_dataclass(cls) and cls.__module__.endswith(module.name) and hasattr(cls, "estimand"):
                found[cls.name] = cls  # type: ignore[attr-defined]
    return dict(sorted(found.items()))


def list_methods() -> list[str]:
    """Names of every method."""
    return list(method_classes())


def get_method(name: str, params: Mapping[str, Any] | None = None) -> Method:
    """Build a method from its name and parameters.

    Parameters
    ----------
    name : str
        For example ``"activation_patching"``.
    params : mapping, optional
        Fields of the method's dataclass; lists are read as tuples.

    Raises
    ------
    UnknownNameError
        If the method or a parameter does not exist; the nearest known name is suggested.
    BadParameterError
        If a parameter has a value the method cannot use.
    """
    classes = method_classes()
    if name not in classes:
        raise UnknownNameError("method", name, classes)
    cls = classes[name]
    known = {field.name for field in dataclasses.fields(cls)}
    for key in params or {}:
        if key not in known:
            raise UnknownNameError(f"parameter of {name}", key, known)
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in (params or {}).items()}
    try:
        method: Method = cls(**given)
    except TypeError as error:
        what = f"{name} cannot take {given}: {error}."
        raise BadParameterError(what, f"Its parameters are {sorted(known)}.") from error
    return method
