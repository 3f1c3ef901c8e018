"""HeadOnText: one head on natural text, from where it writes most to where it writes least, and what that does for the next token."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from circuitlab.core.html import html_table

__all__ = ["Decile", "HeadOnText", "TextSpot"]

_SHOWN = 5
"""Rows of each kind that a notebook shows."""


@dataclass(frozen=True, slots=True)
class TextSpot:
    """One head at one position of a passage.

    Parameters
    ----------
    passage, position : int
        Which passage and which of its tokens, from 0.
    decile : int
        Of the head's activations; 10 is the highest.
    activation : float
        Norm of what the head adds to the stream here.
    effect : float
        Its direct effect on the next token, see `HeadOnText`.
    before : tuple of str
        Up to twelve tokens before.
    token, following : str
        The token here, and the one that really follows.
    attended : tuple of (int, str, float)
        Up to five tokens that the head attends to most: position, text, weight.
    """

    passage: int
    position: int
    decile: int
    activation: float
    effect: float
    before: tuple[str, ...]
    token: str
    following: str
    attended: tuple[tuple[int, str, float], ...]


@dataclass(frozen=True, slots=True)
class Decile:
    """A tenth of all positions, by a head's activation.

    Parameters
    ----------
    number : int
        From 1, the lowest, to 10.
    low, high : float
        Its smallest and largest activation.
    effect : float
        Mean direct effect over its positions.
    spots : tuple of TextSpot
        Some of its positions, at even steps from the smallest activation to the largest.
    """

    number: int
    low: float
    high: float
    effect: float
    spots: tuple[TextSpot, ...]


@dataclass(frozen=True, repr=False)
class HeadOnText:
    """One head on natural text.

    Parameters
    ----------
    head, model : str
        Which.
    n_passages, n_positions : int
        What was read: positions that see an earlier token and have a next one.
    n_heads : int
        Heads of the model, among which winners are found.
    effect : float
        Mean direct effect over passages, in logits.
    low, high : float or None
        Its 95 % t-interval over passages; None for a single passage.
    wins : int
        Positions where no head has a larger direct effect than this one, and its own is positive.
    top : tuple of TextSpot
        Where its activation is largest.
    deciles : tuple of Decile
        From the tenth of positions where it writes least to that where it writes most.
    winning : tuple of TextSpot
        Positions that it wins, largest direct effect first.

    Notes
    -----
    The activation is the norm of what the head adds to the residual stream, behind a norm after attention where the family has one. The
    direct effect is what the logit of the true next token, above the mean of all logits, would lose if what the head adds here were
    replaced by its mean over all positions, on the direct way to the logits alone: all other parts and the scales of norms are held, and a
    softcap is left out. Gould et al. (2024) call positions where a head's direct effect is largest of all heads its winning cases. What a
    head does through later heads and MLPs is no direct effect: a head without one may still matter.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> rows = [[3, 1, 5, 2, 4, 0, 1, 5, 2, 4, 0, 3], [0, 2, 1, 4, 3, 5, 2, 1, 4, 3, 5, 0]] * 3
    >>> read = cl.head_on_text(build_planted("induction-gqa").model, "a1.h2", rows)
    >>> read.n_positions, len(read.deciles), read.deciles[9].low >= read.deciles[0].high
    (60, 10, True)
    """

    head: str
    model: str
    n_passages: int
    n_positions: int
    n_heads: int
    effect: float
    low: float | None
    high: float | None
    wins: int
    top: tuple[TextSpot, ...]
    deciles: tuple[Decile, ...]
    winning: tuple[TextSpot, ...]

    def __repr__(self) -> str:
        return (
            f"HeadOnText({self.head} of {self.model}, {self.n_positions} positions of {self.n_passages} passages: "
            f"direct effect {self._effect()}, wins {self.wins})"
        )

    def _repr_html_(self) -> str:
        headings = ["where", "activation", "direct effect", "text", "next token", "looks at"]
        rows = [_row(f"top {rank}", spot) for rank, spot in enumerate(self.top[:_SHOWN], start=1)]
        rows += [_row(f"decile {one.number}", one.spots[len(one.spots) // 2]) for one in reversed(self.deciles)]
        rows += [_row(f"win {rank}", spot) for rank, spot in enumerate(self.winning[:_SHOWN], start=1)]
        share = self.wins / self.n_positions
        notes = [
            f"Mean direct effect on the next token: {self._effect()} logits, over {self.n_passages} passages.",
            f"It has the largest direct effect of {self.n_heads} heads at {self.wins} of {self.n_positions} positions ({share:.1%}; "
            f"{1 / self.n_heads:.1%} if all won alike).",
        ]
        return html_table(f"{self.head} of {self.model} on natural text", headings, rows, notes=notes)

    def _effect(self) -> str:
        limits = "" if self.low is None or self.high is None else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.effect:.3f}{limits}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with the names of the fields."""
        return asdict(self)


def _row(where: str, spot: TextSpot) -> list[str]:
    looks = ", ".join(f"{text!r} {weight:.2f}" for _, text, weight in spot.attended[:3])
    text = "".join(spot.before) + f"[{spot.token}]"
    return [where, f"{spot.activation:.2f}", f"{spot.effect:+.2f}", text, repr(spot.following), looks]
