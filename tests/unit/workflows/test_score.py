"""Scoring a batch: the store is asked first, fitness travels with the scores, and the self-checks report what they should."""

from __future__ import annotations

from dataclasses import replace

import pytest

from circuitlab.execute.contract import provenance_of
from circuitlab.methods.activation_patching import ActivationPatching
from circuitlab.methods.logit_attribution import LogitAttribution
from circuitlab.metrics import LogitDiff, ProbDiff
from circuitlab.model.toy import planted_model
from circuitlab.store import Cache
from circuitlab.workflows.fitness import judge_batch
from circuitlab.workflows.score import run_checks, score, score_batch

METRIC = LogitDiff()


@pytest.fixture(scope="module")
def planted():
    return planted_model()


def test_a_stored_run_is_found_by_what_it_is(planted, tmp_path) -> None:
    store, calls = Cache(tmp_path), []

    def fitness():
        calls.append(1)
        return judge_batch(planted.model, planted.batch(8))

    batch = planted.batch(4)
    first = score_batch(planted.model, batch, ActivationPatching(), METRIC, store=store, fitness=fitness)
    again = score_batch(planted.model, batch, ActivationPatching(pairs_per_pass=2), METRIC, store=store, fitness=fitness)
    assert (first.cached, again.cached, len(calls)) == (False, True, 1)
    assert again.scores.provenance.fitness.ready
    assert again.scores.provenance.environment.seconds > 0
    other = score_batch(planted.model, batch, ActivationPatching(direction="noising"), METRIC, store=store)
    assert not other.cached
    assert len(store.list()) == 2


def test_identity_follows_content_and_nothing_else(planted) -> None:
    batch, method = planted.batch(4), ActivationPatching()

    def run_id(**changes):
        given = {"method": method, "batch": batch, "metric": METRIC} | changes
        return provenance_of(given["method"], planted.model, given["batch"], given["metric"]).run_id()

    same = {run_id(), run_id(batch=planted.batch(4)), run_id(method=replace(method, pairs_per_pass=1))}
    different = {run_id(batch=planted.batch(5)), run_id(batch=planted.batch(4, seed=1)), run_id(metric=ProbDiff())}
    different |= {run_id(metric=LogitDiff(reduce="max")), run_id(method=replace(method, parts=("mlps",)))}
    assert len(same) == 1
    assert len(different) == 5
    assert not same & different


def test_checks_report_the_residual(planted) -> None:
    scores = LogitAttribution()(planted.model, planted.batch(4), METRIC)
    checks = run_checks(scores)
    assert checks["residual"]["ok"]
    assert checks["residual"]["value"] < 1e-4
    data = scores.dataset.copy(deep=True)
    data["heads"].values[:, 1, 1] += 0.1
    assert not run_checks(replace(scores, dataset=data))["residual"]["ok"]
    assert "residual" not in run_checks(ActivationPatching()(planted.model, planted.batch(4), METRIC))


@pytest.mark.real_model
def test_score_on_the_real_model(smollm2, monkeypatch) -> None:
    monkeypatch.setattr("circuitlab.workflows.prompts.FITNESS_PAIRS", 8)
    scores = score(smollm2, "ioi", "logit_attribution", n=8)
    assert run_checks(scores)["residual"]["value"] < 1e-3
    flag = scores.provenance.fitness
    assert flag is not None
    assert flag.ready
    assert flag.accuracy["mean"] >= 0.85
    near_chance = score(smollm2, "colored_objects", "logit_attribution", n=4).provenance.fitness
    assert near_chance is not None
    assert not near_chance.ready
    assert "chance" in near_chance.reason
