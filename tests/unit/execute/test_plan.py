"""What a run will take is said before it starts, and kept: passes, readings, bytes; chunks whose memory cannot be had are halved."""

from __future__ import annotations

import numpy as np
import pytest
from tests.reference.streamed import both, pairs

import circuitlab as cl
from circuitlab.core.errors import BadParameterError, ModelError
from circuitlab.execute.arrangement import InTurn, arrangement_on, is_allocation_failure
from circuitlab.execute.memory import gibibytes, memory_budget, resident_bytes
from circuitlab.execute.plan import plan_of, within_memory
from circuitlab.metrics import get_metric

METRIC = get_metric("logit_diff")
METHODS = [
    cl.methods.ActivationPatching(pairs_per_pass=2),
    cl.methods.ActivationPatching(pairs_per_pass=2, precision="bf16_difference"),
    cl.methods.AttributionPatching(pairs_per_pass=2),
    cl.methods.PathPatching(pairs_per_pass=2),
]


def named(method) -> str:
    return f"{method.name} {getattr(method, 'precision', '')}"


@pytest.mark.parametrize("budget", [4.0, 3e-4, 1e-9])
@pytest.mark.parametrize("method", METHODS, ids=named)
def test_a_streamed_run_reads_what_its_plan_says(method, budget) -> None:
    model, streamed = both("gemma2")
    batch, reading = pairs(model), streamed.source.reading
    with memory_budget(budget):
        plan, before = plan_of(method, streamed, batch), (reading.layers, reading.bytes)
        scores, chunks = method(streamed, batch, METRIC), method.chunks(streamed, batch).pairs
    layers, depth = reading.layers - before[0], model.spec.n_layers
    turns = plan.passes if method.name == "attribution_patching" else 0  # the layer at which a pass turns around is not read again
    if method.name == "activation_patching" and budget != 4.0:
        assert plan.passes * depth < layers <= plan.readings * depth  # waves of edited runs begin at their first layer
    else:
        assert layers == plan.readings * depth - turns
    assert reading.bytes - before[1] <= plan.read
    assert plan.passes == (1 if budget == 4.0 else plan.passes) <= len(chunks)
    expected = method(model, batch, METRIC)
    for part in expected.parts:
        # Differences that are rounded to bfloat16 differ more where edited runs are divided otherwise.
        reduced = "bf16" in named(method)
        np.testing.assert_allclose(scores.values(part), expected.values(part), atol=1e-2 if reduced else 1e-5)


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_less_memory_means_more_passes(method) -> None:
    model, streamed = both("gemma2")
    batch = pairs(model)
    with memory_budget(1e-9):
        small = plan_of(method, streamed, batch)
    large = plan_of(method, streamed, batch)
    assert small.passes > large.passes == 1
    assert small.peak <= large.peak + (1 << 20)  # the process itself may grow in between
    assert resident_bytes() / 2 < small.peak < resident_bytes() + (1 << 26)


def test_screened_patching_is_planned_with_its_gradients_and_one_more_time() -> None:
    model, streamed = both("gemma2")
    method, batch, reading = cl.methods.ScreenedPatching(k=1, sample=1, parts="heads"), pairs(model), streamed.source.reading
    plan, before = plan_of(method, streamed, batch), reading.layers
    assert plan.readings == 6  # gradients up and down; unedited and edited runs, twice
    assert plan.peak >= plan_of(method._screen, streamed, batch).peak - (1 << 20)
    scores = method(streamed, batch, METRIC)
    depth, patched = model.spec.n_layers, scores.provenance.measured["patched"]
    assert 4 * depth - 2 <= reading.layers - before <= 2 * depth * (1 + patched)


def test_a_model_in_memory_is_not_read() -> None:
    model, _ = both("gemma2")
    plan = plan_of(METHODS[0], model, pairs(model))
    assert (plan.readings, plan.read) == (0, 0)
    assert plan.passes == len(METHODS[0].chunks(model, pairs(model)).pairs)
    assert "readings" not in str(plan)


def test_a_method_without_a_plan_says_so() -> None:
    model, _ = both("llama")
    with pytest.raises(BadParameterError, match="eap does not say how much memory it takes"):
        plan_of(cl.methods.EdgeAttributionPatching(), model, pairs(model))


@pytest.mark.parametrize(("text", "gib"), [("4GiB", 4), ("4 gib", 4), ("2G", 2), ("512MiB", 0.5), (1.5, 1.5), ("1.073741824GB", 1)])
def test_amounts_of_memory(text, gib) -> None:
    assert gibibytes(text) == pytest.approx(gib)


@pytest.mark.parametrize("text", ["", "much", "4 parsecs", "-1GiB", "0", "1.2.3GiB", "nan"])
def test_what_is_no_amount_of_memory(text) -> None:
    with pytest.raises(BadParameterError, match="memory"):
        gibibytes(text)


@pytest.mark.parametrize("method", [cl.methods.ActivationPatching(), cl.methods.AttributionPatching(), cl.methods.PathPatching()])
def test_a_run_that_cannot_stay_inside_is_refused_before_work(method) -> None:
    model, streamed = both("llama")
    batch, before = pairs(model), streamed.source.reading.layers
    with pytest.raises(ModelError, match=rf"leaves nothing for {method.name}: the process holds .* with tiny-llama loaded"):
        cl.score(streamed, batch, method, memory="1MiB")
    with memory_budget(1e-9, strict=True), pytest.raises(ModelError, match=rf"{method.name} needs about .* for one pair of \d+ tokens"):
        method(streamed, batch, METRIC)
    assert streamed.source.reading.layers == before


def test_memory_of_the_whole_process_is_kept() -> None:
    model, _ = both("llama")
    with within_memory("64GiB", model, METHODS[0]):
        scores = METHODS[0](model, pairs(model), METRIC)
    np.testing.assert_array_equal(scores.values("heads"), METHODS[0](model, pairs(model), METRIC).values("heads"))
    assert cl.score(model, pairs(model), METHODS[0], memory=64).n_pairs == pairs(model).n_pairs


def failing_above(most: int, error: Exception, tried: list):
    def make(chunk):
        yield 0
        tried.append(len(chunk))
        if len(chunk) > most:
            raise error
        return list(chunk)

    return make


@pytest.mark.parametrize("streamed", [False, True])
def test_chunks_whose_memory_cannot_be_allocated_are_halved(streamed) -> None:
    tried: list[int] = []
    make = failing_above(2, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), tried)
    arranged = arrangement_on(both("llama")[streamed])
    done = list(arranged.each(make, [[0, 1, 2, 3, 4], [5], [6, 7, 8]], "x"))
    assert [pair for chunk, _ in done for pair in chunk] == list(range(9))
    assert all(chunk == result for chunk, result in done)
    assert max(tried) == 5
    assert max(len(chunk) for chunk, _ in done) == 2


def test_a_pair_whose_memory_cannot_be_allocated_is_named() -> None:
    with pytest.raises(ModelError, match="x could not allocate the memory for one pair: out of memory"):
        list(InTurn().each(failing_above(0, RuntimeError("out of memory"), []), [[0, 1]], "x"))


def test_other_errors_pass_through() -> None:
    tried: list[int] = []
    with pytest.raises(RuntimeError, match="shapes"):
        list(InTurn().each(failing_above(0, RuntimeError("shapes do not fit"), tried), [[0, 1]], "x"))
    assert tried == [2]
    assert is_allocation_failure(MemoryError())
    assert not is_allocation_failure(RuntimeError("memory format"))


def test_an_allocation_that_fails_in_the_middle_changes_no_score(monkeypatch) -> None:
    model, streamed = both("qwen3")
    method, failed, attend = cl.methods.ActivationPatching(), [], cl.model.engine.layer_pass.attend
    batch, expected = pairs(model), cl.methods.ActivationPatching()(model, pairs(model), METRIC)

    def fails_once(block, rows, multiply, at):
        if not failed and at.layer == 1:
            failed.append(True)
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 123 bytes.")
        return attend(block, rows, multiply, at)

    monkeypatch.setattr("circuitlab.model.engine.layer_pass.attend", fails_once)
    scores = method(streamed, batch, METRIC)
    assert failed
    np.testing.assert_allclose(scores.values("heads"), expected.values("heads"), atol=1e-5)
