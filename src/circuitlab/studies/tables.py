"""A study's numbers as CSV."""

from __future__ import annotations

from typing import Any

from circuitlab.core.plain_text import for_spreadsheet
from circuitlab.studies.drawings import compare_method
from circuitlab.studies.results import StudyRuns

__all__ = ["fitness_csv", "heads_csv", "overlap_csv"]


def heads_csv(runs: StudyRuns) -> str:
    """One row per run, part, node and mark: mean, 95 % interval, units, n, and provenance; empty without runs."""
    import pandas as pd  # noqa: PLC0415 - pandas is slow to import

    return _csv(pd.concat([run.scores.to_frame() for run in runs.runs], ignore_index=True)) if runs.runs else ""


def overlap_csv(runs: StudyRuns) -> str:
    """One row per method and pair of tasks; empty if nothing can be compared."""
    import pandas as pd  # noqa: PLC0415

    tables = {key: compare_method(runs, key) for key in runs.methods()}
    frames = [table.to_frame().assign(method=key, rule=table.rule) for key, table in tables.items() if table is not None]
    return _csv(pd.concat(frames, ignore_index=True)) if frames else ""


def fitness_csv(runs: StudyRuns) -> str:
    """One row per task: accuracy and gap with intervals, chance, gate, verdict; empty if no run has a verdict."""
    import pandas as pd  # noqa: PLC0415

    rows = []
    for key, group in runs.tasks().items():
        flag = group[0].scores.provenance.fitness
        if flag is not None:
            row = {"task": key, "model": group[0].scores.provenance.model.name}
            for name in ("accuracy", "gap"):
                interval = getattr(flag, name)
                row |= {name: interval["mean"], f"{name}_low": interval["low"], f"{name}_high": interval["high"]}
            rows.append(row | {"chance": flag.chance, "gate": flag.gate, "ready": flag.ready, "reason": flag.reason})
    return _csv(pd.DataFrame(rows)) if rows else ""


def _csv(frame: Any) -> str:
    text: str = frame.map(for_spreadsheet).to_csv(index=False, float_format="%.6g", lineterminator="\n")
    return text
