"""Laws that every method, model and intervention must obey, to run on your own."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuitlab.testing.intervention_laws import check_intervention
    from circuitlab.testing.method_laws import check_method
    from circuitlab.testing.model_laws import check_model

__all__ = ["check_intervention", "check_method", "check_model"]


def __getattr__(name: str) -> Any:
    modules = {
        "check_intervention": "circuitlab.testing.intervention_laws",
        "check_method": "circuitlab.testing.method_laws",
        "check_model": "circuitlab.testing.model_laws",
    }
    if name not in modules:
        what = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(what)
    return getattr(importlib.import_module(modules[name]), name)
