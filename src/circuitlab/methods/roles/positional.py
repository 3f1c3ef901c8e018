"""The role of position: how much of a pattern is the same whatever the text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from circuitlab.methods.roles.contract import RoleKind
from circuitlab.methods.roles.natural import OnText
from circuitlab.methods.roles.reading import RolePrompts

__all__ = ["Positional", "PositionalReader", "centred"]


@dataclass(frozen=True)
class Positional(OnText):
    """Share of a pattern's variance that the positions of query and key explain, beside the first token: heads that ignore the text.

    Parameters
    ----------
    texts, length
        As for `Sink`.

    Notes
    -----
    Weights are taken as differences from the mean of their row, over the keys that the query sees. The value is the variance of the mean
    pattern over texts, beyond the first key, over the total variance: 1 if every text gives the same pattern, 0 if nothing is shared. The
    first key is left out of the shared part, not of the total, since a sink is the same in every text and `Sink` measures it.

    The mean pattern's variance is estimated without bias by products of different texts (a mean over texts would hold a part of each
    text's own), so that a head without the role has 0 on average and may fall below. A passage's value is its jackknife pseudo-value; the
    mean over passages is the estimate, their spread its error. Heads whose attention is even have no variance, and 0. Windows change
    nothing but what is seen. Learned positions explain some of a pattern in random weights, too; the threshold, 0.5, is most of it.

    References
    ----------
    Vig and Belinkov (2019), Analyzing the Structure of Attention in a Transformer Language Model, arXiv:1906.04284, whose attention
    variability asks the same of absolute differences.
    """

    name: ClassVar[str] = "positional"
    estimand: ClassVar[str] = "share of the pattern's variance explained by the positions of query and key, beyond the first token"
    units: ClassVar[str] = "share of variance"
    threshold: ClassVar[float] = 0.5
    null: ClassVar[str] = "the same weights with the keys of each query in random order, which gives 0 on average"
    kind: ClassVar[RoleKind] = "attention"
    needs: ClassVar[tuple[str, ...]] = ("tokenizer",)
    cost: ClassVar[str] = "2 forward passes per passage of 64 tokens, the first shared by all roles on natural text"
    cite: ClassVar[tuple[str, ...]] = ("vig2019",)
    passes: ClassVar[int] = 2

    def reader(self, prompts: RolePrompts) -> PositionalReader:
        """Two passes: the sum over texts, then every text's product with it."""
        return PositionalReader(len(prompts.tokens))


def centred(pattern: np.ndarray, seen: np.ndarray, first: int) -> np.ndarray:
    """Weights minus the mean of their row over the visible keys from ``first`` on; 0 elsewhere."""
    visible = seen & (np.arange(pattern.shape[-1]) >= first)
    mean = (pattern * visible).sum(-1, keepdims=True) / np.maximum(visible.sum(-1, keepdims=True), 1)
    return (pattern - mean) * visible


@dataclass(eq=False)
class PositionalReader:
    """Sums over texts in a first pass, products of each text with the others in a second."""

    n: int
    _sum: np.ndarray | None = None
    _own: list[np.ndarray] = field(default_factory=list)
    _total: list[np.ndarray] = field(default_factory=list)
    _product: list[np.ndarray] = field(default_factory=list)

    def add(self, which: int, rows: slice, pattern: np.ndarray, seen: np.ndarray) -> None:  # noqa: ARG002 - sums know no order
        """Some texts, in one of the two passes."""
        shared = centred(pattern, seen, 1)
        if which == 0:
            self._sum = shared.sum(0) + (0.0 if self._sum is None else self._sum)
            self._own.append((shared**2).sum((-1, -2)))
            self._total.append((centred(pattern, seen, 0) ** 2).sum((-1, -2)))
        elif self._sum is not None:
            self._product.append(np.einsum("rlhqk,lhqk->rlh", shared, self._sum))

    def result(self, rounding: float) -> tuple[np.ndarray, np.ndarray]:
        """Pseudo-values of every text, and the 0 of shuffled keys."""
        own, total, product = (np.concatenate(part) for part in (self._own, self._total, self._product))
        with_others = (product - own) / (self.n - 1)
        share, whole = with_others.mean(0), total.mean(0)
        # Even attention varies by rounding alone, by that share of a weight 1 / t in each of its rows.
        varies = whole > rounding**2 * (1 + np.log(self.n_queries))
        whole = np.where(varies, whole, 1.0)
        ratio = share / whole
        values = np.where(varies, ratio + (2 * with_others - share - ratio * total) / whole, 0.0)
        return values, np.zeros_like(values)

    @property
    def n_queries(self) -> int:
        """Tokens of a text."""
        return 1 if self._sum is None else int(self._sum.shape[-1])
