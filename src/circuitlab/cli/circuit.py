"""``circuitlab circuit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from circuitlab.cli import options
from circuitlab.cli.backups import print_backups
from circuitlab.cli.evaluation import NOT_EVALUATED, print_evaluation
from circuitlab.cli.output import print_json, print_text
from circuitlab.cli.scoring import Request, load_checked, warn_if_unfit

if TYPE_CHECKING:
    from circuitlab.circuits.circuit import Circuit
    from circuitlab.workflows.circuit import CircuitEvaluation

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
    from circuitlab.circuits import TopEdges, TopK  # noqa: PLC0415
    from circuitlab.scores.head_scores import HeadScores  # noqa: PLC0415
    from circuitlab.store import Cache  # noqa: PLC0415

    asked = Request(model, method, pairs, variant, seed, metric, param, store)
    rule: TopK | TopEdges = TopEdges(edges) if edges else TopK(top)
    loaded = load_checked([task], asked, rule)
    from circuitlab.workflows.circuit import evaluate as run_alone  # noqa: PLC0415 - torch
    from circuitlab.workflows.circuit import find_backups, require_evaluate  # noqa: PLC0415
    from circuitlab.workflows.score import score, score_edges  # noqa: PLC0415

    settings = require_evaluate(ablation, universe, random)
    scores = (score_edges if edges else score)(loaded, task, asked.built(), **asked.scoring())  # type: ignore[arg-type]
    found = rule(scores)  # type: ignore[arg-type]
    evaluation = run_alone(loaded, found, task, scores=scores, settings=settings, store=Cache(store)) if evaluate else None
    heads = scores if isinstance(scores, HeadScores) else scores.to_head_scores()
    stand_ins = find_backups(loaded, found, heads, task, backup_seeds, Cache(store)) if backups else None
    if as_json:
        measures = NOT_EVALUATED if evaluation is None else evaluation.measures | {"cached": evaluation.cached}
        print_json(found.to_dict() | measures | {"evaluated": evaluate, "backups": stand_ins})
        return
    _print_circuit(found, f"{task} ({heads.provenance.model.name})", evaluation)
    if stand_ins is not None:
        print_backups(stand_ins)
    warn_if_unfit(heads)


def _print_circuit(found: Circuit, where: str, evaluation: CircuitEvaluation | None) -> None:
    print_text(f"{found.rule} on {where}" + ("; not evaluated." if evaluation is None else ""))
    print_text(" ".join(map(str, found if found.edges is None else sorted(found.edges))))
    if evaluation is not None:
        print_text("")
        print_evaluation(evaluation)
