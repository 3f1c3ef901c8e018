"""``circuitlab compare``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from circuitlab.cli import evaluation, options
from circuitlab.cli.output import interval_text, print_json, print_table, print_text
from circuitlab.cli.scoring import Request, method_params, scored_cells
from circuitlab.cli.transfer import print_transfer, transferred

if TYPE_CHECKING:
    from circuitlab.cli.evaluation import EdgeScoring
    from circuitlab.compare import OverlapTable
    from circuitlab.model.protocol import Model
    from circuitlab.scores.edge_scores import EdgeScores
    from circuitlab.scores.head_scores import HeadScores

__all__ = ["compare"]

_NAMES = typer.Argument(None, help="Tasks, as words.")
_LIST = typer.Option(None, "--tasks", help="Tasks, separated by commas; the same as naming them as words.")
_METHODS = typer.Option(None, "--methods", help="Compare methods, separated by commas, on one task, in place of tasks.")
_EDGES = typer.Option(None, "--edges", min=1, help="Compare this many edges instead of heads; for methods that score edges (eap, eap_ig).")
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
    methods: str = _METHODS,
    pairs: int = options.PAIRS,
    variant: str = options.VARIANT,
    seed: int = options.SEED,
    metric: str = options.METRIC,
    param: list[str] = options.PARAM,
    store: Path = options.STORE,
    top: int = options.TOP,
    edges: int = _EDGES,
    null: str = _NULL,
    transfer: bool = _TRANSFER,
    transfer_pairs: int = _TRANSFER_PAIRS,
    as_json: bool = options.JSON,
) -> None:
    """Compare the circuits of tasks, or of methods on one task: overlap with its chance level, rank agreement, intervals."""
    from circuitlab.circuits import TopK  # noqa: PLC0415
    from circuitlab.circuits.select_edges import TopEdges  # noqa: PLC0415
    from circuitlab.compare import Sampling, compare_methods, compare_tasks  # noqa: PLC0415

    asked = _Asked(_listed(tasks, task_list), _listed(None, methods), method)
    asked.check(params=bool(param), edges=bool(edges), transfer=transfer)
    sampling = Sampling(null=null)  # type: ignore[arg-type]
    scoring = [evaluation.edge_scoring(name, method_params(param)) for _, name in asked.cells] if edges else []
    scored, loaded = scored_cells(asked.cells, Request(model, method, pairs, variant, seed, metric, param, store))
    scores = dict(zip(asked.names, (one.scores for one in scored), strict=True))
    over = compare_methods if asked.methods else compare_tasks
    if edges:
        table = over(_of_edges(asked, scoring, scores, loaded, store), TopEdges(edges), sampling)
    else:
        table = over(scores, TopK(top), sampling)
    measured = transferred(loaded, scores, table.circuits, store, transfer_pairs) if transfer else None
    if as_json:
        print_json(table.to_dict() | {"transfer": None if measured is None else measured.to_dict()})
        return
    _print(table)
    if measured is not None:
        print_transfer(measured)


@dataclass(frozen=True)
class _Asked:
    """What is compared: tasks by one method, or methods on one task."""

    tasks: list[str]
    methods: list[str]
    method: str

    @property
    def names(self) -> list[str]:
        return self.methods or self.tasks

    @property
    def cells(self) -> list[tuple[str, str]]:
        """Task and method of everything that is compared."""
        return [(self.tasks[0], name) for name in self.methods] or [(task, self.method) for task in self.tasks]

    def check(self, *, params: bool, edges: bool, transfer: bool) -> None:
        """Raise where this cannot be compared."""
        from circuitlab.core.errors import BadParameterError  # noqa: PLC0415

        if self.methods and len(self.tasks) != 1:
            what = f"Comparing methods needs one task; got {', '.join(self.tasks) or 'none'}."
            raise BadParameterError(what, "Name one task, or leave out --methods to compare tasks.")
        if len(self.names) < 2:  # noqa: PLR2004
            what = f"Comparing needs two different {'methods' if self.methods else 'tasks'}; got {', '.join(self.names) or 'none'}."
            raise BadParameterError(what, f"Name another {'method' if self.methods else 'task'}.")
        if self.methods and params:
            raise BadParameterError("--param does not say which of the --methods it is for.", "Leave it out, or use the Python interface.")
        if transfer and (edges or self.methods):
            what = f"--transfer runs circuits of heads of several tasks, not with {'--edges' if edges else '--methods'}."
            raise BadParameterError(what, "Leave one of the two out.")


def _listed(words: list[str] | None, listed: str | None) -> list[str]:
    """Names given as words, by commas, or both; each once, in order."""
    given = [*(words or []), *(name.strip() for name in (listed or "").split(",") if name.strip())]
    return list(dict.fromkeys(given))


def _of_edges(
    asked: _Asked, scoring: list[EdgeScoring], scores: dict[str, HeadScores], loaded: Model, store: Path | None
) -> dict[str, EdgeScores]:
    from circuitlab.store import RunStore  # noqa: PLC0415

    runs = RunStore(store)
    several = zip(asked.names, asked.cells, scoring, strict=True)
    return {name: evaluation.edge_scores(by, loaded, scores[name], task, runs) for name, (task, _), by in several}


def _print(table: OverlapTable) -> None:
    print_text(f"{table.rule}, {table.method} on {table.model}\n")
    rows = [
        [
            f"{row.task_a} ~ {row.task_b}",
            interval_text(row.jaccard),
            f"{row.corrected['jaccard']:.2f}",
            f"{row.null_mean:.2f}",
            f"{row.q:.3g}",
            interval_text(row.spearman),
        ]
        for row in table.rows
    ]
    print_table([f"{table.over}s", "Jaccard", "corrected", "by chance", "q", "Spearman"], rows)
    for note in table.notes:
        typer.echo(f"\nWarning: {note}", err=True)
