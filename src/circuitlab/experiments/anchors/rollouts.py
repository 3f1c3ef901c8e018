"""Force other tokens where later tokens look back most, and least, and see how much of the answer stays."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitlab.core.progress import step
from circuitlab.experiments.anchors.tracks import Answer, tracks
from circuitlab.scores.intervals import mean_interval

if TYPE_CHECKING:
    from circuitlab.core.nodes import Head
    from circuitlab.model.protocol import Model

__all__ = ["content_words", "overlap", "perturbed"]

_WORD = re.compile(r"[a-z]{4,}")
_COMMON_WORDS = """
about after also because been before being could does down each even every from have here into just like made make many more most
much must only other over same should some such than that their them then there these they this those through very were what when
where which while will with would your
"""
_COMMON = frozenset(_COMMON_WORDS.split())
Words = Callable[[Sequence[int], Sequence[int]], frozenset[str]]
"""From the tokens of a text so far, and those that follow, to the content words of the latter."""


def content_words(text: str) -> frozenset[str]:
    """Words of four letters or more that are not among the most common ones, in lower case.

    Examples
    --------
    >>> sorted(content_words("There were Ferries, and the ferries had been late."))
    ['ferries', 'late']
    """
    return frozenset(_WORD.findall(text.lower())) - _COMMON


def overlap(first: frozenset[str], second: frozenset[str]) -> float:
    """Jaccard overlap; NaN for two empty sets."""
    return len(first & second) / len(first | second) if first | second else float("nan")


def perturbed(
    model: Model, answers: Sequence[Answer], heads: tuple[Sequence[Head], Sequence[Head]], sizes: tuple[int, int, int], words: Words
) -> dict[str, Any]:
    """Overlap of greedy roll-outs with the answer, where its tokens have the largest FAI and where they have the smallest.

    Parameters
    ----------
    model : Model
    answers : sequence of Answer
    heads : (heads, heads)
        Local heads, and those whose FAI is taken.
    sizes : (int, int, int)
        Positions of each kind in each answer, likeliest tokens that are forced there one by one, and tokens of a roll-out.
    words : callable
        Content words of a continuation.

    Returns
    -------
    dict
        ``top``, ``bottom``: mean overlap; ``difference``: bottom minus top, by answer; ``lower``: share of answers with less overlap at the
        top. With intervals over answers.
    """
    count, candidates, horizon = sizes
    means = []
    for number, answer in enumerate(answers):
        track = tracks(model, answer, heads[0], (heads[1],)).fai[0]
        usable = [i for i in range(len(track)) if np.isfinite(track[i]) and answer.start + i + horizon < len(answer.row)]
        order = sorted(usable, key=lambda i, track=track: float(track[i]))  # type: ignore[misc]
        if len(order) >= 2 * count:
            kinds = (order[-count:], order[:count])
            means.append([_kept(model, answer, [answer.start + i for i in kind], (candidates, horizon), words) for kind in kinds])
        step(number + 1, len(answers))
    table = np.array(means).reshape(-1, 2)
    table = table[np.isfinite(table).all(1)]
    if len(table) < 2:  # noqa: PLR2004
        missing = {"mean": None, "low": None, "high": None}
        return {"top": missing, "bottom": missing, "difference": missing, "lower": None, "answers": len(table)}
    columns = {"top": table[:, 0], "bottom": table[:, 1], "difference": table[:, 1] - table[:, 0]}
    limits = {"top": (0, 1), "bottom": (0, 1), "difference": (-1, 1)}
    lower = float((table[:, 0] < table[:, 1]).mean())
    return {
        **{name: mean_interval(column, within=limits[name]).as_dict() for name, column in columns.items()},
        "lower": lower,
        "answers": len(table),
    }


def _kept(model: Model, answer: Answer, positions: Sequence[int], sizes: tuple[int, int], words: Words) -> float:
    """Mean overlap over positions and forced tokens."""
    candidates, horizon = sizes
    values = []
    for at in positions:
        tokens = torch.tensor([answer.row[:at]])
        likeliest = model.logits(tokens, torch.tensor([at - 1]))[0].topk(candidates).indices.tolist()
        forced = [(*answer.row[:at], token) for token in likeliest]
        runs = model.generate([list(row) for row in forced], horizon)
        stays = words(answer.row[: at + 1], answer.row[at + 1 : at + 1 + horizon])
        runs = runs if isinstance(runs, tuple) else (runs,)
        values += [overlap(words(row, run.ids), stays) for row, run in zip(forced, runs, strict=True)]
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")
