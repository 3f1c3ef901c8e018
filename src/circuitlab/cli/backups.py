"""What ``circuitlab circuit --backups`` adds: heads that stand in for heads of the circuit."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from circuitlab.cli.output import interval_text, print_table, print_text

if TYPE_CHECKING:
    from circuitlab.circuits.circuit import Circuit
    from circuitlab.core.nodes import Node
    from circuitlab.model.protocol import Model
    from circuitlab.scores.head_scores import HeadScores
    from circuitlab.store import RunStore

__all__ = ["find_backups", "print_backups", "strongest_heads"]

_VERSION = 1
"""Of how backups are searched; a change makes stored searches new."""


def find_backups(seeds: list[Node], model: Model, scores: HeadScores, task: str, store: RunStore) -> dict[str, Any]:
    """Search for backups of some heads on fresh pairs, or find the search in the store; `Backups.to_dict` with ``"seeds"``."""
    from circuitlab.evaluate.stored import about_batch  # noqa: PLC0415
    from circuitlab.metrics import get_metric  # noqa: PLC0415
    from circuitlab.workflows.backups import BackupFinder  # noqa: PLC0415
    from circuitlab.workflows.heldout import fresh_pairs  # noqa: PLC0415
    from circuitlab.workflows.terminal import CellProgress  # noqa: PLC0415

    batch, _ = fresh_pairs(model, scores.provenance.task, task=task)
    metric, finder, names = get_metric(scores.provenance.metric), BackupFinder(), [str(seed) for seed in seeds]
    about = {"version": _VERSION, "finder": dataclasses.asdict(finder), "seeds": names, **about_batch(model, batch, metric)}
    with CellProgress(f"{task} x backups"):
        found, _ = store.documents("backups").get_or_compute(about, lambda: finder(model, batch, metric, seeds).to_dict())
    return found | {"seeds": names}


def strongest_heads(scores: HeadScores, circuit: Circuit, n: int) -> list[Node]:
    """The heads of a circuit with the largest mean scores by magnitude.

    Raises
    ------
    BadParameterError
        If it holds no head.
    """
    from circuitlab.core.errors import BadParameterError  # noqa: PLC0415
    from circuitlab.core.nodes import Head  # noqa: PLC0415

    ranked = [entry.node for entry in scores.top(scores.universe.n_layers * scores.universe.n_heads, "heads")]
    found = [node for node in ranked if isinstance(node, Head) and node in circuit.nodes][:n]
    if not found:
        what = "The circuit holds no head that another could back up."
        raise BadParameterError(what, "Leave out --backups, or ask for more heads or edges.")
    return list(found)


def print_backups(found: dict[str, Any]) -> None:
    """Write the groups as text."""
    print_text(f"\nBackups of {', '.join(found['seeds'])}, {found['tested']} pairs of heads knocked out together:")
    if not found["groups"]:
        print_text("no two heads of which either is enough.")
        return
    rows = [[" or ".join(group["heads"]), interval_text(group["effect"]), interval_text(group["excess"])] for group in found["groups"]]
    print_table(["either of", "lost without all", "beyond the single losses"], rows)
