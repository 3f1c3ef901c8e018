"""``circuitlab circuit`` prints a circuit with its evaluation."""

from __future__ import annotations

import json

import pytest

from circuitlab.core.nodes import Head
from circuitlab.evaluation import EdgeCircuitRunner
from circuitlab.methods.eap import EdgeAttributionPatching
from circuitlab.scores.intervals import Interval
from circuitlab.workflows.backups import BackupFinder, BackupGroup, Backups

from .conftest import command

INTERVAL = {"mean", "low", "high"}


def run(checkpoint, *more: str):
    return command("circuit", "colors", "--model", str(checkpoint), "-n", "4", "-k", "3", "--random", "9", *more)


def test_the_document(world, checkpoint) -> None:
    result = run(checkpoint, "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["evaluated"] is True
    assert len(found["nodes"]) == 3 and found["edges"] is None
    assert found["size"] == {"elements": 3, "universe": 12}
    for name in ("faithfulness", "completeness", "cpr", "cmd"):
        assert set(found[name]) >= INTERVAL, name
    assert {row["node"] for row in found["minimality"]["elements"]} == set(found["nodes"])
    assert {"n", "p", "mean", "low", "high"} <= set(found["random"])
    assert found["random"]["n"] == 9 and 0.1 <= found["random"]["p"] <= 1
    assert (found["full"]["faithfulness"], found["empty"]["faithfulness"]) == (1, 0)
    said = found["conventions"]
    assert said["clamped"] == "never" and said["universe"] == "heads" and said["prompts"].startswith("4 fresh pairs")
    assert (found["cached"], found["backups"]) == (False, None)
    again = json.loads(run(checkpoint, "--json").out)
    assert again == found | {"cached": True}, "the same again, from the store"
    assert json.loads(run(checkpoint, "--ablation", "mean", "--json").out)["cached"] is False


def test_the_options(world, checkpoint) -> None:
    zero = json.loads(run(checkpoint, "--ablation", "zero", "--universe", "heads+mlps", "--json").out)
    assert (zero["conventions"]["ablation"], zero["size"]["universe"]) == ("zero", 15)
    listed = json.loads(run(checkpoint, "--no-evaluate", "--json").out)
    assert listed["nodes"] == zero["nodes"]
    assert listed["evaluated"] is False and listed["faithfulness"] is None


def test_a_circuit_of_edges(world, checkpoint) -> None:
    result = run(checkpoint, "--method", "eap", "--edges", "6", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert len(found["edges"]) == 6
    assert (found["size"]["elements"], found["conventions"]["level"]) == (6, "edges")
    assert {row["edge"] for row in found["minimality"]["elements"]} == set(found["edges"])
    assert (found["full"]["faithfulness"], found["empty"]["faithfulness"]) == (1, 0)
    assert found["edges"][0] in run(checkpoint, "--method", "eap", "--edges", "6", "--no-evaluate").out


def test_edges_and_their_evaluation_are_kept(world, checkpoint, monkeypatch) -> None:
    arguments = ("--method", "eap", "--edges", "6", "--json")
    found = json.loads(run(checkpoint, *arguments).out)
    (evaluation,) = (world / "runs" / "evaluations").glob("*.json")
    (edges,) = (world / "runs").glob("*.edges.nc")
    with monkeypatch.context() as patched:
        patched.setattr(EdgeAttributionPatching, "edges", lambda *_: pytest.fail("scored again"))
        patched.setattr(EdgeCircuitRunner, "run", lambda *_: pytest.fail("run again"))
        assert json.loads(run(checkpoint, *arguments).out) == found | {"cached": True}
    edges.write_bytes(b"damaged")
    evaluation.write_text("damaged")
    with pytest.warns(UserWarning, match="moved to .*damaged") as warned:
        again = run(checkpoint, *arguments)
    assert json.loads(again.out) == found
    assert len(warned) == 2


def test_backups(world, checkpoint, monkeypatch) -> None:
    arguments = ("--no-evaluate", "--backups", "--backup-seeds", "2")
    found = json.loads(run(checkpoint, *arguments, "--json").out)
    said = found["backups"]
    assert len(said["seeds"]) == 2 and set(said["seeds"]) <= set(found["nodes"])
    assert said["tested"] > 2 and isinstance(said["groups"], list)
    monkeypatch.setattr(BackupFinder, "__call__", lambda *_: pytest.fail("searched again"))
    assert json.loads(run(checkpoint, *arguments, "--json").out) == found
    text = run(checkpoint, *arguments).out
    assert f"Backups of {', '.join(said['seeds'])}" in text
    file = next((world / "runs" / "backups").glob("*.json"))
    file.unlink()
    interval = Interval(1.0, 0.5, 1.5)
    group = BackupGroup((Head(1, 0), Head(1, 2)), (), interval, interval)
    monkeypatch.setattr(BackupFinder, "__call__", lambda *_: Backups((group,), (), {}, 4))
    assert "a1.h0 or a1.h2  1.00 [0.50, 1.50]" in run(checkpoint, *arguments).out
    file.unlink()
    assert json.loads(run(checkpoint, *arguments, "--json").out)["backups"]["groups"][0]["heads"] == ["a1.h0", "a1.h2"]


def test_as_text(world, checkpoint) -> None:
    text = run(checkpoint).out
    assert text == run(checkpoint).out
    for word in ("faithfulness", "incompleteness", "CPR", "CMD", "9 random circuits", "p =", "fresh pairs"):
        assert word in text
    assert "not evaluated" in run(checkpoint, "--no-evaluate").out


def test_a_task_without_fresh_pairs_says_so(world, checkpoint) -> None:
    (world / "tasks" / "pools.toml").write_text('colors = ["red", "blue"]\n', encoding="utf-8")
    result = run(checkpoint, "-n", "2", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["conventions"]["prompts"].startswith("2 of the 2 pairs that were scored")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--ablation", "resampel"], "Did you mean 'resample'"),
        (["--universe", "head"], "Did you mean 'heads'"),
        (["-k", "13"], "A circuit of 13 heads was requested, but tiny has 12"),
        (["--random", "-1"], "--random"),
        (["--edges", "5"], "one of eap"),
        (["--edges", "5000", "--method", "eap"], "5000"),
    ],
)
def test_bad_input_is_one_sentence(world, checkpoint, arguments, says) -> None:
    result = run(checkpoint, *arguments)
    assert result.code == 2
    assert result.out == ""
    assert says in result.err.strip().splitlines()[-1]
