"""Attention sinks on a model whose heads lose evidence to sinks by wiring, and on one whose heads do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from circuitlab.core.nodes import Head
from circuitlab.experiments.attention_sinks import AttentionSinks
from circuitlab.experiments.attention_sinks.labelled import Labelled
from circuitlab.experiments.attention_sinks.sinks import calibration, sink_keys, sink_shares, sinks
from circuitlab.experiments.attention_sinks.tuning import calibrate, largest, tune_first_token
from circuitlab.experiments.types import ExperimentContext
from circuitlab.model.interventions import EditPattern
from circuitlab.model.sites import Site
from circuitlab.model.toy.serve import serve
from circuitlab.model.toy.wiring import Wiring
from circuitlab.store import Cache

WORDS = 6
FIRST, QUERY, FILL, SINK, LURE, WORD = 0, 1, 2, 3, 4, 6
LABELS = (WORD + WORDS, WORD + WORDS + 1)
LENGTH = 48
DOWN, UP, ACT = Head(1, 0), Head(1, 2), Head(1, 1)
FACTORS = (0.0, 0.5, 1.0, 2.0, 4.0)


def model(*, wired: bool = True):
    """Every head of layer 1 reads the word that decides the label; the wired ones lose it to the first token, a lure and a sink."""
    wiring = Wiring("gqa", 2, LABELS[1] + 1)
    word, out, lure = wiring.block(2), wiring.block(2), wiring.block(2)
    is_word, is_first, is_sink, is_lure, is_query, is_any = (wiring.block() for _ in range(6))
    wiring.embed[:, is_any[0]] = 1.0
    for token, feature in ((FIRST, is_first), (QUERY, is_query), (SINK, is_sink), (LURE, is_lure), (LURE + 1, is_lure)):
        wiring.embed[token, feature[0]] = 1.0
    for i in range(2):
        wiring.embed[LURE + i, lure[i]] = 1.0
        wiring.unembed[LABELS[i], out[i]] = 4.0
    for i in range(WORDS):
        wiring.embed[WORD + i, word[i % 2]] = (1.4, 0.45, 0.43)[i // 2]
        wiring.embed[WORD + i, is_word[0]] = 1.0
    wiring.match(1, 3, is_query, is_word, 14.0)
    wiring.carry(1, 3, word, out, 0.3 if wired else 1.0)
    if wired:
        wiring.match(1, DOWN.head, [*is_query] * 2, [*is_first, *is_word], 14.0)
        wiring.carry(1, DOWN.head, word, out, 1.1)
        wiring.carry(1, DOWN.head, is_first, out[:1], 0.4)
        wiring.match(1, UP.head, [*is_query] * 2, [*is_first, *is_lure], 14.0)
        wiring.carry(1, UP.head, lure, out, 0.6)
        wiring.match(1, ACT.head, [*is_any] * 2, [*is_first, *is_sink], 14.0)
        wiring.match(1, ACT.head, is_query, is_word, 14.0)
        wiring.carry(1, ACT.head, word, out, 1.1)
        wiring.carry(1, ACT.head, is_sink, out[:1], 0.6)
    wiring.background(0.005)
    return serve(wiring, "sinks")


def asked(rows: int = 72) -> Labelled:
    """A word among fillers, after a sink and a lure of the other label."""
    rng, prompts, answers = np.random.default_rng(0), [], []
    for i in range(rows):
        word = i % WORDS
        row = [FIRST, FILL, SINK] + [FILL] * (LENGTH - 4) + [QUERY]
        places = rng.permutation(np.arange(4, LENGTH - 1))
        row[places[0]], row[places[1]] = WORD + word, LURE + 1 - word % 2
        prompts.append(tuple(row))
        answers.append(word % 2)
    return Labelled(tuple(prompts), tuple(answers), LABELS)


def measured(tmp_path: Path, *, wired: bool):
    lab = ExperimentContext(AttentionSinks(), model(wired=wired), 0, Cache(tmp_path))
    halves = asked().halves(lab.rng("halves"))
    layers = range(1, 2)
    return {
        "sinks": sink_shares(lab.model, asked(), 0.1, layers),
        "act": calibrate(lab, halves, 0.4, 0.1, (1, 2), layers),
        "first_token": tune_first_token(lab, halves, FACTORS, (1, 2)),
    }


@pytest.fixture(scope="module")
def wired(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("wired"), wired=True)


def test_the_wired_heads_are_chosen_and_every_claim_replicates(wired) -> None:
    assert wired["act"]["heads"] == [str(ACT)]
    assert wired["first_token"]["groups"] == {"up": [str(UP)], "down": [str(DOWN)]}
    assert [claim.verdict for claim in AttentionSinks().judge(wired)] == ["replicates"] * 4


def test_where_no_head_loses_evidence_to_a_sink_no_claim_replicates(tmp_path: Path) -> None:
    results = measured(tmp_path, wired=False)
    assert {claim.verdict for claim in AttentionSinks().judge(results)} == {"does not replicate"}
    assert len(AttentionSinks().draw(results, "toy")) == 5


def test_figures_are_drawn_from_plain_data(wired) -> None:
    names = [drawing.name for drawing in AttentionSinks().draw(wired, "toy")]
    assert names == ["sinks", "slopes", "factors", "change-right", "change-likely"]


def test_settings_that_should_change_nothing_change_no_bit() -> None:
    whole, prompts = model(), asked(6)
    keys = sink_keys(whole, prompts, 0.1, range(2))
    tokens, at = torch.tensor(prompts.rows), torch.full((6,), LENGTH - 1)
    plain = whole.logits(tokens, at)
    heads = [Head(layer, head) for layer in range(2) for head in range(4)]
    assert torch.equal(whole.edited(EditPattern(heads, "scale", keys=0, factor=1.0)).logits(tokens, at), plain)
    edits = calibration(keys[0], heads, 1.0)
    assert edits and torch.equal(whole.edited(*edits).logits(tokens[:1], at[:1]), whole.logits(tokens[:1], at[:1]))


def test_calibration_follows_the_published_equations() -> None:
    whole, row = model(), asked(1).rows[0]
    tokens = torch.tensor([row])
    before = whole.capture(tokens, [Site.PATTERN])[Site.PATTERN][0, 1, ACT.head].double()
    keys = sink_keys(whole, asked(1), 0.1, range(1, 2))[0]
    after = whole.edited(*calibration(keys, [ACT], 0.4)).capture(tokens, [Site.PATTERN])[Site.PATTERN][0, 1, ACT.head].double()
    expected = before.clone()
    for t in range(1, LENGTH):
        sunk = [s for s in keys[ACT] if s <= t]
        others = [s for s in range(t + 1) if s not in sunk]
        removed = 0.6 * before[t, sunk].sum()
        expected[t, sunk] = 0.4 * before[t, sunk]
        expected[t, others] = before[t, others] * (1 + removed / before[t, others].sum())
    assert torch.allclose(after, expected, atol=1e-6)
    assert torch.allclose(after.sum(-1), torch.ones(LENGTH, dtype=torch.float64), atol=1e-6)


def test_sinks_are_counted_without_the_first_and_the_last_tokens() -> None:
    pattern = np.tril(np.ones((20, 20))) * 0.001
    pattern[2:, 2] = pattern[:, 0] = 0.3
    pattern[19, 19] = 0.9
    assert np.flatnonzero(sinks(pattern, 0.1)).tolist() == [2, 19]
    assert np.flatnonzero(sinks(pattern, 0.1, queries=16)).tolist() == [2]


def test_halves_share_no_prompt_and_have_both_labels() -> None:
    first, second = asked(40).halves(np.random.default_rng(0))
    assert len(first.rows) == len(second.rows) == 20
    assert sum(first.answers) == sum(second.answers) == 10
    assert not set(first.rows) & set(second.rows)


def test_only_heads_that_gain_are_chosen() -> None:
    assert largest(np.array([[0.0, -1.0], [2.0, 3.0]]), 3) == (Head(1, 1), Head(1, 0))
