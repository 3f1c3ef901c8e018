"""An experiment that is killed goes on at the step that was not finished, and ends with the same record."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from circuitlab.experiments.run import run_experiment
from circuitlab.store.cache import Cache
from circuitlab.testing.tiny import tiny_model

SETTINGS = {"seeds": 3, "steps": 100, "widths": [4, 8, 16], "value_width": 8}
PROGRAM = f"""
import sys
from pathlib import Path
from circuitlab.experiments.run import run_experiment
from circuitlab.store.cache import Cache
from circuitlab.testing.tiny import tiny_model
run_experiment(tiny_model("llama"), "toy_memories", store=Cache(Path(sys.argv[1])), settings={SETTINGS!r})
"""


def steps(store: Path) -> dict[str, int]:
    """Finished steps with the time at which each was written."""
    return {file.name: file.stat().st_mtime_ns for file in (store / "experiment_steps").glob("*.json")}


def test_a_killed_experiment_goes_on_and_ends_with_the_same_record(tmp_path: Path) -> None:
    store = tmp_path / "runs"
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(store)], env=os.environ | {"OMP_NUM_THREADS": "1"})
    end = time.monotonic() + 300
    while not steps(store) and time.monotonic() < end and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was to be killed while it works"
    kept = steps(store)
    assert kept and not list((store / "experiments").glob("*.json"))

    def record(where: Path) -> dict[str, object]:
        result = run_experiment(tiny_model("llama"), "toy_memories", store=Cache(where), settings=SETTINGS)
        return {key: value for key, value in msgspec.to_builtins(result).items() if key != "seconds"}

    resumed = record(store)
    after = steps(store)
    assert kept.items() <= after.items(), "finished steps are not run again"
    assert len(after) > len(kept)
    assert resumed == record(tmp_path / "undisturbed")
