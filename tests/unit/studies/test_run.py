"""Studies: cells run once, an interruption loses only the running one, bad files suggest the near name."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from circuitlab.core.errors import BadParameterError, StoreError, TaskFileError, UnknownNameError
from circuitlab.core.progress import step
from circuitlab.store import HEAD_SCORES, Cache
from circuitlab.studies.load import load_study
from circuitlab.studies.model_identity import model_identity
from circuitlab.studies.results import require_finished
from circuitlab.studies.run import run_study, take_shard
from circuitlab.studies.types import MethodEntry, StudySpec, TaskEntry
from circuitlab.testing.fakes import fake_scores
from circuitlab.workflows.score import Scored
from circuitlab.workflows.terminal import format_seconds

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
        store.put(scores.provenance.run_id(), HEAD_SCORES, scores)
        return Scored(scores, False, 1.0)


def run(path, store, fake, **options):
    return run_study(load_study(path), store, load=fake.load, score=fake.score, **options)


def test_every_cell_runs_once_and_a_finished_study_loads_nothing(study_file, tmp_path) -> None:
    store, fake = Cache(tmp_path / "runs"), Fake()
    first = run(study_file, store, fake)
    assert len(first.cells) == len(fake.seen) == 6
    again = run(study_file, store, Fake())
    assert all(cell.cached for cell in again.cells)
    assert [c.run_id for c in again.cells] == [c.run_id for c in first.cells]
    idle = Fake()
    run(study_file, store, idle)
    assert idle.loads == 0


def test_an_interruption_keeps_finished_cells(study_file, tmp_path) -> None:
    store = Cache(tmp_path / "runs")
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
        "from circuitlab.store import Cache\n"
        "class Slow(Fake):\n"
        "    def score(self, model, cell, study, store):\n"
        "        if len(self.seen) == 2:\n"
        "            print('now', flush=True)\n"
        "            time.sleep(60)\n"
        "        return super().score(model, cell, study, store)\n"
        "run(sys.argv[1], Cache(sys.argv[2]), Slow())\n"
    )
    where = [str(study_file), str(tmp_path / "runs"), str(Path(__file__).parent)]
    child = subprocess.Popen([sys.executable, "-c", code, *where], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "now\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    rest = Fake()
    run(study_file, Cache(tmp_path / "runs"), rest)
    assert len(rest.seen) == 4


def test_an_error_in_one_cell_does_not_lose_the_others(study_file, tmp_path) -> None:
    store = Cache(tmp_path / "runs")
    result = run(study_file, store, Fake(fail="ioi x activation_patching"))
    assert [cell.task for cell in result.failed] == ["ioi"]
    assert "It broke" in result.failed[0].error
    rest = Fake()
    assert not run(study_file, store, rest).failed
    assert rest.seen == ["ioi x activation_patching"]


def test_a_damaged_run_is_computed_again(study_file, tmp_path) -> None:
    store = Cache(tmp_path / "runs")
    first = run(study_file, store, Fake())
    store.path(first.cells[0].run_id).write_bytes(b"")
    rest = Fake()
    with pytest.warns(UserWarning, match="damaged"):
        run(study_file, store, rest)
    assert rest.seen == ["ioi x logit_attribution"]


def test_changed_settings_are_other_cells(study_file, tmp_path) -> None:
    store = Cache(tmp_path / "runs")
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
    with pytest.raises(StoreError, match=r"6 of 6 cells .* in .*runs: ioi x logit_attribution.*circuitlab study run"):
        require_finished(Cache(tmp_path / "runs"), study, "circuitlab study run s.toml")


def test_two_runs_of_one_study_share_its_cells(study_file, tmp_path) -> None:
    class Slow(Fake):
        def score(self, model, cell, study, store) -> Scored:
            time.sleep(0.2)
            return super().score(model, cell, study, store)

    fakes = [Slow(), Slow()]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda fake: run(study_file, Cache(tmp_path / "runs"), fake), fakes))
    assert sorted(fakes[0].seen + fakes[1].seen) == sorted(cell.label for cell in load_study(study_file).cells())
    assert fakes[0].seen and fakes[1].seen
    assert [cell.run_id for cell in results[0].cells] == [cell.run_id for cell in results[1].cells]
    assert not list((tmp_path / "runs" / "locks").iterdir())


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
    for name in ("core", "quick", "circuits", "overlap"):
        study = load_study(Path(__file__).parents[3] / "figures" / f"{name}.toml")
        assert study.id == name
    assert {"ioi", "colored_objects", "successor", "capitals", "addition", "greater_than", "docstring"} == {
        entry.id for entry in load_study(Path(__file__).parents[3] / "figures" / "core.toml").tasks
    }


def test_a_result_is_plain_json(study_file, tmp_path) -> None:
    result = run(study_file, Cache(tmp_path / "runs"), Fake())
    assert msgspec.json.decode(msgspec.json.encode(result))["cells"][0]["task"] == "ioi"
    assert format_seconds(75) == "1 min 15 s"
    assert format_seconds(float("nan")) == "an unknown time"


TABLE_TASK = """
id = "made"
version = 1
title = "Made"
about = "A made task."
cite = []
licence = "none"
answers = [" {item.answer}"]
foils = [" {other.answer}"]
default_variant = "own"
[source]
kind = "table"
file = "own.csv"
answer = "answer"
[[templates]]
name = "one"
text = "Say {item.item:A}, then"
[variants.own]
about = "Its own rows."
swap = { A = "{other.item}" }
[variants.else]
about = "Other rows."
swap = { A = "{other.item}" }
source = { kind = "table", file = "else.csv", answer = "answer" }
"""


@pytest.mark.parametrize("changed", ["own.csv", "else.csv", "pools.toml", "made.toml", "model/config.json", "model/model.safetensors"])
def test_a_changed_file_is_another_cell(tmp_path, changed) -> None:
    (tmp_path / "model").mkdir()
    files = {
        "own.csv": "item,answer\na,1\nb,2\n",
        "else.csv": "item,answer\nc,3\nd,4\n",
        "pools.toml": 'w = ["x"]\n',
        "made.toml": TABLE_TASK,
    }
    files |= {"model/config.json": "{}", "model/model.safetensors": "weights"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    study = tmp_path / "study.toml"
    cell = f'tasks = [{{ id = "{tmp_path}/made.toml", variant = "else" }}]\nmethods = [{{ name = "random" }}]'
    study.write_text(f'id = "s"\ntitle = "t"\nmodel = "{tmp_path}/model"\nn = 2\n{cell}\n')
    store = Cache(tmp_path / "runs")
    run(study, store, Fake())
    idle = Fake()
    run(study, store, idle)
    assert idle.seen == []
    new = {"pools.toml": 'w = ["y"]\n', "made.toml": TABLE_TASK.replace("Say", "Tell"), "model/model.safetensors": "another"}.get(changed)
    (tmp_path / changed).write_text(new or files[changed].replace("{}", "{ }").replace("2", "5").replace("4", "6"))
    again = Fake()
    run(study, store, again)
    assert len(again.seen) == 1


def test_a_model_folder_is_known_by_its_content(tmp_path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
    assert model_identity(str(tmp_path / "one")) == model_identity(str(tmp_path / "two")) != model_identity(str(tmp_path))
    assert model_identity("smollm2-135m") == "smollm2-135m"
    assert model_identity("someone/somewhere") == "someone/somewhere"
    assert model_identity(str(tmp_path / "one" / "model.safetensors")).startswith("sha256:")


def test_an_unwritable_store_is_found_before_the_model_is_loaded(study_file, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    fake = Fake()
    with pytest.raises(StoreError, match="cannot be written"):
        run(study_file, Cache(tmp_path / "file" / "runs"), fake)
    assert fake.loads == 0


def test_a_lock_of_another_user_is_named(study_file, tmp_path, monkeypatch) -> None:
    def refuse(*_arguments, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    errors = [one.error for one in run(study_file, Cache(tmp_path / "runs"), Fake()).cells]
    assert len(errors) == 3 * 2
    assert all(".lock cannot be taken: Permission denied." in one for one in errors)


@pytest.mark.parametrize("name", ["../../evil", "/evil", "a\\\\b", ".."])
def test_an_id_that_leaves_the_store_is_refused(study_file, name) -> None:
    study_file.write_text(STUDY.replace('id = "s"', f'id = "{name}"'))
    with pytest.raises(BadParameterError, match="cannot be a study id"):
        load_study(study_file)


def test_study_files_are_utf_8_with_or_without_a_mark(study_file) -> None:
    plain = load_study(study_file)
    study_file.write_bytes(b"\xef\xbb\xbf" + study_file.read_bytes())
    assert load_study(study_file) == plain
    study_file.write_bytes(STUDY.replace("A study", "\u00dcber").encode("latin-1"))
    with pytest.raises(BadParameterError, match=r"study\.toml is not UTF-8: byte 0xdc"):
        load_study(study_file)


def test_short_names_fit_into_file_names() -> None:
    long = [TaskEntry("/a/" + "x" * 300 + f"/{name}.toml") for name in ("Ioi", "ioi")]
    study = StudySpec(id="s", title="t", model="m", tasks=long, methods=[MethodEntry("random")])
    keys = [study.task_key(entry) for entry in long]
    assert len({key.lower() for key in keys}) == 2
    assert all(len(key) <= 64 for key in keys)
