"""EdgeLoadings: which writers make a head's score through one of its inputs, over several prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from circuitlab.core.html import html_table
from circuitlab.scores.intervals import Interval, mean_interval

__all__ = ["EdgeLoadings"]

_STRONGEST = 10


@dataclass(frozen=True, eq=False, repr=False)
class EdgeLoadings:
    """Shares of a head's attention score on several prompts, by writer, each with an interval over prompts.

    Parameters
    ----------
    through : str
        An input of the head, ``"a9.h6<k>"``: shares are those of the writers that it reads, summed over the writers of the other side.
        Or an edge, ``"a4.h2->a9.h6<k>"``: shares of what comes in through it, by the writers of the other side.
    writers : tuple of str
        As for `QueryKeyAttribution`.
    values : ndarray, shape (prompt, writer)
        Shares of the score.
    scores : ndarray, shape (prompt,)
        The whole score of each prompt.
    at : str
        In words: between which positions.
    model : str
        Name of the model.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("induction-gqa")
    >>> loadings = cl.edge_loadings(planted.model, "a1.h2<k>", planted.batch(4), query="END", key="AFTER", against="others")
    >>> loadings.top(1)[0][0], bool(loadings.interval().low[loadings.writers.index("a0.h1")] > 0)
    ('a0.h1', True)
    """

    through: str
    writers: tuple[str, ...]
    values: np.ndarray
    scores: np.ndarray
    at: str
    model: str

    def interval(self, confidence: float = 0.95) -> Interval:
        """Mean share of each writer over prompts, with Student's interval; NaN limits with one prompt."""
        return mean_interval(self.values, confidence=confidence)

    def top(self, k: int = _STRONGEST) -> list[tuple[str, float, float, float]]:
        """The ``k`` writers with the largest mean share by magnitude: writer, mean, lower and upper end of the 95 % interval."""
        mean, low, high = (np.asarray(one) for one in self.interval())
        order = np.argsort(-np.abs(mean), kind="stable")[:k]
        return [(self.writers[i], float(mean[i]), float(low[i]), float(high[i])) for i in order]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "through": self.through,
            "at": self.at,
            "model": self.model,
            "writers": list(self.writers),
            "values": self.values.tolist(),
            "scores": self.scores.tolist(),
        }

    def _heading(self) -> str:
        share = self.values.sum(1).mean()
        return f"{self.through} ({self.model}), {self.at}, {len(self.scores)} prompts: {share:+.3f} of a score of {self.scores.mean():+.3f}"

    def __repr__(self) -> str:
        width = max(len(name) for name, *_ in self.top())
        rows = [f"  {name:<{width}}  {mean:+.3f} [{low:+.3f}, {high:+.3f}]" for name, mean, low, high in self.top()]
        return "\n".join([self._heading(), *rows])

    def _repr_html_(self) -> str:
        rows = [[name, f"{mean:+.3f}", f"{low:+.3f} to {high:+.3f}"] for name, mean, low, high in self.top()]
        return html_table(self._heading(), ["writer", "mean share", "95 % interval"], rows)
