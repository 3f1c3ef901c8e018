"""An experiment that is killed goes on at the step that was not finished, and ends with the same record."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from pathlib import Path

import msgspec
import pytest

from circuitlab.experiments.run import run_experiment
from circuitlab.store.cache import Cache
from circuitlab.testing.tiny import tiny_model

SETTINGS = {"seeds": 3, "steps": 100, "widths": [4, 8, 16], "value_width": 8}


def run_in(store: Path):
    return run_experiment(tiny_model("llama"), "toy_memories", store=Cache(store), settings=SETTINGS)


def steps(store: Path) -> dict[str, int]:
    """Finished steps with the time at which each was written."""
    return {file.name: file.stat().st_mtime_ns for file in (store / "experiment_steps").glob("*.json")}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forking beside threads: the child uses none
def test_a_killed_experiment_goes_on_and_ends_with_the_same_record(tmp_path: Path) -> None:
    store = tmp_path / "runs"
    context = multiprocessing.get_context("fork" if sys.platform.startswith("linux") else "spawn")
    process = context.Process(target=run_in, args=(store,))
    process.start()
    end = time.monotonic() + 300
    while not steps(store) and time.monotonic() < end and process.is_alive():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it was to be killed while it works"
    kept = steps(store)
    assert kept and not list((store / "experiments").glob("*.json"))

    def record(where: Path) -> dict[str, object]:
        return {key: value for key, value in msgspec.to_builtins(run_in(where)).items() if key != "seconds"}

    resumed = record(store)
    after = steps(store)
    assert kept.items() <= after.items(), "finished steps are not run again"
    assert len(after) > len(kept)
    assert resumed == record(tmp_path / "undisturbed")
