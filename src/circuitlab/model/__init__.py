"""Models: how they are loaded, the protocol circuitlab runs them through, and the prompts they run on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuitlab.model.load import load_model

__all__ = ["load_model"]


def __getattr__(name: str) -> Any:
    # Importing this package must not import torch: `circuitlab models list` only needs the alias table.
    if name == "load_model":
        from circuitlab.model.load import load_model  # noqa: PLC0415

        return load_model
    what = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(what)
