"""What ``circuitlab circuit`` adds to the list of nodes: their evaluation, as one document or as text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from circuitlab.cli.output import interval_text, print_table, print_text

if TYPE_CHECKING:
    from circuitlab.circuits.circuit import Circuit
    from circuitlab.evaluate import StoredEvaluate
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model
    from circuitlab.scores.edge_scores import EdgeScores
    from circuitlab.scores.head_scores import HeadScores
    from circuitlab.store import RunStore

__all__ = [
    "NOT_EVALUATED",
    "EdgeScoring",
    "edge_scores",
    "edge_scoring",
    "evaluated",
    "evaluation_settings",
    "print_evaluation",
]

EdgeScoring: TypeAlias = Callable[["Model", "ContrastBatch", "Metric"], "EdgeScores"]
"""What methods that score edges offer beside the scores of nodes."""

NOT_EVALUATED = dict.fromkeys(("faithfulness", "completeness", "minimality", "cpr", "cmd", "conventions", "random"))
"""The measures of a circuit that was only picked."""


def evaluation_settings(ablation: str, universe: str | None, n_random: int, store: RunStore) -> StoredEvaluate:
    """The evaluation that was asked for; wrong names are found before anything runs.

    Raises
    ------
    UnknownNameError
        If there is no such ablation or universe.
    """
    from circuitlab.core.errors import UnknownNameError  # noqa: PLC0415
    from circuitlab.evaluate import Evaluate, StoredEvaluate  # noqa: PLC0415

    universes: dict[str | None, tuple[str, ...] | None] = {None: None, "heads": ("heads",), "heads+mlps": ("heads", "mlps")}
    if universe not in universes:
        raise UnknownNameError("universe", str(universe), ["heads", "heads+mlps"])
    settings = Evaluate(ablation=ablation, parts=universes[universe], n_random=n_random)  # type: ignore[arg-type]
    return StoredEvaluate(settings, store)


def edge_scoring(name: str, params: dict[str, Any]) -> EdgeScoring:
    """The method of this name, which has to score edges.

    Raises
    ------
    BadParameterError
        If it scores nodes alone; the methods that score edges are named.
    """
    from circuitlab.core.errors import BadParameterError  # noqa: PLC0415
    from circuitlab.methods import get_method, method_classes  # noqa: PLC0415

    method: Any = get_method(name, params)
    if not hasattr(method, "edges"):
        able = ", ".join(known for known, cls in method_classes().items() if hasattr(cls, "edges"))
        what = f"{name!r} scores nodes, and --edges needs scores of edges."
        raise BadParameterError(what, f"Use --method with one of {able}.")
    return method.edges  # type: ignore[no-any-return]


def edge_scores(scoring: EdgeScoring, model: Model, scores: HeadScores, task: str, store: RunStore) -> EdgeScores:
    """Scores of every edge on the pairs that were scored, with the same provenance, from the store where it has them."""
    from circuitlab.metrics import get_metric  # noqa: PLC0415
    from circuitlab.model.prepare import prepare_batch  # noqa: PLC0415

    where = scores.provenance

    def compute() -> EdgeScores:
        batch = prepare_batch(model, task, where.task.n_pairs, variant=where.task.variant, seed=where.task.seed)
        return replace(scoring(model, batch, get_metric(where.metric)), provenance=where)

    return store.edges.get_or_compute(where.run_id(), compute)[0]


def evaluated(settings: StoredEvaluate, model: Model, scores: HeadScores | EdgeScores, found: Circuit, task: str) -> dict[str, Any]:
    """Evaluate a circuit on fresh pairs, or find its evaluation in the store, and give the document's measures."""
    from circuitlab.metrics import get_metric  # noqa: PLC0415
    from circuitlab.workflows.heldout import fresh_pairs  # noqa: PLC0415
    from circuitlab.workflows.terminal import CellProgress  # noqa: PLC0415

    batch, prompts = fresh_pairs(model, scores.provenance.task, task=task)
    with CellProgress(f"{task} x evaluation"):
        measured, cached = settings(found, model, batch, get_metric(scores.provenance.metric), scores)
    return measured | {"conventions": measured["conventions"] | {"prompts": prompts}, "cached": cached}


def print_evaluation(measured: dict[str, Any]) -> None:
    """Write the measures as text."""
    rows = [["faithfulness", interval_text(measured["faithfulness"])]]
    if (whole := measured["completeness"]) is not None:
        rows.append(["incompleteness", f"{interval_text(whole)}, worst {whole['worst']:.2f} of {whole['n']} subsets"])
    if (least := measured["minimality"]) is not None:
        rows.append(["least element's share", f"{least['least']:.3f}"])
    rows += [[name.upper(), interval_text(measured[name])] for name in ("cpr", "cmd") if measured[name] is not None]
    chance = measured["random"]
    if chance["n"]:
        spread = f"{chance['mean']:.2f} [{chance['low']:.2f}, {chance['high']:.2f}]"
        rows.append([f"{chance['n']} random circuits", f"{spread}, p = {chance['p']:.3g}"])
    print_table(["measure", "value"], rows)
    said = measured["conventions"]
    print_text(f"\nAblated: {said['universe']} outside the circuit, {said['ablated_value']}. Kept: {said['kept']}.")
    print_text(f"Prompts: {said['prompts']}. Every convention: --json.")
