"""Circuit reuse: whether the heads of two tasks are the same at each stage, and whether moving the mechanism repairs the other task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec

from circuitlab.studies.analyses.base import unsure
from circuitlab.studies.types import Analysis, AnalysisCell, AnalysisContext, AnalysisResult, StudyFigure, Table

if TYPE_CHECKING:
    from circuitlab.studies.types import StudySpec

__all__ = ["Reuse"]

Count = Annotated[int, msgspec.Meta(ge=1)]

# How long the cell takes beside others of a study, for the progress bar alone: four tasks, each with about 19 receivers that every head
# of a model of the default's size is patched into; an edge takes a quarter of a patched run.
_TASKS, _SWEEPS, _HEADS, _JOINED = 4, 19, 270, 4


class Reuse(Analysis, frozen=True, forbid_unknown_fields=True):
    """Staged path patching, roles, overlap with controls, and the attention-edit repair.

    Parameters
    ----------
    pairs, role_pairs, repair_pairs, random_sets : int
        Pairs of path patching, of role scores and of the repair; sets of random heads.
    top : float
        Share of all heads that each stage keeps.
    """

    name: ClassVar[str] = "reuse"
    title: ClassVar[str] = "Is a circuit reused in another task?"
    about: ClassVar[str] = (
        "Heads are found stage by stage, from the logits backwards, in both tasks and in controls. Then heads found in the first task are "
        "made to attend to the wrong options in the second."
    )
    place: ClassVar[int] = 70
    version: ClassVar[int] = 2
    cite: ClassVar[tuple[str, ...]] = ("merullo2024", "wang2022")

    pairs: Count = 8
    role_pairs: Count = 16
    repair_pairs: Count = 64
    random_sets: Count = 20
    top: float = 0.02

    def cells(self, study: StudySpec) -> list[AnalysisCell]:
        """One cell; its sweeps of path patching are kept one by one."""
        del study
        return [AnalysisCell(self, "", (), float(_TASKS * _SWEEPS * _HEADS * self.pairs) / _JOINED)]

    def run(self, context: AnalysisContext) -> dict[str, Any]:
        """The whole study; see `circuitlab.experiments.reuse.reuse_record`."""
        from circuitlab.experiments.reuse import ReuseSettings, reuse_record  # noqa: PLC0415 - torch

        settings = ReuseSettings(**msgspec.to_builtins(self), seed=context.study.seed)
        return reuse_record(context.model, settings, context.store)

    def draw(self, found: Sequence[AnalysisResult]) -> list[StudyFigure]:
        """Stages of both tasks side by side, and the repair."""
        from circuitlab.figures.repair import repair_bars  # noqa: PLC0415 - plotly
        from circuitlab.figures.stages import stage_heatmaps  # noqa: PLC0415 - plotly

        drawings = []
        for one in found:
            result, records = one.result, (one.record_id,)
            settings, where = result["settings"], result["model"]["name"]
            tasks = {task: result["tasks"][task]["stages"] for task in (settings["source"], settings["target"])}
            titles = _titles(tasks)
            source, target = (title[:1].lower() + title[1:] for title in titles.values())
            said = f"{where} · {settings['pairs']} prompt pairs per task · top {settings['top']:.0%} of heads in each stage"
            caption = "A thick outline is a head that both tasks keep in the same stage." + _roles_said(result["by_role"])
            if any(tasks.values()):
                drawings.append(
                    StudyFigure("reuse.stages", "reuse", stage_heatmaps(tasks, titles=titles, subtitle=said), (), caption, records)
                )
            if (repair := result["repair"]) is not None:
                shown = repair_bars(
                    repair["conditions"],
                    chance=repair["chance"],
                    published=result["published"]["repair"],
                    subtitle=f"{where} · {repair['n_pairs']} prompts · heads found in {source}, edited in {target}",
                )
                caption = "An edit works if its bar rises above the dashed line and the grey bar beside it."
                drawings.append(StudyFigure("reuse.repair", "reuse", shown, (), caption, records))
        return drawings

    def table(self, found: Sequence[AnalysisResult]) -> Table | None:
        """Overlap of every pair of tasks over the union of stages, and of the two tasks in question stage by stage."""
        rows = []
        for one in found:
            settings = one.result["settings"]
            for pair in (one.result["overlap"] or {"pairs": []})["pairs"]:
                asked = {pair["task_a"], pair["task_b"]} == {settings["source"], settings["target"]}
                for stage, here in pair["stages"].items():
                    if asked or stage == "union":
                        limits, shared = unsure(here["intervals"]["jaccard"]), " ".join(here["shared"])
                        label = "all" if stage == "union" else stage
                        rows.append((pair["task_a"], pair["task_b"], label, limits, here["null_mean"], here["p"], here["q"], shared))
        headings = ("Task", "Other task", "Stage", "Jaccard", "By chance", "p", "q", "Shared heads")
        return Table(headings, tuple(rows)) if rows else None


def _titles(tasks: Iterable[str]) -> dict[str, str]:
    """What to print for each task; its id where no task file of that name is left."""
    from circuitlab.tasks import list_tasks, load_task  # noqa: PLC0415

    known = set(list_tasks())
    return {task: load_task(task).title if task in known else task for task in tasks}


def _roles_said(roles: Sequence[Mapping[str, Any]]) -> str:
    """How many heads of each role the two tasks have, and which are the same."""
    said = []
    for one in roles:
        if one["source"] or one["target"]:
            both = f"{len(one['shared'])} in both ({', '.join(one['shared'])})" if one["shared"] else "none in both"
            said.append(f"{one['role']} {len(one['source'])} and {len(one['target'])}, {both}")
    return f" Heads by role, first and second task: {'; '.join(said)}." if said else " No head earned the label of a role."
