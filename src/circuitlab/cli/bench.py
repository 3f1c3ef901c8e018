"""``circuitlab bench``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from circuitlab.cli.output import interval_text, print_json, print_table, print_text

if TYPE_CHECKING:
    from circuitlab.workflows.planted import PlantedResult, Standing

__all__ = ["app"]

app = typer.Typer(help="Benchmarks: how well methods find known circuits.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Without a callback, typer would make the only command the group itself: ``bench`` instead of ``bench planted``."""


@app.command("planted")
def planted(
    method: list[str] = typer.Option([], "--method", help="A method to grade; repeatable. All by default."),
    model: list[str] = typer.Option([], "--model", help="A planted model; repeatable. All by default."),
    seeds: int = typer.Option(5, "--seeds", min=1, help="Sets of prompts; the intervals are over these."),
    pairs: int = typer.Option(8, "-n", "--pairs", min=1, help="Prompt pairs in each set."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON document."),
) -> None:
    """Grade every method on models whose circuit is known by construction."""
    from circuitlab.workflows.bench import bench  # noqa: PLC0415

    board = bench(method, model, seeds=seeds, pairs=pairs)
    if as_json:
        print_json(board.to_dict())
        return
    _print_results(list(board.results))
    _print_standings(list(board.methods))


def _print_results(results: list[PlantedResult]) -> None:
    distinct = dict.fromkeys(result.reason for result in results if result.reason)
    reasons = {reason: f"[{number}]" for number, reason in enumerate(distinct, start=1)}
    rows = [
        [
            result.model,
            result.method,
            interval_text(result.auroc),
            f"{result.average_precision['mean']:.2f}",
            f"{result.precision_at_k['mean']:.2f}",
            f"{result.sign_accuracy['mean']:.2f}",
            "yes" if result.visible else f"no {reasons[result.reason]}",
        ]
        for result in results
    ]
    print_table(["model", "method", "AUROC", "avg. precision", "precision at k", "sign", "visible"], rows)
    print_text("")
    for reason, number in reasons.items():
        print_text(f"{number} {reason}")


def _print_standings(standings: list[Standing]) -> None:
    """Each method's lowest AUROC on the models whose circuit it can see, and its mean on all, each with its floor."""

    def cell(value: dict[str, float], floor: dict[str, float]) -> str:
        text = f"{value['auroc']:.3f}" if value else "-"
        return text + (f" (floor {floor['auroc']:.2f})" if value and floor else "")

    rows = [
        [
            standing.method,
            str(standing.n_visible),
            cell(standing.least, standing.floor_least),
            cell(standing.mean, standing.floor_mean),
            ", ".join(standing.below) or "-",
        ]
        for standing in standings
    ]
    print_text("")
    print_table(["method", "models seen", "least AUROC there", "mean AUROC on all", "below its floor"], rows)
