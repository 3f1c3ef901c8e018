"""``circuitlab compare``."""

from __future__ import annotations

from pathlib import Path

from circuitlab.cli import options
from circuitlab.cli.output import print_json, print_table, print_text
from circuitlab.cli.scoring import Request, scored_tasks, warn_if_unfit

__all__ = ["compare"]


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
    scored, _ = scored_tasks(names, Request(model, method, pairs, None, seed, metric, param, store))
    table = compare_tasks({name: one.scores for name, one in zip(names, scored, strict=True)}, TopK(top))
    if as_json:
        print_json(table.to_dict())
        return
    print_text(f"{table.rule}, {table.method} on {table.model}\n")
    rows = []
    for row in table.rows:
        spread = f"{row.jaccard['mean']:.2f} [{row.jaccard['low']:.2f}, {row.jaccard['high']:.2f}]"
        rows.append([f"{row.task_a} ~ {row.task_b}", spread, f"{row.null_mean:.2f}", f"{row.q:.3g}", f"{row.spearman['mean']:.2f}"])
    print_table(["tasks", "Jaccard", "by chance", "q", "Spearman"], rows)
    for one in scored:
        warn_if_unfit(one.scores)
