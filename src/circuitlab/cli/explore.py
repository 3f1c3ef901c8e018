"""``circuitlab explore``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from circuitlab.cli import options
from circuitlab.cli.output import print_text

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["explore"]

_TASKS = typer.Option(None, "--tasks", help="Tasks, separated by commas, each with its variant behind a colon if not its own (ioi:names).")
_METHODS = typer.Option(None, "--methods", help="Methods, separated by commas (default: every stored one).")
_OUT = typer.Option(None, "-o", "--out", help="HTML file to write; it needs no network.")
_PAIRS = typer.Option(None, "-n", "--pairs", min=1, help="Prompt pairs (default: those of stored runs; 16 where tasks are scored).")
_MEASURE = typer.Option(
    None,
    "--measure",
    help="What to measure beside scores where it is not stored, separated by commas: attention, roles, cards, edges, text, circuits, "
    "or all (default: the first four where a task has to be scored, nothing otherwise).",
)


def explore(
    tasks: str = _TASKS,
    methods: str = _METHODS,
    model: str = options.MODEL,
    out: Path = _OUT,
    pairs: int = _PAIRS,
    measure: str = _MEASURE,
    store: Path = options.STORE,
    as_json: bool = options.JSON,
) -> None:
    """Write one page of everything that is known about heads of a model on some tasks; stored runs need no model."""
    from circuitlab.core.errors import BadParameterError  # noqa: PLC0415

    if out is None and not as_json:
        raise BadParameterError("There is nowhere to put the page.", "Name a file, -o page.html, or ask for the data, --json.")
    from circuitlab.core.files import replace_file  # noqa: PLC0415
    from circuitlab.explorer.explore import explored  # noqa: PLC0415
    from circuitlab.explorer.page import explorer_page, front_end  # noqa: PLC0415
    from circuitlab.explorer.payload import build_payload, payload_json  # noqa: PLC0415
    from circuitlab.store import Cache  # noqa: PLC0415

    if out is not None:
        front_end()  # what is missing is found before anything is scored
    wanted = None if measure is None else _named(measure)
    payload = build_payload(explored(model, _named(tasks), _named(methods), n=pairs, measure=wanted, store=Cache(store)))
    if out is not None:
        page = explorer_page(payload).encode()
        replace_file(out, lambda target: target.write_bytes(page))
        if not as_json:
            print_text(_summary(payload, out, len(page)))
    if as_json:
        print_text(payload_json(payload))


def _named(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _summary(payload: Mapping[str, Any], out: Path, size: int) -> str:
    """What the page shows, and what it cannot show."""
    counts = {
        "scored runs": len(payload["scores"]),
        "roles": len(payload["roles"]),
        "prompts with attention": len({(one["task"], one["pair"]) for one in payload["attention"]}),
        "heads with a card": len(payload["cards"]),
        "circuits with a curve": sum(bool(one["curves"]) for one in payload["circuits"]),
    }
    shown = ", ".join(f"{count} {name}" for name, count in counts.items())
    lists = [name for name in payload["absent"] if "/" not in name and name not in {"transfer", "dissociation"}]
    lacking = "".join(f"\nWithout {name}: {payload['absent'][name]}" for name in lists)
    warnings = "".join(f"\nNOT READY: {one['warning']}" for one in payload["scores"] if "warning" in one)
    return f"The page is in {out} ({size / 1e6:.1f} MB): {shown}.{lacking}{warnings}\nOpen it in a browser; it needs no network."
