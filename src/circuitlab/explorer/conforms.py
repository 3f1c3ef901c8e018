"""Whether a part of a payload has the form that the schema gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import fastjsonschema

from circuitlab.core.errors import ScoreFileError
from circuitlab.explorer.packed import unpack
from circuitlab.explorer.schema import payload_schema

__all__ = ["require_conforming"]

_LONGEST = 60
_DRAFT = "http://json-schema.org/draft-07/schema#"
"""The newest draft that the validator compiles."""


def require_conforming(part: str, value: Any) -> None:
    """Check one part of a payload, such as ``"attention"``.

    Parameters
    ----------
    part : str
        Its key in the payload.
    value : plain data
        What is there. A number may be null, as NaN is stored, and the bytes of packed numbers have to fit their shape.

    Raises
    ------
    ScoreFileError
        If it does not fit, with the place where.
    ValueError
        If packed bytes do not fit their shape.

    Examples
    --------
    >>> require_conforming("level", 0.05)
    >>> require_conforming("level", "0.05")
    Traceback (most recent call last):
    circuitlab.core.errors.ScoreFileError: level is '0.05', not of type ['number', 'null']. Compute it again.
    """
    try:
        _validator(part)(value)
    except fastjsonschema.JsonSchemaValueException as error:
        shown = repr(error.value)
        shown = shown if len(shown) < _LONGEST else shown[: _LONGEST - 3] + "..."
        what = f"{part}{str(error.name).removeprefix('data')} is {shown}, not of {error.rule} {error.rule_definition!r}."
        raise ScoreFileError(what, "Compute it again.") from error
    for packed in _packed(value):
        unpack(packed)


@cache
def _validator(part: str) -> Callable[[Any], Any]:
    schema = payload_schema()
    whole = _older(schema["properties"][part] | {"$defs": schema["$defs"]}) | {"$schema": _DRAFT}
    compiled: Callable[[Any], Any] = fastjsonschema.compile(whole, use_default=False)
    return compiled


def _older(schema: Any) -> Any:
    """The same schema in the words of the draft, with numbers that may be null."""
    if isinstance(schema, list):
        return [_older(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    older = {"items" if key == "prefixItems" else key: _older(inner) for key, inner in schema.items()}
    return older | {"type": ["number", "null"]} if older.get("type") == "number" else older


def _packed(value: Any) -> Iterator[dict[str, Any]]:
    """Every array of packed numbers inside a value that fits its schema."""
    if isinstance(value, list):
        for inner in value:
            yield from _packed(inner)
    elif isinstance(value, dict):
        if "base64" in value:
            yield value
        else:
            for inner in value.values():
                yield from _packed(inner)
