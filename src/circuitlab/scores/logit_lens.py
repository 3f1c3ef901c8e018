"""LogitLens: which tokens the residual stream, a head's output or an MLP's output speaks for, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.html import html_table

__all__ = ["SITES", "LensSite", "LogitLens"]

LensSite: TypeAlias = Literal["stream", "heads", "mlps"]
"""What is read: the residual stream (entering layer 0 and leaving every layer), what every head adds to it, or what every MLP adds."""

SITES: tuple[LensSite, ...] = ("stream", "heads", "mlps")
"""Every place that can be read."""

_SHOWN = 16


@dataclass(frozen=True, eq=False, repr=False)
class LogitLens:
    """Tokens read off intermediate values of one prompt with the model's own final norm and unembedding (nostalgebraist 2020).

    Parameters
    ----------
    site : {"stream", "heads", "mlps"}
        What is read.
    tokens : tuple of str
        The prompt's tokens as text.
    positions : tuple of int
        Which of them are read.
    rows : tuple of str
        ``r0.pre``, ``r0.post``, ``r1.post`` and so on; ``a0.h0``; or ``m0``.
    top_tokens, top_ids, top_values : ndarray, shape (row, position, k)
        The likeliest tokens (of a part: those that it raises most), as text and as ids, and their values.
    asked, asked_ids : tuple of str, tuple of int
        Tokens that were asked about.
    values, ranks : ndarray, shape (row, position, token)
        Their values, and their places among all tokens; 1 is the top.
    model : str
        Name of the model.

    Notes
    -----
    Of the stream, values are log-probabilities: the stream goes through the final norm with a scale of its own, and the softcap of the
    logits, as if no further layer followed; the last row is the model's own answer. Of heads and MLPs, values are shares of the final
    logits: the final norm keeps the scale that it has on the stream that leaves the last layer, a softcap enters by its secant slope
    there, and the mean over the vocabulary, which no probability feels, is taken off.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("induction-gqa")
    >>> lens = cl.logit_lens(planted.model, [3, 1, 5, 2, 4, 0, 1], tokens=[5], positions=-1)
    >>> lens.rows, lens.ranks[-1, 0, 0].item(), lens.top("r1.post")[0][0]
    (('r0.pre', 'r0.post', 'r1.post'), 1, '5')
    """

    site: LensSite
    tokens: tuple[str, ...]
    positions: tuple[int, ...]
    rows: tuple[str, ...]
    top_tokens: np.ndarray
    top_ids: np.ndarray
    top_values: np.ndarray
    asked: tuple[str, ...]
    asked_ids: tuple[int, ...]
    values: np.ndarray
    ranks: np.ndarray
    model: str

    @property
    def units(self) -> str:
        """What the values are."""
        return "log-probability" if self.site == "stream" else "share of the logit, above its mean over tokens"

    def top(self, row: str, position: int = -1) -> list[tuple[str, float]]:
        """The top tokens of one row at one of the positions that were read (by its number in the prompt), with their values.

        Raises
        ------
        UnknownNameError
            If there is no such row.
        BadParameterError
            If the position was not read.
        """
        if row not in self.rows:
            raise UnknownNameError("row of the lens", row, self.rows)
        place = self.rows.index(row), self.column(position)
        return list(zip(self.top_tokens[place].tolist(), self.top_values[place].tolist(), strict=True))

    def column(self, position: int) -> int:
        """Where a position of the prompt stands along the position axis.

        Raises
        ------
        BadParameterError
            If it was not read.
        """
        wanted = position % len(self.tokens) if -len(self.tokens) <= position < len(self.tokens) else position
        if wanted not in self.positions:
            what = f"Position {position} was not read; {list(self.positions)} were."
            raise BadParameterError(what, "Name it in logit_lens(..., positions=...).")
        return self.positions.index(wanted)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "model": self.model,
            "site": self.site,
            "units": self.units,
            "tokens": list(self.tokens),
            "positions": list(self.positions),
            "rows": list(self.rows),
            "top_tokens": self.top_tokens.tolist(),
            "top_ids": self.top_ids.tolist(),
            "top_values": self.top_values.tolist(),
            "asked": list(self.asked),
            "asked_ids": list(self.asked_ids),
            "values": self.values.tolist(),
            "ranks": self.ranks.tolist(),
        }

    def table(self, position: int = -1, most: int | None = None) -> tuple[list[str], list[list[str]]]:
        """Headings and rows for people: at one position, every row's top token, and the tokens that were asked about.

        With ``most``, only so many rows: of heads and MLPs those that raise a token most (one that was asked about, where there is one).
        """
        at = self.column(position)
        headings = ["", "top token", self.units, *(text for name in self.asked for text in (repr(name), "rank"))]
        order = list(range(len(self.rows)))
        if most is not None and len(order) > most:
            by = np.abs(self.values[:, at, 0]) if self.asked else self.top_values[:, at, 0]
            order = np.argsort(-by, kind="stable")[:most].tolist() if self.site != "stream" else order[-most:]
        rows = []
        for i in order:
            asked = [text for j in range(len(self.asked)) for text in (f"{self.values[i, at, j]:+.2f}", str(self.ranks[i, at, j]))]
            rows.append([self.rows[i], repr(self.top_tokens[i, at, 0]), f"{self.top_values[i, at, 0]:+.2f}", *asked])
        return headings, rows

    def _heading(self) -> str:
        last = self.positions[-1]
        names = {"stream": "the residual stream", "heads": "head outputs", "mlps": "MLP outputs"}
        return f"Logit lens of {names[self.site]}, {self.model}, at {last} {self.tokens[last]!r}"

    def __repr__(self) -> str:
        headings, rows = self.table(self.positions[-1], _SHOWN)
        widths = [max(len(row[i]) for row in [headings, *rows]) for i in range(len(headings))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [headings, *rows]]
        return "\n".join([self._heading(), *lines])

    def _repr_html_(self) -> str:
        headings, rows = self.table(self.positions[-1], _SHOWN)
        return html_table(self._heading(), headings, rows)
