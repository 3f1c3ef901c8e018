"""ValueAttribution: what a head reads at one token, and who put it there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuitlab.core.html import html_table
from circuitlab.core.nodes import Head, KVHead

__all__ = ["ValueAttribution"]

_STRONGEST = 10


@dataclass(frozen=True, eq=False, repr=False)
class ValueAttribution:
    """What a head reads at a key position along one direction, split exactly into the writers at that position.

    Parameters
    ----------
    head, kv_head : Head, KVHead
        The query head, and the key/value head whose value it reads.
    tokens : tuple of str
        The prompt's tokens as text.
    query, key : int
        Positions.
    direction : str
        In words: along what the value is read.
    writers : tuple of str
        As for `QueryKeyAttribution`.
    shares : ndarray, shape (writer,)
        Terms; they sum to ``total``.
    sources : ndarray, shape (writer, pos), or None
        The shares, those of earlier heads divided among the tokens that they read; shares of all others stand at the key itself. None
        where an edit has changed what an earlier head gives out.
    total : float
        The value along the direction, from the run: what one unit of attention would bring.
    weight : float
        The attention weight of this key; ``weight * total`` is what the head takes from here.
    scales : mapping of str to float
        Scales of norms that are held fixed.
    model : str
        Name of the model.

    Examples
    --------
    A planted induction head copies the token it looks at: what it reads there was put there by the embedding.

    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("induction-gqa")
    >>> read = cl.why_reads(planted.model, "a1.h2", [3, 1, 5, 2, 4, 0, 1], key=2, along=5)
    >>> read.top(1)[0][0], bool(abs(read.shares.sum() - read.total) < 1e-4)
    ('embed', True)
    """

    head: Head
    kv_head: KVHead
    tokens: tuple[str, ...]
    query: int
    key: int
    direction: str
    writers: tuple[str, ...]
    shares: np.ndarray
    sources: np.ndarray | None
    total: float
    weight: float
    scales: Mapping[str, float]
    model: str

    @property
    def residual(self) -> float:
        """Total minus the sum of its terms: rounding of the run."""
        return float(self.total - self.shares.sum())

    def top(self, k: int = _STRONGEST) -> list[tuple[str, float]]:
        """The ``k`` largest terms by magnitude: writer, term."""
        order = np.argsort(-np.abs(self.shares), kind="stable")[:k]
        return [(self.writers[i], float(self.shares[i])) for i in order]

    def by_token(self) -> list[tuple[int, str, float]]:
        """How much came from each token, one step back, as (position, token, share); empty where ``sources`` is None."""
        if self.sources is None:
            return []
        return [(i, self.tokens[i], float(share)) for i, share in enumerate(self.sources.sum(0))]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "head": str(self.head),
            "kv_head": str(self.kv_head),
            "model": self.model,
            "tokens": list(self.tokens),
            "query": self.query,
            "key": self.key,
            "direction": self.direction,
            "total": self.total,
            "residual": self.residual,
            "weight": self.weight,
            "scales": dict(self.scales),
            "writers": list(self.writers),
            "shares": self.shares.tolist(),
            "sources": None if self.sources is None else self.sources.tolist(),
        }

    @property
    def heading(self) -> str:
        """What was split, in one line."""
        at = f"{self.key} {self.tokens[self.key]!r}"
        return f"What {self.head} reads at {at}, along {self.direction}"

    def notes(self) -> list[str]:
        """What belongs to the numbers."""
        held = ", ".join(f"{name} {value:.3g}" for name, value in self.scales.items())
        taken = f"total {self.total:+.3f}; attention weight {self.weight:.3f}, so {self.weight * self.total:+.3f} is taken from here"
        notes = [taken, f"held fixed: {held or 'nothing (no norms)'}"]
        if tokens := self.by_token():
            largest = sorted(tokens, key=lambda one: -abs(one[2]))[:3]
            notes.append("one step back it came from " + ", ".join(f"{i} {token!r} {share:+.3f}" for i, token, share in largest))
        return notes

    def __repr__(self) -> str:
        width = max(len(name) for name, _ in self.top())
        rows = [f"  {name:<{width}}  {share:+.3f}" for name, share in self.top()]
        return "\n".join([f"{self.heading} ({self.model})", *self.notes(), *rows])

    def _repr_html_(self) -> str:
        rows = [[name, f"{share:+.3f}"] for name, share in self.top()]
        return html_table(f"{self.heading}, {self.model}", ["writer", "share"], rows, notes=self.notes())
