"""Edited runs that go through the layers together, each joining at its own first layer."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from circuitlab.core.in_step import ByLayer
from circuitlab.model.engine.arithmetic import Difference, Reusing
from circuitlab.model.engine.difference_layer import IN_CACHE, DifferenceLayer, Piece
from circuitlab.model.engine.layer import AttentionOutput, SiteTap, attend, leave, mlp_out
from circuitlab.model.engine.window import Window, Write
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from circuitlab.model.decoder import Block, Decoder
    from circuitlab.model.engine.base_run import BaseRun
    from circuitlab.model.places import Tap
    from circuitlab.model.sites import EditSet

__all__ = ["LayerPass", "StartGroup"]

_FROM_Z = {Site.Z, Site.ATTN_OUT, Site.RESID_MID, Site.MLP_OUT, Site.RESID_POST}
"""Sites of z and later."""


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
            if self.difference is not None:
                DifferenceLayer(block, self.difference, self.base.linears[layer], self.base.linears_from)(pieces)
                continue
            outputs = [attend(block, piece.rows, self.reusing, piece.at) for piece in pieces]
            for piece, output, written in zip(pieces, outputs, self._mlp(block, outputs), strict=True):
                out = leave(output.mid, written, piece.at)
                piece.rows[:, :, : out.shape[2]] = out

    def _pieces(self, groups: Sequence[StartGroup], layer: int, *, answer_only: bool) -> Iterator[list[Piece]]:
        """Runs in blocks of about ``tokens_per_block`` positions; a block may hold runs of several groups."""
        block: list[Piece] = []
        size_so_far = 0
        for group in groups:
            only = self.base.at.clamp(min=group.start) if answer_only else None
            place, taps = self._place(layer, group.start, only), self._taps(group.start, only)
            each = group.rows.shape[1] * group.rows.shape[2]
            for rows in _even_shares(0, group.joined, max(1, self.tokens_per_block // each)):
                size = (rows.stop - rows.start) * each
                if block and size_so_far + size > self.tokens_per_block:
                    yield block
                    block, size_so_far = [], 0
                for part, from_z in self._parts(group, rows, layer):
                    writes = [
                        Write(i, edit) for i, edit_set in enumerate(group.ordered[part]) for edit in edit_set.edits if edit.layer == layer
                    ]
                    block.append(Piece(group.rows[part], SiteTap(place, layer, writes, taps), from_z))
                size_so_far += size
        if block:
            yield block

    def _parts(self, group: StartGroup, rows: slice, layer: int) -> Iterator[tuple[slice, bool]]:
        """Some runs as they go through what is not a product: together, or for differences in pieces that stay in the cache.

        Differences also keep runs apart that join here and are edited at z or later.
        """
        if self.difference is None:
            yield rows, False
            return
        row = group.rows[0]
        most = max(1, IN_CACHE // (row.numel() * row.element_size()))
        late = [self.decoder.standing is None and _edited_from_z(edit_set, layer) for edit_set in group.ordered[rows]]
        first = rows.start
        for from_z, same in itertools.groupby(late):
            count = len(list(same))
            yield from ((part, from_z) for part in _even_shares(first, first + count, most))
            first += count

    def _place(self, layer: int, start: int, only: Tensor | None) -> Window:
        where = self.decoder.geometry(self.stop)[layer]
        return Window(start, self.stop, where, self.base.keys[layer][:, :start], self.base.values[layer][:, :start], only)

    def _taps(self, start: int, only: Tensor | None) -> tuple[Tap | None, Tap | None]:
        """The standing edits on a window, and at the answer positions."""
        if self.decoder.standing is None:
            return None, None
        places = self.base.places.window(start, self.stop)
        return self.decoder.tap(places), None if only is None else self.decoder.tap(self.base.places.window(start, self.stop, only))

    def _mlp(self, block: Block, outputs: Sequence[AttentionOutput]) -> list[Tensor]:
        """The MLP's output for each piece; one product for all pieces."""
        if len(outputs) == 1:
            return [mlp_out(block, outputs[0].read, self.reusing)]
        joined = mlp_out(block, torch.cat([output.read.flatten(0, 2) for output in outputs]), self.reusing)
        parts = joined.split([output.read.shape[:3].numel() for output in outputs])
        return [part.view(output.read.shape) for part, output in zip(parts, outputs, strict=True)]


def _edited_from_z(edit_set: EditSet, layer: int) -> bool:
    """Whether a run begins at this layer and is edited only at z and later in it."""
    return edit_set.layer == layer and all(edit.site in _FROM_Z for edit in edit_set.edits if edit.layer == layer)


def _even_shares(first: int, last: int, most: int) -> Iterator[slice]:
    """Slices of about equal length and at most ``most`` runs: a small remainder would run much slower per row."""
    count = last - first
    shares = -(-count // most)
    for share in range(shares):
        yield slice(first + count * share // shares, first + count * (share + 1) // shares)
