"""EAP and EAP-IG equal explicit edges on plain Hugging Face models: the derivative by what one receiver alone reads more of a sender."""

from __future__ import annotations

import numpy as np
import pytest
from tolerances import TINY_EDGES

from circuitlab.methods.eap import EdgeAttributionPatching
from circuitlab.methods.eap_ig import EdgeAttributionPatchingIG
from circuitlab.metrics import LogitDiff
from circuitlab.model import load_model
from circuitlab.testing.tiny import FAMILIES, tiny_batch, tiny_hf
from reference.eap import edge_effects

METRIC = LogitDiff()


def slow_edges(family: str, batch, layout, at, by: str = "autograd") -> np.ndarray:
    """(pair, sender, receiver) in float64, prompts unpadded, one at a time."""
    hf = tiny_hf(family).double()
    names = list(map(str, layout.edges()))
    out = np.zeros((batch.n_pairs, *layout.shape))
    for i in range(batch.n_pairs):
        one = batch.select([i])
        right, wrong = int(one.answers[0, 0]), int(one.foils[0, 0])
        found = edge_effects(hf, (one.clean, one.corrupt), names, lambda x, r=right, w=wrong: x[:, r] - x[:, w], at, by=by)
        out[i, *layout.edge_indices] = found.numpy()
    return out


def assert_every_edge(scores, expected: np.ndarray) -> None:
    """Fail unless every edge agrees, and unless most edges that can carry something do."""
    there = expected[:, scores.layout.mask]
    assert (np.abs(there) > 20 * TINY_EDGES).any(axis=0).mean() > 0.7, "most reference edges are zero"
    np.testing.assert_allclose(scores.values(), expected, rtol=0, atol=TINY_EDGES)


@pytest.fixture(scope="module", params=FAMILIES)
def case(request):
    model = load_model(tiny_hf(request.param))
    return request.param, model, tiny_batch(model, n=2, unequal=True)


@pytest.mark.some(case=1, direction=3)
@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_every_edge_of_every_family(case, direction: str) -> None:
    family, model, batch = case
    scores = EdgeAttributionPatching(direction=direction).edges(model, batch, METRIC)
    assert_every_edge(scores, slow_edges(family, batch, scores.layout, "clean" if direction == "noising" else "corrupt"))


@pytest.mark.some(case=1, points=3)
@pytest.mark.parametrize(("points", "at"), [("midpoint", [1 / 6, 1 / 2, 5 / 6]), ("left", [0, 1 / 3, 2 / 3])])
def test_integrated_gradients_on_every_edge(case, points: str, at: list[float]) -> None:
    family, model, batch = case
    scores = EdgeAttributionPatchingIG(steps=3, points=points).edges(model, batch, METRIC)
    assert_every_edge(scores, slow_edges(family, batch, scores.layout, at))


def test_differences_of_two_runs_say_the_same() -> None:
    """Without any autograd. GPT-2 only: other families round to float32 inside, in every dtype, which differences would magnify."""
    model = load_model(tiny_hf("gpt2"))
    batch = tiny_batch(model, n=2, unequal=True)
    scores = EdgeAttributionPatching().edges(model, batch, METRIC)
    assert_every_edge(scores, slow_edges("gpt2", batch, scores.layout, "clean", by="differences"))


def test_the_parity_check_can_fail() -> None:
    model = load_model(tiny_hf("llama"))
    batch = tiny_batch(model, n=1)
    scores = EdgeAttributionPatching().edges(model, batch, METRIC)
    expected = slow_edges("llama", batch, scores.layout, "clean")
    with pytest.raises(AssertionError):
        assert_every_edge(EdgeAttributionPatching(direction="denoising").edges(model, batch, METRIC), expected)
    sender, receiver = scores.layout.index("a0.h1->a1.kv0<k>")
    swapped = expected.copy()
    swapped[:, sender, receiver] = expected[:, sender, receiver + 1]
    with pytest.raises(AssertionError):
        assert_every_edge(scores, swapped)
    with pytest.raises(AssertionError, match="most reference edges are zero"):
        assert_every_edge(scores, expected * 0)
