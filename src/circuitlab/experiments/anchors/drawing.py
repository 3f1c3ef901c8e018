"""The figures of the experiment on anchors, from its plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from circuitlab.experiments.types import Picture
from circuitlab.figures import Series, Wording, category_bars, line_series, value_grid, value_map

__all__ = ["drawings"]

_COUPLINGS = {
    "entropy": "entropy at WAAD peaks (nats)",
    "receivers": "receivers' FAI peaks at far heads' peaks (share)",
    "follows": "FAI peaks after WAAD peaks (share)",
}


def drawings(results: Mapping[str, Any], subtitle: str) -> list[Picture]:
    """Distances of heads, patterns and tracks of one answer, couplings and roll-outs."""
    example, tokens = results["example"], results["tokens"]
    where = value_map(results["distance"], Wording("How far do heads look back?", subtitle, units="mean distance, tokens"))
    figures = [Picture("distance", where, "Mean attention distance over the tokens of the answers that choose heads.")]
    for name, heads, caption in (
        ("near", "local", "Mean attention of the local heads along one answer."),
        (
            "far",
            "far-looking",
            "Mean attention of the far-looking heads along one answer; tokens that are looked back to are vertical stripes.",
        ),
    ):
        words = Wording(f"Where do {heads} heads look?", subtitle, x="attended token", y="token", units="attention")
        figures.append(Picture(f"pattern-{name}", _pattern(example[name], tokens, words), caption))
    figures.append(Picture("tracks", _tracks(example, subtitle), "Signals along one answer, each divided by its largest value."))
    bars = {
        "observed": {label: results["couplings"][key]["observed"] for key, label in _COUPLINGS.items()},
        "shuffled positions": {label: results["couplings"][key]["shuffled"] for key, label in _COUPLINGS.items()},
    }
    words = Wording("Do the signals go together?", subtitle, y="nats, or share of peaks")
    figures.append(
        Picture("coupling", category_bars(bars, words, controls=["shuffled positions"]), "Means over answers, with 95 % intervals.")
    )
    rolled = results["rollouts"]
    kept = {"overlap": {"largest FAI": rolled["top"], "smallest FAI": rolled["bottom"]}}
    words = Wording("How much of the text stays when a token is replaced?", subtitle, y="overlap of content words")
    figures.append(
        Picture("rollouts", category_bars(kept, words), "Jaccard overlap with the answer, mean over answers, with 95 % intervals.")
    )
    return figures


def _pattern(rows: Sequence[Sequence[float]], tokens: Sequence[str], words: Wording) -> Any:
    shown = [[*row, *[None] * (len(rows) - len(row))] for row in rows]
    names = [token.strip() or "␣" for token in tokens[: len(rows)]]
    return value_grid(shown, (names, names), words, signed=False)


def _tracks(example: Mapping[str, Any], subtitle: str) -> Any:
    lines = {}
    for key, name in (("waad", "WAAD"), ("fai", "FAI"), ("entropy", "entropy")):
        most = max(value for value in example[key] if value is not None)
        lines[name] = Series(list(range(len(example[key]))), [None if value is None else value / most for value in example[key]])
    return line_series(lines, Wording("One answer, token by token", subtitle, x="token of the answer", y="share of the largest value"))
