"""``circuitlab bench``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from circuitlab.cli.output import interval_text, print_json, print_table, print_text

if TYPE_CHECKING:
    from circuitlab.workflows.planted import PlantedResult, Standing

__all__ = ["app"]

app = typer.Typer(help="Benchmarks: how well methods find circuits that are known.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep ``bench planted`` two words."""


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
    reasons = {one.reason: f"[{i}]" for i, one in enumerate({one.reason: one for one in results if one.reason}.values(), start=1)}
    rows = [
        [
            one.model,
            one.method,
            interval_text(one.auroc),
            f"{one.average_precision['mean']:.2f}",
            f"{one.precision_at_k['mean']:.2f}",
            f"{one.sign_accuracy['mean']:.2f}",
            "yes" if one.visible else f"no {reasons[one.reason]}",
        ]
        for one in results
    ]
    print_table(["model", "method", "AUROC", "avg. precision", "precision at k", "sign", "visible"], rows)
    print_text("")
    for reason, number in reasons.items():
        print_text(f"{number} {reason}")


def _print_standings(found: list[Standing]) -> None:
    """Each method's least AUROC on models that it sees and its mean on all, each with its floor."""

    def cell(reached: dict[str, float], floor: dict[str, float]) -> str:
        said = f"{reached['auroc']:.3f}" if reached else "-"
        return said + (f" (floor {floor['auroc']:.2f})" if reached and floor else "")

    rows = [
        [one.method, str(one.n_visible), cell(one.least, one.floor_least), cell(one.mean, one.floor_mean), ", ".join(one.below) or "-"]
        for one in found
    ]
    print_text("")
    print_table(["method", "models seen", "least AUROC there", "mean AUROC on all", "below its floor"], rows)
