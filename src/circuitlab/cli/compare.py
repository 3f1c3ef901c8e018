"""``circuitlab compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from circuitlab.cli import options
from circuitlab.cli.output import interval_text, print_json, print_table, print_text
from circuitlab.cli.scoring import Request, load_checked
from circuitlab.cli.transfer import print_transfer

if TYPE_CHECKING:
    from circuitlab.comparison import OverlapTable

__all__ = ["compare"]

_NAMES = typer.Argument(None, help="Tasks to compare.")
_LIST = typer.Option(None, "--tasks", help="Tasks to compare, separated by commas, instead of or beside arguments.")
_METHODS = typer.Option(None, "--methods", help="Methods to compare on one task, separated by commas, instead of tasks.")
_EDGES = typer.Option(None, "--edges", min=1, help="Compare this many edges instead of heads; for methods that score edges (eap, eap_ig).")
_NULL = typer.Option(
    "layer_stratified",
    "--null",
    help="Null hypothesis of p and q: layer_stratified, uniform (hypergeometric) or within_layer_scores.",
)

_TRANSFER = typer.Option(False, "--transfer", help="Also run every circuit on every task, and test for double dissociations.")
_TRANSFER_PAIRS = typer.Option(16, "--transfer-pairs", min=2, help="Held-out pairs of each task for --transfer.")


def compare(
    tasks: list[str] = _NAMES,
    task_list: str = _LIST,
    model: str = options.MODEL,
    device: str = options.DEVICE,
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
    from circuitlab.circuits import TopEdges, TopK  # noqa: PLC0415
    from circuitlab.comparison import Sampling  # noqa: PLC0415

    task_names, method_names = _listed(tasks, task_list), _several(methods) or [method]
    _check(task_names, method_names, params=bool(param), edges=bool(edges), transfer=transfer)
    sampling = Sampling(null=null)  # type: ignore[arg-type]
    request = Request(model, method_names[0], pairs, variant, seed, metric, param, store, device=device)
    rule: TopK | TopEdges = TopEdges(edges) if edges else TopK(top)
    loaded = load_checked(task_names, request, rule)
    from circuitlab.workflows import compare as workflow  # noqa: PLC0415 - torch
    from circuitlab.workflows.functional import FunctionalComparison  # noqa: PLC0415

    compared = request.build_method() if len(method_names) == 1 else method_names
    arguments = request.score_arguments()
    table = workflow.compare(loaded, task_names, compared, rule=rule, sampling=sampling, **arguments)  # type: ignore[arg-type]
    settings = FunctionalComparison(pairs=transfer_pairs)
    transferred = workflow.transfer(loaded, task_names, compared, rule=top, settings=settings, **arguments) if transfer else None  # type: ignore[arg-type]
    if as_json:
        print_json(table.to_dict() | {"transfer": None if transferred is None else transferred.to_dict()})
        return
    _print(table)
    if transferred is not None:
        print_transfer(transferred)


def _several(text: str | None) -> list[str]:
    """The methods to compare; raises if only one is named."""
    from circuitlab.core.errors import BadParameterError  # noqa: PLC0415

    names = _listed(None, text)
    if len(names) == 1:
        what = f"Comparing methods needs two different methods; got {names[0]}."
        raise BadParameterError(what, "Name another with --methods, or use --method to compare tasks.")
    return names


def _check(tasks: list[str], methods: list[str], *, params: bool, edges: bool, transfer: bool) -> None:
    """Raise if these options do not make a comparison."""
    from circuitlab.core.errors import BadParameterError  # noqa: PLC0415
    from circuitlab.execute.contract import require_prompts  # noqa: PLC0415
    from circuitlab.methods import get_method  # noqa: PLC0415

    several = len(methods) > 1
    if several and len(tasks) != 1:
        what = f"Comparing methods needs one task; got {', '.join(tasks) or 'none'}."
        raise BadParameterError(what, "Name one task, or leave out --methods to compare tasks.")
    if not several and len(tasks) < 2:  # noqa: PLR2004 - a comparison
        what = f"Comparing needs two different tasks; got {', '.join(tasks) or 'none'}."
        raise BadParameterError(what, "Name another task, or several --methods.")
    for name in methods:
        get_method(name)
    if not several:
        require_prompts(get_method(methods[0]), "difference between tasks")
    if several and params:
        raise BadParameterError("--param does not say which of the --methods it belongs to.", "Leave it out, or use the Python interface.")
    if transfer and (edges or several):
        what = f"--transfer needs circuits of heads of several tasks, so that it does not go with {'--edges' if edges else '--methods'}."
        raise BadParameterError(what, "Leave one of the two out.")


def _listed(words: list[str] | None, text: str | None) -> list[str]:
    """Names given as arguments, separated by commas, or both: in order, without repeats."""
    names = [*(words or []), *(name.strip() for name in (text or "").split(",") if name.strip())]
    return list(dict.fromkeys(names))


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
