"""The verdict: ready only above chance, above the gate, and with a gap."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from circuitlab.model.interventions import Scale
from circuitlab.testing.tiny import tiny_batch, tiny_model
from circuitlab.workflows.fitness import _measure, judge

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
        (0.95, GAP - 2, None, False, "may be 0"),
        (0.10, GAP, 0.0, False, "at chance"),
    ],
)
def test_verdicts(share, gap, gate, ready, says) -> None:
    found = judge(outcomes(share), gap, 0.5, gate, "model on task")
    assert found["ready"] is ready
    assert says in found["reason"]


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
