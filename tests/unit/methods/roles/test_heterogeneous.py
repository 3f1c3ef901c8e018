"""Task-KV's distance from the semantic centre: by hand, equal to a slow reading, and nothing for random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitlab.core.errors import BadParameterError
from circuitlab.methods.roles.heterogeneous import Heterogeneous, from_centre, semantic_vectors
from circuitlab.model.sites import Site
from circuitlab.model.toy.serve import serve
from circuitlab.model.toy.wiring import Wiring
from circuitlab.testing.tiny import tiny_model


def rows(vocab: int, n: int = 12, length: int = 6) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, np.random.default_rng(0).integers(0, vocab, (n, length)).tolist()))


def test_distances_equal_those_by_hand() -> None:
    vectors = np.array([[[4.0, 0.0], [0.0, 0.0], [0.0, 3.0], [0.0, 1.0]]])  # centre (1, 1)
    by_hand = np.array([np.sqrt(10), np.sqrt(2), np.sqrt(5), 1.0])
    np.testing.assert_allclose(from_centre(vectors, vectors)[0], by_hand / by_hand.mean())
    np.testing.assert_allclose(from_centre(vectors / 2, vectors)[0], by_hand / by_hand.mean() / 2)
    assert from_centre(np.ones((1, 4, 2)), np.ones((1, 4, 2))).tolist() == [[1.0] * 4], "heads that read the same are all average"


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_semantic_vectors_equal_a_slow_reading(family) -> None:
    model, row = tiny_model(family), np.array([3, 9, 4, 4, 7, 1])
    seen = model.capture(torch.tensor(row[None]), [Site.PATTERN, Site.V])
    pattern, values = (seen[site][0].double().numpy() for site in (Site.PATTERN, Site.V))
    raw, shuffled = semantic_vectors(model, row, "values", np.random.default_rng(0))
    written, _ = semantic_vectors(model, row, "written", np.random.default_rng(0))
    group = model.spec.n_heads // model.spec.n_kv_heads
    for layer, head in np.ndindex(3, 4):
        by_hand = sum(pattern[layer, head, q, k] * values[layer, k, head // group] for q in range(6) for k in range(q + 1)) / 6
        np.testing.assert_allclose(raw[layer, head], by_hand, atol=1e-7)
        np.testing.assert_allclose(written[layer, head], by_hand @ model.weights.output(layer)[head].double().numpy(), atol=1e-6)
    assert not np.allclose(raw, shuffled), "the control reads elsewhere"


@pytest.mark.parametrize("form", ["gqa", "mha"])
def test_a_planted_head_that_looks_at_one_token_is_far_and_a_loud_head_is_not_enough(form) -> None:
    wiring = Wiring(form, 1, 8)
    token, out = wiring.block(8), wiring.block(8)
    for i in range(8):
        wiring.embed[i, token[i]] = 1.0
        wiring.unembed[i, out[i]] = 1.0
    for head in range(4):  # all read every token alike; the others look a little at a token of their own
        wiring.match(0, head, token, [token[5 if head == 2 else head]] * 8, 20.0 if head == 2 else 1.5)
        wiring.carry(0, head, token, out, 1.0)
    scores = Heterogeneous(tokens=rows(8, length=32))(serve(wiring, "one-token"))
    assert np.argwhere(scores.earned()).tolist() == [[0, 2]]
    loud = Wiring(form, 1, 8)
    token, out = loud.block(8), loud.block(8)
    for i in range(8):
        loud.embed[i, token[i]] = 1.0
    loud.carry(0, 2, token, out, 50.0)
    scores = Heterogeneous(tokens=rows(8, length=32))(serve(loud, "loud"))
    assert scores.value[0, 2] > 1.5 and not scores.earned().any(), "as far wherever it looks"


@pytest.mark.parametrize("seed", [0, 1])
def test_random_weights_earn_nothing(seed) -> None:
    assert not Heterogeneous(tokens=rows(48, length=16))(tiny_model("llama", seed=seed)).earned().any()


def test_what_cannot_be_measured_is_refused() -> None:
    for params in ({"n": 1}, {"space": "logits"}, {"tokens": ((1, 2, 3),)}, {"tokens": ((1, 2), (1, 2, 3))}):
        with pytest.raises(BadParameterError, match="cannot be used"):
            Heterogeneous(**params)
