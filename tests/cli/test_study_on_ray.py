"""A study on two local Ray workers, one of which is killed while it works: the scores are those of the local executor, bit for bit."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from circuitlab.core.errors import BadParameterError
from circuitlab.store import Cache
from circuitlab.studies.on_ray import RayCluster

from .conftest import command

pytest.importorskip("ray", reason="Ray is an extra")


def stored(root: Path) -> dict[str, tuple]:
    """Of every run: each array's bytes, shape and type, and where it comes from, without time and duration."""
    cache = Cache(root)
    return {
        run: (
            {str(name): (array.dims, array.dtype.str, array.values.tobytes()) for name, array in scores.dataset.variables.items()},
            msgspec.structs.replace(scores.provenance, environment=None),
        )
        for run in cache.list()
        for scores in [cache.read(run)]
    }


def run_and_kill(study: Path, store: Path, cell: str) -> list[str]:
    """Run the study on two workers, kill the first that is given this cell, and return the lines of progress."""
    words = [sys.executable, "-m", "circuitlab", "study", "run", str(study), "--executor", "ray", "--workers", "2", "--store", str(store)]
    settings = os.environ | {"OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=settings)
    assert child.stdout is not None
    lines, killed = [], False
    with child.stdout:
        for line in child.stdout:
            lines.append(line.rstrip())
            given = re.match(rf"{cell}: runs in process (\d+) on ", line)
            if given and not killed:
                killed = True
                os.kill(int(given[1]), signal.SIGKILL)
    assert child.wait(60) == 0, lines
    assert killed, lines
    return lines


@pytest.mark.timeout(300)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kills a process")
def test_a_killed_worker_costs_its_cell_in_flight_and_no_bit_differs(world, study) -> None:
    lines = run_and_kill(study, world / "on-ray", "shades x activation_patching")
    assert [line for line in lines if line.startswith("shades x activation_patching: process")] != [], lines
    assert sum(line.endswith(("pair", "pairs")) or ": run " in line for line in lines) == 4, lines
    assert "Study small: 4 of 4 cells finished, 4 now." in lines
    assert command("study", "run", str(study), "--store", str(world / "local")).code == 0
    first, second = stored(world / "on-ray"), stored(world / "local")
    assert len(first) == 4
    assert first == second
    assert not list((world / "on-ray").glob(".ray-*")) and not list((world / "on-ray" / "locks").iterdir())


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"cpus": -1}, {"memory": 0.0}, {"memory": float("nan")}])
def test_a_worker_needs_something(wrong) -> None:
    with pytest.raises(BadParameterError, match="is not positive"):
        RayCluster(**wrong)


@pytest.mark.parametrize(
    ("words", "says"),
    [(["--workers", "2"], "the executor is 'local'"), (["--executor", "dask"], "Known: local, ray"), (["--workers", "0"], "--workers")],
)
def test_options_that_do_not_fit_are_refused(study, words, says) -> None:
    result = command("study", "run", str(study), *words)
    assert result.code == 2
    assert re.search(says, result.err), result.err
