"""The map of families, sites and methods: ``python -m circuitlab.testing.model_map --write docs/models.md``."""

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
from circuitlab.testing.tiny import tiny_model

__all__ = ["family_rows", "model_map"]

_SHORT = {"exact": "x", "hooks": "h", "refused": "-"}
_HEAD = """# Models

How tiny random-weight models of every family are served; `circuitlab doctor MODEL` says it of a checkpoint. **x** exact, through the
functional decoder; **h** exact, through the model's own forward pass; **-** refused, with the reason below. Written by
`python -m circuitlab.testing.model_map --write docs/models.md`; methods are asked with their default parameters.
"""


def model_map(families: Sequence[str] = ALL_FAMILIES) -> str:
    """The page, for these families."""
    found = {family: diagnose(tiny_model(family), laws=False) for family in families}
    lines = [_HEAD, "## Sites", "", *_table([site.value for site in Site], {name: one.sites for name, one in found.items()})]
    lines += ["", "## Methods", "", *_table(list_methods(), {name: one.methods for name, one in found.items()}), "", "## Reasons", ""]
    for family, one in found.items():
        lines += [f"* **{family}**: {reason}" for reason in _reasons(one)]
    return "\n".join(lines) + "\n"


def family_rows(text: str, family: str) -> list[str]:
    """The lines of a page that are about one family."""
    return [line for line in text.splitlines() if line.startswith((f"| {family} |", f"* **{family}**"))]


def _table(columns: Sequence[str], rows: Mapping[str, Mapping[str, Verdict]]) -> list[str]:
    head = ["| family | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    return head + [f"| {name} | " + " | ".join(_SHORT[row[column].state] for column in columns) + " |" for name, row in rows.items()]


def _reasons(found: Diagnosis) -> list[str]:
    """Every reason once, with what it holds for."""
    held: dict[str, list[str]] = {}
    for table in (found.sites, found.methods):
        for name, one in table.items():
            if one.reason and one.state == "refused":
                held.setdefault(one.reason.rstrip("."), []).append(name)
    if why := {one.reason for one in found.sites.values() if one.state == "hooks"}:
        held.setdefault(why.pop().rstrip("."), []).append("all sites by hooks")
    return [f"{', '.join(names)}: {reason}." for reason, names in held.items()]


def _main() -> None:
    parser = argparse.ArgumentParser(description="Write the map of families, sites and methods.")
    parser.add_argument("--write", type=Path, required=True, help="The file, docs/models.md.")
    target: Path = parser.parse_args().write
    warnings.simplefilter("ignore")
    target.write_text(model_map(), encoding="utf-8")
    sys.stdout.write(f"{target}: {len(ALL_FAMILIES)} families\n")


if __name__ == "__main__":
    _main()
