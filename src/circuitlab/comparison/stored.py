"""Reading results from plain data in which NaN was stored as null."""

from __future__ import annotations

from typing import Any

__all__ = ["with_nan"]

_LIMITS = {"mean", "low", "high"}


def with_nan(value: Any) -> Any:
    """The same plain data with null replaced by NaN in every ``{"mean", "low", "high"}``, at any depth."""
    if isinstance(value, dict):
        if set(value) >= _LIMITS:
            return value | {name: float("nan") if value[name] is None else value[name] for name in _LIMITS}
        return {key: with_nan(entry) for key, entry in value.items()}
    return [with_nan(entry) for entry in value] if isinstance(value, list) else value
