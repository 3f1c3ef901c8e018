"""Discrete codes on a planted model, on prompts without a contrast, and rankings against given heads."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from circuitlab.experiments.discrete_codes import DiscreteCodes
from circuitlab.experiments.discrete_codes.codes import Halves, on_planted, on_task
from circuitlab.experiments.ranking import ranked_against
from circuitlab.experiments.types import ExperimentContext
from circuitlab.methods import CodeOverlap
from circuitlab.model.toy import build_planted
from circuitlab.store import Cache

METHOD = CodeOverlap(examples=6, trials=2, size=40, epochs=150, decoder="unit", scale="rms", sparsity=0.05)


def measured(tmp_path, *, contrast: bool) -> dict:
    planted = build_planted("blocker-gqa")
    codes = planted.batch(12)
    if not contrast:
        codes = replace(codes, corrupt=codes.clean)
    lab = ExperimentContext(DiscreteCodes(), planted.model, 0, Cache(tmp_path))
    task = on_task(lab, Halves(codes, planted.batch(6, seed=1)), METHOD, 0.2)
    results = {"planted": on_planted(["copy-gqa", "blocker-gqa"], METHOD, 12), "tasks": {"toy": task}}
    return msgspec.json.decode(msgspec.json.encode(results))


def test_codes_rank_the_planted_heads_above_chance(tmp_path) -> None:
    results = measured(tmp_path, contrast=True)
    ranked = results["tasks"]["toy"]["against"]["nodes"]["activation patching"]
    assert ranked["auroc"] > 0.9
    claims = DiscreteCodes().judge(results)
    assert claims[0].verdict in {"replicates", "in part"}
    assert claims[4].verdict == "cannot be asked", "published lists are of GPT-2 small"
    assert len(DiscreteCodes().draw(results, "toy")) == 3


def test_prompts_without_a_contrast_rank_nothing(tmp_path) -> None:
    results = measured(tmp_path, contrast=False)
    assert np.array(results["tasks"]["toy"]["map"]).max() == 0
    verdicts = [claim.verdict for claim in DiscreteCodes().judge(results)]
    assert verdicts[:2] == ["does not replicate"] * 2 and verdicts[3] == "does not replicate"


def test_what_layers_alone_tell_is_no_evidence() -> None:
    """Scores that only grow with the layer: above chance over all heads, and not within layers."""
    scores = np.repeat(np.arange(6.0)[:, None], 8, axis=1)
    heads = np.zeros((6, 8), dtype=bool)
    heads[5, :4] = heads[4, :2] = True
    ranked = ranked_against(scores, heads, np.random.default_rng(0))
    assert ranked["auroc"] == pytest.approx(ranked["within"]) and ranked["auroc"] > 0.9
    assert ranked["p"] < 0.01 and ranked["p_within"] == 1.0


def test_random_scores_are_at_chance() -> None:
    rng = np.random.default_rng(0)
    heads = np.zeros((6, 8), dtype=bool)
    heads[2:5, 1:4] = True
    values = [ranked_against(rng.random((6, 8)), heads, rng)["p"] for _ in range(40)]
    assert 0.3 < np.mean(values) < 0.7
