"""Circuit reuse: whether two tasks use the same heads at each stage, and whether edits of attention repair the second task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import msgspec

from circuitlab.experiments.types import Claim, Experiment, ExperimentContext, Gate, Picture, interval_words, judged

__all__ = ["CircuitReuse"]

Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]

_ALPHA = 0.05
_MOST = 0.5
_REPAIRED = "inhibition and negative movers"


class CircuitReuse(Experiment, frozen=True, forbid_unknown_fields=True):
    """Find the heads of two tasks and of two controls by staged path patching, and edit those of the first task in the second.

    Heads are found from the logits backwards: those that write to the logits, then those that these heads' queries, values and keys read
    from (Merullo et al. 2024). The overlap of the kept heads is compared with chance, given the number of kept heads in each layer, and
    with the overlap of controls. Then heads that were found in indirect object identification attend to the wrong options while the model
    does colored objects, on prompts that chose nothing.

    Parameters
    ----------
    pairs : int
        Prompt pairs of path patching, for each task.
    role_pairs : int
        Pairs on which attention, direct contribution and copying are measured.
    repair_pairs : int
        Prompts of the repair, disjoint from those of path patching.
    random_sets : int
        Sets of random heads of the same layers, for each set of edited heads.
    top : float
        Share of all heads that each stage keeps.
    both_tasks : bool
        Whether the model must be able to do the second task, too. If false, only the first is required.

    Notes
    -----
    The overlap is the Jaccard index over the union of stages, with an interval that resamples pairs and selects heads again. An edited
    head's attention at the answer position is moved to the wrong options in equal shares; a prediction is right if the most probable token
    of the whole vocabulary is the answer.

    References
    ----------
    Merullo, Eickhoff and Pavlick (2024), Circuit Component Reuse Across Tasks in Transformer Language Models, arXiv:2310.08744.
    """

    name: ClassVar[str] = "circuit_reuse"
    title: ClassVar[str] = "Circuit reuse"
    question: ClassVar[str] = "Do indirect object identification and colored objects use the same heads?"
    cite: ClassVar[tuple[str, ...]] = ("merullo2024", "wang2022")
    cost: ClassVar[str] = "1 minute where a task cannot be done; many runs of path patching where both can"
    published: ClassVar[tuple[Claim, ...]] = (
        Claim(
            claim="Most heads of the two circuits are the same.",
            published="GPT-2 Medium: 25 of 32 heads, 78 %.",
            rule="The overlap of all stages is above chance with the same number of heads in each layer (p < 0.05), and at least one "
            "half; in part if only the first holds.",
        ),
        Claim(
            claim="Unrelated tasks share fewer heads.",
            published="GPT-2 Medium: greater-than 17 %, capitals 25 %, colored objects 78 %.",
            rule="The lower end of the interval of the two tasks' overlap is above the overlap with every control; in part if only its "
            "estimate is.",
        ),
        Claim(
            claim="Moving the attention of inhibition heads and negative movers to the wrong options repairs the second task.",
            published="GPT-2 Medium: accuracy from 49.6 % to 93.7 %; four random heads 49.9 %.",
            rule="More prompts become right than wrong (McNemar's exact test, p < 0.05), and accuracy is above that of every random "
            "set; in part if only the first holds.",
        ),
        Claim(
            claim="The edit makes no new mistakes.",
            published="GPT-2 Medium: none.",
            rule="Some prompts become right and none wrong; in part if fewer become wrong than right.",
        ),
        Claim(
            claim="Downstream, the edit changes most what heads contribute that matter in the first task.",
            published="GPT-2 Medium: rank correlation 0.69 (p < 0.01).",
            rule="The rank correlation of the change of a head's direct contribution with its path-patching effect is positive, p < 0.05.",
        ),
    )
    limits: ClassVar[tuple[str, ...]] = (
        "A few pairs for each task: intervals of overlaps are wide.",
        "Stages follow a fixed order of inputs (queries, values, keys), the same for every task.",
        "Content gatherers are labelled but not knocked out.",
    )

    pairs: Count = 8
    role_pairs: Count = 16
    repair_pairs: Count = 64
    random_sets: Count = 20
    top: Share = 0.02
    both_tasks: bool = True

    def gate(self, context: ExperimentContext) -> Gate:
        """Whether the model can do both tasks."""
        from circuitlab.experiments.circuit_reuse.record import ReuseSettings  # noqa: PLC0415 - torch
        from circuitlab.workflows.fitness import check_task  # noqa: PLC0415

        names = (ReuseSettings().source, ReuseSettings().target)
        reports = [check_task(context.model, task, max(64, self.pairs), seed=context.seed, least=self.pairs) for task in names]
        measured = {report.task: {"accuracy": report.accuracy, "gap": report.gap, "ready": report.ready} for report in reports}
        met = reports[0].ready and (reports[1].ready or not self.both_tasks)
        asked = " It is asked nevertheless (both_tasks is false)." if met and not reports[1].ready else ""
        return Gate(met=met, reason=" ".join(report.reason for report in reports) + asked, measured=measured)

    def measure(self, context: ExperimentContext) -> dict[str, Any]:
        """Path patching of all tasks, roles, and the repair."""
        from circuitlab.experiments.circuit_reuse.record import ReuseSettings, measure_reuse  # noqa: PLC0415 - torch

        own = {name: getattr(self, name) for name in ("pairs", "role_pairs", "repair_pairs", "random_sets", "top")}
        return measure_reuse(context, ReuseSettings(**own, seed=context.seed))

    def judge(self, results: Mapping[str, Any]) -> tuple[Claim, ...]:
        """By the overlap over all stages, and by the edit of inhibition heads and negative movers together."""
        shared, controls = _overlaps(results)
        return (
            _shares(self.published[0], shared),
            _shares_more(self.published[1], shared, controls),
            *_repairs(self.published[2:4], results["repair"]),
            _correlates(self.published[4], results["repair"]),
        )

    def draw(self, results: Mapping[str, Any], subtitle: str) -> Sequence[Picture]:
        """Heatmaps of the stages of both tasks, overlaps, and bars of the repair."""
        from circuitlab.experiments.circuit_reuse.drawing import drawings  # noqa: PLC0415 - plotly

        return drawings(results, subtitle)


def _overlaps(results: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, dict[str, Mapping[str, Any]]]:
    """The overlap of source and target over all stages, and that of the source with each control."""
    settings = results["settings"]
    by_task: dict[str, Mapping[str, Any]] = {}
    for pair in (results["overlap"] or {"pairs": []})["pairs"]:
        if settings["source"] in (names := [pair["task_a"], pair["task_b"]]):
            by_task[next(name for name in names if name != settings["source"])] = pair["stages"]["union"]
    shared = by_task.pop(settings["target"], None)
    return shared, by_task


def _unasked(claim: Claim, why: str) -> Claim:
    return msgspec.structs.replace(claim, here=why)


def _shares(claim: Claim, shared: Mapping[str, Any] | None) -> Claim:
    if shared is None:
        return _unasked(claim, "a task has no head with an effect")
    jaccard, beyond = shared["jaccard"], shared["p"] < _ALPHA
    here = (
        f"{len(shared['shared'])} heads in both, Jaccard {interval_words(shared['intervals']['jaccard'])}, {shared['null_mean']:.2f} by "
        f"chance (p = {shared['p']:.2g})"
    )
    return judged(claim, here, holds=beyond and jaccard >= _MOST, partly=beyond)


def _shares_more(claim: Claim, shared: Mapping[str, Any] | None, controls: Mapping[str, Mapping[str, Any]]) -> Claim:
    if shared is None or not controls:
        return _unasked(claim, "no control was measured")
    low, most = shared["intervals"]["jaccard"]["low"], max(control["jaccard"] for control in controls.values())
    said = ", ".join(f"{task} {interval_words(control['intervals']['jaccard'])}" for task, control in controls.items())
    here = f"Jaccard {interval_words(shared['intervals']['jaccard'])}; {said}"
    return judged(claim, here, holds=low is not None and low > most, partly=shared["jaccard"] > most)


def _repairs(claims: Iterable[Claim], repair: Mapping[str, Any] | None) -> list[Claim]:
    rows = {row["name"]: row for row in (repair or {"conditions": []})["conditions"]}
    row = rows.get(_REPAIRED)
    if row is None or row["accuracy"] is None:
        return [_unasked(claim, "no head qualifies for the edit") for claim in claims]
    repairs, unhurt = claims
    better = row["repaired"] > row["new_mistakes"] and row["p_change"] < _ALPHA
    here = (
        f"accuracy from {interval_words(rows['no edit']['accuracy'])} to {interval_words(row['accuracy'])} (p = {row['p_change']:.2g}); "
        f"{row['random']['n']} random sets {row['random']['low']:.2f} to {row['random']['high']:.2f}"
    )
    beyond = row["accuracy"]["mean"] > row["random"]["high"]
    counted = f"{row['repaired']} become right, {row['new_mistakes']} wrong"
    return [
        judged(repairs, here, holds=better and beyond, partly=better),
        judged(unhurt, counted, holds=row["repaired"] > 0 == row["new_mistakes"], partly=row["repaired"] > row["new_mistakes"]),
    ]


def _correlates(claim: Claim, repair: Mapping[str, Any] | None) -> Claim:
    found = (repair or {}).get("shift", {}).get("spearman")
    if found is None or found["rho"] is None:
        return _unasked(claim, "no head qualifies for the edit")
    here = f"rank correlation {found['rho']:.2f} over {found['heads']} heads (p = {found['p']:.2g})"
    return judged(claim, here, holds=found["rho"] > 0 and found["p"] < _ALPHA)
