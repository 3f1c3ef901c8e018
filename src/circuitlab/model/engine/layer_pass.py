"""Edited runs that go through the layers together, each joining at its own first layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from circuitlab.core.in_step import ByLayer
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
    """Edited runs that start at the same position.

    Parameters
    ----------
    start : int
        First position of their window.
    indices : list of int
        Their indices in the sweep.
    ordered : list of EditSet
        Edit sets sorted by their first layer.
    rows : Tensor, shape (edit, prompt, pos, d_model)
        Their residual streams on the window.
    joined : int
        Number of runs that have begun, the first ones in ``rows``.
    """

    start: int
    indices: list[int]
    ordered: list[EditSet]
    rows: Float[Tensor, "edit prompt pos d_model"]
    joined: int = 0

    @classmethod
    def of(cls, start: int, ordered: Sequence[tuple[int, EditSet]], base: BaseRun, stop: int) -> StartGroup:
        """A group of (index in the sweep, edit set), sorted by first layer."""
        window = base.entering[0][:, start:stop]
        rows = window.new_empty(len(ordered), *window.shape)
        return cls(start, [index for index, _ in ordered], [edit_set for _, edit_set in ordered], rows)

    def join(self, layer: int, entering: Tensor, stop: int) -> None:
        """Start the runs whose first layer this is, from the base run's residual stream."""
        new = sum(edit_set.layer == layer for edit_set in self.ordered)
        self.rows[self.joined : self.joined + new] = entering[:, self.start : stop]
        self.joined += new


@dataclass(frozen=True, eq=False)
class LayerPass:
    """One pass over the layers for several groups at once; runs join at their first layers.

    Attention needs each group's own window. The MLP works on single positions, so the positions of all groups go through it together, in
    large matrix products.

    Parameters
    ----------
    decoder : Decoder
        The model.
    base : BaseRun
        The unedited run of the same prompts.
    stop : int
        Length of the longest prompt.
    difference : Difference or None
        Arithmetic on differences from the base run; exact arithmetic if None.
    tokens_per_block : int
        Positions that go through a layer together.
    reusing : Reusing
        Exact multiplication into reused memory.
    """

    decoder: Decoder
    base: BaseRun
    stop: int
    difference: Difference | None
    tokens_per_block: int
    reusing: Reusing = field(default_factory=Reusing)

    def by_layer(self, groups: Sequence[StartGroup]) -> ByLayer[list[Float[Tensor, "edit prompt d_model"]]]:
        """Go through the layers; returns the residual stream leaving the last layer at the answer positions, for each group."""
        last = len(self.decoder.blocks) - 1
        for layer in range(min(group.ordered[0].layer for group in groups), last + 1):
            yield layer
            for group in groups:
                group.join(layer, self.base.entering[layer], self.stop)
            self._layer(layer, [group for group in groups if group.joined], answer_only=layer == last)
        return [group.rows[:, :, 0] for group in groups]

    def _layer(self, layer: int, groups: Sequence[StartGroup], *, answer_only: bool) -> None:
        block = self.decoder.blocks[layer]
        for pieces in self._pieces(groups, layer, answer_only=answer_only):
            outputs = [attend(block, piece.rows, self._multiply(layer, piece.at.place), piece.at) for piece in pieces]
            for piece, output, added in zip(pieces, outputs, self._mlp(block, layer, pieces, outputs), strict=True):
                out = leave(output, added, piece.at)
                piece.rows[:, :, : out.shape[2]] = out

    def _pieces(self, groups: Sequence[StartGroup], layer: int, *, answer_only: bool) -> Iterator[list[_Piece]]:
        """Runs in blocks of about ``tokens_per_block`` positions; a block may hold runs of several groups."""
        block: list[_Piece] = []
        size_so_far = 0
        for group in groups:
            only = self.base.at.clamp(min=group.start) if answer_only else None
            place, taps = self._place(layer, group.start, only), self._taps(group.start, only)
            each = group.rows.shape[1] * group.rows.shape[2]
            for rows in _even_shares(group.joined, max(1, self.tokens_per_block // each)):
                writes = [
                    Write(i, edit) for i, edit_set in enumerate(group.ordered[rows]) for edit in edit_set.edits if edit.layer == layer
                ]
                size = (rows.stop - rows.start) * each
                if block and size_so_far + size > self.tokens_per_block:
                    yield block
                    block, size_so_far = [], 0
                block.append(_Piece(group.rows[rows], SiteTap(place, layer, writes, taps)))
                size_so_far += size
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

    def _mlp(self, block: Block, layer: int, pieces: Sequence[_Piece], outputs: Sequence[AttentionOutput]) -> list[Tensor]:
        """The MLP's output for each piece; one product for all pieces, unless arithmetic depends on the prompt of a row."""
        if len(pieces) == 1 or self.difference is not None:
            return [
                mlp_out(block, output.read, self._multiply(layer, piece.at.place)) for piece, output in zip(pieces, outputs, strict=True)
            ]
        joined = mlp_out(block, torch.cat([output.read.flatten(0, 2) for output in outputs]), self.reusing)
        parts = joined.split([output.read.shape[:3].numel() for output in outputs])
        return [part.view(output.read.shape) for part, output in zip(parts, outputs, strict=True)]


@dataclass(frozen=True, eq=False)
class _Piece:
    """A part of a group's runs, with this layer's reads and writes of them."""

    rows: Tensor
    at: SiteTap


def _even_shares(count: int, most: int) -> Iterator[slice]:
    """Slices of about equal length and at most ``most`` runs: a small remainder would run much slower per row."""
    shares = -(-count // most)
    for share in range(shares):
        yield slice(count * share // shares, count * (share + 1) // shares)
