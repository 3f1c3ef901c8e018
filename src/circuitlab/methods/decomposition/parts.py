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
    """One activation, split for every source.

    Parameters
    ----------
    relevant : Tensor, shape (source, pair, pos, ...)
        The part that is due to the source.
    true : Tensor, shape (pair, pos, ...)
        The activation of the unedited run, the same for all sources.
    carried : Tensor, shape (source, pair, pos, ...), optional
        The irrelevant part, carried through every step by its own equation. If None, it is the activation minus the relevant part, which
        is half the work and gives the same result for every rule that keeps sums.
    """

    relevant: Float[Tensor, "source pair pos ..."]
    true: Float[Tensor, "pair pos ..."]
    carried: Float[Tensor, "source pair pos ..."] | None = None

    @property
    def irrelevant(self) -> Float[Tensor, "source pair pos ..."]:
        """The part that is not due to the source."""
        return self.true - self.relevant if self.carried is None else self.carried

    @property
    def total(self) -> Tensor:
        """The sum of both parts; it has a source axis only if the irrelevant part is carried."""
        return self.true if self.carried is None else self.relevant + self.carried

    def through(self, linear: Callable[[Tensor], Tensor], true: Tensor) -> Parts:
        """Both parts through a linear map; ``true`` is the map's output for the activation itself."""
        return Parts(linear(self.relevant), true, None if self.carried is None else linear(self.carried))

    def rows(self, which: slice) -> Parts:
        """A subset of the sources."""
        return Parts(self.relevant[which], self.true, None if self.carried is None else self.carried[which])

    def grown(self, count: int) -> Parts:
        """The activation with ``count`` more sources, for which nothing is relevant here."""
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
    def joined(cls, several: list[Parts]) -> Parts:
        """Concatenate the sources of several parts of the same activation."""
        carried = None if several[0].carried is None else torch.cat([parts.carried for parts in several if parts.carried is not None])
        return cls(torch.cat([parts.relevant for parts in several]), several[0].true, carried)

    def error(self) -> float:
        """Largest deviation of the sum of both parts from the activation, relative to the largest activation at its position (or 1)."""
        apart = (self.relevant + self.irrelevant - self.true).abs()
        if not apart.numel():
            return 0.0
        # Logits have no position axis: (source, pair, token).
        places = min(2, self.true.ndim - 1)
        size = self.true.flatten(places).abs().amax(-1).clamp(min=1.0)
        return float((apart.flatten(places + 1).amax(-1) / size).max())
