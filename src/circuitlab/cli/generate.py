"""``circuitlab generate``."""

from __future__ import annotations

import sys
import unicodedata
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import typer

from circuitlab.cli import options
from circuitlab.cli.output import print_json, print_table, print_text

if TYPE_CHECKING:
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.generate import Decoding, Generation
    from circuitlab.model.interventions.words import EditWords
    from circuitlab.model.protocol import Model
    from circuitlab.tasks.spec import Task

__all__ = ["generate"]

_PAIRS = 32

_PROMPT = typer.Argument(help='Text to go on from; "-" reads standard input.')
_MOST = typer.Option(40, "--max-new-tokens", help="Write at most this many tokens.")
_TEMPERATURE = typer.Option(0.0, "--temperature", help="0 takes the likeliest token each time; above it tokens are drawn.")
_SEED = typer.Option(0, "--seed", help="Seed of sampling.")
_STOP = typer.Option([], "--stop", help="Stop once this text has been written; repeatable. EOS tokens always stop.")
_SCALE = typer.Option([], "--scale", help="NODE=FACTOR: multiply what a node gives out (a20.h0=0); repeatable, or between commas.")
_KNOCKOUT = typer.Option([], "--knockout", help="NODE[:zero|mean]: put zero or a mean in its place; repeatable, or between commas.")
_MEAN_OVER = typer.Option(
    None,
    "--mean-over",
    help=f"Task whose first {_PAIRS} corrupt prompts a mean is taken over; the positions of the prompt itself otherwise.",
)
_EXPECT = typer.Option(None, "--expect", help="Text that should be written: reports exact match and whether it is contained.")
_COMPARE = typer.Option(False, "--compare", help="Show what the model writes without the edits as well.")


def generate(
    prompt: str = _PROMPT,
    model: str = options.MODEL,
    max_new_tokens: int = _MOST,
    temperature: float = _TEMPERATURE,
    seed: int = _SEED,
    stop: list[str] = _STOP,
    scale: list[str] = _SCALE,
    knockout: list[str] = _KNOCKOUT,
    mean_over: str = _MEAN_OVER,
    expect: str = _EXPECT,
    compare: bool = _COMPARE,
    as_json: bool = options.JSON,
) -> None:
    """Let a model go on from a prompt, with heads scaled or knocked out."""
    from circuitlab.model import load_model  # noqa: PLC0415
    from circuitlab.model.generate import Decoding  # noqa: PLC0415
    from circuitlab.model.interventions.words import EditWords  # noqa: PLC0415
    from circuitlab.tasks import load_task  # noqa: PLC0415

    how, edits = Decoding(max_new_tokens, temperature, seed, stop), EditWords.read(scale, knockout)
    _check(edits, mean_over, expect, compare=compare)
    task = load_task(mean_over) if mean_over else None
    text = _read(prompt)
    loaded = load_model(model)
    edited = edits.applied(loaded, _over(loaded, task, text)) if edits.nodes else loaded
    written = {"edited": _one(edited, text, how)}
    if compare:
        written = {"unedited": _one(loaded, text, how), **written}
    found = {name: _described(one, expect) for name, one in written.items()}
    if as_json:
        head = {"model": model, "prompt": text, "edits": edits.listed(), "mean_over": (mean_over or "prompt") if edits.with_mean else None}
        print_json(head | found["edited"] | ({"unedited": found["unedited"]} if compare else {}))
    elif compare:
        _print_both(found)
    else:
        print_text(_shown(written["edited"].text or ""))
        if expect is not None:
            print_text(f"\nexact match: {_yes(found['edited']['exact_match'])}, contains: {_yes(found['edited']['contains'])}")


def _check(edits: EditWords, mean_over: str | None, expect: str | None, *, compare: bool) -> None:
    from circuitlab.core.errors import BadParameterError  # noqa: PLC0415

    if compare and not edits.nodes:
        raise BadParameterError("--compare has no edits to compare with.", "Add --scale or --knockout.")
    if mean_over and not edits.with_mean:
        raise BadParameterError("--mean-over is for knockouts with a mean, and there is none.", "Add --knockout NODE:mean.")
    if expect is not None and not expect.strip():
        raise BadParameterError("--expect is empty, and every text contains nothing.", "Give at least one character.")


def _read(prompt: str) -> str:
    from circuitlab.core.errors import BadParameterError  # noqa: PLC0415

    text = prompt
    if prompt == "-":
        try:
            text = sys.stdin.read().removesuffix("\n")
        except UnicodeDecodeError as error:
            raise BadParameterError(f"Standard input is not UTF-8 text: {error.reason}.", "Convert it first.") from error
    if not text:
        raise BadParameterError("The prompt is empty.", "Give at least one word.")
    return text


def _over(loaded: Model, task: Task | None, text: str) -> ContrastBatch | tuple[int, ...]:
    """What means are taken over."""
    from circuitlab.model.prepare import prepare_batch  # noqa: PLC0415
    from circuitlab.model.prompts import read_prompts  # noqa: PLC0415

    if task is not None:
        return prepare_batch(loaded, task, _PAIRS)
    return read_prompts(text, loaded.tokenizer, loaded.spec).ids[0]


def _one(model: Model, text: str, how: Decoding) -> Generation:
    found = model.generate(text, how.max_new_tokens, how.temperature, how.seed, how.stop)
    return found[0] if isinstance(found, tuple) else found


def _described(one: Generation, expect: str | None) -> dict[str, Any]:
    from circuitlab.metrics import contains, exact_match  # noqa: PLC0415

    found: dict[str, Any] = {"text": one.text, "ids": one.ids, "logprobs": one.logprobs, "stopped": one.stopped}
    if expect is not None:
        texts = [one.text or ""]
        found |= {"expected": expect, "exact_match": exact_match(texts, [expect])[0], "contains": contains(texts, [expect])[0]}
    return found


def _print_both(found: dict[str, dict[str, Any]]) -> None:
    judged = "exact_match" in found["edited"]
    rows = []
    for name, one in found.items():
        verdict = [_yes(one["exact_match"]), _yes(one["contains"])] if judged else []
        mean = sum(one["logprobs"]) / len(one["logprobs"])
        rows.append([name, str(len(one["ids"])), one["stopped"], f"{mean:.2f}", *verdict, repr(_shown(one["text"] or ""))])
    print_table(["", "tokens", "stopped", "log p/token", *(["exact match", "contains"] if judged else []), "text"], rows)
    before, after = (found[name]["ids"] for name in ("unedited", "edited"))
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
    print_text("\nThe same tokens." if before == after else f"\nThe first {same} tokens are the same.")


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _shown(text: str) -> str:
    """Text without control characters that a terminal would obey."""
    return "".join(char if char in "\n\t" or unicodedata.category(char)[0] != "C" else ascii(char)[1:-1] for char in text)
