"""The figures, from plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from circuitlab.experiments.multiple_choice.forms import AS_CHOSEN
from circuitlab.experiments.types import Picture
from circuitlab.figures import Series, Wording, category_bars, line_series, value_grid, value_map

__all__ = ["drawings"]


def drawings(results: Mapping[str, Any], subtitle: str) -> Sequence[Picture]:
    """Map of the heads, matrix of the first one, direct and total effects, loss by rank, and label sets."""
    letter, effects, heads = results["letter"], results["effects"], results["letter"]["heads"]
    shown = [
        Picture(
            "letter-heads",
            value_map(
                letter["map"], Wording("Which heads raise the right label?", subtitle, units="logits, mean diagonal"), outlined=heads
            ),
            "Direct contribution to the right option's label, without what a head writes whichever option is right; the chosen heads are "
            "outlined.",
        )
    ]
    matrix = results["labels"]["sets"][AS_CHOSEN]["matrices"][heads[0]]
    names = [chr(ord("A") + i) for i in range(len(matrix))]
    words = Wording(f"What does {heads[0]} write?", subtitle, x="label that is raised", y="label of the right option", units="logits")
    caption = "On questions that chose nothing; every column is centred over the right options."
    shown.append(Picture("matrix", value_grid(matrix, (names, names), words), caption))
    for kind, about in (("direct", "to the logits alone"), ("total", "through everything later")):
        wording = Wording(f"Which heads matter, {about}?", subtitle, units="logits: right label minus the other prompt's")
        outlined = [row["head"] for row in effects["indirect"][:3]] if kind == "total" else heads
        caption = f"Mean {kind} effects on the second half; outlined: " + (
            "the three strongest heads that act through later ones." if kind == "total" else "the correct-letter heads."
        )
        shown.append(Picture(kind, value_map(effects[kind], wording, outlined=outlined), caption))
    return [*shown, _ranks(results["ranks"], subtitle), _labels(results["labels"]["sets"], subtitle)]


def _ranks(about: Mapping[str, Any], subtitle: str) -> Picture:
    x = [float(row["rank"]) for row in about["ranks"]]
    lines = {
        "largest directions": Series.of([0.0, *x], [about["rank_0"], *(row["loss"] for row in about["ranks"])]),
        "random directions": Series.of([0.0, *x], [about["rank_0"], *(row["random"] for row in about["ranks"])], control=True),
    }
    words = Wording("How many dimensions do queries and keys need?", subtitle, x="dimensions kept around the mean", y="loss (nats)")
    figure = line_series(lines, words, references={"unedited": about["unedited"]["mean"]})
    return Picture("ranks", figure, "Queries and keys of the chosen heads are projected at once. Bands: 95 % over questions.")


def _labels(sets: Mapping[str, Any], subtitle: str) -> Picture:
    random = {
        name: {"mean": sum(about["random"]) / len(about["random"]), "low": min(about["random"]), "high": max(about["random"])}
        for name, about in sets.items()
    }
    groups = {"chosen heads": {name: about["chosen"] for name, about in sets.items()}, "random heads": random}
    words = Wording("Do the heads work with other labels?", subtitle, y="logits for the right label")
    caption = "Mean over the heads; bars: 95 % over questions, for random heads the range of the sets."
    return Picture("labels", category_bars(groups, words, controls=["random heads"]), caption)
