"""Edited runs that go up through the layers together, each joining at its own first layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from circuitlab.model.engine.arithmetic import Difference, Multiply, Reusing
from circuitlab.model.engine.layer import AttentionOutput, SiteTap, attend, leave, mlp_out
from circuitlab.model.engine.window import Window, Write

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from circuitlab.model.decoder import Block, Decoder
    from circuitlab.model.engine.base_run import BaseRun
    from circuitlab.model.places import Tap
    from circuitlab.model.sites import EditSet

__all__ = ["LayerPass", "StartGroup"]


@dataclass(eq=False)
class StartGroup:
    """Edited runs that start at one position.

    Parameters
    ----------
    start : int
        First position of their window.
    indices : list of int
        Their places in the sweep.
    ordered : list of EditSet
        By first layer.
    rows : Tensor, shape (edit, prompt, pos, d_model)
        Their residual streams on the window; the first ``joined`` are on their way.
    """

    start: int
    indices: list[int]
    ordered: list[EditSet]
    rows: Float[Tensor, "edit prompt pos d_model"]
    joined: int = 0

    @classmethod
    def of(cls, start: int, ordered: Sequence[tuple[int, EditSet]], base: BaseRun, stop: int) -> StartGroup:
        """A group of (place in the sweep, edit set), in order of their first layers."""
        window = base.entering[0][:, start:stop]
        rows = window.new_empty(len(ordered), *window.shape)
        return cls(start, [index for index, _ in ordered], [one for _, one in ordered], rows)

    def join(self, layer: int, entering: Tensor, stop: int) -> None:
        """Let the runs whose first layer this is begin from the base run."""
        new = sum(one.layer == layer for one in self.ordered)
        self.rows[self.joined : self.joined + new] = entering[:, self.start : stop]
        self.joined += new


@dataclass(frozen=True, eq=False)
class LayerPass:
    """One growing pass over the layers, for several groups at once.

    Attention needs a group's own window; the MLP works on one position at a time, so the positions of all groups go through it
    together, in large matrix products.
    """

    decoder: Decoder
    base: BaseRun
    stop: int
    difference: Difference | None
    tokens_per_block: int
    reusing: Reusing = field(default_factory=Reusing)

    def __call__(self, groups: Sequence[StartGroup]) -> list[Float[Tensor, "edit prompt d_model"]]:
        """The residual stream leaving the last layer at the answer positions, for each group."""
        last = len(self.decoder.blocks) - 1
        for layer in range(min(group.ordered[0].layer for group in groups), last + 1):
            for group in groups:
                group.join(layer, self.base.entering[layer], self.stop)
            self._layer(layer, [group for group in groups if group.joined], answer_only=layer == last)
        return [group.rows[:, :, 0] for group in groups]

    def _layer(self, layer: int, groups: Sequence[StartGroup], *, answer_only: bool) -> None:
        block = self.decoder.blocks[layer]
        for some in self._pieces(groups, layer, answer_only=answer_only):
            found = [attend(block, piece.rows, self._multiply(layer, piece.at.place), piece.at) for piece in some]
            for piece, one, added in zip(some, found, self._mlp(block, layer, some, found), strict=True):
                out = leave(one, added, piece.at)
                piece.rows[:, :, : out.shape[2]] = out

    def _pieces(self, groups: Sequence[StartGroup], layer: int, *, answer_only: bool) -> Iterator[list[_Piece]]:
        """Runs in blocks of about ``tokens_per_block`` positions; a block takes from several groups where one does not fill it."""
        block: list[_Piece] = []
        held = 0
        for group in groups:
            only = self.base.at.clamp(min=group.start) if answer_only else None
            place, taps = self._place(layer, group.start, only), self._taps(group.start, only)
            each = group.rows.shape[1] * group.rows.shape[2]
            for part in _even_shares(group.joined, max(1, self.tokens_per_block // each)):
                writes = [Write(i, edit) for i, one in enumerate(group.ordered[part]) for edit in one.edits if edit.layer == layer]
                size = (part.stop - part.start) * each
                if block and held + size > self.tokens_per_block:
                    yield block
                    block, held = [], 0
                block.append(_Piece(group.rows[part], SiteTap(place, layer, writes, taps)))
                held += size
        if block:
            yield block

    def _place(self, layer: int, start: int, only: Tensor | None) -> Window:
        where = self.decoder.geometry(self.stop)[layer]
        return Window(start, self.stop, where, self.base.keys[layer][:, :start], self.base.values[layer][:, :start], only)

    def _taps(self, start: int, only: Tensor | None) -> tuple[Tap | None, Tap | None]:
        """The standing edits on a window, and at the answer positions."""
        if self.decoder.standing is None:
            return None, None
        places = self.base.places.window(start, self.stop)
        return self.decoder.tap(places), None if only is None else self.decoder.tap(self.base.places.window(start, self.stop, only))

    def _multiply(self, layer: int, place: Window) -> Multiply:
        if self.difference is None:
            return self.reusing
        return self.difference.of(self.base.linears[layer], place, self.base.linears_from)

    def _mlp(self, block: Block, layer: int, some: Sequence[_Piece], found: Sequence[AttentionOutput]) -> list[Tensor]:
        """What the MLP adds in each piece; together where arithmetic does not need to know the prompt of a row."""
        if len(some) == 1 or self.difference is not None:
            return [mlp_out(block, one.read, self._multiply(layer, piece.at.place)) for piece, one in zip(some, found, strict=True)]
        joined = mlp_out(block, torch.cat([one.read.flatten(0, 2) for one in found]), self.reusing)
        parts = joined.split([one.read.shape[:3].numel() for one in found])
        return [part.view(one.read.shape) for part, one in zip(parts, found, strict=True)]


@dataclass(frozen=True, eq=False)
class _Piece:
    """Some runs of one group, and the reads and writes of this layer that concern them."""

    rows: Tensor
    at: SiteTap


def _even_shares(count: int, most: int) -> Iterator[slice]:
    """Even shares of at most ``most``: a small rest would run at a fraction of the speed."""
    shares = -(-count // most)
    for share in range(shares):
        yield slice(count * share // shares, count * (share + 1) // shares)
