"""The JSON Schema of payloads, which the front end relies on."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = ["payload_schema"]


@cache
def payload_schema() -> dict[str, Any]:
    """The JSON Schema of payloads."""
    schema: dict[str, Any] = json.loads(files("circuitlab.explorer").joinpath("schema.json").read_text(encoding="utf-8"))
    return schema
