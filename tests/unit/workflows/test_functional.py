"""Functional comparison on a planted model: the task's own head transfers, and circuits come back from the store."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from circuitlab.circuits import Circuit
from circuitlab.core.errors import BadParameterError, IncompatibleError
from circuitlab.evaluation import NodeCircuitRunner
from circuitlab.methods.activation_patching import ActivationPatching
from circuitlab.metrics import LogitDiff
from circuitlab.model.toy import planted_model
from circuitlab.store import Cache
from circuitlab.testing.tiny import tiny_model
from circuitlab.workflows import functional
from circuitlab.workflows.functional import FunctionalComparison

METRIC = LogitDiff()


@pytest.fixture
def planted(monkeypatch):
    found = planted_model()
    asked = []

    def pairs(_model, _prompts, scored, n=None):
        asked.append(scored.id)
        return found.batch(n or scored.n_pairs, seed=7 + len(scored.id)), f"{n} made-up pairs"

    monkeypatch.setattr(functional, "held_out", pairs)
    batch = found.batch(6)
    one = ActivationPatching()(found.model, batch, METRIC)
    named = [msgspec.structs.replace(one.provenance, task=msgspec.structs.replace(one.provenance.task, id=name)) for name in ("a", "bb")]
    scores = {where.task.id: replace(one, provenance=where) for where in named}
    circuits = {"a": Circuit(found.helpers, one.universe), "bb": Circuit(found.distractors, one.universe)}
    return found, scores, circuits


def test_the_planted_helper_transfers_and_the_distractor_does_not(planted, tmp_path) -> None:
    found, scores, circuits = planted
    store = Cache(tmp_path)
    result = FunctionalComparison(pairs=8, n_random=10)(found.model, scores, circuits, store)
    assert result.transfer.cell("a", "bb").faithfulness["mean"] > 1.3
    assert result.transfer.cell("bb", "a").faithfulness["mean"] == pytest.approx(0, abs=0.05)
    row = result.dissociation.row("a", "bb")
    assert row.knock_out("only_a", "a").effect["mean"] > 0.5
    assert abs(row.knock_out("only_b", "a").effect["mean"]) < 0.05
    assert row.verdict == "single", "the helper serves both"
    said = result.to_dict()
    assert said["conventions"]["prompts of a"] == "8 made-up pairs" and said["conventions"]["metric of bb"] == "logit_diff"
    assert set(said) >= {"cells", "per_pair", "conventions", "dissociation"}
    direct = NodeCircuitRunner(found.model, found.batch(8, seed=9), METRIC)
    want = direct.metric_of(direct.mask_of(circuits["a"])[None])[0]
    np.testing.assert_allclose(result.transfer.values["bb"]["circuits"][0], want, atol=1e-5)


def test_a_second_comparison_runs_nothing(planted, tmp_path, monkeypatch) -> None:
    found, scores, circuits = planted
    comparison, store = FunctionalComparison(pairs=4, n_random=5), Cache(tmp_path)
    first = comparison(found.model, scores, circuits, store).to_dict()
    monkeypatch.setattr(NodeCircuitRunner, "run", lambda *_: pytest.fail("a circuit is run again"))
    assert comparison(found.model, scores, circuits, store).to_dict() == first


def test_sensitivity_runs_every_ablation(planted) -> None:
    found, scores, circuits = planted
    card = FunctionalComparison(pairs=6, n_random=25).sensitivity(found.model, scores, circuits, ablations=("resample", "zero"))
    assert card.ablations == ("resample", "zero") and len(card.rows) == 4
    assert card.row("a", "resample").recovery == "recovers"
    assert card.row("bb", "resample").recovery == "fails"


def test_what_cannot_be_compared_is_said(planted) -> None:
    _, scores, circuits = planted
    with pytest.raises(IncompatibleError, match="other weights than tiny-gpt2"):
        FunctionalComparison()(tiny_model("gpt2"), scores, circuits)
    with pytest.raises(BadParameterError, match="pairs=0"):
        FunctionalComparison(pairs=0)
