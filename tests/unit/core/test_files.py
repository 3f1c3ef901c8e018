"""Temporary files: none stays when its writer is gone, and none is taken from a writer that is alive."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from circuitlab.core import files
from circuitlab.core.errors import StoreError
from circuitlab.core.files import remove_leftovers, replace_file, require_writable

WRITER = """
import sys, time
from pathlib import Path
from circuitlab.core.files import replace_file
def fill(target):
    target.write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(60)
replace_file(Path(sys.argv[1]), fill)
"""


@pytest.fixture
def writer(tmp_path: Path):
    """A process in the middle of writing a file."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "run.nc")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".*.part"))


def test_the_file_of_a_writer_that_is_alive_stays_and_that_of_a_killed_one_goes(tmp_path: Path, writer) -> None:
    assert len(parts(tmp_path)) == 1
    assert remove_leftovers(tmp_path, older_than=0) == []
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    assert len(parts(tmp_path)) == 1
    assert [path.name for path in remove_leftovers(tmp_path, older_than=0)] and parts(tmp_path) == []


def test_the_next_run_removes_leftovers_older_than_a_minute(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(files, "_cleaned", set())
    old, new = tmp_path / ".run.nc.00000000.part", tmp_path / ".run.nc.00000001.part"
    for path in (old, new, tmp_path / "run.part"):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 3600, time.time() - 3600))
    os.utime(tmp_path / "run.part", (0, 0))
    require_writable(tmp_path)
    assert parts(tmp_path) == [new.name] and (tmp_path / "run.part").exists()


def test_a_file_size_limit_is_one_sentence_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "old.txt"
    path.write_bytes(b"old")
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StoreError, match="Could not write"):
            replace_file(path, lambda target: target.write_bytes(b"x" * 5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"old" and parts(tmp_path) == []


def test_scores_beyond_a_file_size_limit_are_refused_in_one_sentence(tmp_path: Path) -> None:
    from circuitlab.model.toy import build_planted
    from circuitlab.workflows.score import score

    planted = build_planted("copy-gqa")
    scores = score(planted.model, planted.batch(4), "activation_patching")
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StoreError, match="Could not write"):
            scores.save(tmp_path / "scores.nc")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []
