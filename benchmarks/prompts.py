"""The prompts that benchmarks run on, all of one length, drawn from the tasks."""

from __future__ import annotations

from typing import Any

import torch

from circuitlab.model.batch import ContrastBatch
from circuitlab.model.prepare import prepare_batch

__all__ = ["batch_of"]

_LONG = 105


def batch_of(model: Any, kind: str, n: int) -> ContrastBatch:
    """``s2``: indirect object identification of 14 tokens, differing at S2; ``abc``: differing from the second token; ``long``: colored
    objects with one more worked example, about 105 tokens."""
    if kind == "long":
        return _long(model, n)
    drawn = prepare_batch(model, "ioi", 12 * n, variant={"s2": "s2_io", "abc": "abc"}[kind])
    lengths = (drawn.end + 1).tolist()
    first = drawn.first_difference().tolist()
    wanted = [i for i, length in enumerate(lengths) if length == 14] if kind == "s2" else _most_common(lengths, first)
    if len(wanted) < n:
        raise SystemExit(f"Only {len(wanted)} of {len(lengths)} prompts fit {kind!r}; {n} are needed.")
    return drawn.select(wanted[:n])


def _most_common(lengths: list[int], first: list[int]) -> list[int]:
    """Prompts of the most common length among those that differ from the second token on."""
    early = [i for i, place in enumerate(first) if place == 1]
    length = max({lengths[i] for i in early}, key=[lengths[i] for i in early].count)
    return [i for i in early if lengths[i] == length]


def _long(model: Any, n: int) -> ContrastBatch:
    """Colored objects after another solved question, cut to one length from the left so that all prompts align."""
    drawn = prepare_batch(model, "colored_objects", 6 * n)
    lengths = (drawn.end + 1).tolist()
    length = max(set(lengths), key=lengths.count)
    rows = [i for i, found in enumerate(lengths) if found == length][: n + 1]
    example = torch.cat([drawn.clean[rows[-1], :length], drawn.answers[rows[-1], :1]])
    newline = torch.tensor(model.tokenizer("\n", add_special_tokens=False)["input_ids"])
    before = torch.cat([example, newline])[-(_LONG - length) :]
    joined = [[torch.cat([before, tokens[i, :length]]).tolist() for i in rows[:n]] for tokens in (drawn.clean, drawn.corrupt)]
    answers, foils = ([int(part[i, 0]) for i in rows[:n]] for part in (drawn.answers, drawn.foils))
    return ContrastBatch.from_tokens(*joined, answers, foils)
