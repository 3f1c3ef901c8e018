"""The verdict: ready only above chance, above the gate, and with a gap."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from circuitlab.core.provenance import FitnessFlag
from circuitlab.model.interventions import Scale
from circuitlab.testing.tiny import tiny_batch, tiny_model
from circuitlab.workflows.fitness import TaskReport, _measure, judge

GAP = np.linspace(1, 3, 40)


def outcomes(share: float) -> np.ndarray:
    return np.arange(40) < share * 40


@pytest.mark.parametrize(
    ("share", "gap", "gate", "ready", "says"),
    [
        (0.95, GAP, None, True, "can do the task"),
        (0.50, GAP, None, False, "at chance"),
        (0.70, GAP, None, False, "below its gate"),
        (0.70, GAP, 0.6, True, "can do the task"),
        (0.95, GAP - 1.9, None, False, "cannot tell with 40 pairs whether the clean-corrupt gap is above 0"),
        (0.95, GAP - 2.1, None, False, "nothing shows that the clean-corrupt gap is above 0"),
        (0.10, GAP, 0.5, False, "below chance"),
        (0.10, GAP, 0.0, False, "cannot tell with 40 pairs"),
    ],
)
def test_verdicts(share, gap, gate, ready, says) -> None:
    judged = judge(outcomes(share), gap, 0.5, gate, "model on task")
    assert judged["ready"] is ready
    assert says in judged["reason"]
    assert ("no ability" in judged["reason"]) == FitnessFlag(**judged).at_chance(), "what figures say is what the sentence says"


@pytest.mark.parametrize(
    ("right", "says"),
    [
        (1, "cannot tell with 1 pair"),
        (2, "cannot tell with 2 pairs (accuracy 1.00 [0.34, 1.00], chance 0.50, gate 0.75)"),
        (3, "cannot tell with 3 pairs"),
        (4, "can do the task"),
    ],
)
def test_few_pairs_that_are_all_right_are_not_at_chance(right: int, says: str) -> None:
    """The verdict is that of the interval, and four pairs are the first whose interval leaves chance behind."""
    judged = judge(np.ones(right, dtype=bool), np.linspace(2, 3, right), 0.5, None, "model on task")
    assert says in judged["reason"] and "at chance" not in judged["reason"]
    assert judged["ready"] is (right == 4)


@pytest.mark.parametrize("right", [1.0, 0.5, 0.0])
def test_a_report_says_its_verdict_once(right: float) -> None:
    judged = judge(np.arange(40) < 40 * right, GAP, 0.5, None, "model on task")
    about = {"task": "task", "variant": "names", "model": "model", "n": 40, "units": "logits", "aligned": 1.0, "single_token": 1.0}
    text = repr(TaskReport(**about, kept=40, dropped={}, **judged))
    assert text == f"{judged['reason']} Clean-corrupt gap 2.00 [1.81, 2.19] logits, 40 pairs (names)."
    assert [text.count(word) for word in ("accuracy", "chance 0.50", "gate 0.75", "40 pairs")] == [1, 1, 1, 1]


def test_a_guessing_model_is_almost_never_called_ready() -> None:
    generator = np.random.default_rng(0)
    called = sum(judge(generator.random(64) < 0.5, generator.normal(size=64), 0.5, 0.5, "m")["ready"] for _ in range(400))
    assert called <= 6


def test_a_metric_that_compares_with_the_clean_run_gets_it() -> None:
    model = tiny_model("llama")
    batch = replace(tiny_batch(model, 3), metric="kl")
    measured = _measure(model, batch)
    assert measured.units == "nats"
    assert (measured.gap > 0).all(), "the clean run is at distance 0 from itself, the corrupt run is not"


def test_a_task_is_judged_once_and_again_when_anything_changes(monkeypatch) -> None:
    model, calls = tiny_model("llama", seed=5), []
    logits = type(model).logits

    def counted(self, *args, **kwargs):
        calls.append(1)
        return logits(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "logits", counted)
    batch = tiny_batch(model, 40, seed=9)
    first = _measure(model, batch)
    assert len(calls) == 4, "two chunks, both prompts"
    again, start = _measure(model, batch), _measure(model, batch.select(range(32)))
    assert len(calls) == 4
    assert (again.gap == first.gap).all() and again.seconds == first.seconds > 0
    assert (start.gap == first.gap[:32]).all(), "the first pairs of a longer stream are the same pairs"
    _measure(model, tiny_batch(model, 32, seed=10))
    assert len(calls) == 6
    edited = model.edited(Scale("a1.h0", 0.0))
    assert (_measure(edited, batch).gap != first.gap).any()
    with torch.no_grad():
        next(model.root.parameters()).data.mul_(1.5)
    assert (_measure(model, batch).gap != first.gap).any(), "weights that were changed in place are noticed"
