"""Contextual decomposition on a planted model, where circuits are known; verdicts on results of every kind."""

from __future__ import annotations

import msgspec
import pytest

from circuitlab.experiments.contextual_decomposition import ContextualDecompositionExperiment, rankings
from circuitlab.experiments.contextual_decomposition.rankings import Parts, on_planted, on_task
from circuitlab.experiments.types import ExperimentContext
from circuitlab.methods.random import RandomScores
from circuitlab.model.toy import build_planted
from circuitlab.store import Cache

EXPERIMENT = ContextualDecompositionExperiment()


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    planted = build_planted("names-gqa")
    lab = ExperimentContext(EXPERIMENT, planted.model, 0, Cache(tmp_path_factory.mktemp("cdt")))
    parts = Parts(*(planted.batch(6, seed=seed) for seed in range(3)))
    task = on_task(lab, parts, 4 / 12, ((0.05, 4 / 12), 40))
    return msgspec.json.decode(msgspec.json.encode({"planted": on_planted(2, 4, ["names-gqa", "copy-gqa"]), "tasks": {"toy": task}}))


def test_planted_heads_are_ranked_first_and_their_circuit_is_faithful(results) -> None:
    task = results["tasks"]["toy"]
    assert task["against"]["activation patching"]["auroc"] == 1.0
    small, whole = task["faithfulness"]
    assert (small["heads"], whole["heads"]) == (1, 4)
    assert whole["circuit"]["mean"] == pytest.approx(1.0, abs=0.1) and whole["random"]["p"] < 0.1
    ranks, planted, _, recovers, published = EXPERIMENT.judge(results)
    assert ranks.verdict == planted.verdict == "replicates"
    assert recovers.verdict == "does not replicate", "one of four heads does not carry the chain"
    assert published.verdict == "cannot be asked"


def test_a_ranking_that_knows_nothing_of_the_circuit_replicates_nothing(tmp_path, monkeypatch) -> None:
    """The same planted model and the same rules, with random numbers in place of the decomposition."""
    monkeypatch.setattr(rankings, "METHOD", RandomScores(seed=1))
    planted = build_planted("names-gqa")
    lab = ExperimentContext(EXPERIMENT, planted.model, 0, Cache(tmp_path))
    parts = Parts(*(planted.batch(6, seed=seed) for seed in range(3)))
    task = on_task(lab, parts, 4 / 12, ((0.05, 4 / 12), 40))
    even = {name: {"mean": 0.5 + shift, "low": 0.4, "high": 0.6} for name, shift in (("a", 0.01), ("b", -0.01))}
    claims = EXPERIMENT.judge({"planted": even, "tasks": {"toy": task}})
    assert [claim.verdict for claim in claims] == ["does not replicate"] * 4 + ["cannot be asked"]


def test_figures_are_drawn_from_plain_data(results) -> None:
    assert [drawing.name for drawing in EXPERIMENT.draw(results, "toy")] == ["planted", "faithfulness-toy", "map-toy"]


def fake(auroc: float, p: float, faithful: tuple[float, float]) -> dict:
    ranked = {"auroc": auroc, "p": p, "p_within": p, "within": 0.7, "heads": 14}
    value = {"mean": faithful[0], "low": faithful[0] - 0.1, "high": faithful[0] + 0.1}
    row = {"share": 0.05, "heads": 14, "circuit": value, "random": {"mean": 0.1, "p": faithful[1]}}
    return {"against": {"activation patching": ranked}, "faithfulness": [row]}


def test_verdicts_follow_their_rules() -> None:
    even = {name: {"mean": 0.5 + shift, "low": 0.4, "high": 0.6} for name, shift in (("a", 0.01), ("b", -0.01))}
    none = EXPERIMENT.judge({"planted": even, "tasks": {"ioi": fake(0.5, 0.5, (0.1, 0.6))}})
    assert [claim.verdict for claim in none[:4]] == ["does not replicate"] * 4
    high = {name: {"mean": 0.97, "low": 0.9, "high": 1.0} for name in "ab"}
    every = EXPERIMENT.judge({"planted": high, "tasks": {"ioi": fake(0.97, 0.001, (0.9, 1 / 21))}})
    assert [claim.verdict for claim in every[:4]] == ["replicates"] * 4
    mixed = EXPERIMENT.judge({"planted": high, "tasks": {"ioi": fake(0.97, 0.001, (0.9, 1 / 21)), "other": fake(0.6, 0.2, (0.2, 0.3))}})
    assert [mixed[i].verdict for i in (0, 3)] == ["in part"] * 2
