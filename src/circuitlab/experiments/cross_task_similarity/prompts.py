"""Prompts that ask for one task after examples of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from circuitlab.core.errors import BadParameterError, TokenizationError
from circuitlab.execute.single_tokens import single_token
from circuitlab.methods.roles.in_context import task_pairs
from circuitlab.model.encode import need_tokenizer, tokenize

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["DEFINITIONS", "CrossPrompts", "cross_prompts"]

DEFINITIONS = {
    "antonyms": "Give the opposite of the word.",
    "plurals": "Give the plural of the noun.",
    "past_tense": "Give the past tense of the verb.",
    "capitalised": "Write the word with a capital letter.",
    "comparatives": "Give the comparative of the adjective.",
    "capitals": "Name the capital of the country.",
    "country_language": "Name the language of the country.",
    "country_continent": "Name the continent of the country.",
}
"""What each task is told to do."""

_QUESTION, _EXAMPLE = "Q: {}\nA:", "Q: {}\nA: {}\n"
Row = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class CrossPrompts:
    """Prompts of several tasks as token ids.

    Parameters
    ----------
    names : tuple of str
        The tasks.
    alone : tuple of tuple of rows, shape (target, prompt)
        The definition of a task and a question.
    shown : tuple of tuple of tuple of rows, shape (source, target, prompt)
        The same after the definition and examples of another task, or of the same one.
    dealt : tuple of tuple of tuple of rows, shape (source, target, prompt)
        The same with the answers of the examples moved among them.
    answers : tuple of tuple of int, shape (target, prompt)
        The token that answers.
    definitions : tuple of (row, int), shape (task,)
        The definition of each task alone, and the position of its first token that is compared.

    Raises
    ------
    BadParameterError
        If there are fewer than 4 tasks: too few orders for a permutation test.
    """

    names: tuple[str, ...]
    alone: tuple[tuple[Row, ...], ...]
    shown: tuple[tuple[tuple[Row, ...], ...], ...]
    dealt: tuple[tuple[tuple[Row, ...], ...], ...]
    answers: tuple[tuple[int, ...], ...]
    definitions: tuple[tuple[Row, int], ...]

    def __post_init__(self) -> None:
        if len(self.names) < 4:  # noqa: PLR2004
            raise BadParameterError(f"{len(self.names)} tasks were given.", "Give four or more: their names are permuted.")


@dataclass(frozen=True)
class _Drawn:
    """Pairs of a task whose answer is a single token, in an order for each prompt."""

    name: str
    orders: tuple[tuple[tuple[str, str], ...], ...]

    def examples(self, prompt: int, shots: int, without: str | None, *, dealt: bool) -> str:
        """The definition and so many examples, none of them with the question ``without``."""
        usable = [pair for pair in self.orders[prompt] if pair[0] != without][:shots]
        answers = [answer for _, answer in usable]
        answers = answers[1:] + answers[:1] if dealt else answers
        lines = [_EXAMPLE.format(question, answer) for (question, _), answer in zip(usable, answers, strict=True)]
        return f"{DEFINITIONS[self.name]}\n" + "".join(lines) + "\n"

    def question(self, prompt: int) -> str:
        """The definition and the question of one prompt."""
        return f"{DEFINITIONS[self.name]}\n" + _QUESTION.format(self.orders[prompt][0][0])


def cross_prompts(model: Model, n: int, shots: int, rng: np.random.Generator) -> CrossPrompts:
    """Prompts of every pair of tasks of `DEFINITIONS` in the model's own tokens.

    Raises
    ------
    TokenizationError
        If too few answers of a task are single tokens.
    """
    tokenizer = need_tokenizer(model.tokenizer, model.spec.name)
    drawn, answers = [], []
    for name in DEFINITIONS:
        tokens = {pair: single_token(model, f" {pair[1]}") for pair in task_pairs(name)}
        usable = [pair for pair, token in tokens.items() if token is not None]
        if len(usable) <= max(shots, n):
            what = f"{len(usable)} answers of {name} are single tokens of {model.spec.name}, for {n} questions after {shots} examples."
            raise TokenizationError(what, "Use fewer prompts or examples.")
        first = [usable[i] for i in rng.permutation(len(usable))[:n].tolist()]
        orders = [(pair, *(usable[i] for i in rng.permutation(len(usable)).tolist() if usable[i] != pair)) for pair in first]
        drawn.append(_Drawn(name, tuple(orders)))
        answers.append(tuple(int(tokens[pair] or 0) for pair in first))

    def rows(texts: Sequence[str]) -> tuple[Row, ...]:
        return tuple(tuple(prompt.ids) for prompt in tokenize(tokenizer, list(texts)))

    def after(source: _Drawn, target: _Drawn, *, dealt: bool) -> tuple[Row, ...]:
        own = source is target
        texts = []
        for i in range(n):
            asked = target.orders[i][0][0] if own else None
            texts.append(source.examples(i, shots, asked, dealt=dealt) + target.question(i))
        return rows(texts)

    every = [[[after(source, target, dealt=dealt) for target in drawn] for source in drawn] for dealt in (False, True)]
    shown, dealt = (tuple(tuple(row) for row in table) for table in every)
    alone = tuple(rows([target.question(i) for i in range(n)]) for target in drawn)
    # The first token of a text is a sink whose activations are alike in every text, and it is not compared.
    definitions = tuple((row, 1) for row in rows(list(DEFINITIONS.values())))
    return CrossPrompts(tuple(DEFINITIONS), alone, shown, dealt, tuple(answers), definitions)
