"""Do two versions give the same numbers? Their stores, and their scoreboards of planted models, value by value.

In a checkout of each version:

    .venv/bin/circuitlab study run figures/quick.toml --store STORE
    .venv/bin/circuitlab bench planted --json > PLANTED.json

and then, in either:

    .venv/bin/python benchmarks/same_numbers.py OLD_STORE NEW_STORE OLD_PLANTED.json NEW_PLANTED.json

Scores are matched by task, variant, method and parameters. Exit status 1 where a score is gone or differs by more than --tolerance.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

NEW, GONE, OTHER_SHAPE = "new", "gone", "another shape"


def main() -> None:
    """Compare and print one line for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs=2, type=Path, metavar="STORE", help="run stores of the two versions")
    parser.add_argument("planted", nargs="*", type=Path, metavar="PLANTED", help="two documents of `bench planted --json`")
    parser.add_argument("--tolerance", type=float, default=0.0, help="largest difference that counts as the same")
    given = parser.parse_args()
    lines = compared(*map(scores_in, given.stores))
    if len(given.planted) == 2:
        lines += compared(*map(planted_in, given.planted))
    elif given.planted:
        parser.error("give two scoreboards, or none")
    for name, difference in lines:
        print(f"{name:70s} {difference if isinstance(difference, str) else f'{difference:.3g}'}")
    new = [name for name, difference in lines if difference == NEW]
    wrong = [
        name for name, difference in lines if difference in {GONE, OTHER_SHAPE} or not (difference == NEW or difference <= given.tolerance)
    ]
    print(f"{len(lines) - len(new) - len(wrong)} of {len(lines) - len(new)} the same; {len(new)} are new")
    sys.exit(bool(wrong) or len(lines) == len(new))


def scores_in(store: Path) -> dict[str, np.ndarray]:
    """Every array of every run, by what was run."""
    found: dict[str, np.ndarray] = {}
    for path in sorted(store.glob("*.nc")):
        with xr.open_dataset(path, engine="h5netcdf") as opened:
            where = json.loads(opened.attrs["provenance"])
            name = f"{where['task']['id']}/{where['task']['variant']} {where['method']} {json.dumps(where['params'], sort_keys=True)}"
            kind = "edges" if path.name.endswith(".edges.nc") else "nodes"
            found |= {f"{name} {kind} {part}": values.values for part, values in opened.load().data_vars.items()}
    return found


def planted_in(path: Path) -> dict[str, np.ndarray]:
    """Every measure of a scoreboard."""
    results: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["results"]
    measures = ("auroc", "average_precision", "precision_at_k", "sign_accuracy")
    return {f"planted {one['model']} {one['method']} {name}": np.array(list(one[name].values())) for one in results for name in measures}


def compared(old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> list[tuple[str, float | str]]:
    """The largest difference of each array, or why there is none."""
    return [(name, apart(old.get(name), new.get(name))) for name in sorted({*old, *new})]


def apart(old: np.ndarray | None, new: np.ndarray | None) -> float | str:
    """The largest difference of two arrays, infinite where one alone is NaN; a word where one is missing, or the shapes differ."""
    if old is None or new is None:
        return NEW if old is None else GONE
    if old.shape != new.shape:
        return OTHER_SHAPE
    old, new = old.astype(np.float64), new.astype(np.float64)
    missing = np.isnan(old), np.isnan(new)  # scores from weights alone have no interval
    differences = np.where(missing[0] & missing[1], 0.0, np.where(missing[0] | missing[1], np.inf, np.abs(old - new)))
    return float(np.max(differences, initial=0.0))


if __name__ == "__main__":
    main()
