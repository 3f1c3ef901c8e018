"""Planted models: transformers with hand-set weights, whose circuit is known, so that every method can be graded on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from circuitlab.core.errors import UnknownNameError
from circuitlab.model.toy.copying import copy_head, loud_distractor, shared_group
from circuitlab.model.toy.gates import backup_pair, blocker
from circuitlab.model.toy.names import names_chain
from circuitlab.model.toy.planted import PlantedModel
from circuitlab.model.toy.sequences import induction, successor
from circuitlab.model.toy.trained import trained_induction
from circuitlab.model.toy.wiring import Form

__all__ = ["CIRCUITS", "PlantedModel", "build_planted", "planted_model", "planted_models", "planted_names", "trained_induction"]

CIRCUITS: dict[str, tuple[Callable[[Form, float], PlantedModel], tuple[Form, ...]]] = {
    "copy": (copy_head, ("gqa", "mha")),
    "distractor": (loud_distractor, ("gqa", "mha")),
    "shared_group": (shared_group, ("gqa",)),
    "induction": (induction, ("gqa", "mha")),
    "successor": (successor, ("gqa", "mha")),
    "names": (names_chain, ("gqa", "mha")),
    "blocker": (blocker, ("gqa", "mha")),
    "backup": (backup_pair, ("gqa", "mha")),
}
"""Every planted circuit: how to build it, and its forms. A shared group has no multi-head form."""


def planted_names() -> list[str]:
    """Names of every planted model, for example ``"induction-gqa"``."""
    return [f"{circuit}-{form}" for circuit, (_, forms) in CIRCUITS.items() for form in forms]


def build_planted(name: str, *, background: float = 0.02) -> PlantedModel:
    """Build one planted model; deterministic, in milliseconds.

    Parameters
    ----------
    name : str
        One of `planted_names`.
    background : float
        Size of what heads and MLPs outside the circuit write, relative to features of size 1; 0 leaves them dead.

    Raises
    ------
    UnknownNameError
        If there is no such model; the nearest name is suggested.
    """
    if name not in planted_names():
        raise UnknownNameError("planted model", name, planted_names())
    circuit, _, form = name.rpartition("-")
    return CIRCUITS[circuit][0]("gqa" if form == "gqa" else "mha", background)


def planted_models() -> Iterator[PlantedModel]:
    """Every planted model, with its background."""
    return map(build_planted, planted_names())


def planted_model() -> PlantedModel:
    """The copy head in its grouped-query form, without a background: the model that `check_method` uses."""
    return copy_head("gqa", background=0.0)
