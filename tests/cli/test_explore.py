"""``circuitlab explore``: one file from stored runs without a model, scored first where nothing is stored; and the page of a study."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import jsonschema

import circuitlab.studies.build as building
from circuitlab.explorer.schema import payload_schema

from .conftest import COLORS, command

CALL = ("explore", "--tasks", "colors,shades", "--methods", "logit_attribution,activation_patching", "--pairs", "3")


def payload_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="circuitlab-payload">(.*?)</script>', page, flags=re.DOTALL)
    payload = json.loads(found[1])
    jsonschema.validate(payload, payload_schema())
    return payload


def test_runs_are_scored_once_and_then_shown_without_torch(world, checkpoint) -> None:
    first = command(*CALL, "--model", str(checkpoint), "--measure", "attention", "-o", "page.html")
    assert first.code == 0, first.err
    assert "The page is in page.html" in first.out and "4 scored runs, 0 roles, 4 prompts with attention" in first.out
    assert "Without roles: Roles were not stored; run" in first.out and first.out.count("NOT READY") == 4
    page = (world / "page.html").read_text(encoding="utf-8")
    payload = payload_of(page)
    assert [task["title"] for task in payload["tasks"]] == ["Colors", "Colors"]
    assert payload["prompts"][0]["pairs"][0]["clean"][0] == "Say"
    code = (
        "import sys; from circuitlab.cli.main import run\n"
        "try: run(sys.argv[1:])\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules"
    )
    line = [*CALL, "--model", payload["models"][0]["name"], "-o", "again.html"]
    done = subprocess.run([sys.executable, "-c", code, *line], check=False, capture_output=True, text=True, cwd=world)
    assert done.returncode == 0, done.stderr
    assert (world / "again.html").read_text(encoding="utf-8") == page


def test_the_data_alone_are_one_document(world, checkpoint) -> None:
    result = command(*CALL, "--model", str(checkpoint), "--measure", "attention", "--json")
    assert result.code == 0, result.err
    jsonschema.validate(result.json, payload_schema())
    assert len(result.json["attention"]) == 2 * 2 * 2 and list(world.glob("*.html")) == []


def test_what_cannot_be_written_or_measured_is_found_first(world, checkpoint) -> None:
    for words, says in (
        (("--tasks", "colors"), "nowhere to put the page"),
        (("--tasks", "colors", "--measure", "atention", "-o", "x.html"), "attention"),
        (("--tasks", "colors", "--methods", "logit", "-o", "x.html"), "Unknown method"),
        (("-o", "x.html"), "No task was named"),
    ):
        result = command("explore", *words, "--model", str(checkpoint))
        assert result.code == 2 and says in result.err and len(result.err.strip().splitlines()) == 1, result.err
    assert not (world / "runs").exists() and not (world / "x.html").exists()


def test_a_study_builds_its_page_from_what_it_measured(world, checkpoint, study, monkeypatch) -> None:
    monkeypatch.setattr(building, "image_problem", lambda: "not made: no browser in these tests")
    more = '[explorer]\nmeasure = ["attention", "cards"]\nshown = 1\ncards = 1\n'
    more += "[circuits]\nparams = { k = 2 }\nn_random = 4\nn_subsets = 0\nn_band = 2\n[transfer]\nn = 3\nn_random = 4\n"
    with (world / "tasks/pools.toml").open("a") as pools:
        pools.write(f"names = {json.dumps(COLORS)}\n")  # a role of the cards reads them
    study.write_text(study.read_text().replace("n = 3\n", "n = 4\n", 1) + more)
    ran = command("study", "run", str(study), "--json")
    assert ran.code == 0 and not any(cell["error"] for cell in ran.json["cells"]), ran.err
    built = command("figures", "build", str(study), "--out", "built", "--json")
    assert built.code == 0 and {"explorer.html", "explorer.record.json"} <= set(built.json["files"]), built.err
    payload = payload_of((world / "built/explorer.html").read_text(encoding="utf-8"))
    assert (payload["title"], payload["provenance"]["study"]) == ("Small", "small")
    assert [len(payload[name]) for name in ("scores", "attention", "circuits", "transfer")] == [4, 4, 4, 4]
    assert payload["cards"] and all(circuit["curves"] for circuit in payload["circuits"])
    record = json.loads((world / "built/transfer.activation_patching.record.json").read_text())
    stored = {(cell["circuit"], cell["task"]): cell["faithfulness"]["mean"] for cell in record["cells"]}
    assert {(cell["from"], cell["to"]): cell["faithfulness"]["mean"] for cell in payload["transfer"]} == stored
    command("explore", "--tasks", "colors", "--model", str(checkpoint), "--measure", "circuits", "-o", "more.html")
    checked = command("figures", "check", str(study), "--out", "built", "--json")
    assert checked.code == 0 and checked.json["ok"], checked.out  # what else is stored does not change the page
