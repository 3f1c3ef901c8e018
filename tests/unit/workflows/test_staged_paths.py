"""Staged discovery keeps the strongest heads of each stage with their edges, and finds the planted circuit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.nodes import Head, Logits, parse_edge
from circuitlab.core.progress import report_progress
from circuitlab.methods.path_patching import PathPatching
from circuitlab.metrics import LogitDiff
from circuitlab.model.toy import planted_model
from circuitlab.testing.tiny import tiny_batch, tiny_model
from circuitlab.workflows.staged_paths import Sweep, discover_paths

METRIC = LogitDiff()


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama")


def test_the_planted_circuit_is_found_and_nothing_else() -> None:
    planted = planted_model()
    found = discover_paths(planted.model, planted.batch(), METRIC, top=1.0, stages=3)
    assert found.circuit.nodes == planted.helpers | planted.hinderers
    assert len(found.stages) == 1, "no head acts on the inputs of these"
    assert {str(one.edge) for one in found.edges} == {"a1.h1->logits", "a1.h2->logits"}
    by_name = {str(one.edge): one for one in found.edges}
    assert by_name["a1.h1->logits"].mean > 0 > by_name["a1.h2->logits"].mean
    assert all(one.low <= one.mean <= one.high for one in found.edges)


def test_progress_of_all_sweeps_is_one_bar(llama) -> None:
    told: list[float] = []
    with report_progress(lambda done, total: told.append(done / total)):
        discover_paths(llama, tiny_batch(llama, 2), METRIC, top=0.2, stages=2)
    assert told == sorted(told) and told[-1] == 1.0
    assert 0.5 in told and sum(0.5 < one < 1 for one in told) >= 3


def test_stages_equal_single_sweeps(llama) -> None:
    batch = tiny_batch(llama, 4)
    found = discover_paths(llama, batch, METRIC, top=0.2, stages=2)
    first, second = found.stages
    n = math.ceil(0.2 * 12)
    mean = PathPatching(senders=("heads",))(llama, batch, METRIC).mean()
    order = np.argsort(-np.abs(mean), axis=None)[:n]
    assert first.kept == tuple(sorted(Head(*map(int, np.unravel_index(i, mean.shape))) for i in order))
    wanted = {f"a{h.layer}.h{h.head}<q>" for h in first.kept if h.layer} | {
        f"a{h.layer}.kv{h.head // 2}<{port}>" for h in first.kept if h.layer for port in "kv"
    }
    assert set(second.scores) == wanted
    assert 0 < len(second.kept) <= n
    for one in second.edges:
        receiver = str(one.edge).split("->")[1]
        sender = one.edge.sender
        assert one.mean == pytest.approx(second.scores[receiver].mean()[sender.layer, sender.head])
        assert sender in second.kept
    weakest = min(abs(one.mean) for one in second.edges)
    others = [h for h in first.scores["logits"].universe.heads() if h not in second.kept]
    left_out = [abs(float(scores.mean()[h.layer, h.head])) for scores in second.scores.values() for h in others]
    assert max(left_out) <= weakest
    assert found.circuit.nodes == {*first.kept, *second.kept}
    assert found.circuit.edges == {one.edge for one in found.edges}
    assert all(isinstance(one.edge.receiver, Logits) for one in first.edges)
    assert len(found.circuit.sources) == 1 + len(second.scores)


def test_ports_direction_and_position_are_followed(llama) -> None:
    batch = tiny_batch(llama, 3)
    method = PathPatching(direction="noising", positions=("CHANGE",), mlps="frozen")
    assert discover_paths(llama, batch, METRIC, sweep=Sweep(method)).stages == (), "nothing at CHANGE reaches the logits directly"
    method = PathPatching(direction="noising", positions=("END",))
    found = discover_paths(llama, batch, METRIC, top=0.5, stages=("q", "kv"), sweep=Sweep(method))
    assert len(found.stages) == 3
    assert {name[-3:] for name in found.stages[1].scores} == {"<q>"}
    assert {name[-3:] for name in found.stages[2].scores} == {"<k>", "<v>"}
    assert all(scores.provenance.params["direction"] == "noising" for stage in found.stages for scores in stage.scores.values())
    assert all(parse_edge(str(one.edge)) == one.edge for one in found.edges)


def test_misuse_is_refused(llama) -> None:
    batch = tiny_batch(llama, 2)
    for top in (0.0, 1.5):
        with pytest.raises(BadParameterError, match="not a share"):
            discover_paths(llama, batch, METRIC, top=top)
    with pytest.raises(BadParameterError, match="is less than 1"):
        discover_paths(llama, batch, METRIC, stages=0)
    with pytest.raises(UnknownNameError, match="port 'qx'"):
        discover_paths(llama, batch, METRIC, stages=("qx",))
    with pytest.raises(BadParameterError, match="at most one position"):
        discover_paths(llama, batch, METRIC, sweep=Sweep(PathPatching(positions=("CHANGE", "END"))))
    with pytest.raises(BadParameterError, match="no via"):
        discover_paths(llama, batch, METRIC, sweep=Sweep(PathPatching(via=("a1.h0<q>",))))
