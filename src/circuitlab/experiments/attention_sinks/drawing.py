"""The figures of the experiment on attention sinks, from its plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from circuitlab.experiments.types import Picture
from circuitlab.figures import Series, Wording, category_bars, line_series, value_map

__all__ = ["drawings"]

_GROUPS = {"up": "up-effective heads", "down": "down-effective heads"}


def drawings(results: Mapping[str, Any], subtitle: str) -> list[Picture]:
    """Maps of sinks and slopes, log-probability over the factor, and changes beside random heads."""
    sinks, act, zero = results["sinks"], results["act"], results["first_token"]
    where = value_map(sinks["map"], Wording("Which heads have a sink beyond the first?", subtitle, units="share of reviews with one"))
    slopes = value_map(
        zero["map"],
        Wording("Which heads gain from more attention to the first token?", subtitle, units="nats per unit of the factor"),
        outlined=[*zero["groups"]["up"], *zero["groups"]["down"]],
    )
    lines = {name: Series.of(zero["factors"], [one["likely"] for one in zero["held"][key]]) for key, name in _GROUPS.items()}
    words = Wording(
        "What does more or less attention to the first token change?",
        subtitle,
        x="factor of the attention to the first token (1: unedited)",
        y="log-probability of the right label: change, nats",
    )
    chosen = {"ACT": act, **{name: zero["chosen"][key] for key, name in {**_GROUPS, "both": "both groups"}.items()}}
    figures = [
        Picture("sinks", where, "Tokens with 16 queries or more that receive more than a tenth of their attention, without the first."),
        Picture(
            "slopes", slopes, "Slopes on the reviews that choose. Outlined: both groups of heads, blue up-effective, orange down-effective."
        ),
        Picture("factors", line_series(lines, words), "On reviews that chose nothing. Bands: 95 % over reviews."),
    ]
    for measure, heading, axis in (
        ("right", "Does it make more answers right?", "change of accuracy"),
        ("likely", "Does it make the right label likelier?", "change of log-probability, nats"),
    ):
        bars = {
            "chosen heads": {name: one["change"][measure] for name, one in chosen.items()},
            "random heads (range)": {name: _range([run[measure] for run in one["random"]]) for name, one in chosen.items()},
        }
        figure = category_bars(bars, Wording(heading, subtitle, y=axis), controls=["random heads (range)"])
        caption = "On reviews that chose nothing. Chosen heads with 95 % intervals; random sets of the same layers with their range."
        figures.append(Picture(f"change-{measure}", figure, caption))
    return figures


def _range(values: list[float]) -> dict[str, float | None]:
    if not values:
        return {"mean": None, "low": None, "high": None}
    return {"mean": sum(values) / len(values), "low": min(values), "high": max(values)}
