"""Needles that choose heads and needles that measure them, and what every head copies while a model answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from circuitlab.core.progress import step
from circuitlab.execute.continuations import Continuation
from circuitlab.methods.roles.decoded import Decoded, answers, copied, decode, first_line
from circuitlab.methods.roles.needles import NEEDLES, Needle, NeedleTest, hidden_singly
from circuitlab.model.encode import need_tokenizer, tokenize

if TYPE_CHECKING:
    from circuitlab.model.generate import Generation
    from circuitlab.model.protocol import Model

__all__ = ["Halves", "answer_needles", "answered", "split_needles", "told"]

_RECALL = 0.5
"""A needle is answered if more than this share of its words is said: the paper's."""
_TOKENS = 24


@dataclass(frozen=True)
class Halves:
    """Needle tests in two parts with no needle in common.

    Parameters
    ----------
    choosing : tuple of NeedleTest
        Those whose answers choose heads.
    measuring : tuple of NeedleTest
        The others.
    said : tuple of Continuation
        For each of the others, its prompt and the needle's sentence, of which the words of the answer are scored.
    names : (tuple of str, tuple of str)
        Questions of both parts.
    """

    choosing: tuple[NeedleTest, ...]
    measuring: tuple[NeedleTest, ...]
    said: tuple[Continuation, ...]
    names: tuple[tuple[str, ...], tuple[str, ...]]


def split_needles(model: Model, length: int, depths: Sequence[float], rng: np.random.Generator) -> Halves:
    """Circuitlab's needles, one prompt each, the depths in turn; half of them chooses, in random order."""
    tests = hidden_singly(model, length, depths, int(rng.integers(2**31)))
    order = rng.permutation(len(tests)).tolist()
    first, second = sorted(order[: len(order) // 2]), sorted(order[len(order) // 2 :])
    names = tuple(tuple(NEEDLES[i].question for i in part) for part in (first, second))
    measuring = tuple(tests[i] for i in second)
    said = tuple(told(model, tests[i].tokens, NEEDLES[i]) for i in second)
    return Halves(tuple(tests[i] for i in first), measuring, said, cast("tuple[tuple[str, ...], tuple[str, ...]]", names))


def told(model: Model, prompt: Sequence[int], needle: Needle) -> Continuation:
    """The prompt, answered with the needle's sentence; the words of the answer are scored."""
    tokenizer = need_tokenizer(model.tokenizer, model.spec.name)
    space = "" if tokenizer.chat_template else " "
    text = space + needle.sentence
    (said,) = tokenize(tokenizer, [text], special=False)
    first = text.index(needle.answer)
    words = [i for i, (start, stop) in enumerate(said.spans) if start < first + len(needle.answer) and stop > first and stop > start]
    before = len(prompt)
    return Continuation((*prompt, *said.ids), before - 1, (before + words[0], before + words[-1] + 1))


def answered(model: Model, tests: Sequence[NeedleTest]) -> Iterator[tuple[NeedleTest, Decoded]]:
    """The needles that a model answers, each with the attention it does so with."""
    for number, test in enumerate(tests):
        generation = first_line(model, cast("Generation", model.generate(list(test.tokens), _TOKENS)))
        if answers(test, generation, _RECALL):
            yield test, decode(model, test, generation)
        step(number + 1, len(tests))


def answer_needles(model: Model, tests: Sequence[NeedleTest]) -> dict[str, Any]:
    """What the model answers, and each head's retrieval score (Wu et al. 2024) on the needles that it answers.

    Returns
    -------
    dict
        ``asked``, ``answered``; ``scores`` (layer, head), the share of a needle that a head copies, mean over answered needles; and
        ``active`` (layer, head), the share of answered needles of which it copies a token. Both are empty where nothing is answered.
    """
    counts = [copied(decoded, test.evidence, test.evidence) for test, decoded in answered(model, tests)]
    scores, active = (np.mean(part, axis=0).round(5).tolist() if counts else [] for part in (counts, np.array(counts) > 0))
    return {"asked": len(tests), "answered": len(counts), "scores": scores, "active": active}
