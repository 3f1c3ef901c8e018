"""Models, tasks, methods and scores of a payload."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.citations import CITATIONS
from circuitlab.core.errors import CircuitlabError
from circuitlab.explorer.names import score_id
from circuitlab.explorer.packed import pack, pack_rounded
from circuitlab.explorer.snippets import card_code, score_code
from circuitlab.scores.intervals import q_values
from circuitlab.tasks import list_tasks, load_task
from circuitlab.workflows.score import run_checks

if TYPE_CHECKING:
    from circuitlab.core.provenance import FitnessFlag
    from circuitlab.explorer.names import Names
    from circuitlab.explorer.sources import Sources
    from circuitlab.scores.head_scores import HeadScores

__all__ = ["PARTS", "interval_of", "methods_of", "models_of", "scores_of", "tasks_of"]

PARTS = ("heads", "kv_heads", "mlps")
"""Parts that a payload carries."""

_CHECKS = {
    "finite": "share of values that are finite",
    "residual": "largest deviation of the parts' sum from the total, relative to the mean size of the total",
    "precision": "error of reduced precision on a sample, relative to the effects",
    "invariant": "largest deviation of relevant + irrelevant from the activation, relative to the activation",
    "norms_held": "share of values whose norms did not have to be bounded",
    "dictionary": "share of the variance of node outputs that the autoencoders explain",
    "task_ready": "accuracy of the model on the task",
}
_SHAPE = ("family", "n_layers", "n_heads", "n_kv_heads", "d_model", "d_head", "d_vocab", "dtype")


def models_of(names: Names) -> list[dict[str, Any]]:
    """The models, the main one first."""
    return [
        {"id": label, "name": spec.name}
        | {field: getattr(spec, field) for field in _SHAPE}
        | {"identity": spec.identity(), "edited": bool(spec.edits), "python": card_code(spec, list(names.tasks))}
        for label, spec in names.models.items()
    ]


def tasks_of(sources: Sources, names: Names) -> list[dict[str, Any]]:
    """The tasks, each with the verdict on every model that was judged."""
    entries = []
    for label, ref in names.tasks.items():
        task = sources.tasks.get(ref.id) or (load_task(ref.id) if ref.id in list_tasks() else None)
        about: dict[str, Any] = {"id": label, "name": ref.id, "title": label, "description": "", "variant": ref.variant}
        if task is not None:
            about |= {"title": task.title, "description": task.about, "cite": list(task.cite)}
        entries.append(about | {"version": ref.version, "verdicts": _verdicts(sources.runs, names, label)})
    return entries


def _verdicts(runs: Sequence[HeadScores], names: Names, task: str) -> list[dict[str, Any]]:
    flags: dict[str, FitnessFlag] = {}
    for run in runs:
        about = run.provenance
        if names.task(about) == task and about.fitness is not None:
            flags.setdefault(str(names.model(about.model.identity())), about.fitness)
    return [
        {"model": model, "ready": flag.ready, "sentence": flag.reason, "chance": flag.chance, "gate": flag.gate}
        | {"accuracy": interval_of(flag.accuracy), "gap": interval_of(flag.gap)}
        for model, flag in flags.items()
    ]


def interval_of(interval: Mapping[str, float | None]) -> dict[str, float]:
    """An interval without the limits that are not known (NaN, or None in stored results)."""
    kept = {name: float(value) for name in ("mean", "low", "high") if (value := interval.get(name)) is not None}
    return {name: value for name, value in kept.items() if not np.isnan(value)}


def methods_of(sources: Sources) -> list[dict[str, Any]]:
    """Every method once, with its score on planted circuits where that is stored."""
    entries: dict[str, dict[str, Any]] = {}
    for run in sources.runs:
        about = run.provenance
        if about.method in entries:
            continue
        cite = [key for key in about.cite if key in CITATIONS and key in _method_keys(about.method, about.cite)]
        entries[about.method] = {
            "name": about.method,
            "title": about.method.replace("_", " "),
            "estimand": about.estimand,
            "sign": "positive helps the answer",
            "additive": about.additive,
            "cite": cite,
            "citation": "; ".join(
                f"{CITATIONS[key][1].partition(' and ')[0]} et al. ({CITATIONS[key][2]}), {CITATIONS[key][0]}" for key in cite
            ),
        } | _planted(sources.planted.get(about.method, ()), about.method)
    return list(entries.values())


def _method_keys(method: str, given: Sequence[str]) -> Sequence[str]:
    """Citation keys of the method alone: a run's also name its task."""
    from circuitlab.methods import method_classes  # noqa: PLC0415 - looks through the folder of methods

    cls = method_classes().get(method)
    return given if cls is None else cls.cite


def _planted(rows: Sequence[Mapping[str, Any]], method: str) -> dict[str, Any]:
    """The grade that is stored with the runs, or else the one that the benchmarks have stored for the method with its defaults."""
    if not rows:
        return _benchmark(_benchmarks().get(method))
    areas = [float(row["auroc"]["mean"]) for row in rows]
    seen = [area for row, area in zip(rows, areas, strict=True) if row["visible"]]
    grade = f"AUROC of the true nodes {np.mean(areas):.2f} on average over {len(rows)} planted models"
    if seen:
        grade += f", {min(seen):.2f} or more on the {len(seen)} whose circuit it can see"
    measures = {"auroc_mean": float(np.mean(areas)), "models": len(rows), "visible": len(seen)}
    return {"planted": {"grade": f"{grade}.", "measures": measures | ({"auroc_least": min(seen)} if seen else {})}}


@cache
def _benchmarks() -> dict[str, dict[str, Any]]:
    """Grades of methods by name, as `benchmarks/bench_methods.py` writes them."""
    grades: dict[str, dict[str, Any]] = json.loads(files("circuitlab.explorer").joinpath("planted.json").read_text(encoding="utf-8"))
    return grades


def _benchmark(line: Mapping[str, Any] | None) -> dict[str, Any]:
    if line is None:
        return {}
    grade = f"With its defaults, AUROC of the true nodes {line['planted']:.2f} on average over {line['planted_models']} planted models"
    measures = {"auroc_mean": line["planted"], "models": line["planted_models"], "visible": line["planted_seen"]}
    if line["planted_seen"]:
        grade += f", {line['planted_visible']:.2f} on the {line['planted_seen']} whose circuit it can see"
        measures["auroc_visible"] = line["planted_visible"]
    return {"planted": {"grade": f"{grade}.", "measures": measures}}


def scores_of(sources: Sources, names: Names) -> list[dict[str, Any]]:
    """Every run, once for each mark that its scores are resolved by."""
    return [_score(run, mark, names) for run in sources.runs for mark in run.marks or (None,)]


def _score(run: HeadScores, mark: str | None, names: Names) -> dict[str, Any]:
    about, task = run.provenance, names.task(run.provenance)
    flag, environment = about.fitness, about.environment
    origin: dict[str, Any] = {} if environment is None else {"created": environment.created, "seconds": environment.seconds}
    origin |= {} if environment is None else {"packages": environment.packages}
    entry = {
        "id": score_id(about.run_id(), mark),
        "run": about.run_id(),
        "model": names.model(about.model.identity()),
        "method": about.method,
        "metric": about.metric,
        "units": about.units,
        "params": about.params,
        "n_pairs": run.n_pairs,
        "parts": {part: _part(run, part, mark) for part in PARTS if part in run.parts},
        "checks": _checks(run),
        "provenance": origin | {"prompts": about.task.digest, "seed": about.task.seed, "dropped": about.task.dropped},
        "python": score_code(about),
    }
    optional = {"task": task, "mark": mark, "warning": None if flag is None or flag.ready else flag.reason}
    entry |= {name: value for name, value in optional.items() if value is not None}
    return entry | {name: pack(run.dataset[name].values) for name in ("clean", "corrupt", "total") if name in run.dataset}


def _part(run: HeadScores, part: str, mark: str | None) -> dict[str, Any]:
    """Mean, and with two pairs or more interval and q; with any pairs their own values."""
    values = run.values(part, mark=mark)
    if run.weights_only:
        return {"mean": pack(values)}
    interval = run.interval(part, mark=mark)
    packed = {"mean": pack(np.asarray(interval.mean))}
    if run.n_pairs > 1:
        packed |= {"low": pack(np.asarray(interval.low)), "high": pack(np.asarray(interval.high)), "q": pack(q_values(values))}
    return packed | {"pairs": pack_rounded(values)}


def _checks(run: HeadScores) -> list[dict[str, Any]]:
    try:
        checks = run_checks(run)
    except CircuitlabError as error:
        return [{"name": "checks", "ok": False, "value": 0.0, "sentence": str(error)}]
    return [
        {"name": name, "ok": bool(one["ok"]), "value": float(one["value"]), "sentence": _CHECKS.get(name, "")}
        for name, one in checks.items()
    ]
