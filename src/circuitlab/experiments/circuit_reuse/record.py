"""Circuit reuse, step by step, as one record of plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast

import msgspec
import numpy as np

from circuitlab.comparison.stages import compare_stages
from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Head, parse_node
from circuitlab.experiments.circuit_reuse.labels import RoleThresholds, TaskMarks, head_roles, role_scores
from circuitlab.experiments.circuit_reuse.paths import discovery_data
from circuitlab.experiments.circuit_reuse.repair import Repair, shift_of
from circuitlab.methods.roles.attention import repeat_scores
from circuitlab.metrics import get_metric
from circuitlab.model.prepare import prepare_batch
from circuitlab.workflows.fitness import check_task
from circuitlab.workflows.prompts import held_out
from circuitlab.workflows.score import score_batch
from circuitlab.workflows.staged_paths import Discovery, Sweep, discover_paths

if TYPE_CHECKING:
    from circuitlab.experiments.types import ExperimentContext
    from circuitlab.methods.path_patching import PathPatching
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model
    from circuitlab.scores.head_scores import HeadScores

__all__ = ["PUBLISHED", "ReuseSettings", "Workload", "measure_reuse", "study_tasks"]

_PATHS, _ROLES = 0.8, 0.85  # share of the time that has passed after path patching and after roles, for the progress bar

Count = Annotated[int, msgspec.Meta(ge=1)]

MARKS = {
    "ioi": TaskMarks("IO", ("S1", "S2"), repeated="S2"),
    "colored_objects": TaskMarks("ANSWER", ("OTHER", "THIRD"), queried="QUERY"),
}
"""Marks that define roles, by task; heads of other tasks are not labelled."""

PUBLISHED = {
    "model": "gpt2-medium",
    "cite": "merullo2024",
    "overlap": {"ioi ~ colored_objects": 0.78, "ioi ~ greater_than": 0.167, "ioi ~ capitals": 0.25},
    "repair": {"no edit": 0.496, "negative movers": 0.781, "inhibition": 0.815, "inhibition and negative movers": 0.937, "random": 0.499},
    "heads": {"inhibition": ["a12.h3", "a13.h4", "a13.h13"], "negative movers": ["a19.h1"]},
    "spearman": 0.69,
}
"""Results of Merullo et al. (2024) for GPT-2 Medium."""


class ReuseSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the study.

    Parameters
    ----------
    pairs : int
        Prompt pairs of path patching, for each task.
    role_pairs : int
        Pairs on which attention, direct contribution and copying are measured.
    repair_pairs : int
        Prompts of the repair, disjoint from the path-patching pairs.
    random_sets : int
        Number of random sets of heads in the repair's control.
    top : float
        Share of all heads that each stage keeps.
    ports : tuple of str
        Head inputs (``"q"``, ``"k"``, ``"v"``) that the stages after the logits trace back, one stage each.
    source, target : str
        The heads of the source task are edited in the target task.
    controls : tuple of str
        Tasks that are expected to share fewer heads with the source.
    thresholds : RoleThresholds
        Smallest scores for role labels.
    seed : int
        Seed of the prompts, of repeated random tokens and of random heads.
    """

    pairs: Count = 8
    role_pairs: Count = 16
    repair_pairs: Count = 64
    random_sets: Count = 20
    top: float = 0.02
    ports: tuple[str, ...] = ("q", "v", "k")
    source: str = "ioi"
    target: str = "colored_objects"
    controls: tuple[str, ...] = ("greater_than", "capitals")
    thresholds: RoleThresholds = RoleThresholds()
    seed: int = 0

    @property
    def tasks(self) -> tuple[str, ...]:
        """Every task, the source first."""
        return tuple(dict.fromkeys((self.source, self.target, *self.controls)))


@dataclass(frozen=True, eq=False)
class Workload:
    """Prompts of one task.

    Parameters
    ----------
    paths : ContrastBatch
        Pairs for path patching.
    roles : ContrastBatch
        Pairs for role scores.
    marks : TaskMarks, optional
        Marks that define roles; without them, heads are not labelled.
    repair : ContrastBatch, optional
        Prompts of the repair, for the target task.
    ready : bool
        Whether the model can do the task, see `check_task`.
    reason : str
        The sentence that says so, with numbers.
    """

    paths: ContrastBatch
    roles: ContrastBatch
    marks: TaskMarks | None = None
    repair: ContrastBatch | None = None
    ready: bool = True
    reason: str = ""


def study_tasks(model: Model, settings: ReuseSettings) -> dict[str, Workload]:
    """Draw the prompts of every task and check whether the model can do it.

    Parameters
    ----------
    model : Model
    settings : ReuseSettings

    Returns
    -------
    dict of str to Workload
        By task, the source first.

    Raises
    ------
    BadParameterError
        If no marks that define roles are known for the source or the target.
    """
    workloads = {}
    for task in settings.tasks:
        marks = MARKS.get(task)
        if marks is None and task in {settings.source, settings.target}:
            what = f"No marks that define head roles are known for task {task!r}."
            raise BadParameterError(what, f"Use one of {', '.join(MARKS)}.")
        paths = prepare_batch(model, task, settings.pairs, seed=settings.seed)
        roles = prepare_batch(model, task, max(settings.role_pairs, settings.pairs), seed=settings.seed) if marks else paths
        fresh = held_out(model, task, paths.task, settings.repair_pairs)[0] if task == settings.target else None
        report = check_task(model, task, max(64, settings.pairs), seed=settings.seed, least=settings.pairs)
        workloads[task] = Workload(paths, roles, marks, fresh, report.ready, report.reason)
    return workloads


def measure_reuse(context: ExperimentContext, settings: ReuseSettings, tasks: Mapping[str, Workload] | None = None) -> dict[str, Any]:
    """Run the whole experiment on one model, in stored steps.

    Parameters
    ----------
    context : ExperimentContext
        The model, which needs a functional decoder, and the store, which also keeps each sweep of path patching.
    settings : ReuseSettings
    tasks : mapping of str to Workload, optional
        Prompts by task; drawn by `study_tasks` if None.

    Returns
    -------
    dict
        Plain data without tensors. ``tasks``: stages, heads, roles and fitness. ``overlap``: by stage and over all stages, with the
        layer-stratified null. ``by_role``: heads of each role in source and target. ``repair``: conditions, random heads and downstream
        changes. Also ``model``, ``settings``, ``repeat_scores`` and ``published``. Effects are rounded to 5 digits.

    References
    ----------
    Merullo, Eickhoff and Pavlick (2024), Circuit Component Reuse Across Tasks in Transformer Language Models, arXiv:2310.08744.
    """
    model, work = context.model, tasks if tasks is not None else study_tasks(context.model, settings)
    with context.share(0.0, _PATHS):
        paths = context.stored("paths", lambda: _paths(context, settings, work))
    with context.share(_PATHS, _ROLES):
        labelled = context.stored("roles", lambda: _labelled(model, settings, work, paths["tasks"]))
    data = {task: paths["tasks"][task] | labelled["tasks"].get(task, {}) for task in work}
    with context.share(_ROLES, 1.0):
        repair = context.stored("repair", lambda: {"repair": _repair(model, settings, work[settings.target], data)})
    for task in data.values():
        task["stages"] = [{**stage, "effects": np.round(stage["effects"], 5).tolist()} for stage in task["stages"]]
    return {
        "model": {"name": model.spec.name, "layers": model.spec.n_layers, "heads": model.spec.n_heads},
        "settings": msgspec.to_builtins(settings),
        "tasks": data,
        "overlap": paths["overlap"],
        "by_role": _by_role(data, settings),
        "repeat_scores": labelled["repeat_scores"],
        **repair,
        "published": PUBLISHED,
    }


def _paths(context: ExperimentContext, settings: ReuseSettings, work: Mapping[str, Workload]) -> dict[str, Any]:
    """Staged path patching of every task, and the overlap of the heads that it keeps."""

    def run(method: PathPatching, prompts: ContrastBatch, metric: Metric) -> HeadScores:
        return score_batch(context.model, prompts, method, metric, store=context.store).scores

    discoveries: dict[str, Discovery] = {}
    for number, (task, workload) in enumerate(work.items()):
        metric, ports = get_metric(workload.paths.metric), settings.ports
        with context.share(number / len(work), (number + 1) / len(work)):
            discoveries[task] = discover_paths(context.model, workload.paths, metric, top=settings.top, stages=ports, sweep=Sweep(run=run))
    data = {
        task: discovery_data(discovery) | {"ready": work[task].ready, "reason": work[task].reason}
        for task, discovery in discoveries.items()
    }
    staged = {task: [stage.scores for stage in discovery.stages] for task, discovery in discoveries.items() if discovery.stages}
    return {"tasks": data, "overlap": compare_stages(staged, settings.top) if len(staged) > 1 else None}


def _labelled(model: Model, settings: ReuseSettings, work: Mapping[str, Workload], data: Mapping[str, Any]) -> dict[str, Any]:
    """Roles of the kept heads of every task whose marks are known, and the scores that they follow from."""
    repeats = repeat_scores(model, seed=settings.seed)
    labelled = {}
    for task, workload in work.items():
        if workload.marks is not None:
            scores = role_scores(model, workload.roles, workload.marks)
            roles = head_roles(data[task]["stages"], scores, repeats, workload.marks, settings.thresholds)
            labelled[task] = {"roles": roles, "role_scores": {name: np.round(value, 5).tolist() for name, value in scores.items()}}
    return {"tasks": labelled, "repeat_scores": {name: np.round(value, 5).tolist() for name, value in repeats.items()}}


def _by_role(data: Mapping[str, Any], settings: ReuseSettings) -> list[dict[str, Any]]:
    """Heads of each role in source and target, and those in both."""
    first, second = (data[task].get("roles", {}) for task in (settings.source, settings.target))
    rows = []
    for role in first:
        of_source, of_target = set(first[role]), set(second.get(role, ()))
        union = of_source | of_target
        rows.append(
            {
                "role": role,
                "source": first[role],
                "target": second.get(role, []),
                "shared": _ordered(of_source & of_target),
                "jaccard": len(of_source & of_target) / len(union) if union else None,
            }
        )
    return rows


def _repair(model: Model, settings: ReuseSettings, target: Workload, data: Mapping[str, Any]) -> dict[str, Any] | None:
    """Edit the heads that path patching chose in the source task while the model does the target task."""
    if target.repair is None or target.marks is None:
        return None
    stages, marks = data[settings.source]["stages"], target.marks
    sets = _chosen(stages, data[settings.source].get("roles", {}))
    spec = model.spec
    if (spec.family, spec.n_layers, spec.n_heads) == ("gpt2", 24, 16):
        published = cast("dict[str, list[str]]", PUBLISHED["heads"])
        sets["published heads"] = _heads([*published["inhibition"], *published["negative movers"]])
    repair = Repair(model, target.repair, marks.options)
    record: dict[str, Any] = {
        "conditions": repair.conditions(sets, settings.random_sets, settings.seed),
        "chance": 1 / (1 + len(marks.options)),
        "n_pairs": target.repair.n_pairs,
        "movers": "heads kept for the logits in the target task with positive effect",
    }
    edited = sets["inhibition and negative movers"]
    if edited:
        movers = [head for head, effect in _with_effects(data[settings.target]["stages"], 0) if effect > 0]
        importance = np.array(stages[0]["effects"]) if stages else None
        record["shift"] = shift_of(repair, edited, movers, marks.answer, importance)
    return record


def _chosen(stages: Sequence[dict[str, Any]], roles: Mapping[str, list[str]]) -> dict[str, list[Head]]:
    """Sets of heads to edit, chosen by path patching on this model and never by what the edit does."""
    negative = [head for head, effect in _with_effects(stages, 0) if effect < 0]
    inhibition = [head for head, effect in _with_effects(stages, 1) if effect > 0]
    return {
        "negative movers": negative,
        "inhibition": inhibition,
        "inhibition and negative movers": list(dict.fromkeys([*inhibition, *negative])),
        "labelled inhibition": _heads(roles.get("inhibition", [])),
        "labelled inhibition and negative movers": _heads([*roles.get("inhibition", []), *roles.get("negative mover", [])]),
    }


def _with_effects(stages: Sequence[dict[str, Any]], number: int) -> list[tuple[Head, float]]:
    if number >= len(stages):
        return []
    stage = stages[number]
    return [(head, stage["effects"][head.layer][head.head]) for head in _heads(stage["kept"])]


def _heads(names: Sequence[str]) -> list[Head]:
    return [cast("Head", parse_node(name)) for name in dict.fromkeys(names)]


def _ordered(names: set[str]) -> list[str]:
    return [str(node) for node in sorted(map(parse_node, names))]
