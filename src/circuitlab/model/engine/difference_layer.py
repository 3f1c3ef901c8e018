"""One layer for a block of edited runs, of which only the difference from the base run is multiplied, in bfloat16.

Every product is one for the whole block. Between products the block goes in small pieces, so that what is computed number by number stays
in the processor's cache: norms, attention and activations would otherwise take as long as a fifth of the products.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from circuitlab.model.engine.arithmetic import exact
from circuitlab.model.engine.layer import SiteTap, added, leave, mixed, mlp_out
from circuitlab.model.engine.window import write_all
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from circuitlab.model.decoder import Block
    from circuitlab.model.engine.arithmetic import BaseLinears, Difference

__all__ = ["IN_CACHE", "DifferenceLayer", "Piece"]

IN_CACHE = 1 << 19
"""Bytes of one tensor of a piece: a few of them fit in the cache of a processor core."""


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a group's runs, with this layer's reads and writes of them.

    Parameters
    ----------
    rows : Tensor, shape (edit, prompt, pos, d_model)
        Their residual streams on the window, which the layer overwrites.
    at : SiteTap
        Edits and reads.
    from_z : bool
        Whether they join at this layer and are edited at z or later: up to there they are the base run.
    """

    rows: Float[Tensor, "edit prompt pos d_model"]
    at: SiteTap
    from_z: bool = False

    @property
    def wanted(self) -> int:
        """Number of positions of all runs at which the layer's output is needed."""
        edits, prompts, positions, _ = self.rows.shape
        return edits * prompts * (positions if self.at.place.only is None else 1)


@dataclass(frozen=True, eq=False)
class DifferenceLayer:
    """A layer that multiplies differences.

    Parameters
    ----------
    block : Block
        The layer.
    difference : Difference
        Arithmetic and its memory.
    base : BaseLinears
        Input and output of every linear map in the base run, from position ``first`` on.
    first : int
        First position that ``base`` holds.
    """

    block: Block
    difference: Difference
    base: BaseLinears
    first: int

    def __call__(self, pieces: Sequence[Piece]) -> None:
        """Take the runs of a block through the layer; their streams are overwritten."""
        sizes = [piece.wanted for piece in pieces]
        z = self.difference.room("z", sum(sizes), self.block.o.weight.shape[0], pieces[0].rows.device)
        self._attended(pieces, z.split(sizes))
        raw = self.difference.product("o", self.block.o, z).split(sizes)
        width = pieces[0].rows.shape[-1]
        read = self.difference.room("read", sum(sizes), width, pieces[0].rows.device)
        for piece, output, change in zip(pieces, raw, read.split(sizes), strict=True):
            self._written(piece, output, change)
        if self.block.experts is None:
            for piece, output in zip(pieces, self._mlp(pieces, read, sizes), strict=True):
                self._left(piece, self._whole("down", output, piece))

    def _attended(self, pieces: Sequence[Piece], z: Sequence[Tensor]) -> None:
        """Attention up to the change of z. Runs that join here and are edited later need no projections."""
        block, whole = self.block, [piece for piece in pieces if not piece.from_z]
        for piece, change in zip(pieces, z, strict=True):
            if piece.from_z:
                place, base = piece.at.place, self._base("o", piece)[0]
                own = base.expand(len(piece.rows), *base.shape).unflatten(-1, (-1, block.d_head))
                self._change(write_all(own, Site.Z, piece.at.writes, place.start, place.only).flatten(-2), base, change)
        if not whole:
            return
        sizes = [piece.rows.shape[:3].numel() for piece in whole]
        entering = self.difference.room("entering", sum(sizes), whole[0].rows.shape[-1], whole[0].rows.device)
        for piece, change in zip(whole, entering.split(sizes), strict=True):
            x = piece.at(Site.RESID_PRE, piece.rows)
            if x is not piece.rows:
                piece.rows.copy_(x)
            self._change(block.norm_attn.apply(x), self._base("q", piece)[0], change)
        maps = {"q": block.q, "k": block.k, "v": block.v}
        projected = [self.difference.product(name, linear, entering).split(sizes) for name, linear in maps.items()]
        changes = [change for piece, change in zip(pieces, z, strict=True) if not piece.from_z]
        for piece, change, *parts in zip(whole, changes, *projected, strict=True):
            q, k, v = (self._whole(name, part, piece) for name, part in zip(maps, parts, strict=True))
            self._change(mixed(block, (q, k, v), piece.at)[0], self._base("o", piece)[0], change)

    def _written(self, piece: Piece, raw: Tensor, change: Tensor) -> None:
        """The stream after attention, and the change of what the MLP reads."""
        block = self.block
        x = piece.at.place.wanted(piece.rows)
        mid = added(block, x, self._whole("o", raw, piece), piece.at)
        read = x if block.parallel else mid
        if block.experts is None:
            self._change(block.norm_mlp.apply(read), self._base("up", piece)[0], change)
            piece.rows[:, :, : mid.shape[2]] = mid
        else:
            out = leave(mid, mlp_out(block, read, exact), piece.at)
            piece.rows[:, :, : out.shape[2]] = out

    def _mlp(self, pieces: Sequence[Piece], read: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
        """The change of the MLP's raw output for each piece."""
        block = self.block
        up = self.difference.product("up", block.up, read)
        gate = up if block.gate is None else self.difference.product("gate", block.gate, read)
        flat: dict[int, BaseLinears] = {}  # pieces of a group share a window
        for piece, ups, gates in zip(pieces, up.split(sizes), gate.split(sizes), strict=True):
            base = flat.setdefault(id(piece.at.place), self._flat(piece))
            each, width = base["down"][0].shape
            for rows, of_base in _in_cache(len(ups), each, width * piece.rows.element_size()):
                self._neurons(ups[rows], gates[rows], {name: (read[of_base], out[of_base]) for name, (read, out) in base.items()})
        return self.difference.product("down", block.down, up).split(sizes)

    def _neurons(self, up: Tensor, gate: Tensor, base: BaseLinears) -> None:
        """Overwrite the change of ``up`` with that of the neurons, on rows of one or several edited runs; base values are those of one."""
        activation, neurons = self.block.activation, base["down"][0]
        own = up.view(-1, *neurons.shape).to(neurons.dtype).add_(base["up"][1])
        if self.block.gate is None:
            own = activation(own)
        else:
            own.mul_(activation(gate.view(-1, *neurons.shape).to(neurons.dtype).add_(base["gate"][1])))
        up.view(-1, *neurons.shape).copy_(own.sub_(neurons))

    def _left(self, piece: Piece, raw: Tensor) -> None:
        out = raw if self.block.post_mlp is None else self.block.post_mlp.apply(raw)
        mid = piece.rows[:, :, : out.shape[2]]
        mid.copy_(leave(mid, out, piece.at))

    def _base(self, name: str, piece: Piece) -> tuple[Tensor, Tensor]:
        """Input and output of a map in the base run, at the positions of a piece that are needed."""
        whole = name in {"q", "k", "v"}  # projected on the whole window, even if the output is needed at one position only
        entered, left = (piece.at.place.cut(part, self.first, whole=whole) for part in self.base[name])
        return entered, left

    def _flat(self, piece: Piece) -> BaseLinears:
        """What the MLP's maps read and wrote in the base run, (prompt and position, width)."""
        names = [name for name in ("up", "gate", "down") if name in self.base]
        return {name: (read.flatten(0, -2), out.flatten(0, -2)) for name in names for read, out in [self._base(name, piece)]}

    def _whole(self, name: str, change: Tensor, piece: Piece) -> Tensor:
        """A map's output for a piece, (edit, prompt, query, d_out): that of the base run and its change."""
        base = self._base(name, piece)[1]
        return change.view(-1, *base.shape).to(base.dtype).add_(base)

    @staticmethod
    def _change(own: Tensor, base: Tensor, into: Tensor) -> None:
        """Write the difference of an input from that of the base run, rounded."""
        into.view(own.shape).copy_(own - base)


def _in_cache(rows: int, each: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Slices of so many rows, and of the ``each`` rows of one edited run that they belong to; ``size`` is a row's size in bytes.

    A slice holds several whole runs, or a part of one.
    """
    most = max(1, IN_CACHE // size)
    if each <= most:
        step = most // each * each
        yield from ((slice(first, min(first + step, rows)), slice(0, each)) for first in range(0, rows, step))
        return
    for run in range(0, rows, each):
        for first in range(0, each, most):
            last = min(first + most, each)
            yield slice(run + first, run + last), slice(first, last)
