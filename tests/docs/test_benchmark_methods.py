"""The benchmark of methods measures every method the same way, and its table says what the lines say."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from circuitlab.methods import list_methods

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def line(**changes) -> dict:
    plain = {"method": "eap", "pairs": 16, "seconds": 1.25, "runs": 3, "peak_mb": 2048.0, "direction": "noising", "rank_correlation": 0.9}
    return plain | {"planted": 0.8, "planted_visible": 0.999, "planted_seen": 9, "planted_models": 15} | changes


def test_table_shows_every_line_and_the_split_of_training() -> None:
    writer = import_module("table_methods")
    exact = line(method="activation_patching", rank_correlation=None, planted_visible=None)
    trained = line(method="code_overlap", model_seconds=1.0, training_seconds=60.04, encoding_seconds=0.5, scoring_seconds=0.2)
    text = writer.table([exact, line(), trained])
    rows = text.splitlines()
    assert rows[3] == "| `eap` | 1.2 | 2.0 GB | 0.900 (noising) | 0.80 (1.00 on 9 of 15) |"
    assert rows[2].count(" - ") == 1 and "(- on 9 of 15)" in rows[2]
    assert rows[-1] == "`code_overlap` by stage: model 1.0 s, training 60.0 s, encoding 0.5 s, scoring 0.2 s."


def test_directions_and_ranks_follow_the_method() -> None:
    bench = import_module("bench_methods")
    assert bench.own_direction("activation_patching") == "denoising" and bench.own_direction("code_overlap") == "noising"
    exact = np.array([[-3.0, 0.1], [2.0, 0.5]])
    assert bench.rank_correlation("eap", exact * 2, exact) == pytest.approx(1)
    assert bench.rank_correlation("eap", -exact, exact) == pytest.approx(-1)
    assert bench.rank_correlation("code_overlap", np.abs(exact), exact) == pytest.approx(1), "codes have no sign"


def test_saved_lines_replace_those_of_their_method(tmp_path, monkeypatch) -> None:
    bench = import_module("bench_methods")
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results" / "methods.jsonl")
    monkeypatch.setattr(bench, "GRADES", tmp_path / "planted.json")
    bench.save([line(), line(method="code_overlap")])
    bench.save([line(seconds=7.0), line(method="activation_patching")])
    kept = [json.loads(text) for text in bench.RESULTS.read_text().splitlines()]
    assert [(one["method"], one["seconds"]) for one in kept] == [("activation_patching", 1.25), ("code_overlap", 1.25), ("eap", 7.0)]
    assert "sees 9 of 15" in bench.text_of(kept[0]) and "rank    -" in bench.text_of(line(rank_correlation=None))


def test_a_grade_alone_keeps_what_was_measured_and_has_no_row(tmp_path, monkeypatch) -> None:
    bench, writer = import_module("bench_methods"), import_module("table_methods")
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "methods.jsonl")
    monkeypatch.setattr(bench, "GRADES", tmp_path / "planted.json")
    monkeypatch.setattr(bench, "planted_grade", lambda name, seeds: {"planted": 0.5, "planted_visible": None, "planted_seen": 0})
    bench.save([line(seconds=7.0)])
    bench.save([one | {"planted_models": 15} for one in bench.graded_lines(["eap", "copying_score"], 1)])
    kept = {one["method"]: one for one in bench.stored_lines()}
    assert (kept["eap"]["seconds"], kept["eap"]["planted"]) == (7.0, 0.5) and "seconds" not in kept["copying_score"]
    assert json.loads(bench.GRADES.read_text())["copying_score"]["planted"] == 0.5
    assert "`copying_score`" not in writer.table(list(kept.values())) and "planted 0.50" in bench.text_of(kept["copying_score"])


def test_pages_of_the_explorer_have_the_grades_that_are_stored() -> None:
    bench = import_module("bench_methods")
    lines = [json.loads(text) for text in bench.RESULTS.read_text(encoding="utf-8").splitlines()]
    assert bench.GRADES.read_text(encoding="utf-8") == bench.grades(lines), "run `benchmarks/bench_methods.py --save`, which writes both"


def test_every_method_can_be_asked_for() -> None:
    done = subprocess.run([sys.executable, str(BENCHMARKS / "bench_methods.py"), "--help"], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in list_methods())
