"""Keys taken out of a cache: what is left is the softmax over what is kept, computed here from queries, keys and values."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from circuitlab.core.errors import BadParameterError, ModelError
from circuitlab.model.interventions import KeepKeys
from circuitlab.model.places import Places
from circuitlab.model.sites import Site
from circuitlab.testing.tiny import tiny_model

LENGTH, HEADS, GROUP, WIDTH = 9, 4, 2, 5
PLACES = Places(torch.zeros(1, LENGTH, dtype=torch.long), torch.tensor([LENGTH - 1]))


def parts() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values by head; heads of a group share the last two."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(HEADS, LENGTH, WIDTH, generator=generator, dtype=torch.float64)
    k, v = (torch.randn(HEADS // GROUP, LENGTH, WIDTH, generator=generator, dtype=torch.float64) for _ in range(2))
    return q, k.repeat_interleave(GROUP, 0), v.repeat_interleave(GROUP, 0)


def full() -> torch.Tensor:
    q, k, _ = parts()
    scores = (q @ k.transpose(-1, -2)).masked_fill(~torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril(), float("-inf"))
    return scores.softmax(-1)[None]


def edited(policy: KeepKeys, value: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(policy.resolved(tiny_model("llama")).tap(PLACES)(Site.PATTERN, 0, value))


def kept_by_hand(query: int, policy: KeepKeys) -> list[int]:
    keep = policy.keep
    if keep is not None and keep.ndim == 3:
        keep = keep[0, query] if query < keep.shape[1] else torch.ones(0, dtype=torch.bool)
    listed = [] if keep is None else [i for i in range(LENGTH) if i >= len(keep) or bool(keep[i])]
    return [i for i in range(query + 1) if i < policy.sinks or query - i < policy.window or i in listed]


POLICIES = {
    "window": KeepKeys("a0.kv1", window=3),
    "sinks and window": KeepKeys("a0.kv1", sinks=2, window=2),
    "chosen keys": KeepKeys("a0.kv1", keep=torch.tensor([False, True, False, False, True, False])),
    "keys chosen by query": KeepKeys("a0.kv1", keep=torch.rand(1, 7, 6, generator=torch.Generator().manual_seed(1)) < 0.4),
    "compensation": KeepKeys("a0.kv1", sinks=1, window=2, compensate=True),
}


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_read_is_the_softmax_over_the_kept_keys(name: str) -> None:
    policy, (q, k, v) = POLICIES[name], parts()
    read = edited(policy, full())[0] @ v
    for head in range(HEADS):
        for query in range(LENGTH):
            kept = kept_by_hand(query, policy) if head >= GROUP else list(range(query + 1))
            lost = [i for i in range(query + 1) if i not in kept]
            keys, values, counts = k[head, kept], v[head, kept], torch.ones(len(kept), dtype=torch.float64)
            if policy.compensate and lost:
                keys = torch.cat([keys, k[head, lost].mean(0, keepdim=True)])
                values = torch.cat([values, v[head, lost].mean(0, keepdim=True)])
                counts = torch.cat([counts, torch.tensor([float(len(lost))], dtype=torch.float64)])
            weights = counts * (keys @ q[head, query]).exp()
            torch.testing.assert_close(read[head, query], (weights / weights.sum()) @ values, atol=1e-12, rtol=0)


def test_a_row_of_which_nothing_is_dropped_stays_to_the_last_bit() -> None:
    pattern = full()
    out = edited(KeepKeys(["a0.kv0", "a0.kv1"], sinks=2, window=4, compensate=True), pattern)
    assert torch.equal(out[..., :6, :], pattern[..., :6, :])
    assert not torch.allclose(out[..., 6:, :], pattern[..., 6:, :])


def test_a_gate_mixes_the_two_kinds_of_attention_and_trains() -> None:
    pattern = full()
    kept, half = (edited(KeepKeys("a0.kv1", window=2, gate=gate), pattern) for gate in (0.0, 0.5))
    assert torch.equal(kept, edited(KeepKeys("a0.kv1", window=2), pattern))
    assert torch.equal(edited(KeepKeys("a0.kv1", window=2, gate=1.0), pattern), pattern)
    torch.testing.assert_close(half, (kept + pattern) / 2)
    gates = torch.nn.Parameter(torch.tensor([1.0, 0.25]))
    out = edited(KeepKeys(["a0.kv0", "a0.kv1"], window=2, gate=gates), pattern)
    assert torch.equal(out[:, :GROUP], pattern[:, :GROUP])
    _, _, v = parts()
    (out[0] @ v)[GROUP:].square().sum().backward()
    assert gates.grad is not None and gates.grad[0] == 0 and gates.grad[1] != 0


def test_a_dropped_key_of_unknown_score_is_not_averaged() -> None:
    """The key is visible and its weight 0, as where 16 bits are too few; where the mask hides keys, 0 is their weight."""
    pattern = full()
    pattern[..., 2] = 0.0
    policy = KeepKeys("a0.kv0", sinks=1, window=2, compensate=True).resolved(tiny_model("llama"))
    with pytest.raises(ModelError, match="has weight 0"):
        policy.tap(PLACES)(Site.PATTERN, 0, pattern)
    hidden = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    hidden[:, 2] = False
    masked = dataclasses.replace(policy, visible=lambda _length: [hidden] * 2)
    assert not masked.tap(PLACES)(Site.PATTERN, 0, pattern)[0, 0, 2:, 2].any()
    edited(KeepKeys("a0.kv0", sinks=1, window=2), pattern)  # what is dropped without compensation needs no score


def test_the_weight_of_an_attention_sink_keeps_its_ratio() -> None:
    q, k, _ = parts()
    scores = (q @ k.transpose(-1, -2))[:, -1:]
    with_sink = torch.cat([scores, torch.full((HEADS, 1, 1), 0.7, dtype=torch.float64)], -1).softmax(-1)[None]
    places = PLACES.window(LENGTH - 1, LENGTH)
    policy = KeepKeys("a0.kv0", window=2).resolved(tiny_model("llama"))
    out = policy.tap(places)(Site.PATTERN, 0, with_sink[..., :-1])[0, 0, 0]
    expected = torch.cat([scores[0, 0, -2:], torch.tensor([0.7], dtype=torch.float64)]).softmax(-1)[:-1]
    torch.testing.assert_close(out[-2:], expected, atol=1e-12, rtol=0)
    assert not out[:-2].any()


def test_what_cannot_be_kept_is_refused() -> None:
    for bad in (
        lambda: KeepKeys("a0.h1"),
        lambda: KeepKeys("a0.kv1", window=0),
        lambda: KeepKeys("a0.kv1", keep=torch.tensor([1, 0])),
        lambda: KeepKeys("a0.kv1", keep=torch.ones(2, 3, dtype=torch.bool)),
        lambda: KeepKeys("a0.kv1", keep=torch.ones(1, 1, 3, 3, dtype=torch.bool)),
        lambda: KeepKeys("a0.kv1", gate=1.5),
        lambda: KeepKeys("a0.kv1", gate=torch.ones(2)),
        lambda: KeepKeys("a0.kv1").tap(PLACES),
        lambda: KeepKeys("a0.kv7").check(tiny_model("llama")),
    ):
        with pytest.raises(BadParameterError):
            bad()
    lonely = torch.zeros(1, HEADS, LENGTH, LENGTH)
    lonely[..., 0] = 1.0
    with pytest.raises(ModelError, match="below the smallest number"):
        edited(KeepKeys("a0.kv0", window=1), lonely)
