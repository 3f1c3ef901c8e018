"""The page of every method on every task is what the benchmark has saved, and lacks no cell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench_matrix import PAGE, RESULTS, cells, page, passes, saved, table

from circuitlab.methods import list_methods
from circuitlab.tasks import list_tasks

ROOT = Path(__file__).parents[2]
CHEAP = 10.0


def test_the_page_is_made_from_the_saved_lines() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(saved())


@pytest.mark.parametrize(("model", "most"), [("smollm2-135m", float("inf")), ("gemma3-270m", CHEAP)])
def test_no_cell_is_missing_crashed_or_not_finite(model, most) -> None:
    lines = {(one["method"], one["task"], one["variant"]): one for one in saved() if one["model"] == model}
    wanted = {tuple(cell) for cell in cells([name for name in list_methods() if passes(name) <= most], list_tasks())}
    assert wanted - set(lines) == set()
    for cell, line in lines.items():
        assert line["refused"] or line["checks"]["finite"]["ok"], cell


def test_failed_checks_and_refusals_are_noted_under_the_table() -> None:
    line = {"model": "m", "method": "eap", "task": "ioi", "variant": "v", "pairs": 8, "seconds": 1.0, "refused": None}
    fine = {"finite": {"ok": True, "value": 1.0}, "task_ready": {"ok": True, "value": 1.0}}
    failed = table([line | {"checks": fine | {"residual": {"ok": False, "value": 0.5}}}])
    assert "| 1.0 (1) |" in failed and "1. Self-check failed: residual is 0.5." in failed
    refused = table([line | {"refused": "no decoder", "checks": {}}])
    assert "| refused (1) |" in refused and "1. Refused: no decoder" in refused
    unready = table([line | {"checks": fine | {"task_ready": {"ok": False, "value": 0.5}}}])
    assert "| *1.0* |" in unready


def test_every_saved_line_is_one_document() -> None:
    assert all(json.loads(text) for text in RESULTS.read_text(encoding="utf-8").splitlines())
