"""``circuitlab heads``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from circuitlab.cli import options
from circuitlab.cli.output import print_json, print_table, print_text

if TYPE_CHECKING:
    from circuitlab.scores.role_table import RoleEntry, RoleTable

__all__ = ["app"]

app = typer.Typer(help="Heads: what each of them does.", no_args_is_help=True)

_ROLES = typer.Option(
    None, "--roles", help="Roles, separated by commas; otherwise all but those that take minutes. See `circuitlab methods list`."
)
_TEXT = typer.Option(None, "--text", help="Passages of your own for roles on natural text: JSON lines, or text with empty lines between.")
_TOP = typer.Option(5, "-k", "--top", min=1, help="Heads shown for each role; --json gives all.")


@app.callback()
def _heads() -> None:
    """Heads: what each of them does."""


@app.command("roles")
def roles(
    model: str = options.MODEL,
    role_list: str = _ROLES,
    text: Path = _TEXT,
    top: int = _TOP,
    store: Path = options.STORE,
    as_json: bool = options.JSON,
) -> None:
    """Measure which heads play which role, with intervals, against what chance gives."""
    from circuitlab.core.files import require_writable  # noqa: PLC0415
    from circuitlab.store import Cache  # noqa: PLC0415
    from circuitlab.workflows.roles import built_roles  # noqa: PLC0415 - torch

    named = None if role_list is None else [name.strip() for name in role_list.split(",") if name.strip()]
    asked, cache = built_roles(named, text), Cache(store)  # names and texts that cannot be used are found before the model is loaded
    require_writable(cache.root)
    from circuitlab.model import load_model  # noqa: PLC0415
    from circuitlab.workflows.roles import roles as measure  # noqa: PLC0415

    table = measure(load_model(model), asked, store=cache)
    if as_json:
        print_json(table.to_dict())
        return
    _print_roles(table, top)


def _print_roles(table: RoleTable, top: int) -> None:
    total = table.model.n_layers * table.model.n_heads
    print_text(f"Roles of the {total} heads of {table.model.name}: value [95 % interval]; earned from the threshold on, if q <= 0.05\n")
    rows = []
    for role, scores in table.scores.items():
        earners, about = table.earners(role), scores.provenance
        shown = ", ".join(_entry(one) for one in earners[:top]) + ", ..." * (len(earners) > top)
        rows.append([role, about.kind, f"{about.threshold:g}", str(len(earners)), shown or "none"])
    if rows:
        print_table(["role", "read from", "at least", "heads", "strongest first"], rows)
    for role, reason in table.refused.items():
        print_text(f"{role}: not measured. {reason}")
    without = table.without_role()
    print_text(f"\n{len(without)} of {total} heads earn none of these roles" + (f": {', '.join(map(str, without))}" if without else ""))


def _entry(one: RoleEntry) -> str:
    limits = "" if one.low != one.low else f" [{one.low:.2f}, {one.high:.2f}]"
    return f"{one.node} {one.value:.2f}{limits}"
