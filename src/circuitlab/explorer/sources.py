"""What a page is built from: stored results, read without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuitlab.scores.edge_scores import EdgeScores
    from circuitlab.scores.head_scores import HeadScores
    from circuitlab.scores.role_scores import RoleScores
    from circuitlab.tasks.spec import Task

__all__ = ["Sources", "StoredCards", "StoredCircuit", "StoredPrompts"]


@dataclass(frozen=True, eq=False)
class StoredPrompts:
    """Tokens of a run's prompts, and the attention of the first of them.

    Parameters
    ----------
    model : mapping of str to str
        Identity of the model.
    task : mapping
        Which prompts: ``id``, ``variant``, ``version``, ``seed``, ``n_pairs`` and ``digest``, as in `circuitlab.core.provenance.TaskRef`.
    pairs, attention : sequence of mapping
        As in the payload, without the names of model and task.
    lacks : str
        Why the model has no attention to read, if so.
    """

    model: Mapping[str, str]
    task: Mapping[str, Any]
    pairs: Sequence[Mapping[str, Any]]
    attention: Sequence[Mapping[str, Any]]
    lacks: str = ""


@dataclass(frozen=True, eq=False)
class StoredCards:
    """The measured parts of heads' cards, by the name of the head.

    Parameters
    ----------
    model : mapping of str to str
        Identity of the model.
    parts : mapping of str to mapping
        For each head its sections, by name, as in the payload.
    """

    model: Mapping[str, str]
    parts: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class StoredCircuit:
    """A circuit that was evaluated.

    Parameters
    ----------
    run_id : str
        The run that its elements are ranked by.
    nodes, edges : sequence of str, and sequence of str or None
        Names of its elements; edges are None for a circuit of nodes alone.
    rule : str
        How it was selected, in words; empty if that was not stored.
    measures : mapping
        `circuitlab.evaluation.Evaluation.to_dict` as it is stored.
    band : sequence of mapping
        ``{"size", "n", "mean", "low", "high"}`` of random circuits of other sizes.
    """

    run_id: str
    nodes: Sequence[str]
    edges: Sequence[str] | None
    rule: str
    measures: Mapping[str, Any]
    band: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, eq=False)
class Sources:
    """Everything that one page shows.

    Parameters
    ----------
    runs : tuple of HeadScores
        Scores; the model of the first is the main one.
    title : str
        Heading; made from the runs if empty.
    roles : tuple of RoleScores
        Roles.
    refused : mapping of str to str
        What could not be measured, with the reason, by the name that ``absent`` of the payload gives it, such as ``"roles/retrieval"``.
    prompts : tuple of StoredPrompts
        Tokens and attention.
    cards : tuple of StoredCards
        Parts of heads' cards.
    circuits : tuple of StoredCircuit
        Circuits that were evaluated.
    edges : mapping of str to EdgeScores
        Scores of edges by run id.
    transfers : tuple of (mapping of str to str, mapping)
        Run id of every task of a transfer table, by its name there, and the table as plain data (`circuitlab.transfer(...).to_dict()`).
    planted : mapping of str to sequence of mapping
        Grades of methods on planted models, by method, as plain data of `circuitlab.workflows.planted.PlantedResult`.
    tasks : mapping of str to Task
        Tasks by id, for those that are not in the task folder.
    made_by : mapping of str to str
        ``command`` and ``python`` that make this page, and ``study``, its id, for a page of a study.
    top_k : int
        Number of heads of which overlaps are shown, and size of circuits that were not evaluated.
    """

    runs: tuple[HeadScores, ...]
    title: str = ""
    roles: tuple[RoleScores, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    prompts: tuple[StoredPrompts, ...] = ()
    cards: tuple[StoredCards, ...] = ()
    circuits: tuple[StoredCircuit, ...] = ()
    edges: Mapping[str, EdgeScores] = field(default_factory=dict)
    transfers: tuple[tuple[Mapping[str, str], Mapping[str, Any]], ...] = ()
    planted: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    tasks: Mapping[str, Task] = field(default_factory=dict)
    made_by: Mapping[str, str] = field(default_factory=dict)
    top_k: int = 20
