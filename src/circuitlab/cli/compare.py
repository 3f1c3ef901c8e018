"""``circuitlab compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from circuitlab.cli import options
from circuitlab.cli.output import interval_text, print_json, print_table, print_text
from circuitlab.cli.scoring import Request, scored_tasks
from circuitlab.cli.transfer import print_transfer, transferred

if TYPE_CHECKING:
    from circuitlab.compare import OverlapTable

__all__ = ["compare"]

_NAMES = typer.Argument(None, help="Tasks, as words.")
_LIST = typer.Option(None, "--tasks", help="Tasks, separated by commas; the same as naming them as words.")
_NULL = typer.Option(
    "layer_stratified",
    "--null",
    help="What p and q are against: layer_stratified, uniform (hypergeometric) or within_layer_scores.",
)

_TRANSFER = typer.Option(False, "--transfer", help="Also run every circuit on every task, and test for double dissociations.")
_TRANSFER_PAIRS = typer.Option(16, "--transfer-pairs", min=2, help="Fresh pairs of each task for --transfer.")


def compare(
    tasks: list[str] = _NAMES,
    task_list: str = _LIST,
    model: str = options.MODEL,
    method: str = options.METHOD,
    pairs: int = options.PAIRS,
    seed: int = options.SEED,
    metric: str = options.METRIC,
    param: list[str] = options.PARAM,
    store: Path = options.STORE,
    top: int = options.TOP,
    null: str = _NULL,
    transfer: bool = _TRANSFER,
    transfer_pairs: int = _TRANSFER_PAIRS,
    as_json: bool = options.JSON,
) -> None:
    """Compare the circuits of two or more tasks: overlap with its chance level, rank agreement, intervals."""
    from circuitlab.circuits import TopK  # noqa: PLC0415
    from circuitlab.compare import Sampling, compare_tasks  # noqa: PLC0415

    names, sampling = _named(tasks, task_list), Sampling(null=null)  # type: ignore[arg-type]
    scored, loaded = scored_tasks(names, Request(model, method, pairs, None, seed, metric, param, store))
    scores = {name: one.scores for name, one in zip(names, scored, strict=True)}
    table = compare_tasks(scores, TopK(top), sampling)
    measured = transferred(loaded, scores, table.circuits, store, transfer_pairs) if transfer else None
    if as_json:
        print_json(table.to_dict() | {"transfer": None if measured is None else measured.to_dict()})
        return
    _print(table)
    if measured is not None:
        print_transfer(measured)


def _named(words: list[str] | None, listed: str | None) -> list[str]:
    """Tasks given as words, by commas, or both; each once, in order."""
    from circuitlab.errors import BadParameterError  # noqa: PLC0415

    given = [*(words or []), *(name.strip() for name in (listed or "").split(",") if name.strip())]
    names = list(dict.fromkeys(given))
    if len(names) < 2:  # noqa: PLR2004
        what = f"Comparing needs two different tasks; got {', '.join(given) or 'none'}."
        raise BadParameterError(what, "Name another task.")
    return names


def _print(table: OverlapTable) -> None:
    print_text(f"{table.rule}, {table.method} on {table.model}\n")
    rows = [
        [
            f"{row.task_a} ~ {row.task_b}",
            interval_text(row.jaccard),
            f"{row.null_mean:.2f}",
            f"{row.q:.3g}",
            interval_text(row.spearman),
        ]
        for row in table.rows
    ]
    print_table(["tasks", "Jaccard", "by chance", "q", "Spearman"], rows)
    for note in table.notes:
        typer.echo(f"\nWarning: {note}", err=True)
