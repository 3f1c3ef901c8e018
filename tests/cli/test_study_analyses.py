"""Analyses of a study, from the study file to the report: run once, resumed, built without a model, and named where they are missing."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from fuzzing import odd_json

import circuitlab.studies.build as building
from circuitlab import Study
from circuitlab.core.provenance import digest
from circuitlab.store import Cache
from circuitlab.studies.misfits import built_from
from circuitlab.studies.report.analyses import analysis_tables
from circuitlab.studies.results import collect

from .conftest import command

ANALYSES = """
[circuits]
methods = ["activation_patching"]
params = { k = 2 }
n_random = 5
n_subsets = 3
n_band = 3

[planted]
methods = ["logit_attribution"]
models = ["copy-gqa"]
seeds = 2
pairs = 4
"""


@pytest.fixture
def analysed(study, monkeypatch) -> Path:
    """The small study with two analyses."""
    monkeypatch.setattr(building, "image_problem", lambda: "not made: no browser in these tests")
    study.write_text(study.read_text() + ANALYSES)
    return study


def document(*arguments: str):
    result = command(*arguments, "--json")
    assert result.code == 0, result.err
    return result.json


def test_analyses_run_once_and_their_figures_build_without_torch(world, analysed) -> None:
    first = document("study", "run", str(analysed))["cells"]
    assert [(cell["analysis"], cell["task"]) for cell in first[4:]] == [
        ("circuits", "colors.activation_patching"),
        ("circuits", "shades.activation_patching"),
        ("planted", "logit_attribution"),
    ]
    assert not any(cell["cached"] or cell["error"] for cell in first)
    again = document("study", "run", str(analysed))["cells"]
    assert all(cell["cached"] for cell in again) and [c["run_id"] for c in again] == [c["run_id"] for c in first]
    code = (
        "import sys; from circuitlab.cli.main import run; import circuitlab.studies.build as building\n"
        "building.image_problem = lambda: 'not made: no browser in these tests'\n"
        "try: run(['figures', 'build', sys.argv[1], '--out', 'built', '--json'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "bad = {'torch', 'transformers'} & set(sys.modules); assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code, str(analysed)], check=False, capture_output=True, text=True, cwd=world)
    assert done.returncode == 0, done.stderr
    built = json.loads(done.stdout)
    assert built["missing"] == [] and built["records"] == [cell["run_id"] for cell in first[4:]]
    stem = "circuits.colors.activation_patching"
    wanted = {f"{stem}.{kind}.html" for kind in ("curve", "completeness", "diagram")} | {
        f"{stem}.record.json",
        "circuits.csv",
        "planted.html",
    }
    assert wanted <= set(built["files"])


def test_comparisons_of_tasks_and_of_methods_are_drawn(world, study, monkeypatch) -> None:
    monkeypatch.setattr(building, "image_problem", lambda: "not made: no browser in these tests")
    more = (
        "[transfer]\nn = 3\nn_random = 4\n[sensitivity]\nn = 3\nn_random = 20\n[stability]\ntop_k = 3\ndraws = 20\n[agreement]\ntop_k = 3\n"
    )
    study.write_text(study.read_text().replace("n = 3", "n = 4") + more)
    cells = document("study", "run", str(study))["cells"][4:]
    assert [cell["analysis"] for cell in cells] == ["transfer", *["sensitivity"] * 2, *["stability"] * 4, *["agreement"] * 2]
    assert not any(cell["error"] for cell in cells)
    built = document("figures", "build", str(study), "--out", "built")
    stems = {"transfer.activation_patching", "dissociation.activation_patching", "sensitivity", "agreement.colors", "agreement.shades"}
    stems |= {"stability.activation_patching", "stability.logit_attribution"}
    assert {f"{stem}.html" for stem in stems} <= set(built["files"])
    assert {f"{name}.csv" for name in ("transfer", "sensitivity", "stability", "agreement")} <= set(built["files"])
    text = (world / "built/report.html").read_text()
    order = ["Are they the same heads?", "do each other", "depend on the ablation", "other prompts give", "methods agree", "Task by task"]
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)


def test_numbers_of_the_record_reach_figure_table_and_manifest(world, analysed) -> None:
    document("study", "run", str(analysed))
    document("figures", "build", str(analysed), "--out", "built")
    stem = "circuits.colors.activation_patching"
    record = json.loads((world / f"built/{stem}.record.json").read_text())
    assert record["circuit"]["nodes"] and record["n_pairs"] == 3 and "fresh" in record["conventions"]["prompts"]
    figure = json.loads((world / f"built/{stem}.curve.json").read_text())
    lines = {trace["name"]: trace for trace in figure["data"] if trace["meta"] == "line"}
    assert set(lines) == {"strongest first", "most helpful first", "random circuits of the same size"}
    assert lines["strongest first"]["y"][-1] == 1
    assert {row["size"] for row in record["band"]} == set(lines["random circuits of the same size"]["x"]) and len(record["band"]) > 1
    header, *rows = (world / "built/circuits.csv").read_text().splitlines()
    assert header.startswith("task,method,circuit,faithfulness,faithfulness_low") and len(rows) == 2
    assert f"{record['faithfulness']['mean']:.6g}" in rows[0].split(",")
    manifest = json.loads((world / "built/MANIFEST.json").read_text())
    entry = manifest["records"][0]
    assert entry["unit"] == "colors.activation_patching" and entry["settings"]["params"] == {"k": 2} and len(entry["runs"]) == 1
    assert manifest["files"][f"{stem}.curve.html"]["records"] == [entry["record_id"]]
    text = (world / "built/report.html").read_text()
    assert "Do these circuits carry the behaviour?" in text and "Do these methods find what is there?" in text
    assert text.index("Do these circuits") < text.index("Are they the same heads?") < text.index("Do these methods find")


def test_a_circuit_of_edges_is_run_and_drawn_with_its_edges(world, study, monkeypatch) -> None:
    monkeypatch.setattr(building, "image_problem", lambda: "not made: no browser in these tests")
    chosen = 'methods = ["eap"]\ntasks = ["colors"]\nrule = "top_edges"\nparams = { k = 6 }'
    more = f"[circuits]\n{chosen}\nn_random = 4\nn_subsets = 2\nn_band = 2\n"
    study.write_text(study.read_text().replace("logit_attribution", "eap") + more)
    document("study", "run", str(study))
    ((_, key), record) = next(iter(Study(study).results().items()))
    assert key == "colors.eap.top_edges" and len(record["circuit"]["edges"]) == 6 == len(record["scores"])
    assert record["size"]["elements"] == 6 and record["full"]["faithfulness"] == 1
    assert f"circuits.{key}.diagram.html" in document("figures", "build", str(study), "--out", "built")["files"]


def test_what_has_not_been_run_is_named_and_left_out(world, study, monkeypatch) -> None:
    monkeypatch.setattr(building, "image_problem", lambda: "not made: no browser in these tests")
    document("study", "run", str(study))
    study.write_text(study.read_text() + ANALYSES)
    built = document("figures", "build", str(study), "--out", "built")
    assert built["missing"] == [
        "circuits of colors.activation_patching",
        "circuits of shades.activation_patching",
        "planted of logit_attribution",
    ]
    assert not [name for name in built["files"] if name.startswith(("circuits", "planted"))]
    said = command("figures", "build", str(study), "--out", "built").out
    assert "Not run yet" in said and "planted of logit_attribution" in said and "study run" in said
    assert "Not run yet: circuits of colors.activation_patching" in (world / "built/report.html").read_text()


def test_a_changed_setting_runs_only_what_it_changes(world, analysed) -> None:
    first = document("study", "run", str(analysed))["cells"]
    analysed.write_text(analysed.read_text().replace("seeds = 2", "seeds = 1"))
    again = document("study", "run", str(analysed))["cells"]
    assert [cell["cached"] for cell in again] == [True] * 6 + [False]
    analysed.write_text(analysed.read_text().replace('methods = ["activation_patching"]', 'tasks = ["shades"]'))
    narrowed = {cell["task"]: cell for cell in document("study", "run", str(analysed))["cells"] if cell["analysis"] == "circuits"}
    assert set(narrowed) == {"shades.activation_patching", "shades.logit_attribution"}
    assert narrowed["shades.activation_patching"]["cached"], "which cells there are does not change what one of them is"
    assert narrowed["shades.activation_patching"]["run_id"] == first[5]["run_id"]


def test_a_damaged_record_is_named_and_made_again(world, analysed) -> None:
    cells = document("study", "run", str(analysed))["cells"]
    path = world / "runs" / "analyses" / f"{cells[4]['run_id']}.json"
    path.write_text(path.read_text().replace('"n_pairs": 3', '"n_pairs": 4'))
    with pytest.warns(UserWarning, match="checksum"):
        again = document("study", "run", str(analysed))["cells"]
    assert [cell["cached"] for cell in again] == [True] * 4 + [False, True, True]


def test_an_analysis_waits_for_scores_of_another_shard(world, analysed) -> None:
    second = document("study", "run", str(analysed), "--shard", "2/3")["cells"]
    waiting = [cell for cell in second if cell["analysis"] == "circuits"]
    assert [cell["waits"] for cell in waiting] == [True] and waiting[0]["run_id"] is None
    for shard in ("1/3", "3/3"):
        document("study", "run", str(analysed), "--shard", shard)
    assert not any(cell["waits"] or cell["error"] for cell in document("study", "run", str(analysed))["cells"])


def test_an_error_in_an_analysis_is_named_and_loses_nothing_else(world, analysed) -> None:
    analysed.write_text(analysed.read_text().replace('models = ["copy-gqa"]', 'models = ["copi-gqa"]'))
    result = command("study", "run", str(analysed))
    assert result.code == 2 and "planted of logit_attribution" in result.err and "copy-gqa" in result.err
    analysed.write_text(analysed.read_text().replace("copi", "copy"))
    assert [cell["cached"] for cell in document("study", "run", str(analysed))["cells"]] == [True] * 6 + [False]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[circuits]", "[circuts]", "Did you mean 'circuits'"),
        ("n_random", "n_randm", "Did you mean 'n_random'"),
        ("n_random = 5", "n_random = -5", "n_random"),
        ("{ k = 2 }", "{ l = 2 }", "parameter of rule top_k"),
        ("{ k = 2 }", "{ k = 0 }", "selects nothing"),
        ("{ k = 2 }", '{ k = 2 }\nrule = "top"', "Did you mean 'top_k'"),
        ("{ k = 2 }", '{ k = 2 }\nrule = "top_edges"', "eap"),
        ('methods = ["activation_patching"]', 'methods = ["activation_patchin"]', "Did you mean 'activation_patching'"),
        ('methods = ["activation_patching"]', 'tasks = ["color"]', "Did you mean 'colors'"),
        ("[planted]", "[[circuits]]\n[planted]", "twice"),
        ("[planted]\n", "[[planted]]\n[[planted]]\n", "twice"),
        ('methods = ["logit_attribution"]', 'methods = ["logit_attributio"]', "Did you mean 'logit_attribution'"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_runs(analysed, old, new, says) -> None:
    if "[[circuits]]" in new:
        new = '[[circuits]]\nmethods = ["activation_patching"]\n[planted]'
        analysed.write_text(analysed.read_text().replace("\n[circuits]", "\n[[circuits]]"))
    analysed.write_text(analysed.read_text().replace(old, new, 1))
    result = command("study", "run", str(analysed))
    assert result.code == 2 and says in result.err
    assert not (analysed.parent / "runs").exists()


def forge(path: Path, result: object) -> None:
    """Another result in a stored document, with the checksum that fits it."""
    path.write_text(json.dumps(json.loads(path.read_text()) | {"result": result, "checksum": digest(result)}))


def test_forged_documents_are_named_set_aside_and_made_again(world, analysed) -> None:
    first = document("study", "run", str(analysed))["cells"]
    whole = document("figures", "build", str(analysed), "--out", "whole")["files"]
    (record,) = [cell["run_id"] for cell in first if cell["task"] == "colors.activation_patching" and cell["analysis"] == "circuits"]
    forge(world / "runs" / "analyses" / f"{record}.json", {"circuit": {"nodes": [3]}})
    with pytest.warns(UserWarning, match=rf"analyses/{record}\.json was moved to .*another form"):
        built = document("figures", "build", str(analysed), "--out", "built")
    assert built["missing"] == ["circuits of colors.activation_patching"]
    assert set(whole) - set(built["files"]) == {name for name in whole if name.startswith("circuits.colors")} != set()
    cell = next((world / "runs" / "cells").glob("*.json"))
    forge(cell, {"run": ["../../x"]})
    with pytest.warns(UserWarning, match=rf"cells/{cell.name} was moved to .*another form"):
        again = document("study", "run", str(analysed))["cells"]
    assert not any(one["error"] for one in again) and [one["run_id"] for one in again] == [one["run_id"] for one in first]
    assert document("figures", "build", str(analysed), "--out", "built")["files"] == whole


def drawn(runs) -> dict[str, str]:
    """What a build makes of the results of analyses."""
    for analysis, results in runs.results:
        if results:
            analysis.draw(results)
    return analysis_tables(runs)


def test_no_value_of_a_result_stops_a_build(world, analysed) -> None:
    document("study", "run", str(analysed))
    store, choose, refused = Cache(world / "runs"), random.Random(0), 0
    for path in sorted((store.root / "analyses").glob("*.json")):
        whole = path.read_text()
        for _ in range(2):
            result = json.loads(odd_json(json.loads(whole)["result"], choose).replace(rb"\ud800", b"x"))
            forge(path, result if isinstance(result, dict) else {})
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                runs, tables = built_from(collect(analysed, store), store, drawn)
            assert len(tables) == len({analysis.name for analysis, results in runs.results if results})
            refused += len(runs.missing)
            path.write_text(whole)
    assert refused >= 2, "hardly any change mattered"
