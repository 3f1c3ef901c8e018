"""The figures of circuit reuse, from plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from circuitlab.experiments.types import Picture
from circuitlab.figures import Wording, category_bars
from circuitlab.figures.repair import repair_bars
from circuitlab.figures.stages import stage_heatmaps
from circuitlab.tasks import list_tasks, load_task

__all__ = ["drawings", "roles_said"]


def drawings(results: Mapping[str, Any], subtitle: str) -> list[Picture]:
    """Heatmaps of the stages of both tasks, bars of their overlap, and bars of the repair."""
    settings, drawn = results["settings"], []
    tasks = {task: results["tasks"][task]["stages"] for task in (settings["source"], settings["target"])}
    titles = _titles(tasks)
    if any(tasks.values()):
        caption = "A thick outline is a head that both tasks keep in the same stage." + roles_said(results["by_role"])
        drawn.append(Picture("stages", stage_heatmaps(tasks, titles=titles, subtitle=subtitle), caption))
    if results["overlap"] is not None:
        drawn.append(_overlap(results, subtitle))
    if (repair := results["repair"]) is not None:
        source, target = (title[:1].lower() + title[1:] for title in titles.values())
        shown = repair_bars(
            repair["conditions"],
            chance=repair["chance"],
            published=results["published"]["repair"],
            subtitle=f"{results['model']['name']} · {repair['n_pairs']} prompts · heads found in {source}, edited in {target}",
        )
        drawn.append(Picture("repair", shown, "An edit works if its bar rises above the dashed line and the grey bar beside it."))
    return drawn


def roles_said(roles: Sequence[Mapping[str, Any]]) -> str:
    """A sentence with the number of heads of each role in the two tasks, and the names of shared heads."""
    parts = []
    for role in roles:
        if role["source"] or role["target"]:
            both = f"{len(role['shared'])} in both ({', '.join(role['shared'])})" if role["shared"] else "none in both"
            parts.append(f"{role['role']} {len(role['source'])} and {len(role['target'])}, {both}")
    return f" Heads by role, first and second task: {'; '.join(parts)}." if parts else " No head earned the label of a role."


def _overlap(results: Mapping[str, Any], subtitle: str) -> Picture:
    """Jaccard index of every pair of tasks over all stages, and of source and target by stage, beside its mean by chance."""
    settings, measured, chance = results["settings"], {}, {}
    for pair in results["overlap"]["pairs"]:
        both = {pair["task_a"], pair["task_b"]} == {settings["source"], settings["target"]}
        for stage, overlap in pair["stages"].items():
            if both or stage == "union":
                name = f"{pair['task_a']} ~ {pair['task_b']}" + ("" if stage == "union" else f", stage {stage}")
                measured[name] = overlap["intervals"]["jaccard"]
                chance[name] = {"mean": overlap["null_mean"], "low": None, "high": None}
    words = Wording("Do the tasks share heads?", subtitle, y="Jaccard index")
    shown = category_bars({"measured": measured, "by chance": chance}, words, controls=("by chance",))
    return Picture("overlap", shown, "Over all stages unless a stage is named. Bars: 95 % over pairs. Grey: the mean by chance.")


def _titles(tasks: Iterable[str]) -> dict[str, str]:
    """Title of each task; its id if there is no task file of that name any more."""
    known = set(list_tasks())
    return {task: load_task(task).title if task in known else task for task in tasks}
