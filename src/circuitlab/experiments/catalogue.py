"""The list of experiments, with verdicts and records that were measured before and are shipped with the package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from circuitlab.core.files import replace_file
from circuitlab.experiments.registry import experiment_classes
from circuitlab.experiments.run import ExperimentRecord, read_record
from circuitlab.experiments.types import Experiment, Gate

__all__ = ["RESULTS", "catalogue", "gate_table", "save_gates", "shipped_records"]

RESULTS = Path(__file__).parent / "results"
"""Records of the default models, ``<experiment>.<model>.json``, and gates, ``gates.<model>.json``."""


def catalogue() -> list[dict[str, Any]]:
    """Every experiment: name, title, question, citation keys, cost, version, and its gates by model.

    ``gates`` holds models of which the gate was measured with this version of the experiment: ``{"met", "reason"}``.
    """
    tables = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("gates.*.json"))]
    entries = []
    for name, cls in experiment_classes().items():
        measured = {table["model"]: table["gates"].get(name) for table in tables}
        gates = {
            model: {"met": one["met"], "reason": one["reason"]}
            for model, one in measured.items()
            if one is not None and one["version"] == cls.version
        }
        about = {"name": name, "title": cls.title, "question": cls.question, "cite": list(cls.cite)}
        entries.append({**about, "cost": cls.cost, "version": cls.version, "gates": gates})
    return entries


def gate_table(model: str, gates: Mapping[Experiment, Gate]) -> dict[str, Any]:
    """Verdicts of one model as plain data, with the version of each experiment."""
    rows = {
        experiment.name: {"met": gate.met, "reason": gate.reason, "version": experiment.version, "measured": gate.measured}
        for experiment, gate in gates.items()
    }
    return {"model": model, "gates": rows}


def save_gates(table: Mapping[str, Any], path: str | Path) -> None:
    """Write the verdicts of one model as JSON."""
    text = json.dumps(table, indent=1, sort_keys=True) + "\n"
    replace_file(Path(path), lambda target: target.write_bytes(text.encode()))


def shipped_records(name: str) -> list[ExperimentRecord]:
    """The records of one experiment that are shipped, by model; those of older versions are left out."""
    version = experiment_classes()[name].version
    records = [read_record(path) for path in sorted(RESULTS.glob(f"{name}.*.json"))]
    return [record for record in records if record.version == version]
