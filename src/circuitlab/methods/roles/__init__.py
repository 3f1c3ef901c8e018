"""Roles: what single heads do. One role, one frozen callable dataclass; adding one to a file here adds it everywhere."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.parameters import built
from circuitlab.methods.roles.contract import Role

__all__ = ["Role", "default_roles", "get_role", "list_roles", "role_classes"]


@functools.cache
def role_classes() -> dict[str, type[Any]]:
    """Every role class by name, found by looking through the modules of this package."""
    classes: dict[str, type[Any]] = {}
    for module in pkgutil.iter_modules(__path__):
        name = f"{__name__}.{module.name}"
        for cls in vars(importlib.import_module(name)).values():
            if inspect.isclass(cls) and dataclasses.is_dataclass(cls) and cls.__module__ == name and hasattr(cls, "name"):
                classes[cls.name] = cls  # type: ignore[attr-defined]
    return dict(sorted(classes.items()))


def list_roles() -> list[str]:
    """Names of every role."""
    return list(role_classes())


def default_roles() -> list[str]:
    """Names of the roles that are measured where none is named: all but those that take minutes on a small model."""
    return [name for name, cls in role_classes().items() if getattr(cls, "by_default", True)]


def get_role(name: str | Role | type[Role], params: Mapping[str, Any] | None = None) -> Role:
    """Build a role from its name or class and parameters; an instance is given back as it is.

    Raises
    ------
    UnknownNameError
        If the role or a parameter does not exist; the nearest known name is suggested.
    BadParameterError
        If a parameter has a value the role cannot use, or parameters are given beside an instance.
    """
    if not isinstance(name, str | type):
        if params:
            raise BadParameterError(f"{name!r} has its parameters already, and {dict(params)} are given beside it.", "Set them there.")
        return name
    classes = role_classes()
    if isinstance(name, str) and name not in classes:
        raise UnknownNameError("role", name, classes)
    cls: Any = classes[name] if isinstance(name, str) else name
    role: Role = built(cls, str(cls.name), params)
    return role
