"""No space left, for every kind of file: one sentence, the old file whole, nothing beside it."""

from __future__ import annotations

import contextlib
import resource
import signal
from pathlib import Path

import numpy as np
import pytest

from circuitlab.circuits import Circuit
from circuitlab.circuits.graphml import write_graphml
from circuitlab.circuits.interchange import write_graph_json
from circuitlab.circuits.saved import save_circuit
from circuitlab.core.errors import StoreError
from circuitlab.core.nodes import Universe
from circuitlab.experiments.run import ExperimentRecord
from circuitlab.experiments.types import Gate
from circuitlab.exports.files import write_json
from circuitlab.store import Cache, Documents

CIRCUIT = Circuit([f"a{layer}.h{head}" for layer in range(20) for head in range(10)], Universe(20, 10, 10))
RECORD = ExperimentRecord(
    experiment="x", version=1, settings={}, model={"name": "x"}, seed=0, gate=Gate(met=True, reason="x" * 5000), results={}, claims=()
)
LONG = {"values": list(range(5000))}


@contextlib.contextmanager
def no_space():
    """No file of this process may grow beyond 1000 bytes."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: Cache(path.parent).put({"a": 1}, Documents("kept"), LONG),
        lambda path: Cache(path.parent).checkpoint("rows").save({"rows": np.zeros(5000)}),
        lambda path: save_circuit(CIRCUIT, path),
        lambda path: write_graph_json(CIRCUIT, path),
        lambda path: write_graphml(CIRCUIT, path),
        RECORD.save,
        lambda path: write_json(path, LONG),
    ],
    ids=["document", "checkpoint", "circuit", "graph", "GraphML", "record", "export"],
)
def test_a_full_disk_is_one_sentence_and_the_old_file_is_whole(tmp_path: Path, write) -> None:
    write(tmp_path / "file")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert before
    with no_space(), pytest.raises(StoreError, match="Could not write"):
        write(tmp_path / "file")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
