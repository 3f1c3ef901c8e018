"""An evaluation is found again exactly where nothing that it depends on has changed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from circuitlab.circuits import Circuit
from circuitlab.core.nodes import Head, Universe, parse_edge
from circuitlab.core.provenance import digest
from circuitlab.evaluation import Evaluate, NodeCircuitRunner
from circuitlab.evaluation.identity import EvaluationInput, evaluation_identity
from circuitlab.methods.activation_patching import ActivationPatching
from circuitlab.metrics import LogitDiff, LogProb
from circuitlab.store import Cache
from circuitlab.testing.tiny import tiny_batch, tiny_model
from circuitlab.workflows.circuit import evaluate_batch

METRIC, SHAPE = LogitDiff(), Universe(3, 4, 2)
CIRCUIT = Circuit(frozenset({Head(0, 1), Head(2, 3)}), SHAPE)
SETTINGS = Evaluate(n_random=3, n_subsets=2)


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama")


def test_the_second_time_nothing_is_run(llama, tmp_path, monkeypatch) -> None:
    batch = tiny_batch(llama, 3)
    scores = ActivationPatching()(llama, batch, METRIC)
    cache, measured = Cache(tmp_path), EvaluationInput(CIRCUIT, llama, batch, METRIC, scores)
    plain = SETTINGS(CIRCUIT, llama, batch, METRIC, scores).to_dict()
    first = evaluate_batch(measured, "these", SETTINGS, cache)
    assert not first.cached
    assert (first.faithfulness, first.measures["cpr"]) == (plain["faithfulness"], plain["cpr"])
    monkeypatch.setattr(NodeCircuitRunner, "run", lambda *_: pytest.fail("run again"))
    renamed = replace(measured, circuit=replace(CIRCUIT, rule="picked otherwise", sources=("abc",)))
    again = evaluate_batch(renamed, "these", SETTINGS, cache)
    assert again.cached
    assert again.measures == first.measures


def test_whatever_changes_a_measure_changes_the_identity(llama) -> None:
    batch = tiny_batch(llama, 3)
    named = batch.with_templates(["a", "a", "b"])
    scores = ActivationPatching()(llama, batch, METRIC)
    other = replace(scores, dataset=scores.dataset.assign(heads=scores.dataset["heads"] + np.float32(1e-3)))

    def name(circuit=CIRCUIT, settings=SETTINGS, prompts=batch, metric=METRIC, ranking=None) -> str:
        return digest(evaluation_identity(settings, EvaluationInput(circuit, llama, prompts, metric, ranking)))

    by_template = replace(SETTINGS, ablation="mean_by_template")
    names = [
        name(),
        name(replace(CIRCUIT, nodes=frozenset({Head(0, 1)}))),
        name(replace(CIRCUIT, edges=frozenset({parse_edge("embed->logits")}))),
        *(name(settings=replace(SETTINGS, **change)) for change in CHANGES),
        name(prompts=batch.select([0, 1])),
        name(metric=LogProb()),
        name(ranking=scores),
        name(ranking=other),
        name(settings=by_template, prompts=named),
        name(settings=by_template, prompts=batch.with_templates(["a", "b", "b"])),
    ]
    assert len(set(names)) == len(names)
    assert name(prompts=named) == name(), "only one ablation asks for templates"
    assert name(ranking=scores) == name(ranking=replace(scores))


CHANGES = (
    {"ablation": "zero"},
    {"parts": ("heads", "mlps")},
    {"keep_at": {Head(0, 1): ("END",)}},
    {"n_random": 4},
    {"matching": "layer"},
    {"n_subsets": 3},
    {"classes": {"early": frozenset({Head(0, 1)})}},
    {"n_greedy": 1},
    {"fractions": (0.1, 1.0)},
    {"most_elements": 7},
    {"seed": 1},
)
