"""Methods: one method, one file, one frozen callable dataclass. Adding a file here adds the method everywhere."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any, TypeAlias

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.parameters import built
from circuitlab.execute.contract import Method

__all__ = ["Method", "MethodLike", "get_method", "list_methods", "method_classes"]

MethodLike: TypeAlias = str | Method | type[Method]
"""A method: its name, its class, or an instance with its parameters set."""


@functools.cache
def method_classes() -> dict[str, type[Any]]:
    """Every method class by name, found in the modules of this package.

    Examples
    --------
    >>> method_classes()["eap"].__name__
    'EdgeAttributionPatching'
    """
    classes: dict[str, type[Any]] = {}
    for module in pkgutil.iter_modules(__path__):
        members = vars(importlib.import_module(f"{__name__}.{module.name}")).values()
        for cls in members:
            if inspect.isclass(cls) and dataclasses.is_dataclass(cls) and cls.__module__.endswith(module.name) and hasattr(cls, "estimand"):
                classes[cls.name] = cls  # type: ignore[attr-defined]
    return dict(sorted(classes.items()))


def list_methods() -> list[str]:
    """Names of every method.

    Examples
    --------
    >>> list_methods()[:3]
    ['activation_patching', 'atp_star', 'attribution_patching']
    """
    return list(method_classes())


def get_method(name: MethodLike, params: Mapping[str, Any] | None = None) -> Method:
    """Build a method from its name and parameters.

    Parameters
    ----------
    name : str, Method or type
        For example ``"activation_patching"``, or the class of that name. An instance is returned unchanged.
    params : mapping, optional
        Fields of the method's dataclass; lists become tuples.

    Raises
    ------
    UnknownNameError
        If the method or a parameter does not exist; the closest known name is suggested.
    BadParameterError
        If a parameter has a value that the method cannot use.

    Examples
    --------
    >>> from circuitlab.methods import ActivationPatching
    >>> same: list[MethodLike] = ["activation_patching", ActivationPatching, ActivationPatching(parts="heads")]
    >>> [get_method(method).parts for method in same]
    [('heads', 'mlps'), ('heads', 'mlps'), ('heads',)]
    """
    classes = method_classes()
    if not isinstance(name, str | type):
        if params:
            what = f"{name!r} is an instance with its parameters set, but {dict(params)} are given as well."
            raise BadParameterError(what, "Set them when the instance is made.")
        return name
    if isinstance(name, str) and name not in classes:
        raise UnknownNameError("method", name, classes)
    cls: Any = classes[name] if isinstance(name, str) else name
    method: Method = built(cls, str(cls.name), params)
    return method


def __getattr__(name: str) -> Any:
    # Classes are found when they are first used: `circuitlab.methods.ActivationPatching`.
    for cls in method_classes().values():
        if cls.__name__ == name:
            return cls
    what = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(what)


def __dir__() -> list[str]:
    return sorted([*__all__, *(cls.__name__ for cls in method_classes().values())])
