"""Whether a part of a payload has the form that the schema gives it: what `schema.json` uses of JSON Schema."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from circuitlab.core.errors import ScoreFileError
from circuitlab.explorer.packed import unpack
from circuitlab.explorer.schema import payload_schema

__all__ = ["require_conforming"]

_TYPES: dict[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}


def require_conforming(part: str, value: Any) -> None:
    """Check one part of a payload, such as ``"attention"``.

    Parameters
    ----------
    part : str
        Its key in the payload.
    value : plain data
        What is there.

    Raises
    ------
    ScoreFileError
        If it does not fit, with the place where.

    Examples
    --------
    >>> require_conforming("level", 0.05)
    >>> require_conforming("level", "0.05")
    Traceback (most recent call last):
    circuitlab.core.errors.ScoreFileError: level is '0.05', not of type number. Compute it again.
    """
    _check(payload_schema()["properties"][part], value, part)


def _check(schema: Mapping[str, Any], value: Any, where: str) -> None:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        _check(payload_schema()["$defs"][name], value, where)
        if name == "packed":
            unpack(value)  # which its shape may not fit
    if "type" in schema and not _is(schema["type"], value):
        raise _misfit(where, value, f"of type {schema['type']}")
    if "enum" in schema and value not in schema["enum"]:
        raise _misfit(where, value, f"one of {schema['enum']}")
    if "minimum" in schema and value is not None and not value >= schema["minimum"]:
        raise _misfit(where, value, f"at least {schema['minimum']}")
    if "pattern" in schema and not re.search(schema["pattern"], value):
        raise _misfit(where, value, f"like {schema['pattern']}")
    if isinstance(value, dict):
        _check_object(schema, value, where)
    elif isinstance(value, list):
        _check_array(schema, value, where)


def _check_object(schema: Mapping[str, Any], value: dict[str, Any], where: str) -> None:
    known, more = schema.get("properties", {}), schema.get("additionalProperties", True)
    for name in schema.get("required", ()):
        if name not in value:
            raise _misfit(where, sorted(value), f"with {name!r}")
    for name, inner in value.items():
        if name in known:
            _check(known[name], inner, f"{where}.{name}")
        elif more is False:
            raise _misfit(where, name, f"one of {sorted(known)}")
        elif isinstance(more, dict):
            _check(more, inner, f"{where}.{name}")


def _check_array(schema: Mapping[str, Any], value: list[Any], where: str) -> None:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        raise _misfit(where, len(value), f"of {schema.get('minItems', 0)} entries or more")
    first = schema.get("prefixItems", ())
    for at, inner in enumerate(value):
        if at < len(first) or "items" in schema:
            _check(first[at] if at < len(first) else schema["items"], inner, f"{where}[{at}]")


def _is(names: str | list[str], value: Any) -> bool:
    return any(
        value is None  # NaN is stored as null
        if name == "null" or (name == "number" and value is None)
        else isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool))
        for name in ([names] if isinstance(names, str) else names)
    )


def _misfit(where: str, value: Any, wanted: str) -> ScoreFileError:
    shown = repr(value)
    return ScoreFileError(f"{where} is {shown if len(shown) < 60 else shown[:57] + '...'}, not {wanted}.", "Compute it again.")  # noqa: PLR2004
