"""Items of ordered lists as tokens, each in one spelling, and what a head reads and writes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from circuitlab.execute.effective_ov import EffectiveOV, TokenStreams
from circuitlab.execute.single_tokens import Word, single_token
from circuitlab.methods.roles.succession import TASKS, spellings

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from circuitlab.core.nodes import Head
    from circuitlab.model.protocol import Model

__all__ = ["FEWEST", "Items", "Reading", "items_of", "known_lists", "number_tokens", "without"]

FEWEST = 5
"""Items of a list below which it is left out."""
_NONE = -1


@dataclass(frozen=True, eq=False)
class Items:
    """Items of several ordered lists, one after the other.

    Parameters
    ----------
    tokens : tuple of int
        Token of each item.
    lists : tuple of str
        The list of each item.
    index : ndarray of int, shape (item,)
        Place of each item in its list, from 1; items that are no single token leave a gap.
    following : ndarray of int, shape (item,)
        Number of the item that comes next, -1 where there is none; the last of a list that goes round is followed by its first.
    round_lists : frozenset of str
        Lists that go round.
    """

    tokens: tuple[int, ...]
    lists: tuple[str, ...]
    index: np.ndarray
    following: np.ndarray
    round_lists: frozenset[str]

    @property
    def names(self) -> tuple[str, ...]:
        """The lists, in order."""
        return tuple(dict.fromkeys(self.lists))

    def rows(self, name: str) -> np.ndarray:
        """Numbers of the items of one list."""
        return np.flatnonzero(np.array(self.lists) == name)

    def rows_of(self, names: Sequence[str]) -> np.ndarray:
        """Numbers of the items of several lists."""
        return np.flatnonzero(np.isin(np.array(self.lists), list(names)))


def known_lists(model: Model) -> dict[str, list[Word]]:
    """Each task of Gould et al. in the spelling with most single tokens; with a leading space where spellings tie."""
    lists = {}
    for task in TASKS:
        counted = [(sum(single_token(model, word) is not None for word in words), str(words[0])[0] == " ") for words in spellings(task)]
        lists[task] = spellings(task)[counted.index(max(counted))]
    return lists


def items_of(model: Model, lists: Mapping[str, Sequence[Word]]) -> Items:
    """The single tokens of lists; those with fewer than five are left out. A list that goes round ends with its first item."""
    tokens: list[int] = []
    names: list[str] = []
    index: list[int] = []
    following: list[int] = []
    for name, words in lists.items():
        goes_round = len(words) > 1 and words[0] == words[-1]
        places = [single_token(model, word) for word in (words[:-1] if goes_round else words)]
        if sum(token is not None for token in places) < FEWEST:
            continue
        number = {at: len(tokens) + i for i, at in enumerate(at for at, token in enumerate(places) if token is not None)}
        for at, token in enumerate(places):
            if token is not None:
                after = (at + 1) % len(places) if goes_round else at + 1
                tokens.append(token)
                names.append(name)
                index.append(at + 1)
                following.append(number.get(after, _NONE))
    rounds = frozenset(name for name, words in lists.items() if len(words) > 1 and words[0] == words[-1])
    return Items(tuple(tokens), tuple(names), np.array(index, dtype=int), np.array(following, dtype=int), rounds)


def without(items: Items, names: Sequence[str]) -> Items:
    """The items of all other lists; those that are left keep their order."""
    kept = [row for row, name in enumerate(items.lists) if name not in names]
    number = {row: i for i, row in enumerate(kept)} | {_NONE: _NONE}
    following = np.array([number[int(items.following[row])] for row in kept], dtype=int)
    tokens, lists = (tuple(part[row] for row in kept) for part in (items.tokens, items.lists))
    return Items(tokens, lists, items.index[kept], following, items.round_lists.difference(names))  # type: ignore[arg-type]


def number_tokens(model: Model) -> tuple[list[int], np.ndarray]:
    """Digits, numbers and number words that are single tokens, in every spelling, and their numbers modulo 10."""
    numbers: dict[int, int] = {}
    for task in ("numbers", "number_words"):
        for words in spellings(task):
            for place, word in enumerate(words, start=1):
                token = single_token(model, word)
                if token is not None:
                    numbers.setdefault(token, place % 10)
    return list(numbers), np.array(list(numbers.values()), dtype=int)


@dataclass(frozen=True, eq=False)
class Reading:
    """What one head reads of tokens when nothing else is there, and what it writes for any such vector."""

    model: Model
    head: Head

    def of(self, tokens: Sequence[int]) -> Float[Tensor, "token d_model"]:
        """What the head reads of each token, before the norm: what the first MLP makes of it (the embedding, in layer 0)."""
        return TokenStreams.of(self.model, torch.tensor(list(tokens)), "mlp0").at(self.head.layer)

    def logits(self, vectors: Float[Tensor, "row d_model"], tokens: Sequence[int]) -> np.ndarray:
        """Effective-OV logits of some tokens for vectors in the place of what is read, shape (row, token)."""
        circuit = EffectiveOV(self.model, TokenStreams(vectors, vectors))
        return np.asarray(circuit.logits(self.head.layer, torch.tensor(list(tokens)))[self.head.head].cpu())
