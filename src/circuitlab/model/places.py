"""The prompts and positions of a run, and the tap that reads and changes its values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

import torch

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from circuitlab.model.batch import ContrastBatch

__all__ = ["Places", "Tap"]

Tap: TypeAlias = Callable[[Site, int, "Tensor"], "Tensor"]
"""``(site, layer, value) -> value``: called with the value of every site in forward order; the run continues with the value it returns.

Values are (*lead, prompt, pos, ...), PATTERN (*lead, prompt, head, query, key), as `Site` describes them. A tap that changes nothing
returns the same tensor object. A tap that changes something returns a new tensor and does not write into the old one.
"""


@dataclass(frozen=True, eq=False)
class Places:
    """The prompts of a run, and the positions for which it computes values.

    Parameters
    ----------
    tokens : Tensor of int, shape (prompt, pos)
        Right-padded token ids of the whole prompts and the tokens generated after them.
    end : Tensor of int, shape (prompt,)
        Last position of each prompt; later ones are padding or generated tokens.
    marks : mapping of str to Tensor of int, shape (prompt,)
        Named positions, if the prompts come from a batch.
    start, stop : int
        Values are computed for positions ``start`` to ``stop - 1``.
    only : Tensor of int, shape (prompt,), optional
        If given, values are computed for this position of each prompt only (the engine's last layer).
    """

    tokens: Int[Tensor, "prompt pos"]
    end: Int[Tensor, " prompt"]
    marks: Mapping[str, Int[Tensor, " prompt"]] = field(default_factory=dict)
    start: int = 0
    stop: int | None = None
    only: Int[Tensor, " prompt"] | None = None

    @classmethod
    def of(cls, batch: ContrastBatch, tokens: Int[Tensor, "pair pos"] | None = None) -> Places:
        """The clean prompts of a batch with its marks; ``tokens`` are other prompts of the same lengths."""
        return cls(batch.clean if tokens is None else tokens, batch.end, batch.marks)

    def window(self, start: int, stop: int, only: Int[Tensor, " prompt"] | None = None) -> Places:
        """The same prompts, with values for some positions only."""
        return replace(self, start=start, stop=stop, only=only)

    def select(self, prompts: Sequence[int] | slice) -> Places:
        """A subset of the prompts."""
        rows = prompts if isinstance(prompts, slice) else list(prompts)
        only = None if self.only is None else self.only[rows]
        marks = {name: places[rows] for name, places in self.marks.items()}
        return replace(self, tokens=self.tokens[rows], end=self.end[rows], marks=marks, only=only)

    @property
    def positions(self) -> Int[Tensor, "prompt pos"]:
        """The position of each value along the position axis, with a single row if it is the same in all prompts."""
        if self.only is not None:
            return self.only[:, None]
        stop = self.tokens.shape[1] if self.stop is None else self.stop
        return torch.arange(self.start, stop)[None]

    def position(self, given: int | str, prompt: int = 0) -> int:
        """One position of one prompt: by number, negative ones from its end, or by mark.

        Raises
        ------
        BadParameterError
            If the prompt is shorter.
        UnknownNameError
            If the batch has no such mark.
        """
        if isinstance(given, str):
            return int(self.mark(given)[prompt])
        length = int(self.end[prompt]) + 1
        if not -length <= given < length:
            what = f"Position {given} was asked for in a prompt of {length} tokens."
            raise BadParameterError(what, "Count positions from 0, or from the end with negative numbers.")
        return given % length

    def mark(self, name: str) -> Int[Tensor, " prompt"]:
        """Position of a named mark in each prompt.

        Raises
        ------
        BadParameterError
            If these prompts do not come from a batch, and so have no marks.
        UnknownNameError
            If the batch has no such mark.
        """
        if not self.marks:
            what = f"Mark {name!r} cannot be found: these prompts have no marks."
            raise BadParameterError(what, "Run prompts of a batch that has marks, or give positions by number.")
        if name not in self.marks:
            raise UnknownNameError("mark", name, self.marks)
        return self.marks[name]
