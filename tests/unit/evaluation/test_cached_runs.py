"""Kept runs equal plain ones, run no circuit twice, and go on after an interruption."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from circuitlab.core.errors import BadParameterError
from circuitlab.core.progress import report_progress
from circuitlab.evaluation import NodeCircuitRunner
from circuitlab.evaluation.cached_runs import CachedRuns, runs_id
from circuitlab.metrics import LogitDiff, LogProb
from circuitlab.store import Checkpoint
from circuitlab.testing.tiny import tiny_batch, tiny_model

METRIC = LogitDiff()


@pytest.fixture(scope="module")
def runs():
    model = tiny_model("llama")
    return NodeCircuitRunner(model, tiny_batch(model, 4), METRIC)


def some(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, 12)) < 0.5


@dataclass
class Counting:
    """Counts how many circuits are run; breaks at the given call."""

    of: NodeCircuitRunner
    breaks_at: int = 99
    counts: list[int] = field(default_factory=list)

    @property
    def elements(self):
        return self.of.elements

    def metric_of(self, masks):
        self.counts.append(len(masks))
        if len(self.counts) == self.breaks_at:
            raise KeyboardInterrupt
        return self.of.metric_of(masks)


def test_kept_values_are_those_of_the_runs(runs) -> None:
    masks = np.concatenate([some(5), some(5)[::-1], np.ones((1, 12), dtype=bool), np.zeros((1, 12), dtype=bool)])
    kept = CachedRuns(runs, circuits_per_save=2)
    np.testing.assert_allclose(kept.metric_of(masks), runs.metric_of(masks), atol=1e-5)
    full, empty = kept.metric_of(masks)[-2:]
    np.testing.assert_allclose([full, empty], runs.full_and_empty, atol=1e-5)


def test_no_circuit_is_run_twice_and_an_interruption_keeps_what_was_saved(runs, tmp_path) -> None:
    checkpoint = Checkpoint(tmp_path / "circuits" / "a.npz")
    broken = Counting(runs, breaks_at=3)
    with pytest.raises(KeyboardInterrupt):
        CachedRuns(broken, checkpoint, circuits_per_save=2).metric_of(some(6))
    again = Counting(runs)
    told = []
    with report_progress(lambda *done: told.append(done)):
        found = CachedRuns(again, checkpoint, circuits_per_save=2).metric_of(np.concatenate([some(6), some(2)]))
    assert broken.counts == [2, 2, 2] and again.counts == [2], "four of six were kept"
    assert told == [(2, 2)]
    np.testing.assert_allclose(found, runs.metric_of(np.concatenate([some(6), some(2)])), atol=1e-5)
    third = Counting(runs)
    CachedRuns(third, checkpoint).metric_of(some(6))
    assert not third.counts


def test_what_was_kept_for_another_universe_is_not_used(runs, tmp_path) -> None:
    checkpoint = Checkpoint(tmp_path / "a.npz")
    checkpoint.save({"masks": np.zeros((1, 9), dtype=np.uint8), "values": np.zeros((1, 4))})
    assert CachedRuns(runs, checkpoint).metric_of(some(1)).shape == (1, 4)
    with pytest.raises(BadParameterError, match="circuits_per_save=0"):
        CachedRuns(runs, circuits_per_save=0)


def test_runs_are_known_by_what_changes_them(runs) -> None:
    others = [
        replace(runs, ablation="zero"),
        replace(runs, metric=LogProb()),
        replace(runs, parts=("heads", "mlps")),
        replace(runs, batch=tiny_batch(runs.model, 4, seed=1)),
        replace(runs, model=tiny_model("gpt2")),
    ]
    assert len({runs_id(runs), *map(runs_id, others)}) == 6
    assert runs_id(runs) == runs_id(replace(runs, engine="hooks"))
