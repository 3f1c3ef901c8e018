"""Mechanisms of factual recall on a model in which every step was wired, and on one in which none was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from circuitlab.core.errors import BadParameterError
from circuitlab.experiments.capitals import Country
from circuitlab.experiments.recall_mechanisms import RecallMechanisms
from circuitlab.experiments.recall_mechanisms.facts import Facts, facts_of
from circuitlab.experiments.recall_mechanisms.mlps import Read, fit
from circuitlab.experiments.recall_mechanisms.steps import measured
from circuitlab.experiments.types import ExperimentContext
from circuitlab.model.toy.serve import serve
from circuitlab.model.toy.wiring import Wiring
from circuitlab.store import Cache

N = 8
BLANK, QUERY, CAPITAL, LANGUAGE, COUNTRY = 0, 1, 2, 3, 4
CAPITALS, LANGUAGES, FREQUENT = COUNTRY + N, COUNTRY + 2 * N, COUNTRY + 3 * N


def model(*, wired: bool = True):
    """a1.h1 fetches the country, m1 amplifies it, a1.h2 reads the relation, m2 answers, m3 lowers the answer for what is frequent.

    Without these, both relations look alike, so that what a random head happens to write is no relation.
    """
    wiring = Wiring("gqa", 4, FREQUENT + 4)
    country, topic, capital = wiring.block(N), wiring.block(N), wiring.block(N)
    asked, written = wiring.block(2), wiring.block(2)
    is_country, is_query, is_relation, common = (wiring.block() for _ in range(4))
    wiring.embed[QUERY, is_query[0]] = 1.0
    for number, token in enumerate((CAPITAL, LANGUAGE)):
        wiring.embed[token, asked[number if wired else 0]] = wiring.embed[token, is_relation[0]] = 1.0
    for i in range(N):
        wiring.embed[COUNTRY + i, country[i]] = wiring.embed[COUNTRY + i, is_country[0]] = 1.0
        wiring.unembed[COUNTRY + i, topic[i]] = 1.0
        wiring.unembed[CAPITALS + i, capital[i]] = 4.0
        wiring.unembed[CAPITALS + i, written[0]] = wiring.unembed[LANGUAGES + i, written[1]] = 2.0
    for token in range(FREQUENT, FREQUENT + 4):
        wiring.unembed[token, 0], wiring.unembed[token, common[0]] = 0.3, 3.0
    if wired:
        wiring.match(1, 1, is_query, is_country, 14.0)
        wiring.carry(1, 1, country, topic, 1.0)
        wiring.match(1, 2, is_query, is_relation, 14.0)
        wiring.carry(1, 2, asked, written, 0.7)
        for i in range(N):
            wiring.unit(1, {topic[i]: 1.0}, 0.0, topic[i], 1.0)
            wiring.unit(2, {topic[i]: 1.0, written[0]: 0.3}, 0.5, capital[i], 1.5)
            wiring.unit(3, {capital[i]: 1.0}, 0.3, capital[i], -0.6)
        wiring.unit(2, {written[0]: 1.0}, 0.0, written[0], 2.0)
        wiring.unit(2, {written[1]: 1.0}, 0.0, written[1], 2.0)
        wiring.unit(3, {}, -1.0, common[0], 1.0)
    wiring.background(0.02)
    return serve(wiring, "recall")


def asked() -> Facts:
    """Every country in three wordings of different lengths."""
    tokens = torch.zeros(2, 3 * N, 6, dtype=torch.long)
    owner, end = np.repeat(np.arange(N), 3), torch.tensor([3, 4, 5] * N)
    for row, (i, last) in enumerate(zip(owner.tolist(), end.tolist(), strict=True)):
        for relation, word in enumerate((CAPITAL, LANGUAGE)):
            tokens[relation, row, last - 2 : last + 1] = torch.tensor([word, COUNTRY + i, QUERY])
    words = torch.stack([first + torch.arange(N) for first in (COUNTRY, CAPITALS, LANGUAGES)])
    return Facts(tokens, end, end - 1, owner, words, tuple(f"country {i}" for i in range(N)))


def results(tmp_path: Path, *, wired: bool):
    rows = torch.randint(0, FREQUENT, (6, 8), generator=torch.Generator().manual_seed(0)).tolist()
    settings = RecallMechanisms(heads=1, random_sets=2)
    return measured(ExperimentContext(settings, model(wired=wired), 0, Cache(tmp_path)), asked(), rows)


def test_the_wired_steps_are_seen_and_every_claim_replicates(tmp_path: Path) -> None:
    about = results(tmp_path, wired=True)
    assert about["chosen"]["topic"]["heads"] == ["a1.h1"]
    assert about["chosen"]["relation"]["heads"] == ["a1.h2"]
    assert about["decomposition"]["layer"] == 2
    assert about["late"]["layers"][0]["part"] == "m3"
    claims = RecallMechanisms().judge(about)
    assert [claim.verdict for claim in claims] == ["replicates"] * 7, [f"{claim.verdict}: {claim.here}" for claim in claims]
    names = [drawing.name for drawing in RecallMechanisms().draw(about, "toy")]
    assert names == ["topic", "relation", "coefficients", "intercepts", "rest", "late", "frequent"]


def test_without_the_wired_steps_no_claim_replicates(tmp_path: Path) -> None:
    claims = RecallMechanisms().judge(results(tmp_path, wired=False))
    assert not [f"{claim.claim}: {claim.here}" for claim in claims if claim.verdict == "replicates"]


def test_the_regression_gives_back_what_an_output_was_made_of() -> None:
    rng = np.random.default_rng(0)
    parts, vector = rng.normal(size=(3, 20, 7)), rng.normal(size=7)
    c = np.array([2.0, -0.5, 0.0])
    read = Read(parts, np.einsum("p,prd->rd", c, parts) + vector)
    fitted = fit(read)
    assert fitted.c == pytest.approx(c)
    assert fitted.intercept == pytest.approx(vector)
    assert fitted.explained(read) == pytest.approx(1)
    weighted = fit(read, np.arange(20.0))
    assert weighted.c == pytest.approx(c)
    noisy = Read(parts, read.out + rng.normal(size=(20, 7)))
    counts = np.array([2.0, 0.0] * 10)
    twice = Read(np.repeat(parts[:, ::2], 2, axis=1), np.repeat(noisy.out[::2], 2, axis=0))
    assert fit(noisy, counts).c == pytest.approx(fit(twice).c), "a weight counts a row so many times"


@pytest.mark.real_model
def test_prompts_of_a_tokenizer_end_with_the_country_and_one_word(smollm2) -> None:
    rows = [Country("France", "Paris", "French"), Country("Japan", "Tokyo", "Japanese")]
    facts = facts_of(smollm2, rows)
    row = torch.arange(len(facts.owner))
    assert torch.equal(facts.tokens[:, row, facts.subject], facts.words[0][facts.owner].expand(2, -1))
    assert (facts.tokens[0] != facts.tokens[1]).sum(-1).tolist() == [1] * len(row)
    assert smollm2.tokenizer.decode(facts.tokens[1, 0, : int(facts.end[0]) + 1]) == "The language of France is"
    with pytest.raises(BadParameterError, match="New Zealand"):
        facts_of(smollm2, [*rows, Country("New Zealand", "Wellington", "English")])


def test_halves_share_no_country_and_keep_every_row() -> None:
    whole = asked()
    first, second = whole.halves(np.random.default_rng(0))
    assert not set(first.names) & set(second.names)
    assert len(first.owner) + len(second.owner) == len(whole.owner)
    for half in (first, second):
        row = torch.arange(len(half.owner))
        assert torch.equal(half.tokens[0, row, half.subject], half.words[0][half.owner])


def test_own_above_others_is_the_difference_from_their_mean() -> None:
    whole = asked()
    values = np.arange(24.0 * N).reshape(24, N) ** 2
    other = [np.delete(values[row], i).mean() for row, i in enumerate(whole.owner)]
    assert whole.above_others(values) == pytest.approx(values[np.arange(24), whole.owner] - other)
