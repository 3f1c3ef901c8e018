"""QueryKeyAttribution: why a head looks from one token at another, as writers at the query times writers at the key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.html import html_table
from circuitlab.core.nodes import Edge, Head, KVHead, parse_edge

__all__ = ["Against", "QueryKeyAttribution"]

Against: TypeAlias = int | Literal["others"] | None
"""What a score is compared with: nothing, the score of another key, or the mean score of all other keys that the query sees."""

_STRONGEST = 10


@dataclass(frozen=True, eq=False, repr=False)
class QueryKeyAttribution:
    """One attention score of a head, split exactly into (writer at the query) x (writer at the key).

    The score is that of one query and one key before the softmax: scaled, after the norms of queries and keys and after rotation, and
    before any softcap and position bias. Every norm keeps the scale that it has in this run, so that the score is bilinear in what
    writers put into the stream at the two positions.

    Parameters
    ----------
    head, kv_head : Head, KVHead
        The query head, and the key/value head that it shares.
    tokens : tuple of str
        The prompt's tokens as text.
    query, key : int
        Positions.
    against : int, "others" or None
        With another key, or all others that the query sees, ``score`` and ``matrix`` are the score minus theirs (their mean): a softmax
        does not feel what all keys have in common.
    writers : tuple of str
        ``embed``, ``a0.h0`` and so on, ``a0.bias`` for biases of attention's output, ``m0``; then ``bias``, what stands in the query or
        the key without any writer (biases of the projection and of norms), and ``edit`` where an edited model changes queries or keys here.
    matrix : ndarray, shape (writer, writer)
        Terms: query side down, key side across. They sum to ``score``.
    score : float
        From the run's own query and key.
    weight : float
        The attention weight that follows, after edits of the pattern if there are any.
    softcap : float or None
        Softcap between score and softmax: what is split is the score before it.
    position : float
        Position bias (ALiBi) that is added to the score; it is no writer's.
    scales : mapping of str to float
        Scales of norms that are held fixed.
    model : str
        Name of the model.

    Examples
    --------
    The second head of a planted induction circuit looks at the token whose predecessor is the token it stands on; what tells it is
    what the previous-token head wrote there.

    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("induction-gqa")
    >>> why = cl.why_attends(planted.model, "a1.h2", [3, 1, 5, 2, 4, 0, 1], query=-1, key=2)
    >>> [(query, key) for query, key, _ in why.top(1)]
    [('embed', 'a0.h1')]
    >>> bool(abs(why.matrix.sum() - why.score) < 1e-4)
    True
    """

    head: Head
    kv_head: KVHead
    tokens: tuple[str, ...]
    query: int
    key: int
    against: Against
    writers: tuple[str, ...]
    matrix: np.ndarray
    score: float
    weight: float
    softcap: float | None
    position: float
    scales: Mapping[str, float]
    model: str

    @property
    def residual(self) -> float:
        """Score minus the sum of its terms: rounding of the run."""
        return float(self.score - self.matrix.sum())

    def top(self, k: int = _STRONGEST) -> list[tuple[str, str, float]]:
        """The ``k`` largest terms by magnitude: writer at the query, writer at the key, term."""
        order = np.argsort(-np.abs(self.matrix), axis=None, kind="stable")[:k]
        places = [np.unravel_index(i, self.matrix.shape) for i in order]
        return [(self.writers[q], self.writers[key], float(self.matrix[q, key])) for q, key in places]

    def loadings(self, port: str) -> dict[str, float]:
        """Each writer's share of the score through one side, ``"q"`` or ``"k"``, summed over the writers of the other side.

        Raises
        ------
        BadParameterError
            If the port is neither.
        """
        if port not in {"q", "k"}:
            raise BadParameterError(f"port={port!r} is no side of a score.", "Use 'q' (query) or 'k' (key).")
        return dict(zip(self.writers, self.matrix.sum(1 if port == "q" else 0).tolist(), strict=True))

    def edge(self, edge: Edge | str) -> dict[str, float]:
        """What comes in through one edge, by the writers of the other side; the sum is the sender's entry in `loadings`.

        Parameters
        ----------
        edge : Edge or str
            From a writer to this head's query or key: ``"a4.h2->a9.h6<k>"``; the key also by its key/value head, ``"a4.h2->a9.kv2<k>"``.

        Raises
        ------
        BadParameterError
            If it does not end at this head's query or key.
        UnknownNameError
            If its sender is no writer.
        """
        wanted = parse_edge(edge) if isinstance(edge, str) else edge
        if wanted.port not in {"q", "k"} or wanted.receiver not in {self.head, self.kv_head}:
            what = f"Edge {wanted} does not end at the query or key of {self.head}."
            raise BadParameterError(what, f"Ask for {wanted.sender}->{self.head}<k> or <q>.")
        sender = str(wanted.sender)
        if sender not in self.writers:
            raise UnknownNameError("writer", sender, self.writers)
        place = self.writers.index(sender)
        values = self.matrix[place] if wanted.port == "q" else self.matrix[:, place]
        return dict(zip(self.writers, values.tolist(), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "head": str(self.head),
            "kv_head": str(self.kv_head),
            "model": self.model,
            "tokens": list(self.tokens),
            "query": self.query,
            "key": self.key,
            "against": self.against,
            "score": self.score,
            "residual": self.residual,
            "weight": self.weight,
            "softcap": self.softcap,
            "position_bias": self.position,
            "scales": dict(self.scales),
            "writers": list(self.writers),
            "matrix": self.matrix.tolist(),
        }

    @property
    def heading(self) -> str:
        """What was split, in one line."""
        versus = "" if self.against is None else f", against {self._versus()}"
        return f"Why {self.head} looks from {self._named(self.query)} at {self._named(self.key)}{versus}"

    def notes(self) -> list[str]:
        """What belongs to the numbers: the weight, and what was held fixed or left out."""
        held = ", ".join(f"{name} {value:.3g}" for name, value in self.scales.items())
        notes = [f"score {self.score:+.3f}, attention weight {self.weight:.3f}", f"held fixed: {held or 'nothing (no norms)'}"]
        if self.softcap is not None:
            notes.append(f"the score before the softcap of {self.softcap:g} is split")
        if self.position:
            notes.append(f"a position bias of {self.position:+.3f} is added to the score, and is no writer's")
        return notes

    def _versus(self) -> str:
        return "the mean of the other keys" if self.against == "others" else self._named(int(self.against or 0))

    def _named(self, position: int) -> str:
        return f"{position} {self.tokens[position]!r}"

    def __repr__(self) -> str:
        lines = [f"{self.heading} ({self.model})", *self.notes()]
        width = max(len(f"{query} x {key}") for query, key, _ in self.top())
        return "\n".join(lines + [f"  {f'{query} x {key}':<{width}}  {term:+.3f}" for query, key, term in self.top()])

    def _repr_html_(self) -> str:
        rows = [[query, key, f"{term:+.3f}"] for query, key, term in self.top()]
        return html_table(f"{self.heading}, {self.model}", ["writer at the query", "writer at the key", "term"], rows, notes=self.notes())
