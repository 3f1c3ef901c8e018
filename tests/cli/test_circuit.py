"""``circuitlab circuit`` prints a circuit with its evaluation."""

from __future__ import annotations

import json

import pytest

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
    assert json.loads(run(checkpoint, "--json").out) == found, "the same again"


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


def test_as_text(world, checkpoint) -> None:
    text = run(checkpoint).out
    for word in ("faithfulness", "incompleteness", "CPR", "CMD", "9 random circuits", "p =", "fresh pairs"):
        assert word in text
    assert "not evaluated" in run(checkpoint, "--no-evaluate").out


def test_a_task_without_fresh_pairs_says_so(world, checkpoint) -> None:
    (world / "tasks" / "pools.toml").write_text('colors = ["red", "blue"]\n', encoding="utf-8")
    result = run(checkpoint, "-n", "2", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["conventions"]["prompts"].startswith("the 2 pairs that the circuit was picked on")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--ablation", "resampel"], "Did you mean 'resample'"),
        (["--universe", "head"], "Did you mean 'heads'"),
        (["-k", "13"], "more than the 12 attention heads"),
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
