"""AttentionInfluence on a model with a planted induction circuit, and on the same model without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from circuitlab.core.nodes import Head
from circuitlab.execute.text_loss import next_token_losses
from circuitlab.experiments.attention_influence import AttentionInfluenceOnTexts
from circuitlab.experiments.attention_influence.masking import influence, masked_losses, welch
from circuitlab.experiments.attention_influence.probe import KeyValue, choose_heads, recall, said
from circuitlab.experiments.attention_influence.texts import on_prompts, on_texts
from circuitlab.experiments.types import ExperimentContext
from circuitlab.model.interventions import EditPattern, Knockout
from circuitlab.model.toy import build_planted
from circuitlab.store import Cache
from circuitlab.testing.tiny import tiny_model

INDUCTOR = Head(1, 2)
CONTENTS = 8


def rows(n: int, *, repeated: bool, seed: int) -> list[list[int]]:
    """Four tokens and the same again, or eight tokens in no order that repeats."""
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(CONTENTS).tolist() for _ in range(n)]
    return [[*row[:4], *row[:4]] if repeated else row for row in drawn]


def asked(n: int, seed: int) -> list[KeyValue]:
    """``a b c d a``, whose answer is ``b``."""
    return [KeyValue((*row[:4], row[1], row[2]), (5, 6)) for row in rows(n, repeated=False, seed=seed)]


def measured(tmp_path: Path, *, planted: bool):
    model = build_planted("induction-mha").model
    model = model if planted else model.edited(Knockout("a1.h2"))
    lab = ExperimentContext(AttentionInfluenceOnTexts(), model, 0, Cache(tmp_path))
    chosen = choose_heads(lab.model, asked(8, 0), 1 / 8)
    groups = {
        name: [(name, row) for row in rows(10, repeated=repeated, seed=2)] for name, repeated in (("structured", True), ("prose", False))
    }
    return {"heads": chosen, "prompts": on_prompts(lab, asked(8, 1), chosen, 4), "texts": on_texts(lab, groups, chosen, 4)}


def test_the_planted_head_is_chosen_and_every_claim_replicates(tmp_path: Path) -> None:
    results = measured(tmp_path, planted=True)
    assert results["heads"]["heads"] == [str(INDUCTOR)] and results["heads"]["best"]["mean"] == 1.0
    claims = AttentionInfluenceOnTexts().judge(results)
    assert [claim.verdict for claim in claims] == ["replicates"] * 3, "\n".join(claim.here for claim in claims)
    assert [drawing.name for drawing in AttentionInfluenceOnTexts().draw(results, "toy")] == ["heads", "groups", "kinds"]


def test_without_the_planted_head_no_claim_replicates(tmp_path: Path) -> None:
    claims = AttentionInfluenceOnTexts().judge(measured(tmp_path, planted=False))
    assert not [claim.here for claim in claims if claim.verdict == "replicates"]


def test_losses_are_those_of_single_positions() -> None:
    toy, texts = tiny_model("llama"), [(3, 1, 5, 2), (4, 0), (7, 7, 1, 9)]
    for row, losses in zip(texts, next_token_losses(toy, texts), strict=True):
        logs = [toy.logits(torch.tensor([row]), torch.tensor([at]))[0].double().log_softmax(-1) for at in range(len(row) - 1)]
        np.testing.assert_allclose(losses, [-float(log[token]) for log, token in zip(logs, row[1:], strict=True)], atol=1e-6)


def test_a_mask_is_of_all_heads_at_once_and_answers_count_alone() -> None:
    toy, heads = tiny_model("llama"), (Head(0, 1), Head(1, 2))
    even = toy.edited(EditPattern(list(heads), "uniform"))
    row = (3, 1, 5, 2, 8)
    base, masked = (float(next_token_losses(one, [row])[0].mean()) for one in (toy, even))
    assert influence(toy, [row], [heads])[0, 0] == pytest.approx((masked - base) / base)
    last = [float(next_token_losses(one, [row])[0][-1]) for one in (toy, even)]
    assert masked_losses(toy, [KeyValue(row, (4, 5))], [heads])[:, 0] == pytest.approx(last)


def test_recall_counts_the_same_token_and_said_the_likeliest() -> None:
    model = build_planted("induction-mha").model
    prompts = asked(6, 3)
    assert recall(model, prompts)[:, 1, 2].tolist() == [1.0] * 6 and said(model, prompts).tolist() == [1.0] * 6
    wrong = [KeyValue((*prompt.tokens[:5], prompt.tokens[0]), (5, 6)) for prompt in prompts]
    assert recall(model, wrong)[:, 1, 2].tolist() == [0.0] * 6 and said(model, wrong).tolist() == [0.0] * 6


def test_the_difference_of_two_groups_has_its_interval() -> None:
    rng = np.random.default_rng(0)
    about = welch(rng.normal(1.0, 0.1, 12), rng.normal(0.0, 0.3, 9))
    assert about["low"] < about["mean"] < about["high"] and about["low"] > 0.5
