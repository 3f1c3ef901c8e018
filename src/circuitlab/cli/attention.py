"""``circuitlab attention``."""

from __future__ import annotations

from pathlib import Path

import typer

from circuitlab.cli import options
from circuitlab.cli.output import print_json, print_table, print_text, save_figure

__all__ = ["attention"]

_HEAD = typer.Argument(help="For example a9.h6.")
_PROMPT = typer.Argument(
    help="Text, or a task (id, file, or table of pairs): of a task, one pair is shown, as clean, corrupt and difference."
)
_PAIR = typer.Option(0, "--pair", min=0, help="Which pair of the task, counted from 0.")


def attention(
    head: str = _HEAD,
    prompt: str = _PROMPT,
    model: str = options.MODEL,
    device: str = options.DEVICE,
    pair: int = _PAIR,
    variant: str = options.VARIANT,
    seed: int = options.SEED,
    figure: Path = options.FIGURE,
    as_json: bool = options.JSON,
) -> None:
    """Show the attention of one head, on a text or on one pair of a task."""
    from dataclasses import replace  # noqa: PLC0415

    from circuitlab.core.nodes import parse_node  # noqa: PLC0415
    from circuitlab.tasks import is_task, sample_pairs  # noqa: PLC0415

    node, of_task = parse_node(head), is_task(prompt)
    if of_task:
        next(sample_pairs(prompt, variant=variant, seed=seed))
    from circuitlab.model import load_model  # noqa: PLC0415
    from circuitlab.model.prepare import prepare_batch  # noqa: PLC0415 - torch

    loaded = load_model(model, device=device)
    if of_task:
        batch = prepare_batch(loaded, prompt, pair + 1, variant=variant, seed=seed).select([pair])
        patterns = [loaded.attention(node, prompts)[0] for prompts in (batch, replace(batch, clean=batch.corrupt))]  # type: ignore[arg-type,index]
    else:
        patterns = [loaded.attention(node, prompt)]  # type: ignore[arg-type,list-item]
    if figure is not None:
        from circuitlab.figures import attention_pattern  # noqa: PLC0415 - plotly

        save_figure(attention_pattern(*patterns), figure)
    if as_json:
        names = ("clean", "corrupt") if of_task else ("prompt",)
        shown = {
            name: {"tokens": list(pattern.tokens), "values": pattern.values.tolist()} for name, pattern in zip(names, patterns, strict=True)
        }
        print_json({"head": str(node), "model": loaded.spec.name} | shown)
        return
    for pattern in patterns:
        print_text(repr(pattern))
    print_table(["from", "to", "weight"], [[query, key, f"{weight:.2f}"] for query, key, weight in patterns[0].strongest()])
