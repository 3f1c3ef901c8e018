"""Which positions of a prompt an intervention acts at."""

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
"""``"all"``, ``"prompt"``, ``"generated"``, ``"last"``, a mark (``"S2"``, ``"S2+1"``), a position (negative: from the prompt's end)."""


@dataclass(frozen=True)
class Positions:
    """Positions of every prompt, by name or number; several together are their union.

    Parameters
    ----------
    names : tuple of str or int
        ``"all"``: every position, generated ones too. ``"prompt"``: up to the prompt's last token. ``"generated"``: after it.
        ``"last"`` (or ``"END"``): the prompt's last token. Another string: a mark of the batch, or a place beside one (``"S1+1"``).
        A number: that position; negative ones count from the prompt's end, so that -1 is its last token.

    Examples
    --------
    >>> Positions.of("S2"), Positions.of(["S1+1", -1]).names
    (Positions(names=('S2',)), ('S1+1', -1))
    """

    names: tuple[str | int, ...]

    @classmethod
    def of(cls, given: PositionSpec) -> Positions:
        """Read one name or number, or several.

        Raises
        ------
        BadParameterError
            If there are none, or one is neither a name nor a whole number.
        """
        several = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
        bad = [one for one in several if isinstance(one, bool) or not isinstance(one, str | int | np.integer)]
        if bad or not several:
            what = f"Positions {given!r} are no names or whole numbers."
            raise BadParameterError(what, 'Give "all", "prompt", "generated", "last", names of marks, or numbers.')
        return cls(tuple(one if isinstance(one, str) else int(one) for one in several))

    @property
    def only_generated(self) -> bool:
        """Whether nothing is chosen before something is generated."""
        return set(self.names) == {"generated"}

    def chosen(self, places: Places) -> Bool[Tensor, "prompt pos"] | None:
        """Which of the values' positions are meant; None for all of them.

        Raises
        ------
        EditDidNotFireError
            If a number or a place beside a mark lies outside a prompt.
        BadParameterError, UnknownNameError
            If the prompts have no such mark.
        """
        outside = {name: self._outside(places, name) for name in self.names}
        for name, rows in outside.items():
            if rows:
                lengths = (places.end[rows] + 1).tolist()
                what = f"Position {name!r} of an intervention lies outside prompts {rows[:5]}, of {lengths[:5]} tokens."
                raise EditDidNotFireError(what, "Name a place that every prompt has; 'generated' stands for what comes after the prompt.")
        if "all" in self.names:
            return None
        at = places.positions
        found = torch.zeros(len(places.end), at.shape[1], dtype=torch.bool, device=at.device)
        for name in self.names:
            found |= _meant(places, name, at)
        return found

    @staticmethod
    def _outside(places: Places, name: str | int) -> list[int]:
        if name in {"all", "prompt", "generated", "last"}:
            return []
        place = _place(places, name)
        return cast("list[int]", ((place < 0) | (place > places.end)).nonzero()[:, 0].tolist())

    def describe(self) -> str:
        """Where, in words."""
        return "" if self.names == ("all",) else "@" + ",".join(map(str, self.names))


def _meant(places: Places, name: str | int, at: Int[Tensor, "prompt pos"]) -> Bool[Tensor, "prompt pos"]:
    end = places.end.to(at.device)[:, None]
    if name == "prompt":
        return at <= end
    if name == "generated":
        return at > end
    return at == _place(places, name).to(at.device)[:, None]


def _place(places: Places, name: str | int) -> Int[Tensor, " prompt"]:
    """The one position of each prompt that a number or a mark stands for; it may lie outside."""
    if isinstance(name, int):
        return torch.full_like(places.end, name) if name >= 0 else places.end + 1 + name
    if name in {"last", "END"}:
        return places.end
    beside = re.fullmatch(r"(.+?)([+-]\d+)", name)
    if beside is None or name in places.marks:
        return places.mark(name).to(places.end.device)
    base = places.end if beside[1] == "END" else places.mark(beside[1]).to(places.end.device)
    return base + int(beside[2])
