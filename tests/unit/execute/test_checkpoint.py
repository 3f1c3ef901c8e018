"""An interrupted run goes on where it stopped and gives what an uninterrupted one gives."""

from __future__ import annotations

import numpy as np
import pytest

from circuitlab.core.progress import report_progress
from circuitlab.execute import checkpoint
from circuitlab.execute.checkpoint import PairRows, keeping_rows
from circuitlab.execute.contract import provenance_of
from circuitlab.methods.activation_patching import ActivationPatching
from circuitlab.metrics import LogitDiff
from circuitlab.store import Cache
from circuitlab.testing.tiny import tiny_batch, tiny_model
from circuitlab.workflows.score import score_batch

METHOD = ActivationPatching(pairs_per_pass=1)


class _KilledError(Exception):
    """Stands in for whatever ends a process."""


@pytest.fixture
def eager(monkeypatch):
    monkeypatch.setattr(checkpoint, "_SECONDS_BETWEEN_SAVES", 0.0)


def run_until(pairs: int, model, batch, store) -> None:
    def stop(done: int, total: int) -> None:
        if done == pairs:
            raise _KilledError

    with report_progress(stop), pytest.raises(_KilledError):
        score_batch(model, batch, METHOD, LogitDiff(), store=store)


def test_finished_rows_are_not_computed_again(tmp_path, eager) -> None:
    model, store = tiny_model("llama"), Cache(tmp_path)
    batch = tiny_batch(model, 6, unequal=True)
    run_until(4, model, batch, store)
    assert store.list() == []
    partial = store.checkpoint(provenance_of(METHOD, model, batch, LogitDiff()).run_id())
    assert partial.load()["done"].sum() == 4
    steps = []
    with report_progress(lambda done, total: steps.append((done, total))):
        found = score_batch(model, batch, METHOD, LogitDiff(), store=store).scores
    assert steps == [(5, 6), (6, 6)]
    assert not partial.path.exists()
    np.testing.assert_allclose(found.values("heads"), METHOD(model, batch, LogitDiff()).values("heads"), atol=1e-12)


def test_a_damaged_partial_file_is_named_and_not_used(tmp_path, eager) -> None:
    model, store = tiny_model("llama"), Cache(tmp_path)
    batch = tiny_batch(model, 3)
    run_until(2, model, batch, store)
    partial = store.checkpoint(provenance_of(METHOD, model, batch, LogitDiff()).run_id())
    partial.path.write_bytes(partial.path.read_bytes()[:200])
    with pytest.warns(UserWarning, match="damaged.*computed again"):
        found = score_batch(model, batch, METHOD, LogitDiff(), store=store).scores
    np.testing.assert_allclose(found.values("heads"), METHOD(model, batch, LogitDiff()).values("heads"), atol=1e-12)


def test_rows_of_another_shape_are_not_used(tmp_path, eager) -> None:
    keeper = Cache(tmp_path).checkpoint("0" * 16)
    with keeping_rows(keeper):
        rows = PairRows.of(3, {"effects": (2,)})
        rows.put([0, 1], {"effects": np.ones((2, 2))})
        assert PairRows.of(3, {"effects": (2,)}).todo == [2]
        assert PairRows.of(3, {"effects": (4,)}).todo == [0, 1, 2]
        assert PairRows.of(3, {"others": (2,)}).todo == [0, 1, 2]
    assert PairRows.of(3, {"effects": (2,)}).todo == [0, 1, 2], "nothing is kept outside the block"
