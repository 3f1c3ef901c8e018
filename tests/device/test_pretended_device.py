"""Every path on a pretended device: nothing is made on the wrong one, and the numbers are those of the processor, bit for bit."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import circuitlab as cl
from circuitlab.execute.contract import weights_only
from circuitlab.execute.needs import refusal
from circuitlab.execute.reference import with_reference
from circuitlab.methods import get_method, method_classes
from circuitlab.metrics import METRICS, get_metric
from circuitlab.model.batch import ContrastBatch
from circuitlab.model.sites import Site
from circuitlab.testing.tiny import tiny_batch, tiny_hf

from .pretended import DEVICE, Pretended, move, pretended

FAMILIES = ["llama", "gpt2", "gemma2"]
ROLES = ["copying", "copying_eigenvalues", "k_composition", "low_rank_qk", "positional", "induction", "previous_token", "sink"]
EDITS: dict[str, Any] = {
    "knockout zero": lambda batch: cl.interventions.Knockout("a1.h1", "zero"),
    "knockout mean": lambda batch: cl.interventions.Knockout(["a1.h1", "m0"], "mean", batch=batch),
}


@cache
def models(family: str) -> tuple[Any, Any]:
    """The same tiny model on the processor and on the pretended device; only used inside `pretended`."""
    return cl.load_model(tiny_hf(family)), cl.load_model(move(tiny_hf(family)))


@pytest.fixture(autouse=True)
def device():
    with pretended():
        yield


def same(one: Any, other: Any) -> bool:
    return all(np.array_equal(one.dataset[name].values, other.dataset[name].values) for name in one.dataset.data_vars)


def scored(name: str, model: Any, batch: ContrastBatch, params: dict[str, Any] | None = None) -> Any:
    method: Any = get_method(name, params or {})
    return method(model) if weights_only(method) else method(model, batch, get_metric("logit_diff"))


def test_the_pretended_device_refuses_what_cuda_refuses() -> None:
    there, here = torch.ones(3, device=DEVICE), torch.ones(3)
    assert isinstance(there, Pretended) and there.device == DEVICE and here.device.type == "cpu"
    for mix in (lambda: there + here, lambda: torch.cat([there, here]), lambda: here[torch.arange(2, device="cuda")], there.numpy):
        with pytest.raises((RuntimeError, TypeError), match=r"same device|convert cuda"):
            mix()
    with pytest.raises((RuntimeError, TypeError)):
        np.asarray(there)
    assert not isinstance((there * 2).cpu(), Pretended) and isinstance(here.to(DEVICE), Pretended)
    assert (there + torch.tensor(1.0)).tolist() == [2, 2, 2] and there[torch.tensor([0, 1])].shape == (2,)


METHODS = [(name, "llama") for name in method_classes()]
METHODS += [(name, "gpt2") for name in ("activation_patching", "attribution_patching", "contextual_decomposition", "path_patching")]


@pytest.mark.parametrize(("name", "family"), METHODS)
def test_methods_give_the_numbers_of_the_processor(name, family) -> None:
    host, there = models(family)
    batch = tiny_batch(host, unequal=name in {"activation_patching", "attribution_patching"})
    if reason := refusal(get_method(name), host):
        pytest.skip(reason)
    assert same(scored(name, there, batch), scored(name, host, batch))


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("activation_patching", {"precision": "bf16_difference"}),
        ("activation_patching", {"parts": ["resid_pre"]}),
        ("activation_patching", {"site": "pattern"}),
    ],
)
def test_parameters_of_methods_change_nothing(name, params) -> None:
    host, there = models("llama")
    batch = tiny_batch(host)
    assert same(scored(name, there, batch, params), scored(name, host, batch, params))


@pytest.mark.parametrize("name", list(METRICS))
def test_metrics(name) -> None:
    host, there = models("llama")
    batch = tiny_batch(host)
    metric = get_metric(name)
    ours, theirs = (metric(model.logits(batch.corrupt, batch.end), with_reference(model, metric, batch)).cpu() for model in (host, there))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("family", FAMILIES)
def test_runs_captures_and_generation(family) -> None:
    host, there = models(family)
    batch = tiny_batch(host, unequal=True)
    assert isinstance(there.logits(batch.clean, batch.end), Pretended)
    assert torch.equal(there.logits(batch.clean, batch.end).cpu(), host.logits(batch.clean, batch.end))
    sites = sorted(host.sites, key=str)
    ours, theirs = (model.capture(batch.clean, sites, at=batch.end if Site.PATTERN not in sites else None) for model in (host, there))
    assert all(torch.equal(ours[site], theirs[site].cpu()) for site in sites)
    prompts = [[1, 2, 3], [4, 5, 6, 7], [2, 2, 3]]
    assert there.generate(prompts, 5, 1.0) == host.generate(prompts, 5, 1.0)


@pytest.mark.parametrize("edit", EDITS)
def test_edited_models(edit) -> None:
    host, there = models("llama")
    batch = tiny_batch(host)
    mine, theirs = (model.edited(EDITS[edit](batch)) for model in (host, there))
    assert torch.equal(theirs.logits(batch.clean, batch.end).cpu(), mine.logits(batch.clean, batch.end))
    assert theirs.generate([[1, 2, 3]], 4) == mine.generate([[1, 2, 3]], 4)
    assert same(scored("activation_patching", theirs, batch), scored("activation_patching", mine, batch))


def test_evaluation_of_circuits() -> None:
    host, there = models("llama")
    batch = tiny_batch(host)
    circuit = cl.Circuit(["a1.h1", "a2.h0", "m1"], cl.find_circuit(host, batch, rule=2).universe)
    measures = [cl.evaluate(model, circuit, batch).measures for model in (host, there)]
    assert repr(measures[0]) == repr(measures[1])
    edges = [cl.find_circuit(model, batch, "eap", rule=cl.circuits.TopEdges(8)) for model in (host, there)]
    assert edges[0].edges == edges[1].edges
    assert repr(cl.evaluate(host, edges[0], batch).measures) == repr(cl.evaluate(there, edges[1], batch).measures)


def test_roles() -> None:
    host, there = models("llama")
    table, again = (cl.roles(model, ROLES) for model in (host, there))
    assert table.refused == again.refused and len(table.scores) > len(ROLES) // 2
    for role, scores in table.scores.items():
        assert np.array_equal(scores.values, again.scores[role].values)
