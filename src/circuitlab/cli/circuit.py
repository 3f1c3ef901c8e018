"""``circuitlab circuit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from circuitlab.cli import evaluation, options
from circuitlab.cli.backups import find_backups, print_backups, strongest_heads
from circuitlab.cli.output import print_json, print_text
from circuitlab.cli.scoring import Request, method_params, scored_tasks, warn_if_unfit

if TYPE_CHECKING:
    from circuitlab.circuits.circuit import Circuit
    from circuitlab.scores.edge_scores import EdgeScores
    from circuitlab.scores.head_scores import HeadScores

__all__ = ["circuit"]

_EDGES = typer.Option(None, "--edges", min=1, help="Pick this many edges instead of heads; for methods that score edges (eap, eap_ig).")
_EVALUATE = typer.Option(True, "--evaluate/--no-evaluate", help="Run the circuit with everything else ablated, or only list it.")
_ABLATION = typer.Option("resample", "--ablation", help="What the rest is given: resample, zero, mean, mean_by_mark, mean_by_template.")
_UNIVERSE = typer.Option(None, "--universe", help="What is ablated outside the circuit: heads (MLPs are kept) or heads+mlps.")
_RANDOM = typer.Option(100, "--random", min=0, help="Random circuits of the same size.")
_BACKUPS = typer.Option(False, "--backups/--no-backups", help="Look for heads that stand in for the circuit's strongest ones.")
_SEEDS = typer.Option(3, "--backup-seeds", min=1, help="Of how many heads; each is paired with every head of its layer and after.")


def circuit(
    task: str,
    model: str = options.MODEL,
    method: str = options.METHOD,
    pairs: int = options.PAIRS,
    variant: str = options.VARIANT,
    seed: int = options.SEED,
    metric: str = options.METRIC,
    param: list[str] = options.PARAM,
    store: Path = options.STORE,
    top: int = options.TOP,
    edges: int = _EDGES,
    evaluate: bool = _EVALUATE,
    ablation: str = _ABLATION,
    universe: str = _UNIVERSE,
    random: int = _RANDOM,
    backups: bool = _BACKUPS,
    backup_seeds: int = _SEEDS,
    as_json: bool = options.JSON,
) -> None:
    """Pick a task's circuit, the heads (or edges) with the largest mean score, and evaluate it on fresh prompts, all else ablated."""
    from circuitlab.circuits import TopK  # noqa: PLC0415
    from circuitlab.circuits.select_edges import TopEdges  # noqa: PLC0415
    from circuitlab.store import RunStore  # noqa: PLC0415

    runs, asked = RunStore(store), Request(model, method, pairs, variant, seed, metric, param, store)
    settings = evaluation.evaluation_settings(ablation, universe, random, runs) if evaluate else None
    scoring = evaluation.edge_scoring(method, method_params(param)) if edges else None
    (scored,), loaded = scored_tasks([task], asked)
    scores: HeadScores | EdgeScores = scored.scores
    if scoring is None:
        found = TopK(top)(scored.scores)
    else:
        scores = evaluation.edge_scores(scoring, loaded, scored.scores, task, runs)
        found = TopEdges(edges)(scores)
    measured = evaluation.NOT_EVALUATED if settings is None else evaluation.evaluated(settings, loaded, scores, found, task)
    stand_ins = find_backups(strongest_heads(scored.scores, found, backup_seeds), loaded, scored.scores, task, runs) if backups else None
    if as_json:
        print_json(found.to_dict() | measured | {"evaluated": evaluate, "backups": stand_ins})
        return
    _print_circuit(found, f"{task} ({scored.scores.provenance.model.name})", measured if evaluate else None)
    if stand_ins is not None:
        print_backups(stand_ins)
    warn_if_unfit(scored.scores)


def _print_circuit(found: Circuit, where: str, measured: dict[str, Any] | None) -> None:
    print_text(f"{found.rule} on {where}" + ("; not evaluated." if measured is None else ""))
    print_text(" ".join(map(str, found if found.edges is None else sorted(found.edges))))
    if measured is not None:
        print_text("")
        evaluation.print_evaluation(measured)
