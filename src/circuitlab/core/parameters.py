"""Parameters that come from outside (a command line, a study file), checked against the types that a class declares."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

import msgspec

from circuitlab.core.errors import BadParameterError, UnknownNameError

__all__ = ["built", "checked_parameters"]


def built(cls: type[Any], what: str, params: Mapping[str, Any] | None) -> Any:
    """An instance of a dataclass from parameters by name.

    Parameters
    ----------
    cls : type
        A dataclass.
    what : str
        Its name in messages.
    params : mapping, optional
        Values of its fields.

    Raises
    ------
    UnknownNameError
        If there is no such field; the closest known name is suggested.
    BadParameterError
        If a value is not of the field's type, or the class cannot use it.
    """
    values = checked_parameters(cls, what, params or {})
    try:
        return cls(**values)
    except TypeError as error:
        names = sorted(field.name for field in dataclasses.fields(cls))
        raise BadParameterError(f"{what} cannot take {values}: {error}.", f"Its parameters are {names}.") from error


def checked_parameters(cls: type[Any], what: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Values for the fields of a dataclass, each of the type that its field declares.

    A list becomes a tuple, and one string is taken where several are meant. A whole number is not taken for yes or no, nor the other way
    round, and numbers are finite. A field whose type the module imports for type checking only takes objects, and neither text nor numbers.

    Raises
    ------
    UnknownNameError, BadParameterError
        As for `built`.
    """
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    values = {}
    for name, value in params.items():
        if name not in fields:
            raise UnknownNameError(f"parameter of {what}", name, fields)
        values[name] = _checked(fields[name], cls, what, value)
    return values


def _checked(field: dataclasses.Field[Any], cls: type[Any], what: str, value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise BadParameterError(f"{what}: {field.name}={value!r} is not a finite number.", "Give a finite number.")
    wanted = _type_of(field, cls)
    plain = tuple(value) if isinstance(value, list) else value
    if wanted is None:  # an object of a class that is imported for type checking only
        if isinstance(value, str | int | float | list | dict):
            raise BadParameterError(f"{what}: {field.name}={value!r} is not of type {field.type}.", "Set it in Python.")
        return value
    if isinstance(value, str) and str(field.type).startswith("tuple[str"):
        return plain
    if get_origin(wanted) is Literal and isinstance(value, str) and value not in get_args(wanted):
        raise UnknownNameError(field.name, value, [str(name) for name in get_args(wanted)])
    try:
        return msgspec.convert(plain, wanted)
    except msgspec.ValidationError as error:
        reason = str(error).partition(" - at ")[0]
        raise BadParameterError(f"{what}: {field.name}={value!r} cannot be used: {reason}.", f"Give {_words(field)}.") from error
    except TypeError:  # a type that msgspec cannot read, such as an array: the class checks it
        return plain


def _type_of(field: dataclasses.Field[Any], cls: type[Any]) -> Any:
    """The declared type of a field; None where it cannot be read at run time."""
    if not isinstance(field.type, str):
        return field.type
    for owner in cls.__mro__:
        if field.name in vars(owner).get("__annotations__", {}):
            try:
                return eval(field.type, vars(sys.modules[owner.__module__]))  # noqa: S307 - an annotation in our own source
            except NameError:
                return None
    return None


def _words(field: dataclasses.Field[Any]) -> str:
    default = "" if field.default is dataclasses.MISSING else f", for example {field.default!r}"
    return f"a value of type {field.type}{default}"
