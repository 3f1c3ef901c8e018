"""What heads attend to while a model answers: greedy decoding, and the attention row behind every token that it says."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from circuitlab.methods.roles.needles import NeedleTest, Span
    from circuitlab.model.generate import Generation
    from circuitlab.model.protocol import Model

__all__ = ["Decoded", "answers", "copied", "decode", "first_line", "looked_at", "patterns_of"]

_MOST = 2**28
"""Bytes that the patterns of one pass may take; layers are captured a few at a time where all of them take more."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """A model's answer, and the attention it was read with.

    Parameters
    ----------
    tokens : ndarray of int, shape (key,)
        The prompt, and what was said after it but the last token, which nothing was read with.
    said : ndarray of int, shape (step,)
        The new tokens.
    rows : ndarray, shape (step, layer, head, key)
        Attention of the token before each new one; keys that come after it hold 0.
    """

    tokens: np.ndarray
    said: np.ndarray
    rows: np.ndarray


def decode(model: Model, test: NeedleTest, generation: Generation) -> Decoded:
    """The rows of attention behind what a model said after a prompt.

    The text is run once more as a whole: a causal model does not read later tokens, so that its rows are those of decoding. Where rotary
    angles depend on the length, each step is run by itself, as decoding does.
    """
    tokens, said = np.array([*test.tokens, *generation.ids[:-1]]), np.array(generation.ids)
    first = len(test.tokens)
    if not model.length_dependent:
        return Decoded(tokens, said, np.moveaxis(patterns_of(model, tokens)[:, :, first - 1 :], 2, 0))
    rows = np.zeros((len(said), model.spec.n_layers, model.spec.n_heads, len(tokens)))
    for step in range(len(said)):
        rows[step, :, :, : first + step] = patterns_of(model, tokens[: first + step])[:, :, -1]
    return Decoded(tokens, said, rows)


def first_line(model: Model, generation: Generation) -> Generation:
    """What a model said up to the end of its first line that holds a word; an answer may begin on a new line. All of it without text."""
    if model.tokenizer is None or generation.text is None:
        return generation
    for n in range(1, len(generation.ids) + 1):
        text = str(model.tokenizer.decode(list(generation.ids[:n]), skip_special_tokens=True))
        if "\n" in text.lstrip():
            line = text[: len(text) - len(text.lstrip())] + text.lstrip().split("\n")[0]
            return replace(generation, text=line, ids=generation.ids[:n], logprobs=generation.logprobs[:n], stopped="stop")
    return generation


def copied(decoded: Decoded, evidence: Span, span: Span) -> np.ndarray:
    """What share of the evidence every head copies, (layer, head): Wu et al.'s count, had the evidence stood in a span as long.

    At each step the head's largest weight is looked at; if it lies in the span and the evidence has there the token that was said, it
    counts one token. A token that is copied twice counts twice. With the evidence itself as the span, this is the paper's count; with
    another one it is that of a head that looks at places without regard to what stands there.

    Examples
    --------
    >>> rows = np.array([[[[0.1, 0.7, 0.2, 0.0]]], [[[0.1, 0.2, 0.3, 0.4]]]])
    >>> copied(Decoded(np.array([5, 6, 7, 6]), np.array([6, 7]), rows), (1, 3), (1, 3)).tolist()
    [[0.5]]
    """
    top = decoded.rows.argmax(-1)
    inside = (top >= span[0]) & (top < span[1])
    same = decoded.tokens[np.where(inside, top - span[0] + evidence[0], 0)] == decoded.said[:, None, None]
    return np.asarray((inside & same).sum(0) / (span[1] - span[0]))


def looked_at(decoded: Decoded, evidence: Span, span: Span) -> np.ndarray:
    """Attention to a span while tokens of the evidence are said, for each token of the evidence, (layer, head): CompressKV's count.

    Examples
    --------
    >>> rows = np.array([[[[0.1, 0.7, 0.2, 0.0]]], [[[0.1, 0.2, 0.3, 0.4]]]])
    >>> looked_at(Decoded(np.array([5, 6, 7, 6]), np.array([6, 9]), rows), (1, 3), (1, 3)).round(3).tolist()
    [[0.45]]
    """
    known = np.isin(decoded.said, decoded.tokens[slice(*evidence)])
    return np.asarray(decoded.rows[known][..., slice(*span)].sum((0, -1)) / (evidence[1] - evidence[0]))


def answers(test: NeedleTest, generation: Generation, least: float) -> bool:
    """Whether more than so large a share of the answer's words (or tokens) was said: recall of single words, with no stemming."""
    if test.answer and generation.text is not None:
        wanted, said = (Counter[str | int](re.findall(r"\w+", text.lower())) for text in (test.answer, generation.text))
    else:
        wanted, said = Counter[str | int](test.copied), Counter[str | int](generation.ids)
    return (wanted & said).total() > least * wanted.total()


def patterns_of(model: Model, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
    """Patterns of one prompt, (layer, head, query, key)."""
    import torch  # noqa: PLC0415 - listing roles must not load torch

    spec = model.spec
    size = max(1, _MOST // (8 * spec.n_heads * len(tokens) ** 2))
    row, parts = torch.tensor(np.array(tokens)[None]), []
    for start in range(0, spec.n_layers, size):
        layers = range(start, min(start + size, spec.n_layers))
        parts.append(model.capture(row, [Site.PATTERN], layers=layers)[Site.PATTERN][0].double().cpu().numpy())
    return np.concatenate(parts)
