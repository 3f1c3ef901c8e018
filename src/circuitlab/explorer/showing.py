"""Whether what is stored can be shown: its part of a payload is built and compared with the schema before the page is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from circuitlab.explorer.conforms import require_conforming
from circuitlab.explorer.payload_circuits import circuits_of
from circuitlab.explorer.payload_compare import dissociations_of, transfer_of
from circuitlab.explorer.payload_roles import attention_of, cards_of, prompts_of, roles_of
from circuitlab.explorer.payload_scores import methods_of

if TYPE_CHECKING:
    from circuitlab.explorer.names import Names
    from circuitlab.explorer.sources import Sources

__all__ = ["require_shown"]


def require_shown(sources: Sources, names: Names) -> None:
    """Build the parts of a payload that these sources give.

    Parameters
    ----------
    sources : Sources
        Runs, and what is stored beside them.
    names : Names
        Names of the models and tasks of these runs.

    Raises
    ------
    ScoreFileError
        If a part does not fit the schema; data of another form raise whatever reading them raises (`circuitlab.store.MISFITS`).
    """
    parts: dict[str, Any] = {
        "prompts": prompts_of(sources, names),
        "attention": attention_of(sources, names),
        "roles": roles_of(sources, names),
        "cards": cards_of(sources, names),
        "transfer": transfer_of(sources, names),
        "dissociation": dissociations_of(sources, names),
    }
    if sources.planted:
        parts["methods"] = methods_of(sources)
    for circuit in sources.circuits:
        own = tuple(run for run in sources.runs if run.provenance.run_id() == circuit.run_id)
        edges = {run_id: scores for run_id, scores in sources.edges.items() if run_id == circuit.run_id}
        parts["circuits"] = circuits_of(replace(sources, runs=own, circuits=(circuit,), edges=edges), names)[0]
    for part, value in parts.items():
        require_conforming(part, value)
