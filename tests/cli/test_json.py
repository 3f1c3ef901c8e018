"""`--json`: standard output is one document of the stated shape; everything else goes to standard error."""

from __future__ import annotations

import json
import re

import pytest

from circuitlab.methods import list_methods

from .conftest import command

INTERVAL = {"mean", "low", "high"}


def document(*arguments: str):
    result = command(*arguments, "--json")
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_lists(world) -> None:
    assert {entry["name"] for entry in document("models", "list")["models"]} >= {"smollm2-135m", "gemma3-270m"}
    assert [entry["id"] for entry in document("tasks", "list")["tasks"]] == ["colors", "shades"]
    methods = document("methods", "list")["methods"]
    assert {"name", "estimand", "additive", "needs", "cost", "cite"} <= set(methods[0])
    assert document("cite", "colors")["keys"] == ["wang2022"]


def test_tasks_show_gives_prompts_with_marks(world) -> None:
    shown = document("tasks", "show", "colors", "-n", "2")
    assert shown["task"] == "colors"
    assert len(shown["examples"]) == 2
    example = shown["examples"][0]
    start, stop = example["clean_marks"]["COLOR"]
    assert example["clean"][start:stop] == example["answers"][0].strip()


def test_tasks_check(world, checkpoint) -> None:
    report = document("tasks", "check", "colors", "--model", str(checkpoint), "-n", "8")
    assert {"task", "model", "n", "accuracy", "gap", "aligned", "single_token", "ready", "reason"} <= set(report)
    assert set(report["accuracy"]) == INTERVAL
    assert report["aligned"] == report["single_token"] == 1
    assert report["ready"] is False, "random weights cannot do it"
    assert "cannot" in report["reason"] or "chance" in report["reason"]


@pytest.mark.parametrize("method", list_methods())
def test_score(world, checkpoint, method) -> None:
    arguments = ["score", "colors", "--model", str(checkpoint), "--method", method, "-n", "4"]
    found = document(*arguments)
    shape = {"run_id", "task", "model", "method", "params", "estimand", "units", "n_pairs", "seconds", "heads", "mlps", "checks"}
    assert shape <= set(found)
    assert (world / "runs" / f"{found['run_id']}.nc").is_file()
    assert len(found["heads"]) == 12
    if method == "copying_score":
        assert (found["task"], found["n_pairs"], found["total"], found["ready"]) == ("weights alone", 0, None, None)
        assert all(entry["low"] is entry["high"] is None and -1 <= entry["mean"] <= 1 for entry in found["heads"])
        assert all(check["ok"] for check in found["checks"].values())
        assert document("score", "--model", str(checkpoint), "--method", method)["cached"], "no task is needed"
        return
    for entry in found["heads"]:
        assert entry["low"] <= entry["mean"] <= entry["high"]
    assert {name for name, check in found["checks"].items() if not check["ok"]} == {"task_ready"}, "random weights cannot do it"
    if method == "logit_attribution":
        assert abs(found["checks"]["residual"]["value"]) < 1e-3
    assert document(*arguments)["heads"] == found["heads"], "the second call reads the store"


def test_score_warns_on_standard_error_that_the_model_cannot_do_it(world, checkpoint) -> None:
    result = command("score", "colors", "--model", str(checkpoint), "-n", "3")
    assert result.code == 0
    assert "Warning:" in result.err
    assert "Warning:" not in result.out


def test_text_of_weights_says_that_there_is_no_interval(world, checkpoint) -> None:
    text = command("score", "--model", str(checkpoint), "--method", "copying_score").out
    assert "copying_score from weights alone" in text and "no interval: from weights alone, without prompts" in text
    assert "nan" not in text and "[" not in text and "pairs" not in text
    circuit = command("circuit", "colors", "--model", str(checkpoint), "--method", "copying_score", "-k", "3", "--random", "2")
    assert circuit.code == 0 and "all fresh: the circuit was picked from weights alone" in circuit.out
    compared = command("compare", "colors", "--methods", "relp,copying_score", "--model", str(checkpoint), "-k", "3", "-n", "4")
    assert "(no interval)" in compared.out and "copying_score: no interval" in compared.err


def test_circuit_and_compare(world, checkpoint) -> None:
    shared = ["--model", str(checkpoint), "-n", "4", "-k", "3"]
    found = document("circuit", "colors", *shared)
    assert len(found["nodes"]) == 3
    assert {"edges", "rule", "faithfulness", "completeness", "minimality", "cpr", "cmd", "conventions", "random"} <= set(found)
    (pair,) = document("compare", "colors", "shades", *shared)["pairs"]
    assert {"task_a", "task_b", "jaccard", "containment", "rbo", "spearman", "null_mean", "p", "q"} <= set(pair)
    assert set(pair["jaccard"]) >= INTERVAL
    assert 0 <= pair["null_mean"] <= 1


def test_doctor_runs_the_laws(world, checkpoint) -> None:
    found = document("doctor", str(checkpoint))
    assert found["ok"] is True
    assert len(found["laws"]) > 10
    assert all(law["ok"] for law in found["laws"])


def test_a_study_runs_once_and_its_figures_build_and_check(world, study) -> None:
    first = document("study", "run", str(study))
    assert [cell["cached"] for cell in first["cells"]] == [False] * 4
    second = document("study", "run", str(study))
    assert [cell["cached"] for cell in second["cells"]] == [True] * 4
    assert [cell["run_id"] for cell in first["cells"]] == [cell["run_id"] for cell in second["cells"]]
    built = document("figures", "build", str(study), "--out", str(world / "built"))
    assert {"report.html", "heads.csv", "MANIFEST.json"} <= set(built["files"])
    assert document("figures", "check", str(study), "--out", str(world / "built"))["ok"] is True
    (world / "built" / "heads.csv").write_text("changed", encoding="utf-8")
    result = command("figures", "check", str(study), "--out", str(world / "built"), "--json")
    assert result.code == 2
    assert result.json["differing"] == ["heads.csv"]


def test_shards_share_a_study(world, study) -> None:
    first = document("study", "run", str(study), "--shard", "1/2")
    second = document("study", "run", str(study), "--shard", "2/2")
    labels = [(cell["task"], cell["method"]) for cell in [*first["cells"], *second["cells"]]]
    assert len(set(labels)) == 4
    assert all(cell["cached"] for cell in document("study", "run", str(study))["cells"])


def test_shards_with_stores_of_their_own_are_merged_and_a_build_names_what_is_missing(world, study) -> None:
    for i in (1, 2):
        document("study", "run", str(study), "--shard", f"{i}/2", "--store", f"store-{i}")
    assert document("study", "merge", "store-1", "--store", "whole")["copied"] == 4  # two runs, and which cells they are
    missing = command("figures", "build", str(study), "--store", "whole", "--out", "built")
    assert missing.code == 2
    assert re.search(r"2 of 4 cells of study 'small' are not finished in whole: .*shades x .*shades x ", missing.err), missing.err
    assert "circuitlab study run" in missing.err
    merged = document("study", "merge", "store-1", "store-2", "--store", "whole")
    assert (merged["copied"], merged["present"], merged["damaged"]) == (4, 4, [])
    assert "report.html" in document("figures", "build", str(study), "--store", "whole", "--out", "built")["files"]
    assert "There is no store nowhere" in command("study", "merge", "nowhere", "--store", "whole").err


@pytest.mark.parametrize("word", ["models", "tasks", "methods", "study", "figures"])
def test_help_lists_the_commands(word) -> None:
    assert "Usage" in command(word, "--help").out


@pytest.mark.real_model
def test_the_default_model_end_to_end(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("circuitlab.workflows.prompts.FITNESS_PAIRS", 8)
    found = document("score", "successor", "--method", "logit_attribution", "-n", "4")
    assert found["model"] == "smollm2-135m"
    assert len(found["heads"]) == 270
    assert abs(found["checks"]["residual"]["value"]) < 1e-3
