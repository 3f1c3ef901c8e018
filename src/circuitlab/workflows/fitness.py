"""Whether a model can do a task: accuracy and clean-corrupt gap with intervals, and a verdict in one sentence."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from circuitlab.core.html import html_table
from circuitlab.core.provenance import FitnessFlag, digest
from circuitlab.execute.reference import with_reference
from circuitlab.metrics import correct, get_metric
from circuitlab.model.batch import ContrastBatch
from circuitlab.model.encode import count_reasons
from circuitlab.model.inside import require_fit
from circuitlab.model.prepare import draw_pairs, to_batch
from circuitlab.scores.intervals import mean_interval, proportion_interval
from circuitlab.tasks.pairs import Sampler

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model
    from circuitlab.tasks.spec import Task

__all__ = ["Judged", "TaskReport", "check_batch", "check_task", "judge", "judge_batch", "judge_task"]

_CHUNK = 32
"""Pairs that run together."""
_GAP = "clean-corrupt gap"
_KEPT = 256
"""Chunks whose outcomes are kept in memory: a task is judged once however many methods score it in one session."""


class TaskReport(msgspec.Struct, frozen=True, kw_only=True):
    """The report of `circuitlab tasks check`.

    ``accuracy`` and ``gap`` are ``{"mean", "low", "high"}``; ``aligned`` and ``single_token`` are the shares of drawn rows whose prompts
    have equal lengths and whose answers are single tokens; ``kept`` is the number of pairs that the model answers correctly (tasks with
    ``known`` run on these).
    """

    task: str
    variant: str
    model: str
    n: int
    accuracy: dict[str, float]
    gap: dict[str, float]
    units: str
    chance: float
    gate: float
    aligned: float
    single_token: float
    kept: int
    dropped: dict[str, int]
    ready: bool
    reason: str

    def __repr__(self) -> str:
        gap = "" if _GAP in self.reason else f"{_GAP} {_interval(self.gap)} {self.units}, ".capitalize()
        return f"{self.reason} {gap}{_pairs(self.n)} ({self.variant})."

    def _repr_html_(self) -> str:
        rows = [
            ["accuracy", _interval(self.accuracy), f"chance {self.chance:.2f}, gate {self.gate:.2f}"],
            ["gap", _interval(self.gap), f"{self.units}, clean minus corrupt"],
        ]
        title = f"{self.task} ({self.variant}) on {self.model}, {_pairs(self.n)}"
        return html_table(
            title,
            ["", "mean and 95 % interval", ""],
            rows,
            notes=[self.reason] if self.ready else [],
            warning="" if self.ready else self.reason,
        )

    def flag(self) -> FitnessFlag:
        """The part that is stored with scores."""
        return FitnessFlag(
            accuracy=self.accuracy,
            gap=self.gap,
            chance=self.chance,
            gate=self.gate,
            ready=self.ready,
            reason=self.reason,
        )


class Judged(NamedTuple):
    """A report, and the seconds that each of its forward passes took when it was run."""

    report: TaskReport
    seconds_per_pass: float


def _interval(value: dict[str, float]) -> str:
    limits = "" if math.isnan(value["low"]) else f" [{value['low']:.2f}, {value['high']:.2f}]"
    return f"{value['mean']:.2f}{limits}"


def _pairs(n: int) -> str:
    return f"{n} pair{'s' * (n != 1)}"


def check_task(
    model: Model,
    task: str | Path | Task | ContrastBatch,
    n: int = 64,
    *,
    variant: str | None = None,
    seed: int = 0,
    least: int | None = None,
) -> TaskReport:
    """Measure whether a model can do a task, on pairs that are not filtered by what the model knows.

    Parameters
    ----------
    model : Model
        A model with a tokenizer.
    task : str, Path, Task or ContrastBatch
        Task id or file, table of pairs, task, or prompts as token ids.
    n : int
        Number of pairs; a ``ContrastBatch`` is used whole.
    least : int, optional
        Smallest number of pairs that is accepted if the task has fewer than ``n``. By default all ``n`` are required, except for tables of
        pairs, which are judged on the pairs that they have.
    variant : str, optional
        Corruption with which the gap is measured.
    seed : int
        Seed of the stream of pairs.

    Returns
    -------
    TaskReport
        Ready only if the whole interval of the accuracy lies above chance, the accuracy reaches the gate, and the whole interval of the
        gap lies above 0. Where an interval is so wide that more pairs could show either, as it is with two pairs, ``reason`` says that
        it cannot be told; "at chance" is said only of an accuracy whose interval also ends below the gate.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("copy-gqa")
    >>> cl.check_task(planted.model, planted.batch(8)).ready
    True
    >>> print(cl.check_task(planted.model, planted.batch(1)).reason)
    copy-gqa on tokens: cannot tell with 1 pair whether the clean-corrupt gap is above 0 (4.93); accuracy 1.00 [0.21, 1.00], chance 0.12, \
gate 0.56. Give more pairs.
    """
    return judge_task(model, task, n, variant=variant, seed=seed, least=least).report


def judge_task(
    model: Model,
    task: str | Path | Task | ContrastBatch,
    n: int,
    *,
    variant: str | None = None,
    seed: int = 0,
    least: int | None = None,
) -> Judged:
    """The report of `check_task`, and how long its forward passes took."""
    if isinstance(task, ContrastBatch):
        return judge_batch(model, task)
    sampler = Sampler(task, variant=variant)
    enough = 1 if least is None and sampler.finite else least
    draw = draw_pairs(model, sampler, n, seed=seed, least=enough)
    batch = to_batch(draw)
    require_fit(model, batch)
    measured = _measure(model, batch)
    dropped = count_reasons(draw.rejected)
    drawn = len(draw.pairs) + len(draw.rejected)
    misaligned = dropped.get("misaligned", 0) + dropped.get("mark_shift", 0)
    spec = draw.task
    verdict = judge(measured.right, measured.gap, batch.chance(), spec.checks.min_accuracy, f"{model.spec.name} on {spec.id}")
    report = TaskReport(
        task=spec.id,
        variant=draw.variant,
        model=model.spec.name,
        n=batch.n_pairs,
        units=measured.units,
        aligned=1 - misaligned / drawn,
        single_token=1 - dropped.get("multi_token", 0) / max(1, drawn - misaligned),
        kept=int(np.sum(measured.right)),
        dropped=dropped,
        **verdict,
    )
    return Judged(report, measured.seconds / (2 * batch.n_pairs))


def check_batch(model: Model, batch: ContrastBatch) -> TaskReport:
    """Measure whether a model answers a batch correctly: the verdict of `check_task`, on these prompts only."""
    return judge_batch(model, batch).report


def judge_batch(model: Model, batch: ContrastBatch) -> Judged:
    """The report of `check_batch`, and how long its forward passes took."""
    require_fit(model, batch)
    measured = _measure(model, batch)
    name = batch.task.id
    verdict = judge(measured.right, measured.gap, batch.chance(), None, f"{model.spec.name} on {name}")
    report = TaskReport(
        task=name,
        variant=batch.task.variant,
        model=model.spec.name,
        n=batch.n_pairs,
        units=measured.units,
        aligned=1.0,
        single_token=1.0,
        kept=int(np.sum(measured.right)),
        dropped={},
        **verdict,
    )
    return Judged(report, measured.seconds / (2 * batch.n_pairs))


class _Measured(NamedTuple):
    """Per pair whether the model is right and the gap, shape (pair,); the gap's units; seconds of all forward passes."""

    right: np.ndarray
    gap: np.ndarray
    units: str
    seconds: float


_MEASURED: OrderedDict[str, _Measured] = OrderedDict()


def _measure(model: Model, batch: ContrastBatch) -> _Measured:
    """Run both prompts of every pair, a chunk at a time; the outcomes of a model on a chunk are kept, whoever asks for them."""
    model.refresh()
    outcomes: list[_Measured] = []
    for start in range(0, batch.n_pairs, _CHUNK):
        chunk = batch.select(range(start, min(start + _CHUNK, batch.n_pairs)))
        identity = _identity(model, chunk)
        if identity not in _MEASURED:
            _MEASURED[identity] = _run(model, chunk)
            if len(_MEASURED) > _KEPT:
                _MEASURED.popitem(last=False)
        _MEASURED.move_to_end(identity)
        outcomes.append(_MEASURED[identity])
    right, gap = (np.concatenate([getattr(part, name) for part in outcomes]) for name in ("right", "gap"))
    return _Measured(right, gap, outcomes[0].units, sum(part.seconds for part in outcomes))


def _identity(model: Model, batch: ContrastBatch) -> str:
    """What the outcomes depend on: the model with its weights and edits, every token, and the metric."""
    sets = [batch.clean, batch.corrupt, batch.end, batch.answers, batch.foils, batch.distractors]
    marks = {name: at.tolist() for name, at in batch.marks.items()}
    return digest([model.spec, batch.metric, [None if ids is None else ids.tolist() for ids in sets], marks, batch.templates])


def _run(model: Model, batch: ContrastBatch) -> _Measured:
    started, metric = time.perf_counter(), get_metric(batch.metric)
    batch = with_reference(model, metric, batch)
    clean, corrupt = (model.logits(tokens, batch.end, marks=batch.marks) for tokens in (batch.clean, batch.corrupt))
    right, gap = np.array(correct(clean, batch)), (metric(clean, batch) - metric(corrupt, batch)).double().cpu().numpy()
    return _Measured(right, gap, str(metric.units), time.perf_counter() - started)


def judge(right: np.ndarray, gap: np.ndarray, chance: float, min_accuracy: float | None, who: str) -> dict[str, Any]:
    """Intervals and verdict from per-pair outcomes.

    Parameters
    ----------
    right : ndarray of bool, shape (pair,)
        Whether an answer has a larger logit than every foil and distractor.
    gap : ndarray, shape (pair,)
        Clean minus corrupt metric.
    chance : float
        Accuracy of random guessing.
    min_accuracy : float or None
        The gate; None means halfway between chance and 1.
    who : str
        Model and task, for the sentence.

    Returns
    -------
    dict
        ``accuracy``, ``gap``, ``chance``, ``gate``, ``ready`` and ``reason`` of a `TaskReport`.
    """
    accuracy, mean_gap = proportion_interval(int(right.sum()), len(right)).as_dict(), mean_interval(gap).as_dict()
    gate = float((1 + chance) / 2 if min_accuracy is None else min_accuracy)
    shown: dict[str, Any] = {"accuracy": accuracy, "gap": mean_gap, "chance": chance, "gate": gate}
    details = f"accuracy {_interval(accuracy)}, chance {chance:.2f}, gate {gate:.2f}"
    unclear = f"{who}: cannot tell with {_pairs(len(right))}"
    if FitnessFlag(**shown, ready=False, reason="").at_chance():
        where = "below" if accuracy["high"] < chance else "at"
        return shown | _verdict(f"{who} is {where} chance ({details}): there is no ability that a circuit could carry.")
    if accuracy["low"] <= chance:
        return shown | _verdict(f"{unclear} ({details}): the interval holds chance and reaches the gate. Give more pairs.")
    if accuracy["mean"] < gate:
        return shown | _verdict(f"{who} is above chance and below its gate ({details}): read its scores with caution.")
    if not mean_gap["low"] > 0:
        some = f"{_GAP} is above 0 ({_interval(mean_gap)})"
        if mean_gap["mean"] > 0:
            return shown | _verdict(f"{unclear} whether the {some}; {details}. Give more pairs.")
        return shown | _verdict(f"{who}: nothing shows that the {some}; {details}.")
    return shown | _verdict(f"{who} can do the task ({details}).", ready=True)


def _verdict(reason: str, *, ready: bool = False) -> dict[str, Any]:
    return {"ready": ready, "reason": reason}
