"""AttentionPattern: the attention weights of one head on one prompt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from circuitlab.core.html import html_table
from circuitlab.core.nodes import Head

__all__ = ["AttentionPattern"]

_STRONGEST = 10


@dataclass(frozen=True, eq=False, repr=False)
class AttentionPattern:
    """Attention weights of one head on one prompt.

    Parameters
    ----------
    head : Head
        The query head.
    tokens : tuple of str
        The prompt's tokens as text.
    values : ndarray, shape (query, key)
        Weights after the softmax, without units; 0 where a query does not see a key. With attention sinks rows may sum to less than 1.
    model : str
        Name of the model.
    """

    head: Head
    tokens: tuple[str, ...]
    values: np.ndarray
    model: str

    def strongest(self, k: int = _STRONGEST) -> list[tuple[str, str, float]]:
        """The ``k`` largest weights as (query token, key token, weight); each token is written with its position, from 0."""
        order = np.argsort(-self.values, axis=None, kind="stable")[:k]
        indices = [np.unravel_index(i, self.values.shape) for i in order]
        return [(self._label(int(q)), self._label(int(key)), float(self.values[q, key])) for q, key in indices]

    def _label(self, position: int) -> str:
        return f"{position} {self.tokens[position]!r}"

    def __repr__(self) -> str:
        last = len(self.tokens) - 1
        row = self.values[last]
        keys = ", ".join(f"{self._label(int(i))} {row[i]:.2f}" for i in np.argsort(-row, kind="stable")[:3])
        return f"AttentionPattern of {self.head} ({self.model}) on {len(self.tokens)} tokens; the last one looks at {keys}"

    def _repr_html_(self) -> str:
        rows = [[query, key, f"{weight:.2f}"] for query, key, weight in self.strongest()]
        return html_table(f"Attention of {self.head}, {self.model}", ["from", "to", "weight"], rows)
