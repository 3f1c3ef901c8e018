"""The numbers of a payload are those of the scores, roles, circuits and attention it is made from."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

import circuitlab as cl
from circuitlab.core.errors import BadParameterError
from circuitlab.core.provenance import digest
from circuitlab.explorer.packed import unpack
from circuitlab.explorer.payload import build_payload
from circuitlab.explorer.sources import Sources, StoredCircuit
from circuitlab.explorer.sparse import dense_attention
from circuitlab.scores.head_scores import HeadScores
from circuitlab.scores.intervals import q_values
from circuitlab.testing.fakes import fake_provenance, fake_scores, fake_weights_scores

NORMAL = np.random.default_rng(0).normal


def with_task(scores: HeadScores, **changes) -> HeadScores:
    task = msgspec.structs.replace(scores.provenance.task, **changes)
    return replace(scores, provenance=msgspec.structs.replace(scores.provenance, task=task))


def test_scores_are_those_of_the_run() -> None:
    scores = fake_scores(NORMAL(size=(8, 3, 4)), mlps=NORMAL(size=(8, 3)))
    (entry,) = build_payload(Sources((scores,)))["scores"]
    interval, heads = scores.interval("heads"), entry["parts"]["heads"]
    for name in ("mean", "low", "high"):
        np.testing.assert_allclose(unpack(heads[name]), getattr(interval, name), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(unpack(heads["q"]), q_values(scores.values("heads")), rtol=1e-6)
    np.testing.assert_allclose(unpack(heads["pairs"]), scores.values("heads"), atol=np.abs(scores.values("heads")).max() / 65000)
    np.testing.assert_allclose(unpack(entry["parts"]["mlps"]["mean"]), scores.mean("mlps"), rtol=1e-6)
    assert entry["run"] == scores.provenance.run_id() and entry["n_pairs"] == 8


def test_scores_by_mark_are_a_circuit_at_positions(check) -> None:
    heads = NORMAL(size=(4, 2, 2, 3))
    arrays = {"heads": heads, "total": np.ones(4), "clean": np.ones(4), "corrupt": np.zeros(4)}
    scores = HeadScores.build(arrays, fake_provenance(2, 3), marks=["S2", "END"])
    payload = build_payload(Sources((scores,), top_k=5))
    check(payload)
    (circuit,) = payload["circuits"]
    assert circuit["marks"] == ["S2", "END"] and (circuit["size"], circuit["universe"]) == (5, 12)
    mean, weights = heads.mean(0), unpack(circuit["weights"])
    assert list(np.abs(weights)) == sorted(np.abs(weights), reverse=True)
    for name, weight in zip(circuit["elements"], weights, strict=True):
        node, mark = name.split("@")
        layer, head = node[1:].split(".h")
        assert weight == pytest.approx(mean[["S2", "END"].index(mark), int(layer), int(head)], rel=1e-6)
    assert "keep_at" in payload["absent"][f"circuits/{circuit['id']}"]
    compile(circuit["python"], "circuit", "exec")


@pytest.mark.parametrize(
    "scores", [fake_scores(NORMAL(size=(1, 3, 4))), fake_weights_scores(NORMAL(size=(3, 4)))], ids=["one pair", "weights"]
)
def test_without_a_spread_there_are_no_limits(scores) -> None:
    part = build_payload(Sources((scores,)))["scores"][0]["parts"]["heads"]
    assert not {"low", "high", "q"} & set(part)
    assert ("pairs" in part) == (not scores.weights_only)


def test_scores_by_mark_are_one_entry_each() -> None:
    heads = NORMAL(size=(4, 2, 2, 3))
    about = fake_provenance(2, 3)
    scores = HeadScores.build(
        {"heads": heads, "total": np.ones(4), "clean": np.ones(4), "corrupt": np.zeros(4)}, about, marks=["S2", "END"]
    )
    entries = build_payload(Sources((scores,)))["scores"]
    assert [entry["mark"] for entry in entries] == ["S2", "END"] and len({entry["id"] for entry in entries}) == 2
    np.testing.assert_allclose(unpack(entries[1]["parts"]["heads"]["mean"]), heads[:, 1].mean(0), rtol=1e-6)


def test_the_verdict_stands_with_the_task_and_the_scores() -> None:
    payload = build_payload(Sources((fake_scores(NORMAL(size=(4, 2, 3)), ready=False),)))
    (verdict,) = payload["tasks"][0]["verdicts"]
    assert verdict["ready"] is False and verdict["sentence"] == payload["scores"][0]["warning"]
    assert verdict["accuracy"] == {"mean": 0.5, "low": 0.4, "high": 0.6}
    assert not next(check for check in payload["scores"][0]["checks"] if check["name"] == "task_ready")["ok"]


def test_equal_names_are_told_apart() -> None:
    first = fake_scores(NORMAL(size=(4, 2, 3)))
    other_variant = with_task(fake_scores(NORMAL(size=(4, 2, 3))), variant="other", digest="1")
    other_seed = with_task(fake_scores(NORMAL(size=(4, 2, 3))), seed=1, digest="2")
    labels = [task["id"] for task in build_payload(Sources((first, other_variant, other_seed)))["tasks"]]
    assert labels == ["a:none@0", "a:other", "a:none@1"]
    longer = with_task(fake_scores(NORMAL(size=(6, 2, 3))), n_pairs=6)
    assert [task["id"] for task in build_payload(Sources((first, longer)))["tasks"]] == ["a"]


def test_models_of_one_name_are_told_apart() -> None:
    first = fake_scores(NORMAL(size=(4, 2, 3)))
    edited = msgspec.structs.replace(first.provenance.model, edits="e" * 64)
    second = replace(first, provenance=msgspec.structs.replace(first.provenance, model=edited))
    payload = build_payload(Sources((first, second)))
    assert len({model["id"] for model in payload["models"]}) == 2 and [model["edited"] for model in payload["models"]] == [False, True]
    assert [score["model"] for score in payload["scores"]] == [model["id"] for model in payload["models"]]
    assert len(payload["overlap"]) == 1  # the two models on the same task


def test_overlap_is_what_compare_gives() -> None:
    runs = {name: fake_scores(NORMAL(size=(12, 4, 6)) * 0.3 + NORMAL(size=(4, 6)), task=name) for name in ("a", "b", "c")}
    payload = build_payload(Sources(tuple(runs.values()), top_k=5))
    table = cl.comparison.compare_tasks(runs, cl.TopK(5))
    assert len(payload["overlap"]) == 3
    for entry, row in zip(payload["overlap"], table.rows, strict=True):
        assert (entry["shared"], entry["p"], entry["p_corrected"], entry["k"]) == (row.shared, row.p, row.q, 5)
        assert entry["count"] == len(row.shared)
        assert entry["jaccard"] == row.jaccard


def test_expected_overlap_is_the_mean_of_the_null() -> None:
    runs = {name: fake_scores(NORMAL(size=(6, 3, 8)), task=name) for name in ("a", "b")}
    (entry,) = build_payload(Sources(tuple(runs.values()), top_k=6))["overlap"]
    chosen = [cl.TopK(6)(run) for run in runs.values()]
    rng, counts = np.random.default_rng(1), []
    sizes = np.array([[sum(node.layer == layer for node in circuit.nodes) for layer in range(3)] for circuit in chosen])
    for _ in range(20_000):
        drawn = [{(layer, head) for layer, size in enumerate(row) for head in rng.permutation(8)[:size]} for row in sizes]
        counts.append(len(drawn[0] & drawn[1]))
    assert entry["expected"] == pytest.approx(np.mean(counts), abs=4 * np.std(counts) / np.sqrt(len(counts)))


def test_a_circuit_that_was_not_evaluated_has_no_curve_and_says_so() -> None:
    scores = fake_scores(NORMAL(size=(4, 2, 3)))
    payload = build_payload(Sources((scores,), top_k=2))
    (circuit,) = payload["circuits"]
    assert circuit["curves"] == [] and circuit["random"] == [] and "faithfulness" not in circuit
    assert "was not stored" in payload["absent"][f"circuits/{circuit['id']}"]
    means = np.abs(unpack(circuit["weights"]))
    assert (np.diff(means) <= 0).all() and len(circuit["elements"]) == 6


def test_a_stored_curve_is_shown_as_it_is(planted) -> None:
    circuit = next(one for one in planted.payload["circuits"] if one["curves"])
    run = planted.store.read(circuit["score"])
    evaluation = cl.evaluate(
        planted.model,
        cl.TopK(circuit["size"])(run),
        planted.batches[0] if run.n_pairs == 4 else planted.batches[1],
        scores=run,
        store=planted.store,
    )
    assert evaluation.cached
    points = {row["size"]: row["mean"] for row in evaluation.measures["curve"]["absolute"]}
    assert {point["size"]: point["mean"] for point in circuit["curves"][0]["points"]} == points
    assert circuit["faithfulness"]["mean"] == evaluation.faithfulness["mean"]


def test_the_band_of_random_circuits_holds_every_size_once() -> None:
    scores = fake_scores(NORMAL(size=(4, 2, 3)))
    measures = {
        "size": {"elements": 2, "universe": 6},
        "faithfulness": {"mean": 0.5, "low": None, "high": None},
        "curve": {"absolute": [{"fraction": 0.3, "size": 2, "mean": 0.5, "low": None, "high": None}]},
        "cpr": None,
        "cmd": None,
        "random": {"n": 10, "p": 0.1, "mean": 0.2, "low": 0.1, "high": 0.3},
        "n_pairs": 4,
        "conventions": {"prompts": "4 fresh pairs"},
    }
    band = [{"size": 4, "n": 5, "mean": 0.6, "low": 0.5, "high": 0.7}, {"size": 2, "n": 5, "mean": 0.0, "low": 0.0, "high": 0.0}]
    stored = StoredCircuit(scores.provenance.run_id(), ["a0.h0", "a0.h1"], None, "top 2", measures, band)
    (circuit,) = build_payload(Sources((scores,), circuits=(stored,)))["circuits"]
    assert [(row["size"], row["n"]) for row in circuit["random"]] == [(2, 10), (4, 5)]
    assert circuit["faithfulness"] == {"mean": 0.5} and circuit["prompts"] == "4 fresh pairs"


def test_attention_is_the_models_own(planted) -> None:
    entry = next(one for one in planted.payload["attention"] if one["side"] == "corrupt" and one["pair"] == 1)
    batch = planted.batches[[task["id"] for task in planted.payload["tasks"]].index(entry["task"])]
    stop = int(batch.end[1]) + 1
    dense = dense_attention(entry, stop)
    for number, head in enumerate(entry["heads"]):
        pattern = planted.model.attention(head, batch.corrupt[1, :stop].tolist()).values
        kept = dense[number] > 0
        np.testing.assert_allclose(dense[number][kept], pattern[kept], atol=0.0021)
        assert pattern[~kept].max() < 0.01 or stop > 8


def test_value_norms_are_of_what_heads_write(planted) -> None:
    from circuitlab.model.sites import Site

    entry = next(one for one in planted.payload["attention"] if one["side"] == "clean" and one["pair"] == 0)
    batch = planted.batches[[task["id"] for task in planted.payload["tasks"]].index(entry["task"])].select([0])
    norms, values = unpack(entry["value_norms"]), planted.model.capture(batch.clean, [Site.V])[Site.V][0]
    layer, head = 1, 1
    group = planted.model.spec.n_heads // planted.model.spec.n_kv_heads
    written = values[layer, :, head // group].double() @ planted.model.weights.output(layer)[head].double()
    np.testing.assert_allclose(norms[entry["heads"].index("a1.h1")], written.norm(dim=-1).numpy(), atol=norms.max() / 500)


def test_tokens_are_those_of_every_scored_pair(planted) -> None:
    for prompts, batch in zip(planted.payload["prompts"], planted.batches, strict=True):
        assert len(prompts["pairs"]) == batch.n_pairs
        for row, pair in enumerate(prompts["pairs"]):
            assert [int(token) for token in pair["clean"]] == batch.clean[row, : int(batch.end[row]) + 1].tolist()
            assert pair["answer"] == str(int(batch.answers[row, 0])) and pair["marks"]["END"] == pair["end"] == int(batch.end[row])


def test_cards_say_what_the_calls_say(planted) -> None:
    card = next(one for one in planted.payload["cards"] if one["head"] == "a1.h1")
    made = cl.head_card(planted.model, "a1.h1", list(planted.batches), roles=["induction"], pairs=2, n=4)
    mine = {entry["task"]: entry["change"]["mean"] for entry in card["knockout"]["entries"]}
    theirs = [entry.change["mean"] for entry in made.knockout.entries]
    assert list(mine.values()) == pytest.approx(theirs)


def test_without_scores_there_is_no_page() -> None:
    with pytest.raises(BadParameterError, match="no scores to explore"):
        build_payload(Sources(()))


@pytest.mark.parametrize("field", ["scores", "circuits"])
def test_copied_python_gives_what_is_shown(planted, field, monkeypatch) -> None:
    monkeypatch.setattr(cl, "load_model", lambda _name: planted.model, raising=False)
    for entry in planted.payload[field]:
        batch = planted.batches[[task["id"] for task in planted.payload["tasks"]].index(entry["task"])]
        names = {"prompts": batch}
        exec(entry["python"], names)
        if field == "scores":
            assert names["scores"].provenance.run_id() == entry["run"]
        else:
            assert [str(node) for node in names["circuit"]] == sorted(entry["elements"][: entry["size"]])


def test_copied_python_of_a_task_names_its_variant_and_seed() -> None:
    scores = with_task(fake_scores(NORMAL(size=(4, 2, 3)), task="ioi"), variant="random_names", seed=3)
    code = build_payload(Sources((scores,)))["scores"][0]["python"]
    assert "'ioi'" in code and "variant='random_names', seed=3" in code and "n=4" in code
    assert digest(code) == digest(build_payload(Sources((scores,)))["scores"][0]["python"])
