"""``circuitlab lens``."""

from __future__ import annotations

from pathlib import Path

import typer

from circuitlab.cli import options
from circuitlab.cli.output import print_json, print_table, print_text, save_figure

__all__ = ["lens"]

_PROMPT = typer.Argument(help="Text.")
_AT = typer.Option("stream", "--at", help="stream, heads or mlps: the residual stream layer by layer, or what heads or MLPs add to it.")
_TOKEN = typer.Option([], "--token", help="Also show this token's value and rank (with its leading space); repeatable.")
_POSITION = typer.Option(
    [], "--position", help="Position to read, negative from the end; repeatable. All of the stream, the last of heads and MLPs otherwise."
)
_TOP = typer.Option(5, "-k", "--top", min=1, help="How many top tokens the JSON lists.")


def lens(
    prompt: str = _PROMPT,
    model: str = options.MODEL,
    device: str = options.DEVICE,
    at: str = _AT,
    token: list[str] = _TOKEN,
    position: list[int] = _POSITION,
    top: int = _TOP,
    figure: Path = options.FIGURE,
    as_json: bool = options.JSON,
) -> None:
    """Read the residual stream, head outputs or MLP outputs as tokens (logit lens)."""
    from circuitlab.core.errors import UnknownNameError  # noqa: PLC0415
    from circuitlab.scores.logit_lens import SITES  # noqa: PLC0415

    if at not in SITES:
        raise UnknownNameError("place to read", at, SITES)
    from circuitlab.model import load_model  # noqa: PLC0415
    from circuitlab.workflows.lens import logit_lens  # noqa: PLC0415

    wanted = position or (None if at == "stream" else [-1])
    lens = logit_lens(load_model(model, device=device), prompt, at, tokens=token, positions=wanted, k=top)  # type: ignore[arg-type]
    read = lens[0] if isinstance(lens, tuple) else lens
    if figure is not None:
        from circuitlab.figures import logit_lens_heatmap  # noqa: PLC0415 - plotly

        save_figure(logit_lens_heatmap(read, read.asked[0] if read.asked else None), figure)
    if as_json:
        print_json(read.to_dict())
        return
    last = read.positions[-1]
    print_text(f"At {last} {read.tokens[last]!r} of {read.model}:")
    print_table(*read.table(last, None if at == "stream" else 20))
