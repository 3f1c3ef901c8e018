"""Cells on workers that die, without Ray: nothing is lost, analyses come after what they read, and deaths end somewhere."""

from __future__ import annotations

import pytest
from test_run import STUDY, Fake

from circuitlab.core.errors import StoreError
from circuitlab.store import Cache
from circuitlab.studies.load import load_study
from circuitlab.studies.on_workers import hand_out
from circuitlab.studies.work import Work, cells_of
from circuitlab.workflows.terminal import SilentProgress

ANALYSIS = "\n[agreement]\n"


class FakePool:
    """Runs cells in this process; ``dies`` says of a cell's label and the number of its calls whether its worker dies."""

    def __init__(self, work: Work, size: int, dies=lambda _label, _call: False, starts: bool = True) -> None:
        self.work, self.size, self.dies, self.starts = work, size, dies, starts
        self.started, self.calls, self.order, self.count = 0, [], [], {}

    def start(self, tag) -> None:
        self.started += 1
        self.calls.append((tag, f"w{self.started}", None))

    def call(self, worker, cell, *, wait, tag) -> None:
        self.calls.append((tag, worker, (cell, wait)))

    def next(self):
        tag, worker, asked = self.calls.pop(0)
        if asked is None:
            return (tag, worker, f"process {worker}") if self.starts else (tag, None, "No memory.")
        cell = cells_of(self.work.study)[asked[0]]
        self.count[cell.label] = self.count.get(cell.label, 0) + 1
        if self.dies(cell.label, self.count[cell.label]):
            return tag, None, "It was killed."
        self.order.append(cell.label)
        return tag, worker, (self.work.attempt(cell, wait=asked[1]), [])


@pytest.fixture
def work(tmp_path) -> Work:
    (tmp_path / "study.toml").write_text(STUDY)
    fake = Fake()
    return Work.of(load_study(tmp_path / "study.toml"), Cache(tmp_path / "runs"), fake.load, fake.score)


def given_out(work: Work, pool: FakePool):
    return hand_out(work, cells_of(work.study), SilentProgress(), pool)


def test_every_cell_runs_once_and_results_keep_their_order(work) -> None:
    pool = FakePool(work, 2)
    results = given_out(work, pool)
    assert sorted(pool.order) == sorted(cell.label for cell in cells_of(work.study))
    assert [(cell.task, cell.method) for cell in results] == [(cell.task.id, cell.method.name) for cell in work.study.cells()]
    assert pool.order[0].endswith("activation_patching"), "expensive cells first"


def test_analyses_wait_for_the_scores_that_they_read_also_when_a_worker_dies(tmp_path) -> None:
    (tmp_path / "study.toml").write_text(STUDY + ANALYSIS)
    fake = Fake()
    work = Work.of(load_study(tmp_path / "study.toml"), Cache(tmp_path / "runs"), fake.load, fake.score)
    pool = FakePool(work, 3, dies=lambda label, call: label == "capitals x logit_attribution" and call == 1)
    results = given_out(work, pool)
    analyses = work.study.analysis_cells()
    assert analyses and not any(cell.waits for cell in results)
    for cell in analyses:
        assert all(pool.order.index(source.label) < pool.order.index(cell.label) for source in cell.reads)


def test_the_cell_of_a_dead_worker_runs_again_in_a_new_one(work) -> None:
    pool = FakePool(work, 2, dies=lambda label, call: label == "ioi x activation_patching" and call < 3)
    results = given_out(work, pool)
    assert [cell.error for cell in results] == [None] * 6
    assert pool.count["ioi x activation_patching"] == 3
    assert sum(pool.count.values()) == 6 + 2
    assert pool.started == 2 + 2


def test_a_cell_that_kills_every_worker_fails_and_the_others_finish(work) -> None:
    results = given_out(work, FakePool(work, 1, dies=lambda label, _call: label == "ioi x activation_patching"))
    (failed,) = [cell for cell in results if cell.error]
    assert (failed.task, failed.method) == ("ioi", "activation_patching")
    assert "3 workers died while they ran it, the last one process w3: It was killed." in failed.error


def test_workers_that_die_while_they_start_end_the_run(work) -> None:
    with pytest.raises(StoreError, match="3 workers in a row died while they started: No memory"):
        given_out(work, FakePool(work, 2, starts=False))


def test_a_result_that_is_not_in_the_store_is_named(work, tmp_path) -> None:
    elsewhere = FakePool(Work.of(work.study, Cache(tmp_path / "elsewhere"), Fake().load, Fake().score), 1)
    with pytest.raises(StoreError, match="does not hold it"):
        given_out(work, elsewhere)


def test_a_cell_that_another_process_runs_comes_last_and_is_waited_for(work) -> None:
    first = max(cells_of(work.study), key=lambda cell: cell.label == "ioi x activation_patching")
    pool = FakePool(work, 1)
    lock = work.cache.lock(work.lock_name(first))
    attempt = work.attempt
    waited = []

    def watched(cell, *, wait):
        if cell == first and wait:
            waited.append(cell.label)
            lock.__exit__(None, None, None)
        return attempt(cell, wait=wait)

    object.__setattr__(work, "attempt", watched)
    lock.__enter__()
    assert [cell.error for cell in given_out(work, pool)] == [None] * 6
    assert waited == ["ioi x activation_patching"] == pool.order[-1:]
