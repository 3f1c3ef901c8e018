"""``circuitlab study``."""

from __future__ import annotations

from pathlib import Path

import typer

from circuitlab.cli.output import print_json, print_text

__all__ = ["app"]

app = typer.Typer(help="Studies: run methods on tasks with one model, and store the results.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Without a callback, typer would make the only command the group itself: ``study`` instead of ``study run``."""


@app.command("run")
def run(
    file: Path,
    store: Path = typer.Option(None, "--store", help="Folder of finished runs (default: $CIRCUITLAB_STORE or ./runs)."),
    shard: str = typer.Option(None, "--shard", help="i/n: run the i-th of n parts of the cells."),
    executor: str = typer.Option("local", "--executor", help="Where cells run; this version has 'local'."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON document."),
) -> None:
    """Run every unfinished cell (scores and analyses). An interrupted study resumes where it stopped."""
    from circuitlab.core.errors import StoreError, UnknownNameError  # noqa: PLC0415
    from circuitlab.store import Cache  # noqa: PLC0415
    from circuitlab.studies.load import load_study  # noqa: PLC0415
    from circuitlab.studies.run import run_study  # noqa: PLC0415
    from circuitlab.workflows.terminal import TerminalProgress  # noqa: PLC0415

    if executor != "local":
        raise UnknownNameError("executor", executor, ["local"])
    result = run_study(load_study(file), Cache(store), shard=shard, progress=TerminalProgress())
    if as_json:
        print_json(result)
    else:
        done = [cell for cell in result.cells if cell.run_id is not None]
        fresh = [cell for cell in done if not cell.cached]
        print_text(f"Study {result.study}: {len(done)} of {len(result.cells)} cells finished, {len(fresh)} now.")
        if waiting := [f"{cell.analysis} {cell.task}".strip() for cell in result.cells if cell.waits]:
            print_text(f"Waiting for scores of other shards: {', '.join(waiting)}. Run the study once more when they are done.")
    if result.failed:
        first = result.failed[0]
        what = f"{len(result.failed)} cells failed; the first is {first.label}: {first.error}"
        raise StoreError(what, "The other cells are finished and kept.")
