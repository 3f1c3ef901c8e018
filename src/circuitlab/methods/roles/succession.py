"""Ordered lists whose items follow each other, in the spellings that a tokenizer may know, and the pairs of single tokens among them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from circuitlab.core.errors import TokenizationError, UnknownNameError
from circuitlab.execute.single_tokens import Word, single_token

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["TASKS", "Succession", "spellings", "succession"]

_UNITS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_TEENS = ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"]
_ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"]
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_MONTHS = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
]  # fmt: skip

TASKS: dict[str, list[str]] = {
    "numbers": [str(number) for number in range(1, 201)],
    "number_words": _UNITS + _TEENS,
    "ordinals": _ORDINALS,
    "days": [*_DAYS, _DAYS[0]],
    "day_prefixes": [day[:3] for day in [*_DAYS, _DAYS[0]]],
    "months": [*_MONTHS, _MONTHS[0]],
    "month_prefixes": [month[:3] for month in [*_MONTHS, _MONTHS[0]]],
    "letters": [chr(code) for code in range(ord("A"), ord("Z") + 1)],
}
"""The tasks of Gould et al. (2024); Roman numerals, which the paper holds out, are not among them. A list that goes round ends with its
first item."""

_AS_THEY_ARE = {"numbers", "letters"}
"""Tasks whose items have no other case: digits have none, and small letters are another alphabet."""
_FEWEST_TARGETS = 2


@dataclass(frozen=True, eq=False)
class Succession:
    """Pairs of tokens that follow each other.

    Parameters
    ----------
    sources, targets : tuple of int
        Tokens of the pairs.
    blocks : ndarray of int, shape (pair,)
        The list and spelling that each pair is from: a target competes with the other targets of its block.
    tasks : tuple of str
        The task of each pair.
    """

    sources: tuple[int, ...]
    targets: tuple[int, ...]
    blocks: np.ndarray
    tasks: tuple[str, ...]

    def chance(self) -> dict[str, float]:
        """Share of pairs that a head gets right by picking any target of the block, for each task and pooled."""
        share = np.array([1 / len({self.targets[j] for j in np.flatnonzero(self.blocks == block)}) for block in self.blocks])
        return {task: float(mean) for task, mean in self.by_task(share).items()} | {"pooled": float(share.mean())}

    def by_task(self, right: np.ndarray) -> dict[str, np.ndarray]:
        """Mean over the pairs of each task of what is given for each pair (first axis)."""
        tasks = np.array(self.tasks)
        return {task: right[tasks == task].mean(0) for task in dict.fromkeys(self.tasks)}


def succession(model: Model, tasks: Sequence[str], orders: Sequence[Sequence[Word]]) -> Succession:
    """The pairs of a model's tasks, or of lists of one's own.

    A pair is valid if both items are single tokens. Items are taken in four spellings: as they are and with a leading space, and both
    with the other case of the first letter. A spelling that gives the same pairs as one before it, or fewer than two targets, is left out.

    Raises
    ------
    UnknownNameError
        For a task that does not exist.
    TokenizationError
        If no two items are single tokens, or the model has no tokenizer.
    """
    if unknown := [task for task in tasks if task not in TASKS]:
        raise UnknownNameError("succession task", unknown[0], TASKS)
    lists = {f"order {i}": [list(order)] for i, order in enumerate(orders)} or {task: spellings(task) for task in tasks}
    kept, seen = [], set()
    for task, spelled in lists.items():
        for words in spelled:
            tokens = [single_token(model, word) for word in words]
            pairs = tuple((a, b) for a, b in itertools.pairwise(tokens) if a is not None and b is not None)
            if pairs not in seen and len({b for _, b in pairs}) >= _FEWEST_TARGETS:
                seen.add(pairs)
                kept.append((task, pairs))
    if not kept:
        what = f"No list of {', '.join(lists)} has two pairs of neighbours that are single tokens of {model.spec.name}."
        raise TokenizationError(what, "Give lists of its own tokens with orders=.")
    every = [(block, task, *pair) for block, (task, pairs) in enumerate(kept) for pair in pairs]
    blocks, names, sources, targets = zip(*every, strict=True)
    return Succession(sources, targets, np.array(blocks), names)


def spellings(task: str) -> list[list[Word]]:
    """The items of a task in up to four spellings: as they are and with a leading space, and both with the other case of the first letter.

    Examples
    --------
    >>> [words[0] for words in spellings("days")]
    ['Monday', ' Monday', 'monday', ' monday']
    """
    plain = TASKS[task]
    cases: list[list[str]] = [plain] if task in _AS_THEY_ARE else [plain, [word[0].swapcase() + word[1:] for word in plain]]
    return [[space + word for word in words] for words in cases for space in ("", " ")]
