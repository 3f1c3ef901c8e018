"""Whether a part of a payload has the form that the schema gives it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator, ValidationError, validators

from circuitlab.core.errors import ScoreFileError
from circuitlab.explorer.packed import unpack
from circuitlab.explorer.schema import payload_schema

__all__ = ["require_conforming"]

_LONGEST = 60


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
    circuitlab.core.errors.ScoreFileError: level is '0.05', not of type 'number'. Compute it again.
    """
    schema = payload_schema()["properties"][part] | {"$defs": payload_schema()["$defs"]}
    error = next(_validator()(schema).iter_errors(value), None)
    if error is not None:
        shown = repr(error.instance)
        shown = shown if len(shown) < _LONGEST else shown[: _LONGEST - 3] + "..."
        what = f"{part}{error.json_path.removeprefix('$')} is {shown}, not of {error.validator} {error.validator_value!r}."
        raise ScoreFileError(what, "Compute it again.")


@cache
def _validator() -> Any:
    """The class of validators in which a number may be null, as NaN is stored, and the bytes of packed numbers have to fit their shape."""
    known = Draft202012Validator.TYPE_CHECKER
    checker = known.redefine("number", lambda _, value: value is None or known.is_type(value, "number"))
    return validators.extend(Draft202012Validator, {"minimum": _minimum, "$ref": _ref}, type_checker=checker)


def _minimum(validator: Any, least: float, value: Any, schema: Mapping[str, Any]) -> Iterator[ValidationError]:
    if value is not None:
        yield from Draft202012Validator.VALIDATORS["minimum"](validator, least, value, schema)


def _ref(validator: Any, ref: str, value: Any, schema: Mapping[str, Any]) -> Iterator[ValidationError]:
    wrong = list(Draft202012Validator.VALIDATORS["$ref"](validator, ref, value, schema))
    yield from wrong
    if ref == "#/$defs/packed" and not wrong:
        unpack(value)
