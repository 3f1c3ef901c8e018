"""How the pairs of a batch are divided: chunks, what each holds in memory, and how many are in memory together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from circuitlab.execute.memory import PassSizes, most_positions, pass_bytes

if TYPE_CHECKING:
    from circuitlab.execute.arrangement import Pairs
    from circuitlab.model.batch import ContrastBatch

__all__ = ["Chunks", "Held", "window_and_length"]

_BLOCK = 1280
"""Positions of edited runs that go through a layer together (`circuitlab.model.engine.Engine`)."""


def _two(_pairs: Pairs) -> int:
    return 2


@dataclass(frozen=True, eq=False)
class Chunks:
    """Chunks of pairs, and their memory in bytes in addition to the model.

    Parameters
    ----------
    pairs : list of list of int
        The chunks.
    held : callable
        Bytes that a chunk keeps from its beginning to its end.
    working : callable
        Bytes that a chunk takes in addition while it passes a layer.
    readings : callable
        How often every layer of a streamed model is read for a chunk, at most.
    more_readings : int
        Readings for the whole run beside those.
    elsewhere : int
        Most bytes that another stage of the run takes at once.
    """

    pairs: list[Pairs]
    held: Callable[[Pairs], int]
    working: Callable[[Pairs], int]
    readings: Callable[[Pairs], int] = _two
    more_readings: int = 0
    elsewhere: int = 0

    def bytes_of(self, wave: Sequence[Pairs]) -> int:
        """Bytes of chunks that are in memory together; they pass a layer one after another."""
        return sum(map(self.held, wave)) + max(map(self.working, wave))

    def fits(self, wave: Sequence[Pairs]) -> bool:
        """Whether chunks fit into the memory of a pass together."""
        return self.bytes_of(wave) <= pass_bytes()


def window_and_length(batch: ContrastBatch, pairs: Sequence[int]) -> tuple[int, int]:
    """Positions from the first difference of some pairs on, and their longest prompt."""
    rows = list(pairs)
    length = int(batch.end[rows].max()) + 1
    return length - min(int(batch.first_difference()[rows].min()), length - 1), length


@dataclass(frozen=True)
class Held:
    """What the methods that run on streamed models keep in memory, in bytes, by pairs, computed positions and positions attended to.

    Parameters
    ----------
    sizes : PassSizes
        The model's shapes.
    streamed : bool
        Whether one layer at a time is in memory.
    """

    sizes: PassSizes
    streamed: bool

    def unedited(self, pairs: int, window: int, length: int, sites: Sequence[str], *, differences: bool) -> int:
        """Both unedited runs of a sweep: streams, keys, values, sites and, for differences, inputs and outputs of every linear map."""
        s = self.sizes
        width = sum(self._width(site, length) for site in sites)
        stacked = length * width  # the source's sites, stacked
        layer = 2 * length * (s.d_model + 2 * s.shared + width) + stacked
        if differences:
            attention = 2 * s.d_model + 2 * s.heads + 2 * s.shared
            layer += 2 * window * (attention + s.d_model + 3 * s.d_mlp + s.d_model)
        return s.itemsize * pairs * s.n_layers * layer

    def edited(self, runs: int, pairs: int, window: int, most_positions: int) -> int:
        """Residual streams of edited runs on their windows, at most so many positions but one run at least, and what leaves the model."""
        s = self.sizes
        return s.itemsize * s.d_model * (max(pairs * window, min(runs * pairs * window, most_positions)) + 3 * runs * pairs)

    def patching(self, patches: int, sites: Sequence[str], *, differences: bool) -> Callable[[int, int, int], int]:
        """What patching holds, by pairs, window and length: unedited runs, and the edited runs of so many patches.

        On a streamed model the edited runs of all pairs of a chunk are in memory together. Those of a single pair go in several waves, if
        they take more than half of the memory of a pass.
        """
        most = most_positions(self.sizes.d_model, self.sizes.itemsize)

        def held(pairs: int, window: int, length: int) -> int:
            unedited = self.unedited(pairs, window, length, sites, differences=differences)
            return unedited + self.edited(patches, pairs if self.streamed else 1, window, most)

        return held

    def sweeping(self, pairs: int, window: int, length: int) -> int:
        """What a layer takes while edited runs, or unedited ones, pass it."""
        s = self.sizes
        positions = max(_BLOCK, pairs * window)
        edited = positions * (3 * s.d_mlp + 8 * s.d_model + 4 * s.n_heads * length)
        unedited = 2 * pairs * length * (3 * s.d_mlp + 6 * s.d_model + 4 * s.n_heads * length)
        return s.itemsize * max(edited, unedited)

    def gradients(self, pairs: int, window: int, length: int, fields: Sequence[str]) -> tuple[int, int]:
        """Both runs of a gradient method: what is held, and what one layer takes; in memory, everything is held in one graph."""
        s = self.sizes
        if not self.streamed:
            return pairs * s.differentiated(fields, window, length), 0
        before = 2 * s.shared * (length - window)
        held = s.n_layers * (window * s.d_model + s.gradients(fields, window, length) // (s.itemsize * s.n_layers) + before)
        return s.itemsize * pairs * held, pairs * s.differentiated(fields, window, length) // s.n_layers

    def paths(self, pairs: int, length: int, senders: int) -> tuple[int, int]:
        """Both runs of path patching with the changes of all senders: what is held, and what one layer takes."""
        s = self.sizes
        changes = 3 * senders * pairs * s.d_model
        if not self.streamed:
            return s.itemsize * changes + 2 * pairs * s.traced(length, length), pairs * s.working(length, length)
        held = 2 * s.n_layers * pairs * length * (s.heads + 3 * s.d_model)
        return s.itemsize * (held + changes), pairs * (s.working(length, length) + s.traced(length, length) // s.n_layers)

    def _width(self, site: str, length: int) -> int:
        s = self.sizes
        widths = {"z": s.heads, "q": s.heads, "k": s.shared, "v": s.shared, "pattern": s.n_heads * length}
        return widths.get(site, s.d_model)
