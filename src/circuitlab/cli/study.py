"""``circuitlab study``."""

from __future__ import annotations

from pathlib import Path

import typer

from circuitlab.cli import options
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
    executor: str = typer.Option("local", "--executor", help="Where cells run: 'local', in this process, or 'ray', on workers."),
    address: str = typer.Option(None, "--address", help="Ray: address of a running cluster, or 'auto' (default: this machine alone)."),
    workers: int = typer.Option(None, "--workers", min=1, help="Ray: number of workers, each with its own model (default: all that fit)."),
    cpus: int = typer.Option(1, "--cpus", min=1, help="Ray: processors, and threads, of each worker."),
    device: str = options.DEVICE,
    memory: float = typer.Option(None, "--worker-memory", help="Ray: memory that is reserved for each worker, in GiB."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON document."),
) -> None:
    """Run every unfinished cell (scores and analyses). An interrupted study resumes where it stopped."""
    from circuitlab.core.errors import BadParameterError, StoreError, UnknownNameError  # noqa: PLC0415
    from circuitlab.store import Cache  # noqa: PLC0415
    from circuitlab.studies.on_ray import RayCluster  # noqa: PLC0415
    from circuitlab.studies.study import Study  # noqa: PLC0415

    if executor not in {"local", "ray"}:
        raise UnknownNameError("executor", executor, ["local", "ray"])
    cluster = RayCluster(address, workers, cpus, memory)
    if executor == "local" and cluster != RayCluster():
        what = "--address, --workers, --cpus and --worker-memory are for workers of Ray, and the executor is 'local'."
        raise BadParameterError(what, "Add --executor ray, or leave them out.")
    result = Study(file, Cache(store)).run(shard=shard, cluster=cluster if executor == "ray" else None, device=device)
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


@app.command("merge")
def merge(
    sources: list[Path],
    store: Path = typer.Option(None, "--store", help="Folder to copy into (default: $CIRCUITLAB_STORE or ./runs)."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON document."),
) -> None:
    """Copy the results of other stores into one, as after shards that ran without a shared file system. Nothing is replaced."""
    from circuitlab.core.errors import ScoreFileError  # noqa: PLC0415
    from circuitlab.store import Cache, merge_stores  # noqa: PLC0415

    result = merge_stores([Cache(source) for source in sources], Cache(store))
    if as_json:
        print_json(result)
    else:
        print_text(f"{result.copied} results copied to {Cache(store).root}, {result.present} were there already.")
    if result.damaged:
        what = f"{len(result.damaged)} damaged files were not copied; the first is {result.damaged[0]}"
        raise ScoreFileError(what, "Run the study again: what is missing is computed again.")
