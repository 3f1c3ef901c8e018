"""``circuitlab doctor``: how a checkpoint is served."""

from __future__ import annotations

from dataclasses import asdict

import typer

from circuitlab.cli.output import print_json, print_table, print_text
from circuitlab.core.errors import ModelError

__all__ = ["doctor"]

_JSON = typer.Option(False, "--json", help="Print one JSON document.")


def doctor(model: str, as_json: bool = _JSON) -> None:
    """Say which sites and methods are exact, run by hooks or are refused on a checkpoint, and run the model laws.

    Exit code 0: its logits are right and every law holds. 2: it is refused, or something is wrong.
    """
    from circuitlab.testing.doctor import diagnose  # noqa: PLC0415

    found = diagnose(model)
    if as_json:
        tables = {name: {key: asdict(one) for key, one in getattr(found, name).items()} for name in ("sites", "methods")}
        about = {"model": found.model, "family": found.family, "logits_ok": found.logits_ok, "reason": found.reason, "ok": found.ok}
        print_json(about | tables | {"laws": [asdict(law) for law in found.laws], "spec": found.spec})
    elif found.spec is None:
        raise ModelError(found.reason)
    else:
        print_text(f"{found.model} ({found.family}): logits {'equal the source model' if found.logits_ok else found.reason}.\n")
        for title, table in (("site", found.sites), ("method", found.methods)):
            print_table([title, "state", "reason"], [[name, one.state, one.reason] for name, one in table.items()])
        for law in found.laws:
            print_text(f"{'ok  ' if law.ok else 'FAIL'}  {law}")
        verdict = "what is exact or runs by hooks can be trusted" if found.ok else "do not trust scores on this model"
        print_text(f"{found.model}: {verdict}.")
    if not found.ok:
        raise typer.Exit(2)
