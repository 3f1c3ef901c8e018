"""``circuitlab circuit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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
_EVALUATE = typer.Option(True, "--evaluate/--no-evaluate", help="Run the circuit with everything else ablated, or only list its nodes.")
_ABLATION = typer.Option(
    "resample", "--ablation", help="What replaces everything outside the circuit: resample, zero, mean, mean_by_mark, mean_by_template."
)
_UNIVERSE = typer.Option(None, "--universe", help="What is ablated outside the circuit: heads (MLPs are kept) or heads+mlps.")
_RANDOM = typer.Option(100, "--random", min=0, help="How many random circuits of the same size to compare with.")
_BACKUPS = typer.Option(
    False, "--backups/--no-backups", help="Search for heads that take over when the circuit's strongest heads are ablated."
)
_SEEDS = typer.Option(
    3,
    "--backup-seeds",
    min=1,
    help="How many of the strongest heads to search backups of; each is paired with every head of its layer and later ones.",
)


def circuit(
    task: str,
    model: str = options.MODEL,
    device: str = options.DEVICE,
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
    stream: bool = options.STREAM,
    as_json: bool = options.JSON,
) -> None:
    """Pick the heads (or edges) with the largest mean score as a task's circuit, and evaluate it on held-out prompts, all else ablated."""
    from circuitlab.circuits import TopEdges, TopK  # noqa: PLC0415
    from circuitlab.scores.head_scores import HeadScores  # noqa: PLC0415
    from circuitlab.store import Cache  # noqa: PLC0415

    _require_loaded(ablation if evaluate else "resample", stream=stream, backups=backups)
    request = Request(model, method, pairs, variant, seed, metric, param, store, stream, device=device)
    rule: TopK | TopEdges = TopEdges(edges) if edges else TopK(top)
    loaded = load_checked([task], request, rule)
    from circuitlab.workflows.circuit import evaluate as evaluate_circuit  # noqa: PLC0415 - torch
    from circuitlab.workflows.circuit import find_backups, require_evaluate  # noqa: PLC0415
    from circuitlab.workflows.score import score, score_edges  # noqa: PLC0415

    settings = require_evaluate(ablation, universe, random)
    scores = (score_edges if edges else score)(loaded, task, request.build_method(), **request.score_arguments())  # type: ignore[arg-type]
    picked = rule(scores)  # type: ignore[arg-type]
    evaluation = evaluate_circuit(loaded, picked, task, scores=scores, settings=settings, store=Cache(store)) if evaluate else None
    heads = scores if isinstance(scores, HeadScores) else scores.to_head_scores()
    found_backups = find_backups(loaded, picked, heads, task, backup_seeds, Cache(store)) if backups else None
    if as_json:
        print_json(picked.to_dict() | _measures(evaluation) | {"evaluated": evaluate, "backups": found_backups})
        return
    _print_circuit(picked, f"{task} ({heads.provenance.model.name})", evaluation, found_backups)
    warn_if_unfit(heads)


def _measures(evaluation: CircuitEvaluation | None) -> dict[str, Any]:
    return NOT_EVALUATED if evaluation is None else evaluation.measures | {"cached": evaluation.cached}


def _require_loaded(ablation: str, *, stream: bool, backups: bool) -> None:
    """Raise before a model is loaded, if it would be streamed and something needs a model in memory."""
    from circuitlab.core.errors import BadParameterError  # noqa: PLC0415

    if stream and ablation.startswith("mean"):
        what = f"--ablation {ablation} takes means over activations of all prompts, and --stream keeps one layer at a time in memory."
        raise BadParameterError(what, "Use --ablation resample or zero, or leave out --stream.")
    if stream and backups:
        what = "--backups knocks heads out of a model in memory, and --stream keeps one layer at a time there."
        raise BadParameterError(what, "Leave out one of --backups and --stream.")


def _print_circuit(circuit: Circuit, subject: str, evaluation: CircuitEvaluation | None, backups: dict[str, Any] | None) -> None:
    print_text(f"{circuit.rule} on {subject}" + ("; not evaluated." if evaluation is None else ""))
    print_text(" ".join(map(str, circuit if circuit.edges is None else sorted(circuit.edges))))
    if evaluation is not None:
        print_text("")
        print_evaluation(evaluation)
    if backups is not None:
        print_backups(backups)
