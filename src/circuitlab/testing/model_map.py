"""The table of families, sites and methods: ``python -m circuitlab.testing.model_map --write docs/models.md``."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from circuitlab.methods import list_methods
from circuitlab.model.sites import Site
from circuitlab.testing.doctor import Diagnosis, Verdict, diagnose
from circuitlab.testing.families import ALL_FAMILIES
from circuitlab.testing.tiny import shared_tiny_model

__all__ = ["family_rows", "model_map"]

_SHORT = {"exact": "x", "hooks": "h", "refused": "-"}
_HEAD = """# Models

What works on tiny random-weight models of every family; for a checkpoint, run `circuitlab doctor MODEL`. **x**: exact, by the functional
decoder; **h**: exact, by the model's own forward pass with hooks; **-**: refused, for the reason below. Methods have their default
parameters. Written by `python -m circuitlab.testing.model_map --write docs/models.md`.
"""


def model_map(families: Sequence[str] = ALL_FAMILIES) -> str:
    """The page docs/models.md, for these families."""
    diagnoses = {family: diagnose(shared_tiny_model(family), laws=False) for family in families}
    lines = [
        _HEAD,
        "## Sites",
        "",
        *_table([site.value for site in Site], {name: diagnosis.sites for name, diagnosis in diagnoses.items()}),
    ]
    lines += [
        "",
        "## Methods",
        "",
        *_table(list_methods(), {name: diagnosis.methods for name, diagnosis in diagnoses.items()}),
        "",
        "## Reasons",
        "",
    ]
    for family, diagnosis in diagnoses.items():
        lines += [f"* **{family}**: {reason}" for reason in _reasons(diagnosis)]
    return "\n".join(lines) + "\n"


def family_rows(text: str, family: str) -> list[str]:
    """The lines of the page about one family."""
    return [line for line in text.splitlines() if line.startswith((f"| {family} |", f"* **{family}**"))]


def _table(columns: Sequence[str], rows: Mapping[str, Mapping[str, Verdict]]) -> list[str]:
    head = ["| family | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    return head + [f"| {name} | " + " | ".join(_SHORT[row[column].state] for column in columns) + " |" for name, row in rows.items()]


def _reasons(diagnosis: Diagnosis) -> list[str]:
    """Every reason once, after the sites and methods that it applies to."""
    names_by_reason: dict[str, list[str]] = {}
    for table in (diagnosis.sites, diagnosis.methods):
        for name, verdict in table.items():
            if verdict.reason and verdict.state == "refused":
                names_by_reason.setdefault(verdict.reason.rstrip("."), []).append(name)
    if by_hooks := {verdict.reason for verdict in diagnosis.sites.values() if verdict.state == "hooks"}:
        names_by_reason.setdefault(by_hooks.pop().rstrip("."), []).append("all sites by hooks")
    return [f"{', '.join(names)}: {reason}." for reason, names in names_by_reason.items()]


def _main() -> None:
    parser = argparse.ArgumentParser(description="Write the table of families, sites and methods.")
    parser.add_argument("--write", type=Path, required=True, help="The file, docs/models.md.")
    target: Path = parser.parse_args().write
    warnings.simplefilter("ignore")
    target.write_text(model_map(), encoding="utf-8")
    sys.stdout.write(f"{target}: {len(ALL_FAMILIES)} families\n")


if __name__ == "__main__":
    _main()
