"""``circuitlab generate``."""

from __future__ import annotations

import sys
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import typer

from circuitlab.cli import options
from circuitlab.cli.output import print_json, print_table, print_text
from circuitlab.core.plain_text import for_terminal

if TYPE_CHECKING:
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.generate import Decoding, Generation
    from circuitlab.model.interventions.notation import EditWords
    from circuitlab.model.protocol import Model
    from circuitlab.tasks.spec import Task

__all__ = ["generate"]

_PAIRS = 32

_PROMPT = typer.Argument(help='Text to continue; "-" reads standard input.')
_MOST = typer.Option(40, "--max-new-tokens", help="Generate at most this many tokens.")
_TEMPERATURE = typer.Option(0.0, "--temperature", help="0: always the most probable token; above 0: sample.")
_SEED = typer.Option(0, "--seed", help="Seed of sampling.")
_STOP = typer.Option([], "--stop", help="Stop at this text, and leave it out; repeatable. EOS tokens always stop.")
_SCALE = typer.Option([], "--scale", help="NODE=FACTOR: multiply the output of a node (a20.h0=0); repeatable, or separated by commas.")
_KNOCKOUT = typer.Option(
    [], "--knockout", help="NODE[:zero|mean]: replace the output of a node by zero or a mean; repeatable, or separated by commas."
)
_MEAN_OVER = typer.Option(
    None,
    "--mean-over",
    help=f"Task whose first {_PAIRS} corrupt prompts means are taken over (default: the positions of the prompt itself).",
)
_EXPECT = typer.Option(None, "--expect", help="Expected text: reports whether the generated text equals or contains it.")
_COMPARE = typer.Option(False, "--compare", help="Also generate without the edits.")


def generate(
    prompt: str = _PROMPT,
    model: str = options.MODEL,
    device: str = options.DEVICE,
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
    """Continue a prompt, optionally with nodes scaled or knocked out."""
    from circuitlab.model import load_model  # noqa: PLC0415
    from circuitlab.model.generate import Decoding  # noqa: PLC0415
    from circuitlab.model.interventions.notation import EditWords  # noqa: PLC0415
    from circuitlab.tasks import load_task  # noqa: PLC0415

    decoding, edits = Decoding(max_new_tokens, temperature, seed, stop), EditWords.read(scale, knockout)
    _check(edits, mean_over, expect, compare=compare)
    task = load_task(mean_over) if mean_over else None
    text = _read(prompt)
    loaded = load_model(model, device=device)
    edited = edits.applied(loaded, _over(loaded, task, text)) if edits.nodes else loaded
    generations = {"edited": _generated(edited, text, decoding)}
    if compare:
        generations = {"unedited": _generated(loaded, text, decoding), **generations}
    described = {name: _described(generation, expect) for name, generation in generations.items()}
    if as_json:
        head = {"model": model, "prompt": text, "edits": edits.listed(), "mean_over": (mean_over or "prompt") if edits.with_mean else None}
        print_json(head | described["edited"] | ({"unedited": described["unedited"]} if compare else {}))
    elif compare:
        _print_both(described)
    else:
        print_text(for_terminal(generations["edited"].text or ""))
        if expect is not None:
            print_text(f"\nexact match: {_yes(described['edited']['exact_match'])}, contains: {_yes(described['edited']['contains'])}")


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
    """What means are taken over: prompts of a task, or the token ids of the text."""
    from circuitlab.model.prepare import prepare_batch  # noqa: PLC0415
    from circuitlab.model.prompts import read_prompts  # noqa: PLC0415

    if task is not None:
        return prepare_batch(loaded, task, _PAIRS)
    return read_prompts(text, loaded.tokenizer, loaded.spec).ids[0]


def _generated(model: Model, text: str, decoding: Decoding) -> Generation:
    generations = model.generate(text, decoding.max_new_tokens, decoding.temperature, decoding.seed, decoding.stop)
    return generations[0] if isinstance(generations, tuple) else generations


def _described(generation: Generation, expect: str | None) -> dict[str, Any]:
    from circuitlab.metrics import contains, exact_match  # noqa: PLC0415

    document: dict[str, Any] = {
        "text": generation.text,
        "ids": generation.ids,
        "logprobs": generation.logprobs,
        "stopped": generation.stopped,
    }
    if expect is not None:
        texts = [generation.text or ""]
        document |= {"expected": expect, "exact_match": exact_match(texts, [expect])[0], "contains": contains(texts, [expect])[0]}
    return document


def _print_both(described: dict[str, dict[str, Any]]) -> None:
    has_expected = "exact_match" in described["edited"]
    rows = []
    for name, document in described.items():
        verdict = [_yes(document["exact_match"]), _yes(document["contains"])] if has_expected else []
        mean = sum(document["logprobs"]) / len(document["logprobs"])
        shown = repr(for_terminal(document["text"] or ""))
        rows.append([name, str(len(document["ids"])), document["stopped"], f"{mean:.2f}", *verdict, shown])
    print_table(["", "tokens", "stopped", "log p/token", *(["exact match", "contains"] if has_expected else []), "text"], rows)
    before, after = (described[name]["ids"] for name in ("unedited", "edited"))
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
    print_text("\nThe same tokens." if before == after else f"\nThe first {same} tokens are the same.")


def _yes(value: bool) -> str:
    return "yes" if value else "no"
