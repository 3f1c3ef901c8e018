"""``circuitlab score``, ``methods list`` and ``cite``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from circuitlab.cli import options
from circuitlab.cli.output import print_json, print_table, print_text, save_figure
from circuitlab.cli.scoring import Request, load_checked, warn_if_unfit

if TYPE_CHECKING:
    from circuitlab.scores.parts import NodeScore
    from circuitlab.workflows.score import Scored

__all__ = ["cite", "methods_app", "score", "score_document"]

_TASK = typer.Argument(None, help="Not needed for methods that read weights alone, such as copying_score.")

methods_app = typer.Typer(help="Methods that score heads, and roles that heads play.", no_args_is_help=True)


@methods_app.command("list")
def list_all(as_json: bool = options.JSON) -> None:
    """List every method and every role with its estimand and cost."""
    from circuitlab.methods import method_classes  # noqa: PLC0415
    from circuitlab.methods.roles import role_classes  # noqa: PLC0415

    shared = ("name", "estimand", "needs", "cost", "cite")
    scoring = [{"kind": "score"} | {field: getattr(cls, field) for field in (*shared, "additive")} for cls in method_classes().values()]
    fields = (*shared, "kind", "units", "threshold", "null")
    roles = [{field: getattr(cls, field) for field in fields} for cls in role_classes().values()]
    if as_json:
        print_json({"methods": scoring, "roles": roles})
        return
    print_table(["method", "estimand", "cost"], [[e["name"], e["estimand"], e["cost"]] for e in scoring])
    print_text("")
    print_table(["role", "read from", "estimand", "cost"], [[e["name"], e["kind"], e["estimand"], e["cost"]] for e in roles])


def score(
    task: str = _TASK,
    model: str = options.MODEL,
    device: str = options.DEVICE,
    method: str = options.METHOD,
    pairs: int = options.PAIRS,
    variant: str = options.VARIANT,
    seed: int = options.SEED,
    metric: str = options.METRIC,
    param: list[str] = options.PARAM,
    store: Path = options.STORE,
    figure: Path = options.FIGURE,
    stream: bool = options.STREAM,
    memory: str = options.MEMORY,
    as_json: bool = options.JSON,
) -> None:
    """Score every head of a model on a task, with intervals over prompt pairs; or from its weights alone, without a task."""
    from circuitlab.execute.memory import gibibytes  # noqa: PLC0415 - imports take time
    from circuitlab.store import Cache  # noqa: PLC0415

    if memory is not None:
        gibibytes(memory)  # refused before the model is loaded
    request = Request(model, method, pairs, variant, seed, metric, param, store, stream, device)
    loaded = load_checked([task] if task else [], request)
    from circuitlab.workflows.prompts import Draws  # noqa: PLC0415 - torch
    from circuitlab.workflows.score import score_task  # noqa: PLC0415
    from circuitlab.workflows.terminal import CellProgress  # noqa: PLC0415

    with CellProgress(f"{task} x {method}" if task else method):
        scored = score_task(
            loaded, task, request.build_method(), Draws(pairs, variant, seed), metric=metric, store=Cache(store), memory=memory
        )
    if figure is not None:
        from circuitlab.figures import head_heatmap  # noqa: PLC0415 - plotly

        save_figure(head_heatmap(scored.scores, mark=(scored.scores.marks or (None,))[0]), figure)
    if as_json:
        print_json(score_document(scored))
        return
    _print_scores(scored)


def cite(name: str, as_json: bool = options.JSON) -> None:
    """Print the BibTeX entries of a task, a method or a citation key."""
    from circuitlab.citations import bibtex, keys_for  # noqa: PLC0415

    keys = keys_for(name)
    if as_json:
        print_json({"name": name, "keys": keys, "bibtex": [bibtex(key) for key in keys]})
        return
    print_text("\n\n".join(bibtex(key) for key in keys))


def score_document(scored: Scored) -> dict[str, Any]:
    """The JSON document of ``circuitlab score``."""
    from circuitlab.workflows.score import run_checks  # noqa: PLC0415

    scores, provenance = scored.scores, scored.scores.provenance
    document: dict[str, Any] = {
        "run_id": provenance.run_id(),
        "task": provenance.task.id,
        "variant": provenance.task.variant,
        "model": provenance.model.name,
        "method": provenance.method,
        "params": provenance.params,
        "estimand": provenance.estimand,
        "metric": provenance.metric,
        "units": provenance.units,
        "n_pairs": scores.n_pairs,
        "dropped": provenance.task.dropped,
        "seconds": scored.seconds,
        "cached": scored.cached,
        "ready": None if provenance.fitness is None else provenance.fitness.ready,
        "total": None if scores.weights_only else scores.gap().as_dict(),
        "checks": run_checks(scores),
        "heads": [],
        "mlps": [],
    }
    for part in scores.parts:
        document[part] = [_entry(node, mark) for mark in scores.marks or (None,) for node in scores.nodes(part, mark=mark)]
    return document


def _entry(node: NodeScore, mark: str | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"node": str(node.node), "mean": node.mean, "low": node.low, "high": node.high}
    return entry if mark is None else entry | {"mark": mark}


def _print_scores(scored: Scored) -> None:
    from circuitlab.scores.intervals import NO_INTERVAL  # noqa: PLC0415

    scores, provenance = scored.scores, scored.scores.provenance
    note = "found in the store" if scored.cached else f"{scored.seconds:.0f} s"
    if scores.weights_only:
        print_text(f"{provenance.method} from weights alone, {provenance.model.name}, {note}")
        print_text(f"run {provenance.run_id()}: {provenance.estimand}, in {provenance.units}; {NO_INTERVAL}\n")
        print_table(["node", "score"], [[str(entry.node), f"{entry.mean:+.3f}"] for entry in scores.top(15, scores.parts[0])])
        return
    print_text(
        f"{provenance.method} on {provenance.task.id} ({provenance.task.variant}), {provenance.model.name}, {scores.n_pairs} pairs, {note}"
    )
    print_text(f"run {provenance.run_id()}: {provenance.estimand}, in {provenance.units}; positive helps the answer\n")
    for mark in scores.marks or (None,):
        strongest = scores.top(15, scores.parts[0], mark=mark)
        limits = ["needs two pairs" if scores.n_pairs == 1 else f"[{entry.low:+.3f}, {entry.high:+.3f}]" for entry in strongest]
        rows = [[str(entry.node), f"{entry.mean:+.3f}", limit] for entry, limit in zip(strongest, limits, strict=True)]
        print_table([mark or "node", "mean", "95 % interval"], rows)
    warn_if_unfit(scores)
