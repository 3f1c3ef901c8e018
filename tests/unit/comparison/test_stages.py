"""Staged circuits: what each stage keeps, their union, and overlap stage by stage."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from scipy import stats

from circuitlab.comparison import Sampling, compare_stages, overlap_null, stage_circuits, union_of_stages
from circuitlab.core.errors import BadParameterError, IncompatibleError
from circuitlab.scores.head_scores import HeadScores
from circuitlab.testing.fakes import fake_scores

SHAPE = (5, 10)  # the top 4 % are two heads
FEW = Sampling(50, 50)


def scored(strong, seed=0, n=12, **changes):
    """Scores with clear effects on the heads named, weaker in order."""
    values = 0.01 * np.random.default_rng(seed).normal(size=(n, *SHAPE))
    for i, (layer, head) in enumerate(strong):
        values[:, layer, head] += (-1) ** i * (5.0 - i)
    return fake_scores(values, **changes)


def task(name, *stages):
    return [{f"r{i}": scored(strong, 10 * number + i, task=name) for i, strong in enumerate(stage)} for number, stage in enumerate(stages)]


@pytest.fixture(scope="module")
def tasks():
    return {
        "ioi": task("ioi", [[(4, 1), (4, 2)]], [[(3, 1)], [(3, 2), (1, 0)]]),
        "colors": task("colors", [[(4, 1), (4, 3)]], [[(3, 1)], [(3, 2)]]),
        "years": task("years", [[(2, 1), (4, 9)]], [[(0, 1), (0, 2)]]),
    }


def names(circuit):
    return [str(node) for node in circuit]


def test_a_stage_keeps_heads_by_their_strongest_receiver(tasks):
    first, second = stage_circuits(tasks["ioi"], 0.04)
    assert names(first) == ["a4.h1", "a4.h2"]
    assert names(second) == ["a3.h1", "a3.h2"], "the second receiver's strongest head counts as much as the first's"
    assert len(second.sources) == 2
    assert names(union_of_stages(tasks["ioi"], 0.04)) == ["a3.h1", "a3.h2", "a4.h1", "a4.h2"]
    assert "each of 2 stages" in union_of_stages(tasks["ioi"], 0.04).rule
    assert len(union_of_stages(tasks["ioi"], 0.03)) == 4, "shares are rounded up to whole heads"


def test_overlap_by_stage_and_of_the_union(tasks):
    found = compare_stages(tasks, 0.04, FEW)
    assert [(pair["task_a"], pair["task_b"]) for pair in found["pairs"]] == [("ioi", "colors"), ("ioi", "years"), ("colors", "years")]
    stages = found["pairs"][0]["stages"]
    assert list(stages) == ["1", "2", "union"]
    assert stages["1"]["jaccard"] == pytest.approx(1 / 3) and stages["1"]["shared"] == ["a4.h1"]
    assert stages["2"]["jaccard"] == 1
    assert stages["union"]["jaccard"] == pytest.approx(3 / 5) and stages["union"]["containment"] == pytest.approx(3 / 4)
    assert found["pairs"][1]["stages"]["union"]["jaccard"] == 0
    assert found["circuits"]["colors"]["union"] == ["a3.h1", "a3.h2", "a4.h1", "a4.h3"]
    json.dumps(found)


def test_chance_and_correction(tasks):
    found = compare_stages(tasks, 0.04, FEW)
    masks = np.zeros((2, *SHAPE), dtype=bool)
    for mask, name in zip(masks, ("ioi", "colors"), strict=True):
        for node in union_of_stages(tasks[name], 0.04):
            mask[node.layer, node.head] = True
    null = overlap_null(*masks)
    union = found["pairs"][0]["stages"]["union"]
    assert (union["p"], union["null_mean"]) == (pytest.approx(null.p_value), pytest.approx(null.mean_jaccard))
    for stage in ("1", "2", "union"):
        rows = [pair["stages"][stage] for pair in found["pairs"]]
        expected = stats.false_discovery_control([row["p"] for row in rows])
        assert [row["q"] for row in rows] == pytest.approx(list(expected))


def test_intervals_select_again(tasks):
    sure = compare_stages(tasks, 0.04, FEW)["pairs"][0]["stages"]["union"]["intervals"]["jaccard"]
    assert sure["low"] == sure["mean"] == sure["high"]
    rng = np.random.default_rng(3)
    loud = {name: [{"logits": fake_scores(rng.normal(size=(8, *SHAPE)), task=name)}] for name in "ab"}
    unsure = compare_stages(loud, 0.2, FEW)["pairs"][0]["stages"]["union"]["intervals"]["jaccard"]
    assert unsure["low"] < unsure["high"]


def test_tasks_may_have_different_numbers_of_stages(tasks):
    found = compare_stages({"ioi": tasks["ioi"], "short": tasks["years"][:1]}, 0.04, FEW)
    assert list(found["pairs"][0]["stages"]) == ["1", "union"]


def test_what_cannot_be_compared(tasks):
    with pytest.raises(BadParameterError, match="at least two tasks"):
        compare_stages({"ioi": tasks["ioi"]})
    with pytest.raises(BadParameterError, match="hold no circuit"):
        stage_circuits([{}])
    with pytest.raises(BadParameterError, match="hold no circuit"):
        stage_circuits(tasks["ioi"], 0)
    one = tasks["ioi"][0]["r0"]
    where = one.provenance
    other = HeadScores(one.dataset, msgspec.structs.replace(where, model=msgspec.structs.replace(where.model, weights="0" * 64)))
    with pytest.raises(IncompatibleError, match="different models"):
        compare_stages({"ioi": tasks["ioi"], "other": [{"logits": other}]})
