"""Prompts that ask two things of the same countries, the capital and the language, in several wordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from circuitlab.core.errors import BadParameterError
from circuitlab.execute.single_tokens import single_token
from circuitlab.experiments.capitals import Country, countries, known_capitals, single_token_rows
from circuitlab.model.prompts import read_prompts

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from circuitlab.model.protocol import Model

__all__ = ["Facts", "facts_of", "known_facts"]

WORDINGS = (
    "The {relation} of {country} is",
    "Please remember that the {relation} of {country} is",
    "The atlas on the shelf says that the {relation} of {country} is",
    "Every pupil learns that the {relation} of {country} is",
    "There is no doubt about it: the {relation} of {country} is",
)
_RELATIONS = ("capital", "language")
_WORDS = ("name", "capital", "language")


@dataclass(frozen=True, eq=False)
class Facts:
    """Prompts about countries, each once for either relation; row ``i`` of both differs in the relation's word only.

    Parameters
    ----------
    tokens : Tensor of int, shape (relation, row, pos)
        Right-padded prompts: those that ask for the capital, and those that ask for the language.
    end, subject : Tensor of int, shape (row,)
        The last token of each prompt, and that of its country.
    owner : ndarray of int, shape (row,)
        Number of each row's country.
    words : Tensor of int, shape (3, country)
        Tokens of every country's own name, of its capital and of its language.
    names : tuple of str
        Countries.
    """

    tokens: Int[Tensor, "relation row pos"]
    end: Int[Tensor, " row"]
    subject: Int[Tensor, " row"]
    owner: np.ndarray
    words: Int[Tensor, "word country"]
    names: tuple[str, ...]

    def halves(self, rng: np.random.Generator) -> tuple[Facts, Facts]:
        """Two sets of different countries; the first is the larger if their number is odd."""
        order = rng.permutation(len(self.names))
        cut = -(-len(order) // 2)
        return self._of(sorted(order[:cut].tolist())), self._of(sorted(order[cut:].tolist()))

    def _of(self, kept: Sequence[int]) -> Facts:
        number = {country: i for i, country in enumerate(kept)}
        rows = [row for row, owner in enumerate(self.owner.tolist()) if owner in number]
        owner = np.array([number[int(self.owner[row])] for row in rows])
        names = tuple(self.names[i] for i in kept)
        return Facts(self.tokens[:, rows], self.end[rows], self.subject[rows], owner, self.words[:, list(kept)], names)

    def by_country(self, values: np.ndarray) -> np.ndarray:
        """Means over each country's rows: from (row, ...) to (country, ...)."""
        return np.stack([values[self.owner == i].mean(0) for i in range(len(self.names))])

    def above_others(self, values: np.ndarray) -> np.ndarray:
        """What is said of a row's own country above the mean of the other countries: from (row, ..., country) to (row, ...)."""
        own = np.take_along_axis(values, self.owner.reshape(-1, *[1] * (values.ndim - 1)), axis=-1)[..., 0]
        return np.asarray(own - (values.sum(-1) - own) / (values.shape[-1] - 1))


def known_facts(model: Model) -> tuple[Facts | None, int]:
    """Prompts about every country whose capital the model answers, and how many countries it was asked about.

    Countries whose name, capital or language is not one token are left out; None where fewer than two are left.
    """
    table = single_token_rows(model, countries(), _WORDS)
    known = known_capitals(model, table)
    return (facts_of(model, known) if len(known) > 1 else None), len(table)


def facts_of(model: Model, rows: Sequence[Country]) -> Facts:
    """Prompts about some countries in every wording.

    Raises
    ------
    BadParameterError
        If a word is not one token, the two relations of a wording are not of one length, or a country is not the last token but one.
    """
    texts = [[w.format(relation=r, country=row.name) for row in rows for w in WORDINGS] for r in _RELATIONS]
    sides = [read_prompts(side, model.tokenizer, model.spec).ids for side in texts]
    if lacking := sorted({row.name for row in rows} - {row.name for row in single_token_rows(model, rows, _WORDS)}):
        what = f"The name, the capital or the language of {', '.join(lacking)} is not one token."
        raise BadParameterError(what, "Leave these countries out.")
    words = torch.tensor([[single_token(model, " " + getattr(row, word)) for row in rows] for word in _WORDS])
    owner = np.repeat(np.arange(len(rows)), len(WORDINGS))
    length = max(map(len, sides[0]))
    tokens = torch.zeros(2, len(owner), length, dtype=torch.long)
    for number, (first, second) in enumerate(zip(*sides, strict=True)):
        differ = sum(a != b for a, b in zip(first, second, strict=False))
        if len(first) != len(second) or differ != 1 or first[-2] != int(words[0, owner[number]]):
            what = f"{texts[0][number]!r} has {len(first)} tokens, and {texts[1][number]!r} has {len(second)}; {differ} differ."
            raise BadParameterError(what, "Both must differ in the relation's word only, with the country before the last token.")
        tokens[0, number, : len(first)], tokens[1, number, : len(first)] = torch.tensor(first), torch.tensor(second)
    end = torch.tensor([len(row) - 1 for row in sides[0]])
    return Facts(tokens, end, end - 1, owner, words, tuple(row.name for row in rows))
