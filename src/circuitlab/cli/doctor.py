"""``circuitlab doctor``: what is exact on a checkpoint, and what is refused."""

from __future__ import annotations

from dataclasses import asdict

import typer

from circuitlab.cli.output import print_json, print_table, print_text
from circuitlab.core.errors import ModelError

__all__ = ["doctor"]

_JSON = typer.Option(False, "--json", help="Print one JSON document.")


def doctor(model: str, as_json: bool = _JSON) -> None:
    """Check which sites and methods are exact, run by hooks, or are refused on a checkpoint, and run the model laws.

    Exit code 0: its logits are right and every law holds. Exit code 2: it is refused, or a check failed.
    """
    from circuitlab.testing.doctor import diagnose  # noqa: PLC0415

    diagnosis = diagnose(model)
    if as_json:
        tables = {name: {key: asdict(verdict) for key, verdict in getattr(diagnosis, name).items()} for name in ("sites", "methods")}
        about = {
            "model": diagnosis.model,
            "family": diagnosis.family,
            "logits_ok": diagnosis.logits_ok,
            "reason": diagnosis.reason,
            "ok": diagnosis.ok,
        }
        print_json(about | tables | {"laws": [asdict(law) for law in diagnosis.laws], "spec": diagnosis.spec})
    elif diagnosis.spec is None:
        raise ModelError(diagnosis.reason)
    else:
        print_text(
            f"{diagnosis.model} ({diagnosis.family}): logits {'equal the source model' if diagnosis.logits_ok else diagnosis.reason}.\n"
        )
        for title, table in (("site", diagnosis.sites), ("method", diagnosis.methods)):
            print_table([title, "state", "reason"], [[name, verdict.state, verdict.reason] for name, verdict in table.items()])
        for law in diagnosis.laws:
            print_text(f"{'ok  ' if law.ok else 'FAIL'}  {law}")
        conclusion = "what is exact or runs by hooks can be trusted" if diagnosis.ok else "do not trust scores on this model"
        print_text(f"{diagnosis.model}: {conclusion}.")
    if not diagnosis.ok:
        raise typer.Exit(2)
