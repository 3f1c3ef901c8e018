"""Sets of heads that back up each other, from the effects of knocking them out together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from circuitlab.circuits.select import p_values
from circuitlab.core.nodes import Head

__all__ = ["KnockOuts", "held_groups"]


class _Pair(Protocol):
    """A pair of heads."""

    @property
    def heads(self) -> tuple[Head, Head]:
        """The two heads, in forward order."""
        ...


Pair = TypeVar("Pair", bound=_Pair)


@dataclass(frozen=True, eq=False)
class KnockOuts:
    """Effects of sets of heads knocked out together, computed on first use.

    Parameters
    ----------
    known : dict of tuple of Head to ndarray, shape (pair,)
        ``metric(clean) - metric(heads knocked out)`` by set, with heads in forward order; contains every single head at the start.
    run : callable
        Computes the effects of further sets, (pair, set).
    rounding : float
        A change that is not larger than this on any pair counts as 0.
    """

    known: dict[tuple[Head, ...], np.ndarray]
    run: Callable[[Sequence[tuple[Head, ...]]], np.ndarray]
    rounding: float

    @property
    def n_sets(self) -> int:
        """Number of sets that were knocked out."""
        return len(self.known)

    def effect(self, heads: tuple[Head, ...]) -> np.ndarray:
        """Effect of a set, (pair,)."""
        self._need([heads])
        return self.known[heads]

    def excess(self, heads: tuple[Head, ...]) -> np.ndarray:
        """Effect of a set minus the sum of its single effects, (pair,)."""
        return self.effect(heads) - np.sum([self.known[(head,)] for head in heads], axis=0)

    def least_change(self, heads: tuple[Head, ...]) -> float:
        """The smallest of these means over pairs: the excess, and for each head the effect of the set minus that of the set without it."""
        return float(self._changes(heads).mean(0).min())

    def p(self, heads: tuple[Head, ...]) -> float:
        """P-value for at least one of these changes being 0: the largest of their p-values (an intersection-union test)."""
        changes = self._changes(heads)
        # Rounding errors have tiny variance, too, and would look significant.
        return float(p_values(np.where(np.abs(changes).max(axis=0) > self.rounding, changes, 0.0)).max())

    def holds(self, heads: tuple[Head, ...], least: float, level: float) -> bool:
        """Whether the set is super-additive as a whole and every head adds to its effect."""
        return self.least_change(heads) > least and self.p(heads) <= level

    def _changes(self, heads: tuple[Head, ...]) -> np.ndarray:
        """The excess, and for each head what it adds to the effect of the others, (pair, change)."""
        parts = [tuple(other for other in heads if other != head) for head in heads]
        self._need([heads, *parts])
        return np.stack([self.excess(heads), *(self.known[heads] - self.known[part] for part in parts)], axis=1)

    def _need(self, sets: Iterable[tuple[Head, ...]]) -> None:
        if missing := [heads for heads in dict.fromkeys(sets) if heads not in self.known]:
            self.known.update(zip(missing, self.run(missing).T, strict=True))


def held_groups(pairs: Sequence[Pair], holds: Callable[[tuple[Head, ...]], bool]) -> list[list[Pair]]:
    """Connected groups of pairs that hold as a whole, each as the list of its pairs.

    Parameters
    ----------
    pairs : sequence
        Pairs of heads that hold by themselves, strongest first.
    holds : callable
        Whether a set of three or more heads holds. If not, its weakest pair is removed, and what remains is tried again.
    """
    groups, waiting = [], _connected(pairs)
    while waiting:
        group = waiting.pop(0)
        if len(group) == 1 or holds(tuple(sorted({head for pair in group for head in pair.heads}))):
            groups.append(group)
        else:
            waiting += _connected(group[:-1])
    return groups


def _connected(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Connected components of the pairs, each as a list of pairs in their order."""
    group: dict[Head, frozenset[Head]] = {}
    for first, second in (pair.heads for pair in pairs):
        joined = group.get(first, frozenset({first})) | group.get(second, frozenset({second}))
        group |= dict.fromkeys(joined, joined)
    return [[pair for pair in pairs if pair.heads[0] in members] for members in dict.fromkeys(group.values())]
