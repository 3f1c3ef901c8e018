"""Parts: an activation as a relevant and an irrelevant part, for many sources at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["Parts"]


@dataclass(frozen=True, eq=False)
class Parts:
    """One activation, divided for every source.

    Parameters
    ----------
    relevant : Tensor, shape (source, pair, pos, ...)
        What is due to the source.
    true : Tensor, shape (pair, pos, ...)
        The activation of the unedited run, the same for all sources.
    carried : Tensor, shape (source, pair, pos, ...), optional
        The irrelevant part, carried through every step by its own equation. Where it is left out it is what the relevant part leaves of
        the activation: half the work, and the same for every rule that keeps sums.
    """

    relevant: Float[Tensor, "source pair pos ..."]
    true: Float[Tensor, "pair pos ..."]
    carried: Float[Tensor, "source pair pos ..."] | None = None

    @property
    def irrelevant(self) -> Float[Tensor, "source pair pos ..."]:
        """What is not due to the source."""
        return self.true - self.relevant if self.carried is None else self.carried

    @property
    def total(self) -> Tensor:
        """Both parts together, with the source axis only where the irrelevant part is carried."""
        return self.true if self.carried is None else self.relevant + self.carried

    def through(self, linear: Callable[[Tensor], Tensor], true: Tensor) -> Parts:
        """Both parts through a map that is linear; ``true`` is what it makes of the activation."""
        return Parts(linear(self.relevant), true, None if self.carried is None else linear(self.carried))

    def rows(self, which: slice) -> Parts:
        """Some of the sources."""
        return Parts(self.relevant[which], self.true, None if self.carried is None else self.carried[which])

    def grown(self, count: int) -> Parts:
        """With ``count`` more sources, nothing of which is relevant here."""
        if not count:
            return self
        more = self.true.new_zeros(count, *self.true.shape)
        carried = None if self.carried is None else torch.cat([self.carried, self.true.expand_as(more)])
        return Parts(torch.cat([self.relevant, more]), self.true, carried)

    def plus(self, other: Parts, true: Tensor) -> Parts:
        """The sum of two activations."""
        carried = None if self.carried is None or other.carried is None else self.carried + other.carried
        return Parts(self.relevant + other.relevant, true, carried)

    @classmethod
    def joined(cls, some: list[Parts]) -> Parts:
        """All sources of several, of one activation."""
        carried = None if some[0].carried is None else torch.cat([one.carried for one in some if one.carried is not None])
        return cls(torch.cat([one.relevant for one in some]), some[0].true, carried)

    def error(self) -> float:
        """Largest deviation of the sum of both parts from the activation, relative to the largest activation at its position (or 1)."""
        apart = (self.relevant + self.irrelevant - self.true).abs()
        if not apart.numel():
            return 0.0
        # Logits have no axis after the pair: (source, pair, token).
        places = min(2, self.true.ndim - 1)
        size = self.true.flatten(places).abs().amax(-1).clamp(min=1.0)
        return float((apart.flatten(places + 1).amax(-1) / size).max())
