"""Circuit reuse: whether two tasks use the same heads at each stage, and whether editing attention repairs the second task."""

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

# Cost of the cell relative to others of a study, for the progress bar only: four tasks, each with about 19 receivers that every head of the
# default model is patched into; an edge takes a quarter of a patched run.
_TASKS, _SWEEPS, _HEADS, _JOINED = 4, 19, 270, 4


class Reuse(Analysis, frozen=True, forbid_unknown_fields=True):
    """Staged path patching, roles, overlap with controls, and the repair by edits of attention (Merullo et al. 2024).

    Parameters
    ----------
    pairs, role_pairs, repair_pairs, random_sets : int
        Number of pairs for path patching, for role scores and for the repair, and of sets of random heads.
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
        """One cell; its runs of path patching are stored one by one."""
        del study
        return [AnalysisCell(self, "", (), float(_TASKS * _SWEEPS * _HEADS * self.pairs) / _JOINED)]

    def run(self, context: AnalysisContext) -> dict[str, Any]:
        """Run the whole study; see `circuitlab.experiments.reuse.reuse_record`."""
        from circuitlab.experiments.reuse.record import ReuseSettings, reuse_record  # noqa: PLC0415 - torch

        settings = ReuseSettings(**msgspec.to_builtins(self), seed=context.study.seed)
        return reuse_record(context.model, settings, context.store)

    def draw(self, results: Sequence[AnalysisResult]) -> list[StudyFigure]:
        """Heatmaps of the stages of both tasks, and bars of the repair."""
        from circuitlab.figures.repair import repair_bars  # noqa: PLC0415 - plotly
        from circuitlab.figures.stages import stage_heatmaps  # noqa: PLC0415 - plotly

        drawings = []
        for analysis_result in results:
            result, records = analysis_result.result, (analysis_result.record_id,)
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

    def table(self, results: Sequence[AnalysisResult]) -> Table | None:
        """Overlap of every pair of tasks over the union of stages, and of the source and target task in each stage."""
        rows = []
        for analysis_result in results:
            settings = analysis_result.result["settings"]
            for pair in (analysis_result.result["overlap"] or {"pairs": []})["pairs"]:
                of_the_two_tasks = {pair["task_a"], pair["task_b"]} == {settings["source"], settings["target"]}
                for stage, overlap in pair["stages"].items():
                    if of_the_two_tasks or stage == "union":
                        limits, shared = unsure(overlap["intervals"]["jaccard"]), " ".join(overlap["shared"])
                        label = "all" if stage == "union" else stage
                        rows.append(
                            (pair["task_a"], pair["task_b"], label, limits, overlap["null_mean"], overlap["p"], overlap["q"], shared)
                        )
        headings = ("Task", "Other task", "Stage", "Jaccard", "By chance", "p", "q", "Shared heads")
        return Table(headings, tuple(rows)) if rows else None


def _titles(tasks: Iterable[str]) -> dict[str, str]:
    """Title of each task; its id if there is no task file of that name any more."""
    from circuitlab.tasks import list_tasks, load_task  # noqa: PLC0415

    known = set(list_tasks())
    return {task: load_task(task).title if task in known else task for task in tasks}


def _roles_said(roles: Sequence[Mapping[str, Any]]) -> str:
    """A sentence with the number of heads of each role in the two tasks, and the names of shared heads."""
    parts = []
    for role in roles:
        if role["source"] or role["target"]:
            both = f"{len(role['shared'])} in both ({', '.join(role['shared'])})" if role["shared"] else "none in both"
            parts.append(f"{role['role']} {len(role['source'])} and {len(role['target'])}, {both}")
    return f" Heads by role, first and second task: {'; '.join(parts)}." if parts else " No head earned the label of a role."
