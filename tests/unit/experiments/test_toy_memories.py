"""Toy memories: signatures where they are known to arise, none where targets or keys rule them out, and numbers that repeat."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitlab.experiments.toy_memories import ToyMemories
from circuitlab.experiments.toy_memories.capacity import capacities, interference
from circuitlab.experiments.toy_memories.regression import Setting, Weights, described, predicted, train

SEEDS = 3


def published(heads: int, scale: float = 0.05) -> Weights:
    """The weights that He et al. describe: a diagonal and heads of both signs."""
    kq, ov = torch.zeros(SEEDS, heads, 6, 6), torch.zeros(SEEDS, heads, 6)
    for head in range(heads):
        sign = 1 if head % 2 == 0 else -1
        kq[:, head, :5, :5] = sign * scale * torch.eye(5)
        ov[:, head, 5] = sign / (heads * scale)
    return Weights(kq, ov)


def regression(weights_of) -> dict:
    runs = {}
    for heads in (1, 2, 4):
        noise = Weights(torch.randn(SEEDS, heads, 6, 6), torch.randn(SEEDS, heads, 6))
        before, after = (described(Setting(), some, 0) for some in (noise, weights_of(heads)))
        runs[str(heads)] = {"before": before, "after": after}
    return runs


def memory(rank: int | None = None) -> dict:
    widths, rng = (16, 32, 64), np.random.default_rng(0)
    return {"random": capacities(widths, 64, 4, rng, rank), "same_rank": capacities(widths, 64, 3, rng, 16)}


def verdicts(weights_of, rank: int | None = None) -> list[str]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        results = {"heads": [1, 2, 4], "regression": regression(weights_of), "memory": memory(rank)}
    return [claim.verdict for claim in ToyMemories().judge(results)]


def test_the_published_weights_and_random_keys_replicate_every_claim() -> None:
    assert verdicts(published) == ["replicates"] * 6


def test_random_weights_and_keys_of_one_size_replicate_nothing() -> None:
    assert set(verdicts(lambda heads: Weights(torch.randn(SEEDS, heads, 6, 6), torch.randn(SEEDS, heads, 6)), 16)) == {"does not replicate"}


def test_training_finds_the_diagonal_and_not_where_targets_follow_from_nothing() -> None:
    short = {"steps": 800, "rows": 64, "examples": 20}
    related, unrelated = (Setting(**short, related=flag) for flag in (True, False))
    found, lost = (train(setting, 1, 2, 0).last for setting in (related, unrelated))
    off = [described(related, weights, 0)["off_diagonal"]["mean"] for weights in (found, lost)]
    assert off[0] < 0.2 and off[1] > 0.5


def test_training_repeats_to_the_same_numbers_and_leaves_the_random_state() -> None:
    state = torch.get_rng_state()
    setting = Setting(steps=30, rows=8)
    first, second, other = (train(setting, 2, 2, seed) for seed in (0, 0, 1))
    assert torch.equal(first.last.kq, second.last.kq) and np.array_equal(first.loss, second.loss)
    assert not torch.equal(first.last.kq, other.last.kq)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_prediction_is_attention_written_out() -> None:
    weights = published(2)
    examples, query = torch.randn(SEEDS, 1, 7, 6, generator=torch.Generator().manual_seed(0)), torch.zeros(SEEDS, 1, 6)
    query[..., :5] = 1.0
    by_hand = 0.0
    for head in range(2):
        attention = torch.softmax(examples[0, 0] @ weights.kq[0, head] @ query[0, 0], 0)
        by_hand += float((attention @ examples[0, 0]) @ weights.ov[0, head])
    assert float(predicted(weights, examples, query)[0, 0]) == pytest.approx(by_hand, abs=1e-5)


def test_interference_is_that_of_random_keys() -> None:
    rows = [interference(33, 32, 64, np.random.default_rng(seed)) for seed in range(20)]
    assert np.mean([row["noise"] for row in rows]) == pytest.approx(1.0, abs=0.1), "32 others, each of squared overlap 1 / 32"
    assert interference(2, 512, 64, np.random.default_rng(0))["retrieval"] == 1.0


def test_figures_are_drawn_from_plain_data() -> None:
    experiment = ToyMemories(steps=20, seeds=3)
    runs = {str(heads): experiment._trained(Setting(steps=20, rows=4), heads, 0) for heads in (1, 2, 4)}
    results = {"heads": [1, 2, 4], "regression": runs, "memory": memory()}
    names = [drawing.name for drawing in experiment.draw(results, "toy")]
    assert names == ["kq-positive", "kq-negative", "ov", "loss", "retrieval", "knees"]
    assert len(experiment.judge(results)) == len(experiment.published)
