"""Studies: cells run once, an interruption loses only the running one, bad files suggest the near name."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from circuitlab.errors import BadParameterError, StoreError, TaskFileError, UnknownNameError
from circuitlab.methods.base import step
from circuitlab.store import RunStore
from circuitlab.study.index import StudyIndex
from circuitlab.study.progress import format_seconds
from circuitlab.study.run import run_study, take_shard
from circuitlab.study.score import Scored
from circuitlab.study.spec import load_study
from circuitlab.testing.fakes import fake_scores

STUDY = """
id = "s"
title = "A study"
model = "smollm2-135m"
n = 3
methods = [{ name = "logit_attribution" }, { name = "activation_patching", params = { parts = ["heads"] } }]
tasks = [{ id = "ioi" }, { id = "successor", n = 2 }, { id = "capitals" }]
"""


@pytest.fixture
def study_file(tmp_path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    return path


class Fake:
    """Scores cells without a model and counts them."""

    def __init__(self, fail: str | None = None) -> None:
        self.seen: list[str] = []
        self.loads = 0
        self.fail = fail

    def load(self, name: str) -> str:
        self.loads += 1
        return name

    def score(self, model, cell, study, store) -> Scored:
        if self.fail == cell.label:
            raise TaskFileError("It broke.", "Mend it.")
        if self.fail == f"stop {cell.label}":
            raise KeyboardInterrupt
        self.seen.append(cell.label)
        step(1, 2)
        scores = fake_scores(np.full((cell.n, 2, 3), float(len(cell.label))), task=cell.label)
        store.put(scores)
        return Scored(scores, False, 1.0)


def run(path, store, fake, **options):
    return run_study(load_study(path), store, load=fake.load, score=fake.score, **options)


def test_every_cell_runs_once_and_a_finished_study_loads_nothing(study_file, tmp_path) -> None:
    store, fake = RunStore(tmp_path / "runs"), Fake()
    first = run(study_file, store, fake)
    assert len(first.cells) == len(fake.seen) == 6
    again = run(study_file, store, Fake())
    assert all(cell.cached for cell in again.cells)
    assert [c.run_id for c in again.cells] == [c.run_id for c in first.cells]
    idle = Fake()
    run(study_file, store, idle)
    assert idle.loads == 0


def test_an_interruption_keeps_finished_cells(study_file, tmp_path) -> None:
    store = RunStore(tmp_path / "runs")
    stopped = Fake(fail="stop capitals x logit_attribution")
    with pytest.raises(KeyboardInterrupt):
        run(study_file, store, stopped)
    rest = Fake()
    result = run(study_file, store, rest)
    assert not set(stopped.seen) & set(rest.seen)
    assert len(stopped.seen) + len(rest.seen) == 6
    assert len(result.cells) == 6


def test_a_killed_process_loses_only_the_running_cell(study_file, tmp_path) -> None:
    code = (
        "import sys, time\n"
        "sys.path.insert(0, sys.argv[3])\n"
        "from test_run import Fake, run\n"
        "from circuitlab.store import RunStore\n"
        "class Slow(Fake):\n"
        "    def score(self, model, cell, study, store):\n"
        "        if len(self.seen) == 2:\n"
        "            print('now', flush=True)\n"
        "            time.sleep(60)\n"
        "        return super().score(model, cell, study, store)\n"
        "run(sys.argv[1], RunStore(sys.argv[2]), Slow())\n"
    )
    where = [str(study_file), str(tmp_path / "runs"), str(Path(__file__).parent)]
    child = subprocess.Popen([sys.executable, "-c", code, *where], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "now\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    rest = Fake()
    run(study_file, RunStore(tmp_path / "runs"), rest)
    assert len(rest.seen) == 4


def test_an_error_in_one_cell_does_not_lose_the_others(study_file, tmp_path) -> None:
    store = RunStore(tmp_path / "runs")
    result = run(study_file, store, Fake(fail="ioi x activation_patching"))
    assert [cell.task for cell in result.failed] == ["ioi"]
    assert "It broke" in result.failed[0].error
    rest = Fake()
    assert not run(study_file, store, rest).failed
    assert rest.seen == ["ioi x activation_patching"]


def test_a_damaged_run_is_computed_again(study_file, tmp_path) -> None:
    store = RunStore(tmp_path / "runs")
    first = run(study_file, store, Fake())
    store.path(first.cells[0].run_id).write_bytes(b"")
    rest = Fake()
    with pytest.warns(UserWarning, match="damaged"):
        run(study_file, store, rest)
    assert rest.seen == ["ioi x logit_attribution"]


def test_changed_settings_are_other_cells(study_file, tmp_path) -> None:
    store = RunStore(tmp_path / "runs")
    run(study_file, store, Fake())
    study_file.write_text(STUDY.replace("n = 2", "n = 4"))
    rest = Fake()
    run(study_file, store, rest)
    assert rest.seen == ["successor x logit_attribution", "successor x activation_patching"]


def test_shards_share_the_cells(study_file) -> None:
    cells = load_study(study_file).cells()
    parts = [take_shard(cells, f"{i}/4") for i in range(1, 5)]
    assert sorted(c.label for part in parts for c in part) == sorted(c.label for c in cells)
    for bad in ("0/4", "5/4", "a/b", "3"):
        with pytest.raises(BadParameterError, match="i/n"):
            take_shard(cells, bad)


def test_missing_cells_are_named_with_the_command(study_file, tmp_path) -> None:
    study = load_study(study_file)
    index = StudyIndex(RunStore(tmp_path / "runs"), study)
    with pytest.raises(StoreError, match=r"6 of 6 cells .* ioi x logit_attribution.*circuitlab study run"):
        index.require(study.cells(), "circuitlab study run s.toml")
    index.path.parent.mkdir(parents=True)
    index.path.write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        index.finished(study.cells()[0])


@pytest.mark.parametrize(
    ("old", "new", "error", "says"),
    [
        ('id = "ioi"', 'id = "oii"', UnknownNameError, "Did you mean 'ioi'"),
        ('{ id = "ioi" }', '{ id = "ioi", variant = "abd" }', UnknownNameError, "variant of task 'ioi'"),
        ('"logit_attribution"', '"logit_atribution"', UnknownNameError, "Did you mean 'logit_attribution'"),
        ("parts =", "part =", UnknownNameError, "Did you mean 'parts'"),
        ("n = 3", "m = 3", BadParameterError, "unknown field"),
        ('title = "A study"', "title = A", BadParameterError, "cannot be used"),
        ("n = 3", 'n = 3\ncompare = { method = "eap" }', UnknownNameError, "method in compare"),
    ],
)
def test_a_bad_study_file_is_refused(study_file, old, new, error, says) -> None:
    study_file.write_text(STUDY.replace(old, new, 1))
    with pytest.raises(error, match=says):
        load_study(study_file)


def test_a_missing_study_file_is_named(tmp_path) -> None:
    with pytest.raises(BadParameterError, match="no study file"):
        load_study(tmp_path / "none.toml")


def test_shipped_studies_are_sound() -> None:
    for name in ("core", "quick", "circuits", "overlap", "circuit_reuse"):
        study = load_study(Path(__file__).parents[3] / "figures" / f"{name}.toml")
        assert study.id == name
    assert {"ioi", "colored_objects", "successor", "capitals", "addition", "greater_than", "docstring"} == {
        entry.id for entry in load_study(Path(__file__).parents[3] / "figures" / "core.toml").tasks
    }


def test_a_result_is_plain_json(study_file, tmp_path) -> None:
    result = run(study_file, RunStore(tmp_path / "runs"), Fake())
    assert msgspec.json.decode(msgspec.json.encode(result))["cells"][0]["task"] == "ioi"
    assert format_seconds(75) == "1 min 15 s"
    assert format_seconds(float("nan")) == "an unknown time"
