"""Relevance: a map of the heads' relevance to a target, and a prompt with its phrases highlighted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from circuitlab.core.errors import BadParameterError
from circuitlab.figures.frame import Frame, finish, plain, rounded, symmetric_limit
from circuitlab.figures.heatmap import colour_axis
from circuitlab.figures.theme import Theme

__all__ = ["phrase_highlights", "relevance_heatmap"]

_HELPS, _HINDERS = "49,130,189", "217,105,30"
_STRONGEST = 0.75
"""Opacity of the strongest phrase, at which its text is readable on light and on dark pages."""

_CHARACTER, _LINE, _FONT = 8.4, 30, 14
"""Width of a character and height of a line of the monospaced text in pixels, and its font size."""

_FEWEST, _MOST = 24, 90
"""Smallest and largest number of characters in a line."""


def relevance_heatmap(
    values: np.ndarray,
    target: str,
    *,
    title: str = "",
    subtitle: str = "",
    theme: Theme = "light",
) -> go.Figure:
    """Relevance of every head to one target: layers down, heads across.

    Parameters
    ----------
    values : ndarray, shape (layer, head)
        Unsigned relevance, for example a mean over pairs; NaN for heads that do not come before the target.
    target : str
        Name of the target, for example ``"a9.h6<q>"``.
    title, subtitle : str
        Heading, and a line that says where the numbers come from.
    theme : {"light", "dark"}
        Colour theme.

    Raises
    ------
    BadParameterError
        If the values are not of shape (layer, head), or one is negative or infinite.

    Examples
    --------
    >>> figure = relevance_heatmap(np.array([[0.1, 0.7], [np.nan, np.nan]]), "a1.h0<q>")
    >>> figure.layout.meta["title"]
    'Relevance of heads to a1.h0<q>'
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 2 or not values.size:  # noqa: PLR2004 - layer and head
        what = f"Values of shape {values.shape} are not a map of heads."
        raise BadParameterError(what, "Give one value per layer and head.")
    if np.isinf(values).any() or (values < 0).any():
        raise BadParameterError("Relevance to a target cannot be negative or infinite.", "Use head_heatmap for signed scores.")
    n_layers, n_heads = values.shape
    texts = [
        [f"<b>a{layer}.h{head}</b><br>relevance to {plain(target)}: {values[layer, head]:.4g}" for head in range(n_heads)]
        for layer in range(n_layers)
    ]
    figure = go.Figure(go.Heatmap(z=rounded(values), hovertext=texts, hoverinfo="text", coloraxis="coloraxis", xgap=1, ygap=1))
    largest = float(np.nanmax(values, initial=0.0)) or 1.0
    bar = {"title": {"text": "relevance", "side": "top", "font": {"size": 12}}, "len": 0.9, "x": 1.02, "xpad": 4}
    figure.update_layout(coloraxis={"cmin": 0, "cmax": rounded(largest), "autocolorscale": True, "colorbar": bar})
    figure.update_xaxes(title_text="head", tickvals=_every(n_heads, 16), showgrid=False, zeroline=False)
    figure.update_yaxes(title_text="layer", tickvals=_every(n_layers, 32), range=[n_layers - 0.5, -0.5], showgrid=False, zeroline=False)
    frame = Frame(
        title or f"Relevance of heads to {target}",
        subtitle,
        width=max(260, int(n_heads * np.clip(640 / n_heads, 12, 36))),
        height=max(150, int(n_layers * np.clip(620 / n_layers, 12, 24))),
        margin_right=96,
    )
    return finish(figure, frame, theme)


def _every(n: int, most: int) -> list[int]:
    return list(range(0, n, max(1, -(-n // most))))


def phrase_highlights(
    texts: Sequence[str],
    values: Sequence[float],
    *,
    units: str = "logits",
    title: str = "What each phrase adds to the answer",
    subtitle: str = "",
    theme: Theme = "light",
) -> go.Figure:
    """A prompt with highlighted phrases: blue phrases support the answer, orange ones oppose it, and stronger colours mean more.

    Parameters
    ----------
    texts : sequence of str
        Phrases in the order of the prompt, with their spaces, as plain text.
    values : sequence of float
        Signed relevance of each phrase.
    units : str
        Units of the values.
    title, subtitle : str
        Heading.
    theme : {"light", "dark"}
        Colour theme.

    Returns
    -------
    Figure
        The text of the prompt; the value of a phrase appears on hover. A phrase that is longer than a line is broken.

    Raises
    ------
    BadParameterError
        If there are no phrases, the numbers of phrases and values differ, or a value is not finite.

    Examples
    --------
    >>> figure = phrase_highlights(["not", " a", " good", " film"], [-1.2, 0.0, 0.9, 0.1])
    >>> sum(note.name == "phrase" for note in figure.layout.annotations)
    4
    """
    numbers = np.asarray(values, dtype=float)
    if not len(texts) or numbers.shape != (len(texts),) or not np.isfinite(numbers).all():
        what = f"{len(texts)} phrases and values of shape {numbers.shape} cannot be drawn."
        raise BadParameterError(what, "Give one finite value per phrase, and at least one.")
    pieces = _laid_out(texts, int(np.clip(sum(map(len, texts)), _FEWEST, _MOST)))
    limit = symmetric_limit([numbers])
    width = max(_FEWEST, *(column + len(text) for _, text, column, _ in pieces))
    lines = max(line for *_, line in pieces) + 1
    figure = go.Figure(go.Scatter(x=[None], y=[None], mode="markers", marker={"color": [0.0], "coloraxis": "coloraxis"}, showlegend=False))
    for index, text, column, line in pieces:
        figure.add_annotation(_box(text, float(numbers[index]), limit, units, (column, line)))
    figure.update_xaxes(visible=False, range=[0, width], fixedrange=True)
    figure.update_yaxes(visible=False, range=[lines - 0.5, -0.5], fixedrange=True)
    figure.update_layout(coloraxis=colour_axis(limit, units, "relevance"))
    frame = Frame(
        title,
        subtitle,
        width=int(width * _CHARACTER) + 8,
        height=max(lines * _LINE, 110),
        shrinks=1.0,
        margin_left=24,
        margin_right=104,
        margin_bottom=24,
    )
    return finish(figure, frame, theme)


def _laid_out(texts: Sequence[str], width: int) -> list[tuple[int, str, int, int]]:
    """Pieces as (phrase, text, column, line); a phrase that does not fit starts a new line, and one longer than a line is cut."""
    pieces, column, line = [], 0, 0
    for index, text in enumerate(texts):
        rest = text.replace("\n", "\u21b5").replace("\t", " ") or "\u2205"
        if column and column + len(rest) > width:
            column, line = 0, line + 1
        while rest:
            part, rest = rest[:width], rest[width:]
            pieces.append((index, part, column, line))
            column += len(part)
            if rest:
                column, line = 0, line + 1
    return pieces


def _box(text: str, value: float, limit: float, units: str, at: tuple[int, int]) -> dict[str, Any]:
    strength = round(_STRONGEST * min(abs(value) / limit, 1.0), 3)
    return {
        "x": at[0],
        "y": at[1],
        "xanchor": "left",
        "yanchor": "middle",
        "showarrow": False,
        "align": "left",
        "text": plain(text).replace(" ", "\u00a0"),
        "font": {"family": "ui-monospace, Menlo, Consolas, monospace", "size": _FONT},
        "bgcolor": f"rgba({_HELPS if value >= 0 else _HINDERS},{strength})",
        "borderpad": 2,
        "hovertext": f"<b>{plain(text.strip() or text)}</b><br>{value:+.4g} {plain(units)}",
        "name": "phrase",
    }
