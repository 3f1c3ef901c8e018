"""Circuits from weights alone beside circuits from prompts: the overlap and its chance level, and no interval."""

from __future__ import annotations

import json

import numpy as np
import pytest

from circuitlab.circuits import TopK
from circuitlab.comparison import (
    Sampling,
    bootstrap_stability,
    compare_methods,
    compare_models,
    compare_stages,
    compare_tasks,
    jaccard,
    overlap_null,
    prompt_families,
    sample_size_curve,
    sweep_stability,
    top_k_stability,
)
from circuitlab.comparison.pairwise import Comparison
from circuitlab.comparison.score_map import score_map
from circuitlab.core.errors import BadParameterError, IncompatibleError
from circuitlab.studies.analyses.agreement import read_table
from circuitlab.testing.fakes import fake_scores, fake_weights_scores

RULE, SAMPLING = TopK(4), Sampling(n_boot=100, n_null=200)
rng = np.random.default_rng(0)
WEIGHTS = fake_weights_scores(rng.normal(size=(3, 4)))
PROMPTS = fake_scores(rng.normal(size=(8, 3, 4)))


@pytest.fixture(scope="module")
def table():
    return compare_methods({"patching": PROMPTS, "weights": WEIGHTS}, RULE, SAMPLING)


def test_the_overlap_has_a_chance_level_and_no_interval(table) -> None:
    (row,) = table.rows
    one, two = (RULE(scores) for scores in (PROMPTS, WEIGHTS))
    assert row.jaccard["mean"] == jaccard(one, two)
    masks = [np.array([[f"a{i}.h{j}" in circuit for j in range(4)] for i in range(3)]) for circuit in (one, two)]
    null = overlap_null(*masks)
    assert (row.p, row.null_mean) == pytest.approx((null.p_value, null.mean_jaccard))
    assert set(row.shared) == {str(node) for node in one & two}
    for found in (*row.intervals.values(), row.jaccard, row.spearman):
        assert np.isfinite(found["mean"]) and np.isnan(found["low"]) and np.isnan(found["high"])
    assert all(np.isnan(value) for value in row.corrected.values())
    assert set(row.intervals) == set(row.corrected) == set(Comparison(*[score_map(PROMPTS)] * 2, 4, "absolute", SAMPLING).corrected())


def test_what_is_not_known_is_said(table) -> None:
    assert np.isnan(table.stability["weights"]["mean"]) and np.isfinite(table.stability["patching"]["mean"])
    assert "weights: no interval: from weights alone, without prompts." in table.notes
    for text in (repr(table), table._repr_html_()):
        assert "(no interval)" in text and "nan" not in text
    assert np.isnan(table.to_frame().loc[0, "jaccard_low"])
    again = read_table(json.loads(json.dumps(table.to_dict()).replace("NaN", "null")))
    assert repr(again) == repr(table)


def test_weights_go_with_any_task_but_prompts_do_not() -> None:
    other = fake_scores(rng.normal(size=(8, 3, 4)), task="b")
    with pytest.raises(IncompatibleError, match="different tasks"):
        compare_methods({"weights": WEIGHTS, "one": PROMPTS, "two": other}, RULE, SAMPLING)
    assert compare_methods({"weights": WEIGHTS, "one": PROMPTS}, RULE, SAMPLING).rows[0].jaccard["mean"] >= 0


def test_two_models_are_compared_by_their_weights() -> None:
    table = compare_models({"before": WEIGHTS, "after": fake_weights_scores(WEIGHTS.values())}, RULE, SAMPLING)
    assert table.rows[0].jaccard["mean"] == 1
    assert not score_map(WEIGHTS).same_prompts(score_map(WEIGHTS))


@pytest.mark.parametrize(
    ("ask", "lacks"),
    [
        (lambda: compare_tasks({"a": WEIGHTS, "b": WEIGHTS}, RULE, SAMPLING), "difference between tasks"),
        (lambda: top_k_stability(WEIGHTS, 2), "stability over prompts"),
        (lambda: bootstrap_stability(WEIGHTS, 2), "stability over prompts"),
        (lambda: sample_size_curve(WEIGHTS, 2), "stability over prompts"),
        (lambda: sweep_stability({"seed 0": WEIGHTS, "seed 1": WEIGHTS}, 2), "stability over prompts"),
        (lambda: prompt_families(WEIGHTS, k=2), "family of prompts"),
        (lambda: compare_stages({name: [{"logits": WEIGHTS}] for name in "ab"}, 0.3), "interval of a stage"),
    ],
)
def test_what_needs_pairs_is_refused_by_name(ask, lacks) -> None:
    with pytest.raises(BadParameterError, match=f"'fake_weights' come from weights alone.*no {lacks}"):
        ask()
