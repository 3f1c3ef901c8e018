"""What a study found, in sentences made from its results: the first section of the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from circuitlab.core.nodes import Head
from circuitlab.figures.significance import differs_from_zero
from circuitlab.studies.drawings import compare_method
from circuitlab.studies.report.parts import anchor, escape
from circuitlab.studies.results import StudyRuns
from circuitlab.studies.types import AnalysisResult, ScoredCell

__all__ = ["findings"]

_CLEAR = 0.05
_STRONGEST = 3


def findings(runs: StudyRuns) -> str:
    """Over all tasks, and then task by task; every number stands with its interval or what it is compared with."""
    overall = [_abilities(runs), *(_shared(runs, key) for key in runs.methods())]
    tasks = (
        f'<li><a href="#task-{anchor(key)}"><b>{escape(group[0].title)}</b></a>: {_task(group, runs)}</li>'
        for key, group in runs.tasks().items()
    )
    rule = (
        "A head is said to differ from zero where its mean does after correcting for all heads (5 % false discovery rate), "
        "here and on the maps."
    )
    return f'{"".join(f"<p>{line}</p>" for line in overall if line)}<ul>{"".join(tasks)}</ul><p class="soft">{rule}</p>'


def _ready(run: ScoredCell) -> bool:
    flag = run.scores.provenance.fitness
    return flag is None or flag.ready


def _abilities(runs: StudyRuns) -> str:
    """Which tasks the model can do."""
    able = [group[0].title for group in runs.tasks().values() if _ready(group[0])]
    unable = [group[0].title for group in runs.tasks().values() if not _ready(group[0])]
    name = escape(runs.runs[0].scores.provenance.model.name)
    if not unable:
        return f"{name} can do all {len(able)} tasks." if len(able) > 1 else f"{name} can do the task."
    return (
        f"{name} can do {len(able)} of {len(able) + len(unable)} tasks, and not {_listed(unable)}: heads found there react to what the "
        "prompts differ in, and are no circuit for the ability."
    )


def _shared(runs: StudyRuns, method_key: str) -> str:
    """Which tasks share heads beyond chance by one method."""
    table = compare_method(runs, method_key)
    if table is None:
        return ""
    group = runs.methods()[method_key]
    titles, method = {run.task_key: run.title for run in group}, group[0].scores.provenance.method.replace("_", " ")
    sound = [row for row in table.rows if row.ready]
    clear = sorted((row for row in sound if row.q < _CLEAR and row.jaccard["mean"] > row.null_mean), key=lambda row: row.q)
    if not sound:
        return ""
    if not clear:
        counted = f"q ≥ 0.05; compared: {len(sound)}"
        return f"By {escape(method)}, no two tasks that the model can do share more heads than chance gives ({counted})."
    most = max(clear, key=lambda row: row.jaccard["mean"] - row.null_mean)
    value = most.jaccard
    return (
        f"By {escape(method)}, {len(clear)} of {len(sound)} pairs of tasks share more heads than chance gives (q &lt; 0.05); most of all "
        f"{escape(titles[most.task_a])} and {escape(titles[most.task_b])}: Jaccard {value['mean']:.2f} [{value['low']:.2f}, "
        f"{value['high']:.2f}], by chance {most.null_mean:.2f}, q = {most.q:.2g}."
    )


def _task(group: list[ScoredCell], runs: StudyRuns) -> str:
    """The strongest heads by each method, and how faithful circuits of this task are."""
    said = [_heads(run) for run in group if "heads" in run.scores.parts]
    said += [_faithful(result.result, run) for run in group for result in _evaluations(run, runs)]
    if not _ready(group[0]):
        said.insert(0, "near chance, no circuit for the ability.")
    return " ".join(said)


def _heads(run: ScoredCell) -> str:
    scores = run.scores
    mark = scores.marks[0] if scores.marks else None
    differ = differs_from_zero(scores.values("heads", mark=mark))
    sure = {str(Head(int(layer), int(head))) for layer, head in np.argwhere(differ)}
    strongest = [one for one in scores.top(differ.size, "heads", mark=mark) if str(one.node) in sure][:_STRONGEST]
    method = escape(scores.provenance.method.replace("_", " "))
    if not strongest:
        return f"By {method}, no head differs from zero."
    named = _listed([f"{one.node} {one.mean:+.2f} [{one.low:+.2f}, {one.high:+.2f}]" for one in strongest])
    units = escape(scores.provenance.units)
    return f"By {method}, {int(np.sum(differ))} of {differ.size} heads differ from zero, the strongest {named} {units}."


def _evaluations(run: ScoredCell, runs: StudyRuns) -> Iterable[AnalysisResult]:
    return (one for analysis, some in runs.results if analysis.name == "circuits" for one in some if one.runs == (run,))


def _faithful(result: Mapping[str, Any], run: ScoredCell) -> str:
    """What a circuit keeps, beside random ones."""
    value, chance = result["faithfulness"], result["random"]
    low, high = ("?" if value[end] is None else f"{value[end]:.2f}" for end in ("low", "high"))
    beside = f", random circuits {chance['mean']:.2f} (p = {chance['p']:.2g})" if chance["n"] else ""
    size, method = result["size"]["elements"], escape(run.scores.provenance.method.replace("_", " "))
    return f"Its {size} strongest by {method}, kept alone, keep {value['mean']:.2f} [{low}, {high}] of the effect{beside}."


def _listed(names: list[str]) -> str:
    """``a, b and c``, escaped."""
    safe = [escape(name) for name in names]
    return safe[0] if len(safe) == 1 else f"{', '.join(safe[:-1])} and {safe[-1]}"
