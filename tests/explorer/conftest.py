"""A planted model with two sets of prompts, scored and measured once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import circuitlab as cl
from circuitlab.explorer.schema import payload_schema
from circuitlab.model.toy import build_planted
from circuitlab.store import Cache

METHODS = ("activation_patching", "logit_attribution")
FRONT_END = Path(cl.__file__).parent / "explorer" / "static" / "explorer.js"


@dataclass(frozen=True)
class Planted:
    """The model, its prompts, the store with everything, and the payload."""

    model: Any
    batches: tuple[Any, ...]
    store: Cache
    payload: dict[str, Any]


@pytest.fixture(scope="session")
def planted(tmp_path_factory) -> Planted:
    made = build_planted("copy-gqa")
    batches = (made.batch(4), made.batch(6, seed=1))
    store = Cache(tmp_path_factory.mktemp("explorer") / "runs")
    from circuitlab.explorer.explore import explored
    from circuitlab.explorer.payload import build_payload

    sources = explored(made.model, batches, METHODS, measure=["attention", "cards", "circuits"], store=store)
    return Planted(made.model, batches, store, build_payload(sources))


@pytest.fixture(scope="session")
def check():
    """Raise where a payload does not fit the schema."""
    validator = jsonschema.Draft202012Validator(payload_schema())
    return validator.validate
