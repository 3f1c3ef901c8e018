"""``circuitlab bench planted``: one JSON document or a table, progress on standard error, clear refusals."""

from __future__ import annotations

import pytest

from .conftest import command

INTERVAL = {"mean", "low", "high"}
FEW = ("--method", "logit_attribution", "--method", "random", "--model", "copy-gqa", "--model", "induction-mha", "--seeds", "2", "-n", "3")


def test_json() -> None:
    result = command("bench", "planted", *FEW, "--json")
    assert result.code == 0, result.err
    results = result.json["results"]
    assert [(one["model"], one["method"]) for one in results] == [
        ("copy-gqa", "logit_attribution"),
        ("copy-gqa", "random"),
        ("induction-mha", "logit_attribution"),
        ("induction-mha", "random"),
    ]
    for one in results:
        for score in ("auroc", "average_precision", "precision_at_k", "sign_accuracy"):
            assert set(one[score]) == INTERVAL
            assert 0 <= one[score]["mean"] <= 1
        assert one["visible"] is (one["reason"] == "")
    assert results[0]["visible"] and results[0]["auroc"]["mean"] == 1
    assert not results[2]["visible"] and "direct effects" in results[2]["reason"]
    assert not result.err, "quiet where output is piped"
    attribution, random = result.json["methods"]
    assert (attribution["method"], attribution["n_visible"], attribution["below"]) == ("logit_attribution", 1, [])
    assert attribution["least"]["auroc"] == 1 >= attribution["floor_least"]["auroc"] >= 0.95
    assert (random["n_visible"], random["least"], random["floor_mean"]) == (0, {}, {})


def test_one_seed_has_no_interval() -> None:
    (one,) = command("bench", "planted", "--method", "random", "--model", "copy-mha", "--seeds", "1", "--json").json["results"]
    assert one["auroc"]["low"] is None


def test_table() -> None:
    result = command("bench", "planted", *FEW)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0].split()[:3] == ["model", "method", "AUROC"]
    assert any("induction-mha" in line and line.endswith("no [2]") for line in lines)
    assert any(line.startswith("logit_attribution  1            1.000 (floor ") for line in lines)
    assert any(line.startswith("[2] It measures direct effects") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--method", "randon"), "Did you mean 'random'"),
        (("--model", "induction"), "Did you mean 'induction-"),
        (("--seeds", "0"), "seeds"),
    ],
)
def test_bad_input(arguments, said) -> None:
    result = command("bench", "planted", *arguments)
    assert result.code == 2
    assert said in result.err
    assert result.err.count("\n") == 1


def test_help() -> None:
    assert "planted" in command("bench", "--help").out
