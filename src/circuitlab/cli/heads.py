"""``circuitlab heads``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from circuitlab.cli import options
from circuitlab.cli.output import print_json, print_table, print_text

if TYPE_CHECKING:
    from circuitlab.core.nodes import Head
    from circuitlab.scores.head_card import HeadCard
    from circuitlab.scores.head_on_text import HeadOnText, TextSpot
    from circuitlab.scores.role_table import RoleEntry, RoleTable

__all__ = ["app"]

app = typer.Typer(help="Heads: what each of them does.", no_args_is_help=True)

_ROLES = typer.Option(
    None, "--roles", help="Roles, separated by commas; otherwise all but those that take minutes. See `circuitlab methods list`."
)
_TEXT = typer.Option(None, "--text", help="Passages of your own for roles on natural text: JSON lines, or text with empty lines between.")
_HEAD = typer.Argument(..., help="A head, such as a20.h0.")
_OWN = typer.Option(None, "--text", help="Passages of your own: JSON lines, or text with empty lines between.")
_LENGTH = typer.Option(64, "--length", min=3, help="Tokens of each passage that are read.")
_SHOWN = typer.Option(5, "-k", "--top", min=1, help="Positions shown of the largest and of those it wins; --json gives all that are kept.")
_FORMAT = typer.Argument(..., help="duo-attention or headvis (a folder), razor-attention (JSON) or csv.")
_TARGET = typer.Option(..., "-o", "--out", help="File or folder to write.")
_EXPORTED = typer.Option(None, "--roles", help="Roles, separated by commas; otherwise those that the format needs.")
_RUNS = typer.Option([], "--run", help="Stored scores of heads, by run id, for csv and headvis; repeatable.")
_FULL = typer.Option(0.5, "--full", help="duo-attention: share of key/value heads with full attention.")
_TOP = typer.Option(5, "-k", "--top", min=1, help="Heads shown for each role; --json gives all.")
_TASK = typer.Option([], "--task", help="Task, see `circuitlab tasks list`; repeatable.")
_METHODS = typer.Option([], "--method", help="Method that scores the tasks; repeatable (default: activation_patching, logit_attribution).")
_CARD_HEADS = typer.Argument(..., help="A head, such as a20.h0, or several, separated by commas.")
_CARD_ROLES = typer.Option("cheap", "--roles", help="Roles, separated by commas; or cheap, or all.")
_TOKEN = typer.Option([], "--token", help="Token to read through the head's weights, with its leading space; repeatable.")
_PROMPT = typer.Option(None, "--prompt", help="Text to continue with and without the head (default: each task's first prompt).")
_CODES = typer.Option(False, "--codes", help="Learn discrete codes of the tasks' prompts and compare heads by them, too: takes long.")
_OUT = typer.Option(None, "-o", "--out", help="Also write the card, or all cards, to this file, an HTML page that needs no network.")


@app.callback()
def _heads() -> None:
    """Heads: what each of them does."""


@app.command("roles")
def roles(
    model: str = options.MODEL,
    device: str = options.DEVICE,
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

    table = measure(load_model(model, device=device), asked, store=cache)
    if as_json:
        print_json(table.to_dict())
        return
    _print_roles(table, top)


@app.command("card")
def card(
    head: str = _CARD_HEADS,
    task: list[str] = _TASK,
    model: str = options.MODEL,
    device: str = options.DEVICE,
    method: list[str] = _METHODS,
    role_list: str = _CARD_ROLES,
    pairs: int = options.PAIRS,
    token: list[str] = _TOKEN,
    prompt: str = _PROMPT,
    codes: bool = _CODES,
    out: Path = _OUT,
    store: Path = options.STORE,
    as_json: bool = options.JSON,
) -> None:
    """Show what a head is: what it does, its roles, what it looks at and writes, and what is different without it."""
    from circuitlab.core.files import require_writable  # noqa: PLC0415
    from circuitlab.methods import get_method  # noqa: PLC0415
    from circuitlab.store import Cache  # noqa: PLC0415
    from circuitlab.tasks import sample_pairs  # noqa: PLC0415
    from circuitlab.workflows.head_card import METHODS, head_card, roles_asked  # noqa: PLC0415
    from circuitlab.workflows.roles import built_roles  # noqa: PLC0415

    # What cannot be used is found before the model is loaded.
    heads = _parsed(head)
    for name in task:
        next(sample_pairs(name))
    methods = [get_method(name) for name in method or METHODS]
    names = [name.strip() for name in role_list.split(",") if name.strip()]
    asked = built_roles(roles_asked(role_list if role_list in {"cheap", "all"} else names))
    cache = Cache(store)
    require_writable(cache.root)
    from circuitlab.model import load_model  # noqa: PLC0415
    from circuitlab.model.inside import head_in  # noqa: PLC0415

    loaded = load_model(model, device=device)
    for one in heads:
        head_in(loaded.spec, one)
    card_of = partial(head_card, loaded, tasks=task, methods=methods, roles=asked, n=pairs, tokens=token, prompt=prompt, codes=codes)
    _print_cards([card_of(one, store=cache) for one in heads], out, as_json=as_json)


def _print_cards(cards: list[HeadCard], out: Path | None, *, as_json: bool) -> None:
    from circuitlab.scores.card_page import save_cards  # noqa: PLC0415

    if out is not None:
        save_cards(cards, out)
    if as_json:
        print_json(cards[0].to_dict() if len(cards) == 1 else [one.to_dict() for one in cards])
        return
    print_text("\n\n".join(map(str, cards)))
    if out is not None:
        print_text(f"The {'card is' if len(cards) == 1 else 'cards are'} in {out}.")


def _parsed(heads: str) -> list[Head]:
    """Heads that are separated by commas, each once."""
    from circuitlab.core.errors import BadParameterError  # noqa: PLC0415
    from circuitlab.core.nodes import Head, parse_node  # noqa: PLC0415

    nodes = list(dict.fromkeys(parse_node(name.strip()) for name in heads.split(",") if name.strip()))
    if other := [str(node) for node in nodes if not isinstance(node, Head)] or [heads] * (not nodes):
        raise BadParameterError(f"{', '.join(other)} is not an attention head.", "Name a head, for example a9.h6, or several: a9.h6,a9.h9.")
    return [node for node in nodes if isinstance(node, Head)]


@app.command("text")
def text(
    head: str = _HEAD,
    model: str = options.MODEL,
    device: str = options.DEVICE,
    own: Path = _OWN,
    length: int = _LENGTH,
    top: int = _SHOWN,
    store: Path = options.STORE,
    as_json: bool = options.JSON,
) -> None:
    """Show a head on natural text: where it writes most and least, what it looks at, and its direct effect on the next token."""
    from circuitlab.core.files import require_writable  # noqa: PLC0415
    from circuitlab.core.nodes import parse_node  # noqa: PLC0415
    from circuitlab.store import Cache  # noqa: PLC0415
    from circuitlab.texts import read_texts  # noqa: PLC0415

    node, cache = parse_node(head), Cache(store)  # names and texts that cannot be used are found before the model is loaded
    passages = None if own is None else read_texts(own)
    require_writable(cache.root)
    from circuitlab.model import load_model  # noqa: PLC0415 - torch
    from circuitlab.workflows.head_on_text import head_on_text  # noqa: PLC0415

    measured = head_on_text(load_model(model, device=device), str(node), passages, length=length, store=cache)
    if as_json:
        print_json(measured.to_dict())
    else:
        _print_text(measured, top)


@app.command("export")
def export(
    form: str = _FORMAT,
    out: Path = _TARGET,
    model: str = options.MODEL,
    device: str = options.DEVICE,
    role_list: str = _EXPORTED,
    runs: list[str] = _RUNS,
    own: Path = _OWN,
    full: float = _FULL,
    store: Path = options.STORE,
) -> None:
    """Write heads for other software, read the files back, and say where they are."""
    from circuitlab.core.files import require_writable  # noqa: PLC0415
    from circuitlab.store import Cache  # noqa: PLC0415
    from circuitlab.workflows.export import Export  # noqa: PLC0415

    roles = None if role_list is None else [name.strip() for name in role_list.split(",") if name.strip()]
    cache = Cache(store)
    asked = Export(form, out, roles=roles, texts=own, full=full, scores={run: cache.read(run) for run in runs})
    require_writable(cache.root)
    from circuitlab.model import load_model  # noqa: PLC0415 - torch

    asked.write(load_model(model, device=device), cache)
    print_text(str(out))


def _print_text(measured: HeadOnText, top: int) -> None:
    print_text(f"{measured}\n")
    print_text(
        "Activation: norm of what the head adds to the stream. Effect: direct, on the logit of the next token, against the head's mean.\n"
    )
    rows = [_spot(f"top {rank}", spot) for rank, spot in enumerate(measured.top[:top], start=1)]
    rows += [_spot(f"decile {one.number}", spot) for one in reversed(measured.deciles) for spot in one.spots]
    rows += [_spot(f"win {rank}", spot) for rank, spot in enumerate(measured.winning[:top], start=1)]
    print_table(["where", "activation", "effect", "text", "next", "looks at"], rows)
    share = measured.wins / measured.n_positions
    print_text(f"\nLargest direct effect of {measured.n_heads} heads at {measured.wins} of {measured.n_positions} positions ({share:.1%})")


def _spot(where: str, spot: TextSpot) -> list[str]:
    looks = ", ".join(f"{word!r} {weight:.2f}" for _, word, weight in spot.attended[:3])
    before = repr("".join(spot.before[-6:]))
    return [where, f"{spot.activation:.2f}", f"{spot.effect:+.2f}", f"{before} {spot.token!r}", repr(spot.following), looks]


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
