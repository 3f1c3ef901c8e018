"""Contextual decomposition equals its equations, done one prompt and one source at a time on a plain Hugging Face GPT-2."""

from __future__ import annotations

import numpy as np
import pytest

from circuitlab.core.nodes import Head, Mlp
from circuitlab.methods.contextual_decomposition import ContextualDecomposition
from circuitlab.methods.decomposition import Options, Rule, Source
from circuitlab.methods.decomposition.relevance import relevance_to_metric
from circuitlab.metrics import LogitDiff
from circuitlab.model import load_model
from circuitlab.testing.tiny import tiny_batch, tiny_hf
from reference.contextual_decomposition import Choice, decompose, outputs

METRIC = LogitDiff()
TOLERANCE = 1e-5
CHOICES = {
    "ablation": Choice(ablation=True),
    "exact": Choice(),
    "published": Choice(eps=1e-8, clip=True),
    "exact, signs=clipped": Choice(clip=True),
}


def slow(hf, batch, pair: int, baseline, choice: Choice) -> float:
    one = batch.select([pair])
    relevant, _ = decompose(hf, one.clean[0].tolist(), baseline, choice)
    return float(relevant[one.answers[0, 0]] - relevant[one.foils[0, 0]])


def assert_same(found, expected) -> None:
    assert np.abs(expected).max() > 1000 * TOLERANCE, "the reference relevances are next to nothing"
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def case():
    model = load_model(tiny_hf("gpt2"))
    return model, tiny_batch(model, n=2, unequal=True), tiny_hf("gpt2").double()


@pytest.mark.parametrize("rule", CHOICES)
def test_every_head_and_mlp(case, rule: str) -> None:
    model, batch, hf = case
    scores = ContextualDecomposition(rule=rule)(model, batch, METRIC)
    for pair in range(batch.n_pairs):
        other = outputs(hf, batch.select([pair]).corrupt[0].tolist())
        for part, build in (("heads", Head), ("mlps", Mlp)):
            found = scores.values(part)[pair]
            expected = [
                slow(hf, batch, pair, {name: other[name]}, CHOICES[rule]) for name in (str(build(*i)) for i in np.ndindex(found.shape))
            ]
            assert_same(found, np.reshape(expected, found.shape))


@pytest.mark.parametrize("rule", CHOICES)
def test_sources_of_several_nodes_from_the_embedding_on_with_nothing_irrelevant(case, rule: str) -> None:
    model, batch, hf = case
    groups = [("embed",), ("a0.h1", "m0", "a2.h3"), ("a1.h0", "a1.h2")]
    found = relevance_to_metric(model, batch, METRIC, [Source(group) for group in groups], Options(Rule.parse(rule), "zero")).values
    expected = np.zeros_like(found)
    for pair in range(batch.n_pairs):
        own = outputs(hf, batch.select([pair]).clean[0].tolist())
        for row, group in enumerate(groups):
            expected[row, pair] = slow(hf, batch, pair, {name: own[name] * 0 for name in group}, CHOICES[rule])
    assert_same(found, expected)


def test_a_span_of_tokens_and_one_position_of_a_head(case) -> None:
    model, batch, hf = case
    sources = [Source(("embed",), at=(2, 3)), Source(("a1.h2",), at=("CHANGE",))]
    found = relevance_to_metric(model, batch, METRIC, sources, Options(baseline="zero")).values
    expected = np.zeros_like(found)
    for pair in range(batch.n_pairs):
        own = outputs(hf, batch.select([pair]).clean[0].tolist())
        places = [[2, 3], [int(batch.marks["CHANGE"][pair])]]
        for row, (name, at) in enumerate(zip(("embed", "a1.h2"), places, strict=True)):
            irrelevant = own[name].copy()
            irrelevant[at] = 0
            expected[row, pair] = slow(hf, batch, pair, {name: irrelevant}, Choice())
    assert_same(found, expected)


def test_the_mean_of_the_corrupt_prompts_as_baseline(case) -> None:
    model, _, hf = case
    batch = tiny_batch(model, n=3)
    found = ContextualDecomposition(rule="exact", baseline="mean")(model, batch, METRIC).values("heads")[:, 1]
    runs = [outputs(hf, batch.corrupt[pair].tolist()) for pair in range(3)]
    names = [f"a1.h{head}" for head in range(4)]
    means = {name: np.mean([run[name] for run in runs], axis=0) for name in names}
    expected = [[slow(hf, batch, pair, {name: means[name]}, Choice()) for name in names] for pair in range(3)]
    assert_same(found, np.array(expected))


def test_the_parity_check_can_fail(case) -> None:
    model, batch, hf = case
    scores = ContextualDecomposition(rule="exact")(model, batch, METRIC).values("heads")[0, 0]
    other = outputs(hf, batch.select([0]).corrupt[0].tolist())
    expected = np.array([slow(hf, batch, 0, {f"a0.h{head}": other[f"a0.h{head}"]}, Choice(clip=True)) for head in range(4)])
    with pytest.raises(AssertionError):
        assert_same(scores, expected)
    with pytest.raises(AssertionError, match="next to nothing"):
        assert_same(scores * 0, expected * 0)
