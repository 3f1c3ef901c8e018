"""``circuitlab models``."""

from __future__ import annotations

from typing import Any

import typer

from circuitlab.cli.output import print_json, print_table, print_text

__all__ = ["app"]

app = typer.Typer(help="Models that load by a short name.", no_args_is_help=True)
_JSON = typer.Option(False, "--json", help="Print one JSON document.")


@app.command("list")
def list_models(as_json: bool = _JSON) -> None:
    """List the aliases with their size, licence, and whether they are in the cache."""
    from circuitlab.model.aliases import ALIASES  # noqa: PLC0415
    from circuitlab.model.weights.resolve import cached_path  # noqa: PLC0415

    entries: list[dict[str, Any]] = []
    for alias in ALIASES.values():
        entry = {"name": alias.name, "about": alias.about, "megabytes": alias.megabytes, "licence": alias.licence, "terms": alias.terms}
        entries.append(entry | {"packages": alias.packages, "sha256": alias.sha256, "cached": cached_path(alias.name) is not None})
    if as_json:
        print_json({"models": entries})
        return
    rows = [[e["name"], f"{e['megabytes']} MB", "yes" if e["cached"] else "no", e["licence"], e["about"]] for e in entries]
    print_table(["name", "download", "cached", "licence", "about"], rows)
    print_text("\nWherever a name works, so do a path to a GGUF file or a Hugging Face folder, and a hub name.")


@app.command("fetch")
def fetch(name: str, as_json: bool = _JSON) -> None:
    """Download, verify and convert a model, unless the cache holds it undamaged."""
    from circuitlab.model.aliases import ALIASES  # noqa: PLC0415
    from circuitlab.model.weights import resolve  # noqa: PLC0415

    before = resolve.cached_path(name)
    if before is None:
        alias = ALIASES[name]
        typer.echo(f"Fetching {name} ({alias.megabytes} MB) under {alias.licence}: {alias.terms}", err=True)
    folder = resolve.fetch(name)
    if as_json:
        print_json({"name": name, "path": str(folder), "fetched": before is None, "licence": ALIASES[name].licence})
    else:
        print_text(str(folder))


@app.command("path")
def path(name: str, as_json: bool = _JSON) -> None:
    """Show the folder of a fetched model."""
    from circuitlab.core.errors import ModelError  # noqa: PLC0415
    from circuitlab.model.weights import resolve  # noqa: PLC0415

    folder = resolve.cached_path(name)
    if folder is None:
        what = f"{name} is not in the cache, or is incomplete there."
        raise ModelError(what, f"Run `circuitlab models fetch {name}`.")
    if as_json:
        print_json({"name": name, "path": str(folder)})
    else:
        print_text(str(folder))
