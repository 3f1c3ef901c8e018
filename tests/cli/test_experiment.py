"""`circuitlab experiment`: the list, records and verdicts, and what is refused before a model is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from circuitlab.experiments import Claim, Experiment, ExperimentContext, Gate, experiment_classes, registry
from circuitlab.experiments.run import read_record
from circuitlab.experiments.types import judged

from .conftest import command


class Small(Experiment, frozen=True, forbid_unknown_fields=True):
    """Counts layers."""

    name: ClassVar[str] = "small"
    title: ClassVar[str] = "Small"
    question: ClassVar[str] = "How many layers?"
    cite: ClassVar[tuple[str, ...]] = ("yu2023",)
    cost: ClassVar[str] = "nothing"
    published: ClassVar[tuple[Claim, ...]] = (Claim(claim="There are layers.", published="12", rule="More than none."),)

    least: int = 1

    def gate(self, context: ExperimentContext) -> Gate:
        layers = context.model.spec.n_layers
        return Gate(met=layers >= self.least, reason=f"It has {layers} layers.")

    def measure(self, context: ExperimentContext) -> dict[str, Any]:
        return {"layers": context.model.spec.n_layers}

    def judge(self, results: Mapping[str, Any]) -> tuple[Claim, ...]:
        return (judged(self.published[0], f"{results['layers']} layers", holds=results["layers"] > 0),)

    def draw(self, results: Mapping[str, Any], subtitle: str) -> list[Any]:
        del results, subtitle
        return []


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = {"small": Small}
    for module in (registry, __import__("circuitlab.experiments", fromlist=["x"])):
        monkeypatch.setattr(module, "experiment_classes", lambda: classes)


def test_the_list_names_every_experiment_with_paper_cost_and_gates() -> None:
    entries = json.loads(command("experiment", "list", "--json").out)["experiments"]
    assert [entry["name"] for entry in entries] == list(experiment_classes())
    assert all(entry["cite"] and entry["cost"] and isinstance(entry["gates"], dict) for entry in entries)
    assert "memory_context" in command("experiment", "list").out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("run memory_contxt", "Did you mean 'memory_context'"),
        ("gate memory_contxt", "Did you mean 'memory_context'"),
        ("run memory_context --param prompt=3", "Did you mean 'prompts'"),
        ("run memory_context --param prompts=many", "prompts"),
    ],
)
@pytest.mark.usefixtures("world")
def test_what_does_not_exist_is_refused_before_a_model_is_loaded(arguments: str, told: str) -> None:
    result = command("experiment", *arguments.split(), "--model", "no-such-model")
    assert result.code == 2 and told in result.err and "no-such-model" not in result.err


@pytest.mark.usefixtures("small", "world")
def test_a_record_is_printed_and_written(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    printed = json.loads(command("experiment", "run", "small", "--model", str(checkpoint), "-o", str(out), "--json").out)
    assert printed["claims"][0]["verdict"] == "replicates" and json.loads(json.dumps(read_record(out).to_dict())) == printed
    text = command("experiment", "run", "small", "--model", str(checkpoint))
    assert text.code == 0 and "replicates" in text.out and "3 layers" in text.out


@pytest.mark.usefixtures("small", "world")
def test_a_gate_that_is_not_met_says_so_with_its_exit_code(checkpoint: Path, tmp_path: Path) -> None:
    assert command("experiment", "gate", "all", "--model", str(checkpoint)).code == 0
    out = tmp_path / "gates.json"
    result = command("experiment", "gate", "small", "--param", "least=99", "--model", str(checkpoint), "-o", str(out))
    assert result.code == 2 and "NOT MET. It has 3 layers." in result.out
    assert json.loads(out.read_text())["gates"]["small"]["met"] is False
    record = json.loads(command("experiment", "run", "small", "--param", "least=99", "--model", str(checkpoint), "--json").out)
    assert [claim["verdict"] for claim in record["claims"]] == ["cannot be asked"] and record["results"] == {}
