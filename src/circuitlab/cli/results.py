"""``circuitlab score``, ``circuit``, ``compare``, ``methods list`` and ``cite``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from circuitlab.cli.output import print_json, print_table, print_text

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model
    from circuitlab.scores.edge_scores import EdgeScores
    from circuitlab.scores.head_scores import HeadScores, NodeScore
    from circuitlab.study.score import Scored

__all__ = ["circuit", "cite", "compare", "methods_app", "score", "score_document"]

methods_app = typer.Typer(help="Methods that score heads.", no_args_is_help=True)

_JSON = typer.Option(False, "--json", help="Print one JSON document.")
_MODEL = typer.Option("smollm2-135m", "--model", help="Alias, path or hub name.")
_METHOD = typer.Option("activation_patching", "--method", help="See `circuitlab methods list`.")
_PAIRS = typer.Option(16, "-n", "--pairs", min=1, help="Prompt pairs.")
_VARIANT = typer.Option(None, "--variant", help="Which corruption; the task's default otherwise.")
_SEED = typer.Option(0, "--seed", help="Seed of the stream of pairs.")
_METRIC = typer.Option(None, "--metric", help="The task's own otherwise.")
_PARAM = typer.Option([], "--param", help="Parameter of the method, name=value (JSON or text); repeatable.")
_STORE = typer.Option(None, "--store", help="Folder of finished runs: $CIRCUITLAB_STORE or ./runs otherwise.")
_TOP = typer.Option(20, "-k", "--top", min=1, help="How many heads.")
_EDGES = typer.Option(None, "--edges", min=1, help="Pick this many edges instead of heads; for methods that score edges (eap, eap_ig).")
_EVALUATE = typer.Option(True, "--evaluate/--no-evaluate", help="Run the circuit with everything else ablated, or only list it.")
_ABLATION = typer.Option("resample", "--ablation", help="What everything else is given: resample, zero, mean or mean_by_mark.")
_UNIVERSE = typer.Option(None, "--universe", help="What is ablated outside the circuit: heads (MLPs are kept) or heads+mlps.")
_RANDOM = typer.Option(100, "--random", min=0, help="Random circuits of the same size.")


@methods_app.command("list")
def list_all(as_json: bool = _JSON) -> None:
    """List every method with what it estimates and costs."""
    from circuitlab.methods import method_classes  # noqa: PLC0415

    fields = ("name", "estimand", "additive", "needs", "cost", "cite")
    entries = [{field: getattr(cls, field) for field in fields} for cls in method_classes().values()]
    if as_json:
        print_json({"methods": entries})
        return
    print_table(["method", "estimand", "cost"], [[e["name"], e["estimand"], e["cost"]] for e in entries])


@dataclass(frozen=True)
class _Request:
    """Options that `score`, `circuit` and `compare` share."""

    model: str
    method: str
    pairs: int
    variant: str | None
    seed: int
    metric: str | None
    params: list[str]
    store: Path | None


def score(
    task: str,
    model: str = _MODEL,
    method: str = _METHOD,
    pairs: int = _PAIRS,
    variant: str = _VARIANT,
    seed: int = _SEED,
    metric: str = _METRIC,
    param: list[str] = _PARAM,
    store: Path = _STORE,
    as_json: bool = _JSON,
) -> None:
    """Score every head of a model on a task, with intervals over prompt pairs."""
    (scored,), _ = _scored([task], _Request(model, method, pairs, variant, seed, metric, param, store))
    if as_json:
        print_json(score_document(scored))
        return
    _print_scores(scored)


def circuit(
    task: str,
    model: str = _MODEL,
    method: str = _METHOD,
    pairs: int = _PAIRS,
    variant: str = _VARIANT,
    seed: int = _SEED,
    metric: str = _METRIC,
    param: list[str] = _PARAM,
    store: Path = _STORE,
    top: int = _TOP,
    edges: int = _EDGES,
    evaluate: bool = _EVALUATE,
    ablation: str = _ABLATION,
    universe: str = _UNIVERSE,
    random: int = _RANDOM,
    as_json: bool = _JSON,
) -> None:
    """Pick a task's circuit, the heads (or edges) with the largest mean score, and evaluate it on fresh prompts, all else ablated."""
    from circuitlab.circuits import TopK  # noqa: PLC0415
    from circuitlab.circuits.select_edges import TopEdges  # noqa: PLC0415
    from circuitlab.cli import circuit as evaluation  # noqa: PLC0415

    settings = evaluation.evaluation_settings(ablation, universe, random) if evaluate else None
    scoring = evaluation.edge_scoring(method, _params(param)) if edges else None
    (scored,), loaded = _scored([task], _Request(model, method, pairs, variant, seed, metric, param, store))
    scores: HeadScores | EdgeScores = scored.scores
    if scoring is None:
        found = TopK(top)(scored.scores)
    else:
        scores = evaluation.edge_scores(scoring, loaded, scored.scores, task)
        found = TopEdges(edges)(scores)
    measured = evaluation.NOT_EVALUATED if settings is None else evaluation.evaluated(settings, loaded, scores, found, task)
    if as_json:
        print_json(found.to_dict() | measured | {"evaluated": evaluate})
        return
    print_text(f"{found.rule} on {task} ({scored.scores.provenance.model.name})" + ("" if evaluate else "; not evaluated."))
    print_text(" ".join(map(str, found if found.edges is None else sorted(found.edges))) + "\n" * evaluate)
    if evaluate:
        evaluation.print_evaluation(measured)
    _warn_if_unfit(scored.scores)


def compare(
    tasks: list[str],
    model: str = _MODEL,
    method: str = _METHOD,
    pairs: int = _PAIRS,
    seed: int = _SEED,
    metric: str = _METRIC,
    param: list[str] = _PARAM,
    store: Path = _STORE,
    top: int = _TOP,
    as_json: bool = _JSON,
) -> None:
    """Compare the circuits of two or more tasks: overlap with its chance level, rank agreement, intervals."""
    from circuitlab.circuits import TopK  # noqa: PLC0415
    from circuitlab.compare import compare_tasks  # noqa: PLC0415
    from circuitlab.errors import BadParameterError  # noqa: PLC0415

    if len(set(tasks)) < 2:  # noqa: PLR2004
        what = f"Comparing needs two different tasks; got {', '.join(tasks)}."
        raise BadParameterError(what, "Name another task.")
    names = list(dict.fromkeys(tasks))
    scored, _ = _scored(names, _Request(model, method, pairs, None, seed, metric, param, store))
    table = compare_tasks({name: one.scores for name, one in zip(names, scored, strict=True)}, TopK(top))
    if as_json:
        print_json(table.to_dict())
        return
    print_text(f"{table.rule}, {table.method} on {table.model}\n")
    rows = []
    for row in table.rows:
        spread = f"{row.jaccard['mean']:.2f} [{row.jaccard['low']:.2f}, {row.jaccard['high']:.2f}]"
        rows.append([f"{row.task_a} ~ {row.task_b}", spread, f"{row.null_mean:.2f}", f"{row.q:.3g}", f"{row.spearman['mean']:.2f}"])
    print_table(["tasks", "Jaccard", "by chance", "q", "Spearman"], rows)
    for one in scored:
        _warn_if_unfit(one.scores)


def cite(name: str, as_json: bool = _JSON) -> None:
    """Show what to cite for a task, a method, or a citation key."""
    from circuitlab.citations import bibtex, keys_for  # noqa: PLC0415

    keys = keys_for(name)
    if as_json:
        print_json({"name": name, "keys": keys, "bibtex": [bibtex(key) for key in keys]})
        return
    print_text("\n\n".join(bibtex(key) for key in keys))


def score_document(scored: Scored) -> dict[str, Any]:
    """The JSON document of ``circuitlab score``."""
    from circuitlab.study.score import run_checks  # noqa: PLC0415

    scores, where = scored.scores, scored.scores.provenance
    document: dict[str, Any] = {
        "run_id": where.run_id(),
        "task": where.task.id,
        "variant": where.task.variant,
        "model": where.model.name,
        "method": where.method,
        "params": where.params,
        "estimand": where.estimand,
        "metric": where.metric,
        "units": where.units,
        "n_pairs": scores.n_pairs,
        "dropped": where.task.dropped,
        "seconds": scored.seconds,
        "cached": scored.cached,
        "ready": None if where.fitness is None else where.fitness.ready,
        "total": scores.gap().as_dict(),
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


def _scored(tasks: list[str], request: _Request) -> tuple[list[Scored], Model]:
    """Score tasks, in order, and give the model; every name is checked, and a pair of every task made, before the model is loaded."""
    from circuitlab.methods import get_method  # noqa: PLC0415
    from circuitlab.metrics import get_metric  # noqa: PLC0415
    from circuitlab.store import RunStore  # noqa: PLC0415
    from circuitlab.tasks import sample_pairs  # noqa: PLC0415

    for task in tasks:
        next(sample_pairs(task, variant=request.variant, seed=request.seed))
    method = get_method(request.method, _params(request.params))
    if request.metric:
        get_metric(request.metric)
    from circuitlab.model import load_model  # noqa: PLC0415
    from circuitlab.study.progress import CellProgress  # noqa: PLC0415
    from circuitlab.study.score import score_task  # noqa: PLC0415

    model, store = load_model(request.model), RunStore(request.store)
    found = []
    for task in tasks:
        with CellProgress(f"{task} x {method.name}"):
            one = score_task(
                model,
                task,
                method,
                n=request.pairs,
                variant=request.variant,
                seed=request.seed,
                metric=request.metric,
                store=store,
            )
        found.append(one)
    return found, model


def _params(given: list[str]) -> dict[str, Any]:
    """``name=value`` pairs; values are read as JSON where they are JSON, as text otherwise."""
    import msgspec  # noqa: PLC0415

    from circuitlab.errors import BadParameterError  # noqa: PLC0415

    found: dict[str, Any] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign:
            what = f"--param {text!r} has no value."
            raise BadParameterError(what, "Write name=value, for example --param direction=noising.")
        try:
            found[name] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            found[name] = value
    return found


def _print_scores(scored: Scored) -> None:
    scores, where = scored.scores, scored.scores.provenance
    note = "found in the store" if scored.cached else f"{scored.seconds:.0f} s"
    print_text(f"{where.method} on {where.task.id} ({where.task.variant}), {where.model.name}, {scores.n_pairs} pairs, {note}")
    print_text(f"run {where.run_id()}: {where.estimand}, in {where.units}; positive helps the answer\n")
    for mark in scores.marks or (None,):
        rows = [[str(e.node), f"{e.mean:+.3f}", f"[{e.low:+.3f}, {e.high:+.3f}]"] for e in scores.top(15, scores.parts[0], mark=mark)]
        print_table([mark or "node", "mean", "95 % interval"], rows)
    _warn_if_unfit(scores)


def _warn_if_unfit(scores: HeadScores) -> None:
    flag = scores.provenance.fitness
    if flag is not None and not flag.ready:
        typer.echo(f"\nWarning: {flag.reason}", err=True)
