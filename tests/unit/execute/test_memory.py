"""Passes know the length of prompts: they stay inside the budget, give the same scores, and refuse what no memory holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitlab.core.errors import BadParameterError, ModelError
from circuitlab.core.progress import report_progress
from circuitlab.evaluation import NodeCircuitRunner
from circuitlab.execute import memory
from circuitlab.execute.memory import DEFAULT_GIB, PassSizes, available_bytes, fits_in, memory_budget, pass_bytes
from circuitlab.execute.sweeps import batch_by_length
from circuitlab.methods import get_method
from circuitlab.metrics import LogitDiff
from circuitlab.testing.tiny import tiny_batch, tiny_model

METRIC = LogitDiff()
CHUNKED = ["attribution_patching", "atp_star", "relp", "eap", "eap_ig", "path_patching"]


def chunks(run) -> list[int]:
    """How many pairs were finished after every pass."""
    seen: list[int] = []
    with report_progress(lambda done, _total: seen.append(done)):
        run()
    return seen


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


@pytest.mark.parametrize("name", CHUNKED)
def test_a_small_budget_makes_smaller_passes_and_the_same_scores(model, name: str) -> None:
    batch, method = tiny_batch(model, 6), get_method(name)
    whole = method(model, batch, METRIC)
    with memory_budget(1e-9):
        assert chunks(lambda: method(model, batch, METRIC)) == [1, 2, 3, 4, 5, 6]
        alone = method(model, batch, METRIC)
    assert len(chunks(lambda: method(model, batch, METRIC))) < 6
    np.testing.assert_allclose(alone.values("heads"), whole.values("heads"), atol=1e-5)


def test_circuits_are_run_in_smaller_passes_too(model) -> None:
    runs = NodeCircuitRunner(model, tiny_batch(model, 6), METRIC)
    masks = np.zeros((2, len(runs.elements)), dtype=bool)
    masks[0, :3] = True
    whole, seen = runs.run(masks), chunks(lambda: runs.run(masks))
    with memory_budget(1e-9):
        assert len(chunks(lambda: runs.run(masks))) > len(seen)
        np.testing.assert_allclose(runs.run(masks), whole, atol=1e-5)


def test_means_of_a_decomposition_are_made_in_smaller_passes_too(model, monkeypatch) -> None:
    batch, rows = tiny_batch(model, 6), []
    trace = type(model.decoder).trace
    monkeypatch.setattr(type(model.decoder), "trace", lambda self, resid: rows.append(len(resid)) or trace(self, resid))
    method = get_method("contextual_decomposition", {"baseline": "mean"})
    whole = method(model, batch, METRIC)
    assert max(rows) == 6
    rows.clear()
    with memory_budget(1e-9):
        alone = method(model, batch, METRIC)
    assert max(rows) == 1
    np.testing.assert_allclose(alone.values("heads"), whole.values("heads"), atol=1e-5)


def test_longer_prompts_go_fewer_together(model) -> None:
    batch = tiny_batch(model, 8, unequal=True)
    sizes = PassSizes.of(model)
    budget = 3 * sizes.differentiated(("z",), 9, 9)
    with memory_budget(budget / 2**30):
        fits = fits_in(lambda _window, length: sizes.differentiated(("z",), length, length), "x")
    found = list(batch_by_length(batch, 8, alike=False, fits=fits))
    assert sorted(pair for chunk in found for pair in chunk) == list(range(8))
    assert len(found) > 3
    for chunk in found:
        length = int(batch.end[chunk].max()) + 1
        assert len(chunk) == 1 or len(chunk) * sizes.differentiated(("z",), length, length) <= budget


def test_without_a_budget_chunks_are_what_they_were(model) -> None:
    batch = tiny_batch(model, 8, unequal=True)
    fits = fits_in(lambda _window, _length: 1, "x")
    assert list(batch_by_length(batch, 3, alike=False, fits=fits)) == list(batch_by_length(batch, 3, alike=False))


def test_what_a_graph_holds_is_counted(model) -> None:
    """The trace and what autograd saves, storage by storage, beside the estimate."""
    sizes, length = PassSizes.of(model), 48
    tokens = torch.randint(0, model.spec.d_vocab, (1, length), generator=torch.Generator().manual_seed(0))
    leaf = model.decoder.embed(tokens).detach().requires_grad_(True)
    held: dict[int, int] = {}

    def count(value: torch.Tensor) -> torch.Tensor:
        held[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(count, lambda value: value):
        trace = model.decoder.trace(leaf)
    for parameter in (map_.weight for block in model.decoder.blocks for map_ in (block.q, block.k, block.v, block.o, block.up, block.down)):
        held.pop(parameter.untyped_storage().data_ptr(), None)
    for layer in trace.layers:
        for value in vars(layer).values():
            if isinstance(value, torch.Tensor):  # what was projected is held as q, k and v, too
                count(value)
    assert 0.6 < (sizes.traced(length, length) + sizes.graph(length, length)) / sum(held.values()) < 1.2


def test_a_pair_that_no_memory_holds_is_refused_before_any_work(model, monkeypatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    batch, ran = tiny_batch(model, 2), []
    monkeypatch.setattr(type(model.decoder), "embed", property(lambda _self: ran.append(1)), raising=False)
    with memory_budget(1e-9), pytest.raises(ModelError, match=r"attribution_patching needs about .* for one pair of 9 tokens"):
        get_method("attribution_patching")(model, batch, METRIC)
    assert ran == []


def test_a_pair_over_the_budget_runs_alone_where_memory_holds_it() -> None:
    with memory_budget(1e-9):
        fits = fits_in(lambda _window, _length: 1000, "x")
    assert fits(1, 5, 5) and not fits(2, 5, 5)


def test_the_budget_comes_from_the_block_the_environment_or_the_default(monkeypatch) -> None:
    monkeypatch.delenv("CIRCUITLAB_MEMORY_GB", raising=False)
    assert pass_bytes() == DEFAULT_GIB * 2**30
    monkeypatch.setenv("CIRCUITLAB_MEMORY_GB", "1.5")
    assert pass_bytes() == 1.5 * 2**30
    with memory_budget(2):
        assert pass_bytes() == 2 * 2**30
    assert pass_bytes() == 1.5 * 2**30


@pytest.mark.parametrize("value", ["much", "0", "-1", "nan", "inf", ""])
def test_a_budget_that_is_no_amount_is_refused(monkeypatch, value: str) -> None:
    monkeypatch.setenv("CIRCUITLAB_MEMORY_GB", value)
    with pytest.raises(BadParameterError, match="not an amount of memory"):
        pass_bytes()


def test_this_machine_says_how_much_is_left() -> None:
    left = available_bytes()
    assert left is None or 2**26 < left < 2**50
