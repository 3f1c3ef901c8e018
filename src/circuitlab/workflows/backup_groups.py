"""Which sets of heads back each other up, judged from what knocking them out together does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from circuitlab.circuits.select import p_values
from circuitlab.core.nodes import Head

__all__ = ["KnockOuts", "held_groups"]


class _Pair(Protocol):
    """What connects two heads."""

    @property
    def heads(self) -> tuple[Head, Head]:
        """In forward order."""
        ...


Pair = TypeVar("Pair", bound=_Pair)


@dataclass(frozen=True, eq=False)
class KnockOuts:
    """Effects of sets of heads knocked out together, run when they are first asked for.

    Parameters
    ----------
    known : dict of tuple of Head to ndarray, shape (pair,)
        ``metric(clean) - metric(heads knocked out)`` by set, heads in forward order; holds every single head, and grows.
    run : callable
        Gives the effects of further sets, (pair, set).
    rounding : float
        A change that is no larger on any pair counts as 0.
    """

    known: dict[tuple[Head, ...], np.ndarray]
    run: Callable[[Sequence[tuple[Head, ...]]], np.ndarray]
    rounding: float

    @property
    def n_sets(self) -> int:
        """How many sets were knocked out."""
        return len(self.known)

    def effect(self, heads: tuple[Head, ...]) -> np.ndarray:
        """Effect of a set, (pair,)."""
        self._need([heads])
        return self.known[heads]

    def excess(self, heads: tuple[Head, ...]) -> np.ndarray:
        """What the effect of a set exceeds the sum of its single effects by, (pair,)."""
        return self.effect(heads) - np.sum([self.known[(head,)] for head in heads], axis=0)

    def least_change(self, heads: tuple[Head, ...]) -> float:
        """Mean over pairs of the excess, or of what the set does more than the set without one of its heads, whichever is least."""
        return float(self._changes(heads).mean(0).min())

    def p(self, heads: tuple[Head, ...]) -> float:
        """P-value of at least one of these changes being 0: the largest of theirs (an intersection-union test)."""
        changes = self._changes(heads)
        # Rounding spreads as little as it weighs, and would pass for a sure effect.
        return float(p_values(np.where(np.abs(changes).max(axis=0) > self.rounding, changes, 0.0)).max())

    def holds(self, heads: tuple[Head, ...], least: float, level: float) -> bool:
        """Whether the set is super-additive as a whole and every head adds to it."""
        return self.least_change(heads) > least and self.p(heads) <= level

    def _changes(self, heads: tuple[Head, ...]) -> np.ndarray:
        """The excess, and the loss that each head adds to that of the others, (pair, change)."""
        parts = [tuple(other for other in heads if other != head) for head in heads]
        self._need([heads, *parts])
        return np.stack([self.excess(heads), *(self.known[heads] - self.known[part] for part in parts)], axis=1)

    def _need(self, sets: Iterable[tuple[Head, ...]]) -> None:
        if missing := [heads for heads in dict.fromkeys(sets) if heads not in self.known]:
            self.known.update(zip(missing, self.run(missing).T, strict=True))


def held_groups(pairs: Sequence[Pair], holds: Callable[[tuple[Head, ...]], bool]) -> list[list[Pair]]:
    """Connected pairs that hold as a whole, each group with the pairs that connect it.

    Parameters
    ----------
    pairs : sequence
        Pairs of heads that hold by themselves, strongest first.
    holds : callable
        Whether three or more heads do. A set that does not loses its weakest pair, and what is left is tried again.
    """
    done, waiting = [], _connected(pairs)
    while waiting:
        some = waiting.pop(0)
        if len(some) == 1 or holds(tuple(sorted({head for pair in some for head in pair.heads}))):
            done.append(some)
        else:
            waiting += _connected(some[:-1])
    return done


def _connected(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Pairs by the heads that they connect, in their order."""
    group: dict[Head, frozenset[Head]] = {}
    for one, other in (pair.heads for pair in pairs):
        joined = group.get(one, frozenset({one})) | group.get(other, frozenset({other}))
        group |= dict.fromkeys(joined, joined)
    return [[pair for pair in pairs if pair.heads[0] in members] for members in dict.fromkeys(group.values())]
