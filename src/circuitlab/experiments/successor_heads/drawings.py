"""Figures of successor heads, from plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from circuitlab.experiments.types import Picture
from circuitlab.figures import Wording, category_bars, value_grid, value_map

__all__ = ["drawings"]

_RESIDUES = 10


def drawings(results: Mapping[str, Any], subtitle: str) -> list[Picture]:
    """Score map, scores by list, effective-OV matrix, arithmetic of one list and of all, and effects in text."""
    scores = results["scores"]
    head = scores["head"]
    shown = value_map(scores["map"], Wording("Which heads write the next item?", subtitle, units="share of pairs"), outlined=[head])
    drawn = [
        Picture("heads", shown, f"Successor score of every head, over the pairs of all lists together; {head}, the best, is outlined.")
    ]
    drawn.append(_by_list(scores, subtitle))
    if results["bias"]["lists"]:
        bias = results["bias"]
        words = Wording(
            f"What does {head} write for each item?",
            subtitle,
            x="logit of",
            y="the head attends to",
            units="logits, in units of their spread",
        )
        grid = value_grid(bias["matrix"], (bias["words"], bias["words"]), words)
        caption = (
            f"Effective OV of {head} on {bias['shown'].replace('_', ' ')}, less the mean of each row and column. A successor head is "
            "blue just right of the diagonal; with a greater-than bias it is blue above it."
        )
        drawn.append(Picture("matrix", grid, caption))
    drawn += _arithmetic(results["features"]["arithmetic"], head, subtitle)
    if results["text"]:
        drawn.append(_text(results["text"], head, subtitle))
    return drawn


def _by_list(scores: Mapping[str, Any], subtitle: str) -> Picture:
    names = [name for name in scores["by_task"] if name not in {"macro", "pooled"}]
    groups = {
        scores["head"]: {_named(name): _point(scores["by_task"][name]) for name in names},
        "chance": {_named(name): _point(scores["chance"][name]) for name in names},
    }
    words = Wording(f"On which lists is {scores['head']} a successor head?", subtitle, y="share of pairs")
    figure = category_bars(groups, words, controls=["chance"])
    return Picture("lists", figure, "Successor score by list, in all spellings; grey: picking any next item of the list.")


def _arithmetic(lists: Mapping[str, Any], head: str, subtitle: str) -> list[Picture]:
    if not lists:
        return []
    groups = {
        "moved along the probe's rows": {_named(name): one["right"] for name, one in lists.items()},
        "probe of dealt-out residues": {_named(name): _point(one["permuted"]) for name, one in lists.items()},
    }
    words = Wording("Does moving the index modulo 10 move the next item?", subtitle, y="share of moves that succeed")
    bars = category_bars(groups, words, controls=["probe of dealt-out residues"])
    drawn = [Picture("arithmetic", bars, f"Share of moves after which {head} writes what follows the new index. Bars: 95 % over items.")]
    name = "months" if "months" in lists else max(lists, key=lambda each: len(lists[each]["words"]))
    one = lists[name]
    title = Wording(
        f"Moved {_named(name)}: 1 where the head follows", subtitle, x="index modulo 10 that it is moved to", y="item", units="success"
    )
    grid = value_grid(one["grid"], (one["words"], [str(residue) for residue in range(_RESIDUES)]), title)
    caption = "One row for each item: 1 where the head writes the item after the one it was moved to; blank where there is no such item."
    return [*drawn, Picture("moves", grid, caption)]


def _text(text: Mapping[str, Any], head: str, subtitle: str) -> Picture:
    labels = {
        "passages": "natural text that goes on with a list",
        "digits": "numbered lists, digits",
        "number words": "numbered lists, words",
    }
    groups: dict[str, dict[str, Mapping[str, float | None]]] = {head: {}, "best of the random heads": {}, f"{head}, other positions": {}}
    for name, about in text.items():
        groups[head][labels[name]] = about["wins"]
        groups["best of the random heads"][labels[name]] = _point(max(about["random_wins"]))
        groups[f"{head}, other positions"][labels[name]] = _point(about["elsewhere"])
    words = Wording("How often has the head the largest direct effect of all?", subtitle, y="share of positions")
    figure = category_bars(groups, words, controls=["best of the random heads"])
    caption = "Share of positions at which no head of the model helps the true next token more. Bars: 95 % (Wilson)."
    return Picture("text", figure, caption)


def _named(name: str) -> str:
    return name.replace("_", " ")


def _point(value: float) -> dict[str, float | None]:
    return {"mean": value, "low": None, "high": None}
