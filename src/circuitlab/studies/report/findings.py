"""The findings of a study in sentences made from its results: the first section of the report. Templates escape them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from circuitlab.comparison.table import PairRow
from circuitlab.core.nodes import Head
from circuitlab.figures.significance import differs_from_zero
from circuitlab.studies.drawings import compare_method
from circuitlab.studies.report.render import interval, probability, sentence_list
from circuitlab.studies.results import StudyRuns
from circuitlab.studies.types import AnalysisResult, ScoredCell

__all__ = ["find", "overlap_sentences"]

_CLEAR = 0.05
_STRONGEST = 3


def find(runs: StudyRuns) -> dict[str, Any]:
    """Sentences over all tasks (``overall``) and for each task (``tasks``); every number has its interval or a comparison."""
    overall = [_abilities(runs), *(_shared(runs, key) for key in runs.methods()), *_replicated(runs)]
    tasks = [{"key": key, "title": group[0].title, "sentences": _task(group, runs)} for key, group in runs.tasks().items()]
    return {"overall": [sentence for sentence in overall if sentence], "tasks": tasks}


def overlap_sentences(runs: StudyRuns, method_key: str) -> list[str]:
    """Sentences with the number of pairs of tasks that overlap more than chance by one method, the strongest pair, and excluded pairs."""
    table = compare_method(runs, method_key)
    if table is None:
        return []
    sound = [row for row in table.rows if row.ready]
    if not sound:
        return ["No pair is left of tasks that the model can both do."]
    clear = _beyond_chance(sound)
    counted = f"{len(clear)} of the {len(sound)} pairs of tasks that the model can do overlap more than chance (q < {_CLEAR})"
    sentences = [f"{counted}{_most(clear, runs, method_key)}."]
    if left_out := len(table.rows) - len(sound):
        sentences.append(f"Not counted: {left_out} {'pairs' if left_out > 1 else 'pair'} with a task that is not ready.")
    return sentences


def _ready(run: ScoredCell) -> bool:
    flag = run.scores.provenance.fitness
    return flag is None or flag.ready


def _abilities(runs: StudyRuns) -> str:
    """A sentence with the tasks that the model can do."""
    if not runs.runs:
        return ""
    able = [group[0].title for group in runs.tasks().values() if _ready(group[0])]
    unable = [group[0].title for group in runs.tasks().values() if not _ready(group[0])]
    name = runs.runs[0].scores.provenance.model.name
    if not unable:
        every = {1: "the task", 2: "both tasks"}.get(len(able), f"all {len(able)} tasks")
        return f"{name} can do {every}."
    return (
        f"{name} can do {len(able)} of {len(able) + len(unable)} tasks, and not {sentence_list(unable)}: heads found there react to what "
        "the prompts differ in, and are no circuit for the ability."
    )


def _replicated(runs: StudyRuns) -> Iterable[str]:
    """For each published experiment, how many of its claims this model shows, or why it cannot be asked."""
    for analysis, results in runs.results:
        if analysis.name != "experiment":
            continue
        for result in results:
            record = result.result
            verdicts = [claim["verdict"] for claim in record["claims"]]
            if not record["gate"]["met"]:
                yield f"{_title(record)} cannot be asked of {record['model']['name']}: {record['gate']['reason']}"
                continue
            counted = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts))
            yield f"{_title(record)}, {len(verdicts)} published claims: {counted}."


def _title(record: Mapping[str, Any]) -> str:
    from circuitlab.experiments import experiment_classes  # noqa: PLC0415 - loads every experiment's package

    return experiment_classes()[record["experiment"]].title


def _beyond_chance(rows: Iterable[PairRow]) -> list[PairRow]:
    return [row for row in rows if row.q < _CLEAR and row.jaccard["mean"] > row.null_mean]


def _most(clear: list[PairRow], runs: StudyRuns, method_key: str) -> str:
    """The pair of tasks with the largest overlap beyond chance, as the end of a sentence."""
    if not clear:
        return ""
    titles = {run.task_key: run.title for run in runs.methods()[method_key]}
    most = max(clear, key=lambda row: row.jaccard["mean"] - row.null_mean)
    which = "most of all " if len(clear) > 1 else ""
    return (
        f"; {which}{titles[most.task_a]} and {titles[most.task_b]}: Jaccard {interval(most.jaccard)}, by chance {most.null_mean:.2f}, "
        f"q {probability(most.q)}"
    )


def _shared(runs: StudyRuns, method_key: str) -> str:
    """A sentence with the number of pairs of tasks that share heads beyond chance by one method."""
    table = compare_method(runs, method_key)
    sound = [row for row in table.rows if row.ready] if table is not None else []
    if not sound:
        return ""
    method = runs.methods()[method_key][0].scores.provenance.method.replace("_", " ")
    clear = _beyond_chance(sound)
    if not clear:
        counted = f"q \N{GREATER-THAN OR EQUAL TO} {_CLEAR}; compared: {len(sound)}"
        return f"By {method}, no two tasks that the model can do share more heads than chance gives ({counted})."
    pairs = "the two tasks that the model can do" if len(sound) == 1 else f"{len(clear)} of {len(sound)} pairs of tasks"
    return f"By {method}, {pairs} share more heads than chance gives (q < {_CLEAR}){_most(clear, runs, method_key)}."


def _task(group: list[ScoredCell], runs: StudyRuns) -> list[str]:
    """Sentences with the strongest heads by each method, and the faithfulness of circuits of this task."""
    sentences = [_heads(run) for run in group if "heads" in run.scores.parts]
    sentences += [_faithful(result.result, run) for run in group for result in _evaluations(run, runs)]
    return sentences if _ready(group[0]) else ["not ready: it is not shown that the model can do it.", *sentences]


def _heads(run: ScoredCell) -> str:
    scores = run.scores
    mark = scores.marks[0] if scores.marks else None
    differ = differs_from_zero(scores.values("heads", mark=mark))
    sure = {str(Head(int(layer), int(head))) for layer, head in np.argwhere(differ)}
    strongest = [entry for entry in scores.top(differ.size, "heads", mark=mark) if str(entry.node) in sure][:_STRONGEST]
    method = scores.provenance.method.replace("_", " ")
    if not strongest:
        return f"By {method}, no head differs from zero."
    names = sentence_list([f"{entry.node} {entry.mean:+.2f} [{entry.low:+.2f}, {entry.high:+.2f}]" for entry in strongest])
    counted = f"{int(np.sum(differ))} of {differ.size} heads differ from zero"
    return f"By {method}, {counted}, the strongest {names} {scores.provenance.units}."


def _evaluations(run: ScoredCell, runs: StudyRuns) -> Iterable[AnalysisResult]:
    return (result for analysis, results in runs.results if analysis.name == "circuits" for result in results if result.runs == (run,))


def _faithful(result: Mapping[str, Any], run: ScoredCell) -> str:
    """A sentence with the share of the effect that a circuit keeps, compared with random circuits."""
    chance = result["random"]
    comparison = f", random circuits {chance['mean']:.2f} (p {probability(chance['p'])})" if chance["n"] else ""
    size, method = result["size"]["elements"], run.scores.provenance.method.replace("_", " ")
    return f"Its {size} strongest by {method}, kept alone, keep {interval(result['faithfulness'])} of the effect{comparison}."
