"""Retrieval heads on a model in which an induction head was planted, and on one whose answers need no head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from circuitlab.execute.continuations import Continuation, likelihoods
from circuitlab.experiments.retrieval_heads import RetrievalHeads
from circuitlab.experiments.retrieval_heads.masking import bands, beside_induction, mask_heads, mask_on_text, ranked, sets_of_heads
from circuitlab.experiments.retrieval_heads.needles import answer_needles
from circuitlab.experiments.types import ExperimentContext
from circuitlab.methods.roles.needles import NeedleTest
from circuitlab.methods.roles.repeats import Induction
from circuitlab.model.interventions import Knockout
from circuitlab.model.toy import build_planted
from circuitlab.model.toy.serve import serve
from circuitlab.model.toy.wiring import Wiring
from circuitlab.store import Cache

PLANTED = "a1.h2"
CHOOSING = ((5, 6, 7, 1, 2, 3, 5), (6, 1, 2, 4, 3, 0, 6), (3, 5, 0, 6, 2, 1, 3), (2, 1, 6, 4, 3, 0, 2))
MEASURING = ((2, 3, 1, 5, 4, 0, 2), (2, 7, 1, 5, 4, 0, 2), (5, 6, 0, 1, 2, 3, 5), (3, 5, 1, 6, 2, 0, 3), (6, 1, 4, 2, 3, 0, 6))


def needles(prompts) -> tuple[NeedleTest, ...]:
    """What followed the last token where it stood before."""
    return tuple(NeedleTest(tokens, evidence=(1, 2), other=(3, 4), question=(6, 7)) for tokens in prompts)


def said(test: NeedleTest) -> Continuation:
    row = (*test.tokens, *test.copied)
    return Continuation(row, len(test.tokens) - 1, (len(test.tokens), len(row)))


def headless():
    """Heads and MLPs of small random weights, and no circuit: what follows does not depend on the context."""
    wiring = Wiring("mha", 2, 8)
    tokens = wiring.block(8)
    for i, feature in enumerate(tokens):
        wiring.embed[i, feature] = 1.0
        wiring.unembed[i, feature] = 4.0
    wiring.background(0.02)
    return serve(wiring, "headless")


def measured(tmp_path: Path, model, answers):
    context = ExperimentContext(RetrievalHeads(), model, 0, Cache(tmp_path))
    sets = sets_of_heads(context, answers["scores"], (1, 20), 2)
    continuations = [said(test) for test in needles(MEASURING)]
    passages = [Continuation.passage(row[:6]) for row in MEASURING]
    return {
        "needles": {"chosen_on": [], "measured_on": list(map(str, MEASURING))},
        "answers": answers,
        "bands": bands(answers["scores"]),
        "induction": beside_induction(answers["scores"], Induction(length=4, rows=4)(model).value),
        "sets": sets,
        "masking": mask_heads(model, continuations, sets),
        "text": mask_on_text(model, passages, sets[0]),
    }


def test_the_planted_head_is_found_and_answers_are_lost_without_it(tmp_path: Path) -> None:
    model = build_planted("induction-mha").model
    answers = answer_needles(model, needles(CHOOSING))
    assert answers["answered"] == answers["asked"] == 4
    assert str(ranked(answers["scores"])[0]) == PLANTED
    results = measured(tmp_path, model, answers)
    assert results["sets"][0]["top"] == [PLANTED]
    assert PLANTED not in results["sets"][0]["random"][0]
    assert [one["size"] for one in results["sets"]] == [1]  # there are no 20 heads
    _, masking, random, _text, _induction = RetrievalHeads().judge(results)
    assert (masking.verdict, random.verdict) == ("replicates", "replicates")
    assert results["masking"]["unedited"]["top"]["mean"] == 1.0
    assert results["masking"]["sizes"][0]["logprob"]["lost"]["low"] > 1


def test_where_answers_need_no_head_masking_loses_nothing(tmp_path: Path) -> None:
    model = headless()
    assert answer_needles(model, needles(CHOOSING))["answered"] == 0
    scores = np.zeros((2, 4))
    scores[1, 2] = 0.9  # as if it had been chosen
    results = measured(tmp_path, model, {"asked": 4, "answered": 4, "scores": scores.tolist(), "active": scores.tolist()})
    assert RetrievalHeads().judge(results)[1].verdict == "does not replicate"


def test_bands_and_overlap_with_induction_are_counted() -> None:
    scores = np.zeros((5, 4))
    scores[0] = [0.6, 0.2, 0.1, 0.05]
    assert bands(scores.tolist()) == pytest.approx({"above 0.5": 0.05, "above 0.1": 0.1, "0 to 0.1": 0.1, "0": 0.8})
    induction = np.zeros((5, 4))
    induction[0] = [0.9, 0.8, 0.0, 0.7]
    about = beside_induction(scores.tolist(), induction)
    assert (about["retrieval_heads"], about["induction_heads"], about["shared"]) == (2, 3, 2)
    assert about["p"] == pytest.approx(3 * 2 / (20 * 19))
    assert beside_induction(scores.tolist(), induction[::-1])["p"] == 1.0


def test_likelihoods_are_those_of_one_token_after_another() -> None:
    model = build_planted("induction-mha").model.edited(Knockout(PLANTED, "zero", positions="generated"))
    row = (5, 6, 7, 1, 2, 3, 5, 6)
    whole = likelihoods(model, [Continuation.passage(row), Continuation(row, 6, (7, 8))])
    assert whole.top[1] == 1.0  # the head is knocked out after the prompt only
    assert likelihoods(model.edited(Knockout(PLANTED, "zero")), [Continuation(row, 6, (7, 8))]).logprob[0] < whole.logprob[1] - 1
    plain = build_planted("induction-mha").model
    by_hand = [
        float(plain.logits(torch.tensor([row[:n]]), torch.tensor([n - 1])).double().log_softmax(-1)[0, row[n]]) for n in range(1, len(row))
    ]
    assert likelihoods(plain, [Continuation.passage(row)]).logprob[0] == pytest.approx(np.mean(by_hand), abs=1e-5)


def test_figures_are_drawn_from_plain_data(tmp_path: Path) -> None:
    model = build_planted("induction-mha").model
    results = measured(tmp_path, model, answer_needles(model, needles(CHOOSING)))
    assert [drawing.name for drawing in RetrievalHeads().draw(results, "toy")] == ["heads", "answers", "logprob"]
