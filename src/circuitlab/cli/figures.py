"""``circuitlab figures`` and ``circuitlab report``."""

from __future__ import annotations

from pathlib import Path

import typer

from circuitlab.cli.output import print_json, print_text

__all__ = ["app", "report"]

app = typer.Typer(help="Figures from stored runs; no model is loaded.", no_args_is_help=True)
_STORE = typer.Option(None, "--store", help="Folder of finished runs (default: $CIRCUITLAB_STORE or ./runs).")
_OUT = typer.Option(None, "--out", help="Folder for the files (default: figures/built/<study id>).")
_REPORT = typer.Option(None, "--out", help="The HTML file (default: <study id>.html).")
_JSON = typer.Option(False, "--json", help="Print one JSON document.")


@app.command("build")
def build(file: Path, store: Path = _STORE, out: Path = _OUT, as_json: bool = _JSON) -> None:
    """Build every figure, the tables and the report of a study."""
    from circuitlab.store import Cache  # noqa: PLC0415
    from circuitlab.studies.build import build_figures  # noqa: PLC0415

    result = build_figures(file, store=Cache(store), out=out)
    if as_json:
        print_json(result)
    else:
        print_text(f"{len(result.files)} files in {result.out}; open {Path(result.out) / 'report.html'}.")
        if result.missing:
            print_text(f"Not run yet, and left out: {', '.join(result.missing)}. Run `circuitlab study run {file}`.")


@app.command("check")
def check(file: Path, store: Path = _STORE, out: Path = _OUT, as_json: bool = _JSON) -> None:
    """Rebuild every file in memory and compare with the folder; exit code 2 if a file differs."""
    from circuitlab.store import Cache  # noqa: PLC0415
    from circuitlab.studies.build import check_figures  # noqa: PLC0415

    result = check_figures(file, store=Cache(store), out=out)
    if as_json:
        print_json(result)
    else:
        print_text("Every file is what its runs give." if result.ok else "Differs: " + ", ".join(result.differing))
    if not result.ok:
        raise typer.Exit(2)


def report(file: Path, store: Path = _STORE, out: Path = _REPORT) -> None:
    """Write only the report of a study, as one HTML file."""
    from circuitlab.store import Cache  # noqa: PLC0415
    from circuitlab.studies.build import write_report  # noqa: PLC0415

    print_text(str(write_report(file, store=Cache(store), out=out)))
