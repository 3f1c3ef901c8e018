"""The positions at which an intervention acts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np
import torch

from circuitlab.core.errors import BadParameterError, EditDidNotFireError

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor

    from circuitlab.model.places import Places

__all__ = ["PositionSpec", "Positions"]

PositionSpec: TypeAlias = str | int | Sequence[str | int]
"""``"all"``, ``"prompt"``, ``"generated"``, ``"last"``, a mark (``"S2"``, ``"S2+1"``), a position (negative: from the prompt's end), or
several of these."""


@dataclass(frozen=True)
class Positions:
    """Positions of every prompt, by name or number; several names give their union.

    Parameters
    ----------
    names : tuple of str or int
        ``"all"``: every position, also generated ones. ``"prompt"``: up to the prompt's last token. ``"generated"``: after it.
        ``"last"`` (or ``"END"``): the prompt's last token. Another string: a mark of the batch, or a position next to one (``"S1+1"``).
        A number: that position; negative numbers count from the prompt's end, so that -1 is its last token.

    Examples
    --------
    >>> Positions.of("S2"), Positions.of(["S1+1", -1]).names
    (Positions(names=('S2',)), ('S1+1', -1))
    """

    names: tuple[str | int, ...]

    @classmethod
    def of(cls, value: PositionSpec) -> Positions:
        """Read one name or number, or several.

        Raises
        ------
        BadParameterError
            If there are none, or one is neither a name nor an integer.
        """
        items = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]
        bad = [item for item in items if isinstance(item, bool) or not isinstance(item, str | int | np.integer)]
        if bad or not items:
            what = f"Positions {value!r} are neither names nor integers."
            raise BadParameterError(what, 'Give "all", "prompt", "generated", "last", names of marks, or numbers.')
        return cls(tuple(item if isinstance(item, str) else int(item) for item in items))

    @property
    def only_generated(self) -> bool:
        """Whether only generated positions are chosen."""
        return set(self.names) == {"generated"}

    def chosen(self, places: Places) -> Bool[Tensor, "prompt pos"] | None:
        """Mask of the chosen positions in a run; None for all of them.

        Raises
        ------
        EditDidNotFireError
            If a number, or a position next to a mark, lies outside a prompt.
        BadParameterError, UnknownNameError
            If the prompts have no such mark.
        """
        outside = {name: self._outside(places, name) for name in self.names}
        for name, rows in outside.items():
            if rows:
                lengths = (places.end[rows] + 1).tolist()
                what = f"Position {name!r} of an intervention lies outside prompts {rows[:5]}, of {lengths[:5]} tokens."
                raise EditDidNotFireError(
                    what, "Choose a position that every prompt has; 'generated' means all positions after the prompt."
                )
        if "all" in self.names:
            return None
        at = places.positions
        mask = torch.zeros(len(places.end), at.shape[1], dtype=torch.bool, device=at.device)
        for name in self.names:
            mask |= _mask(places, name, at)
        return mask

    @staticmethod
    def _outside(places: Places, name: str | int) -> list[int]:
        if name in {"all", "prompt", "generated", "last"}:
            return []
        position = _position(places, name)
        return cast("list[int]", ((position < 0) | (position > places.end)).nonzero()[:, 0].tolist())

    def describe(self) -> str:
        """The positions as a suffix, such as ``@S2``; empty for all positions."""
        return "" if self.names == ("all",) else "@" + ",".join(map(str, self.names))


def _mask(places: Places, name: str | int, at: Int[Tensor, "prompt pos"]) -> Bool[Tensor, "prompt pos"]:
    end = places.end.to(at.device)[:, None]
    if name == "prompt":
        return at <= end
    if name == "generated":
        return at > end
    return at == _position(places, name).to(at.device)[:, None]


def _position(places: Places, name: str | int) -> Int[Tensor, " prompt"]:
    """The position of a number or mark in each prompt; it may lie outside."""
    if isinstance(name, int):
        return torch.full_like(places.end, name) if name >= 0 else places.end + 1 + name
    if name in {"last", "END"}:
        return places.end
    beside = re.fullmatch(r"(.+?)([+-]\d+)", name)
    if beside is None or name in places.marks:
        return places.mark(name).to(places.end.device)
    base = places.end if beside[1] == "END" else places.mark(beside[1]).to(places.end.device)
    return base + int(beside[2])
