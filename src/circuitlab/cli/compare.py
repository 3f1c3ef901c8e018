"""``circuitlab compare``."""

from __future__ import annotations

from pathlib import Path

import typer

from circuitlab.cli import options
from circuitlab.cli.output import print_json, print_table, print_text
from circuitlab.cli.scoring import Request, scored_tasks, warn_if_unfit
from circuitlab.cli.transfer import print_transfer, transferred

__all__ = ["compare"]

_TRANSFER = typer.Option(False, "--transfer", help="Also run every circuit on every task, and test for double dissociations.")
_TRANSFER_PAIRS = typer.Option(16, "--transfer-pairs", min=2, help="Fresh pairs of each task for --transfer.")


def compare(
    tasks: list[str],
    model: str = options.MODEL,
    method: str = options.METHOD,
    pairs: int = options.PAIRS,
    seed: int = options.SEED,
    metric: str = options.METRIC,
    param: list[str] = options.PARAM,
    store: Path = options.STORE,
    top: int = options.TOP,
    transfer: bool = _TRANSFER,
    transfer_pairs: int = _TRANSFER_PAIRS,
    as_json: bool = options.JSON,
) -> None:
    """Compare the circuits of two or more tasks: overlap with its chance level, rank agreement, intervals."""
    from circuitlab.circuits import TopK  # noqa: PLC0415
    from circuitlab.compare import compare_tasks  # noqa: PLC0415
    from circuitlab.errors import BadParameterError  # noqa: PLC0415

    if len(set(tasks)) < 2:  # noqa: PLR2004
        what = f"Comparing needs two different tasks; got {', '.join(tasks)}."
        raise BadParameterError(what, "Name another task.")
    names = list(dict.fromkeys(tasks))
    scored, loaded = scored_tasks(names, Request(model, method, pairs, None, seed, metric, param, store))
    scores = {name: one.scores for name, one in zip(names, scored, strict=True)}
    table = compare_tasks(scores, TopK(top))
    measured = transferred(loaded, scores, table.circuits, store, transfer_pairs) if transfer else None
    if as_json:
        print_json(table.to_dict() | {"transfer": None if measured is None else measured.to_dict()})
        return
    print_text(f"{table.rule}, {table.method} on {table.model}\n")
    rows = []
    for row in table.rows:
        spread = f"{row.jaccard['mean']:.2f} [{row.jaccard['low']:.2f}, {row.jaccard['high']:.2f}]"
        rows.append([f"{row.task_a} ~ {row.task_b}", spread, f"{row.null_mean:.2f}", f"{row.q:.3g}", f"{row.spearman['mean']:.2f}"])
    print_table(["tasks", "Jaccard", "by chance", "q", "Spearman"], rows)
    if measured is not None:
        print_transfer(measured)
    for one in scored:
        warn_if_unfit(one.scores)
