"""What methods say they will cost, beside what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from circuitlab.execute.cost import RunSize, forward_passes
from circuitlab.methods import get_method, list_methods

MEASURED = Path(__file__).parents[3] / "benchmarks/results/methods.jsonl"
SIZE = RunSize(pairs=16)


def passes(name: str, size: RunSize = SIZE, **params) -> float:
    return forward_passes(get_method(name, params), size)


def test_a_method_is_charged_what_it_takes_and_not_what_its_name_says() -> None:
    """Patching that runs every node costs tens of times attribution patching, which has "patching" in its name all the same."""
    assert passes("activation_patching") > 15 * passes("attribution_patching")
    assert passes("attribution_patching") <= 4 * SIZE.pairs
    assert passes("path_patching") < passes("activation_patching")
    assert passes("code_overlap") > passes("activation_patching")


def test_estimates_lie_near_what_was_measured() -> None:
    rows = [json.loads(line) for line in MEASURED.read_text(encoding="utf-8").splitlines()]
    seconds = {row["method"]: row["seconds"] for row in rows if row["pairs"] == SIZE.pairs}
    assert {"activation_patching", "attribution_patching", "code_overlap", "contextual_decomposition"} <= set(seconds)
    per_pass = seconds["random"] / passes("random")
    for name, measured in seconds.items():
        assert 1 / 3 < passes(name) * per_pass / measured < 3, name


@pytest.mark.parametrize("name", [name for name in list_methods() if name != "code_overlap"])
def test_twice_the_pairs_cost_twice_as_much(name: str) -> None:
    assert passes(name, RunSize(pairs=32)) == pytest.approx(2 * passes(name))


def test_training_does_not_grow_with_the_pairs() -> None:
    assert passes("code_overlap", RunSize(pairs=32)) < 1.1 * passes("code_overlap")
    assert passes("code_overlap", trials=10) > 1.8 * passes("code_overlap")


def test_parameters_count() -> None:
    assert passes("activation_patching", positions=("S2", "END")) > 1.8 * passes("activation_patching")
    assert passes("activation_patching", parts=("mlps",)) < 0.3 * passes("activation_patching")
    assert passes("eap_ig", variant="activations") > 10 * passes("eap_ig")
    assert passes("atp_star", reduce="absolute") > 3 * passes("atp_star")
    assert passes("path_patching", receivers=("a9.h1<q>",)) > 3 * passes("path_patching")


def test_prompts_that_differ_late_cost_less() -> None:
    assert passes("activation_patching", RunSize(16, changed=0.1)) < 0.3 * passes("activation_patching")


def test_larger_models_cost_more_runs() -> None:
    assert passes("activation_patching", RunSize(16, n_heads=32)) > 3 * passes("activation_patching")
    assert passes("attribution_patching", RunSize(16, n_heads=32)) == passes("attribution_patching")
