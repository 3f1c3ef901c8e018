"""Key heads, their knock-out and their attention on a model in which one head copies the answer, and on one without it."""

from __future__ import annotations

import numpy as np
import pytest

from circuitlab.core.nodes import Head, parse_node
from circuitlab.execute.continuations import Continuation
from circuitlab.experiments.arithmetic import Arithmetic
from circuitlab.experiments.arithmetic.heads import attention_to, knocked_out, ranked_heads, shared_heads, solved
from circuitlab.experiments.arithmetic.tuning import sums, tune_heads, unseen
from circuitlab.experiments.types import ExperimentContext
from circuitlab.model.toy import build_planted
from circuitlab.store import Cache

COPY = Head(1, 1)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    planted = build_planted("copy-gqa")
    lab = ExperimentContext(Arithmetic(), planted.model, 0, Cache(tmp_path_factory.mktemp("sums")))
    batch = solved(planted.model, planted.batch(30), 24)
    halves = batch.select(range(12)), batch.select(range(12, 24))
    ranked = ranked_heads(lab, halves[0])
    order = [parse_node(name) for name in ranked["order"]]
    out = knocked_out(lab, halves, order, [1, 2], 3)
    attention = attention_to(planted.model, halves[1], order[:1], ("CONTENT",))
    transfer = {"subtraction": {"knockout": out, "overlap": shared_heads(order[:1], order[:1], (2, 4)), "order": ranked["order"]}}
    tuning = tuned(lab, planted, COPY)
    return {
        "heads": {**ranked, "key": ranked["order"][:1]},
        "knockout": out,
        "attention": attention,
        "transfer": transfer,
        "tuning": tuning,
    }


def tuned(lab: ExperimentContext, planted, head: Head) -> dict:
    texts = [Continuation.passage(row) for row in planted.batch(4, seed=9).corrupt.tolist()]
    return tune_heads(lab, (sums(planted.batch(12)), sums(planted.batch(8, seed=1))), [head], texts, (16, 2))


def test_the_wired_head_is_found_and_is_needed(results) -> None:
    assert results["heads"]["key"] == [str(COPY)]
    _, late, needs, attends, subtracts, _, improves, _ = Arithmetic().judge(results)
    assert [claim.verdict for claim in (late, needs, attends, subtracts, improves)] == ["replicates"] * 5
    accuracy = results["knockout"]["accuracy"]
    assert accuracy["unedited"]["mean"] == 1.0 and accuracy["chosen"][0]["mean"] < 0.5
    assert [drawing.name for drawing in Arithmetic().draw(results, "toy")] == [
        "heads", "knockout-accuracy", "knockout-logit_difference", "attention", "tuning-log_probability", "tuning-text"
    ]  # fmt: skip


def test_a_head_that_nothing_reads_is_not_needed(tmp_path) -> None:
    planted = build_planted("copy-gqa")
    lab = ExperimentContext(Arithmetic(), planted.model, 0, Cache(tmp_path))
    out = knocked_out(lab, (planted.batch(12), planted.batch(12, seed=1)), [Head(0, 0)], [1], 3)
    results = {"knockout": out, "heads": {"map": np.full((2, 4), 0.5).tolist(), "key": ["a0.h0"]}, "transfer": {}}
    nothing = {"mean": 0.0, "low": -0.1, "high": 0.1}
    results["tuning"] = tuned(lab, planted, Head(0, 0))
    claims = Arithmetic().judge({**results, "attention": {"difference": nothing, "chosen": {"together": nothing}}})
    assert [claim.verdict for claim in claims[:6]] == ["does not replicate"] * 4 + ["cannot be asked"] * 2
    assert claims[6].verdict != "replicates", claims[6].here


def test_tuning_repeats_leaves_the_model_alone_and_never_trains_on_operands_that_measure(tmp_path, results) -> None:
    planted = build_planted("copy-gqa")
    lab = ExperimentContext(Arithmetic(), planted.model, 0, Cache(tmp_path))
    before = sums(planted.batch(4)).measured(planted.model)
    assert tuned(lab, planted, COPY) == results["tuning"]
    assert (before == sums(planted.batch(4)).measured(planted.model)).all()
    train, held = planted.batch(12), planted.batch(8, seed=1)
    left, taken = unseen(train, held, ("CONTENT",)), held.clean.gather(1, held.marks["CONTENT"][:, None])
    seen = left.clean.gather(1, left.marks["CONTENT"][:, None])
    assert 0 < left.n_pairs < train.n_pairs and not set(seen.ravel().tolist()) & set(taken.ravel().tolist())


def test_too_few_right_sums_close_the_gate_and_raise_nothing(tmp_path, monkeypatch) -> None:
    from types import SimpleNamespace

    import circuitlab.workflows.fitness

    def ready(_model, task, *_args, **_settings):
        return SimpleNamespace(task=task, ready=True, reason=f"{task} can be done.", accuracy={})

    monkeypatch.setattr(circuitlab.workflows.fitness, "check_task", ready)
    monkeypatch.setattr(Arithmetic, "_solved", lambda _self, _context, task: None if task == "addition" else task)
    gate = Arithmetic().gate(ExperimentContext(Arithmetic(), build_planted("copy-gqa").model, 0, Cache(tmp_path)))
    assert not gate.met and "Fewer than 32 of 64 pairs of addition" in gate.reason
    assert gate.measured["ready"] == {"addition": False, "subtraction": True, "multiplication": True, "arithmetic": True}


def test_sums_that_are_wrong_are_left_out() -> None:
    planted = build_planted("copy-gqa")
    batch = planted.batch(8)
    swapped = batch.answers.clone()
    swapped[:4] = batch.foils[:4]
    from dataclasses import replace

    foils = batch.foils.clone()
    foils[:4] = batch.answers[:4]
    mixed = replace(batch, answers=swapped, foils=foils)
    kept = solved(planted.model, mixed, 4)
    assert kept is not None and kept.clean.tolist() == batch.clean[4:].tolist()
    assert solved(planted.model, mixed, 5) is None


def test_chance_of_an_overlap_is_taken_within_layers() -> None:
    same = [Head(1, 0), Head(1, 1)]
    assert shared_heads(same, same, (2, 2)) == {"shared": 2, "jaccard": 1.0, "by_chance": 1.0, "p": 1.0}
    assert shared_heads([Head(0, 0)], [Head(0, 1)], (2, 4))["by_chance"] == pytest.approx(0.25)
