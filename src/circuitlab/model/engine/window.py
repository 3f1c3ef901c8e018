"""The window of positions that a pass computes, and edits written into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from circuitlab.core.errors import BadParameterError
from circuitlab.model.sites import Edit, Site

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.decoder.rotary import Geometry

__all__ = ["REDUCED", "Window", "Write", "check_inside", "write_all"]

REDUCED = {Site.PATTERN, Site.Z, Site.ATTN_OUT, Site.RESID_MID, Site.MLP_OUT, Site.RESID_POST}
"""Sites that are computed only at the answer positions, if a layer's output is needed only there."""


@dataclass(frozen=True, eq=False)
class Window:
    """The positions that a pass computes.

    Parameters
    ----------
    start, stop : int
        First position of the window, and the one after its last.
    where : Geometry
        Rotary angles and mask of the layer.
    keys, values : Tensor, shape (prompt, start, kv_head, d_head), or None
        Keys and values of the positions before the window, from the base run; None if the window starts at 0.
    only : Tensor of int, shape (prompt,), or None
        In the last layer, the only position of each prompt whose output is needed.
    """

    start: int
    stop: int
    where: Geometry
    keys: Float[Tensor, "prompt start kv_head d_head"] | None = None
    values: Float[Tensor, "prompt start kv_head d_head"] | None = None
    only: Int[Tensor, " prompt"] | None = None

    @property
    def angles(self) -> tuple[Tensor, Tensor] | None:
        """Cosine and sine at the window's positions."""
        angles = self.where.angles
        return None if angles is None else (angles[0][self.start : self.stop], angles[1][self.start : self.stop])

    def visible(self) -> Tensor:
        """Which keys each computed query attends to, shape (prompt or 1, query, key)."""
        table = self.where.visible[:, : self.stop]
        return table[None, self.start : self.stop] if self.only is None else table[self.only][:, None]

    def biased(self) -> Float[Tensor, "prompt head query key"]:
        """Position bias of the computed queries, shape (prompt or 1, head, query or 1, key)."""
        if self.only is None:
            return self.where.biased(self.start, self.stop)[None]
        bias = self.where.biased(0, self.stop)
        return bias[None] if bias.shape[1] == 1 else bias[:, self.only].transpose(0, 1)[:, :, None]

    def wanted(self, x: Float[Tensor, "edit prompt pos ..."]) -> Float[Tensor, "edit prompt query ..."]:
        """The window's values at the positions whose output is needed."""
        if self.only is None:
            return x
        index = self.only - self.start
        return x[:, torch.arange(len(index)), index][:, :, None]

    def cut(self, base: Float[Tensor, "prompt pos width"], first: int, *, whole: bool) -> Float[Tensor, "prompt query width"]:
        """A base value (which begins at position ``first``) at the window's positions, or (unless ``whole``) at those that are needed."""
        if whole or self.only is None:
            return base[:, self.start - first : self.stop - first]
        return base[torch.arange(len(self.only)), self.only - first][:, None]


class Write(NamedTuple):
    """An edit, and the index of its edited run in the pass."""

    run: int
    edit: Edit


def check_inside(edit: Edit, start: int, stop: int) -> None:
    """Raise `BadParameterError` unless an edit's positions lie in the window."""
    if edit.positions is None:
        return
    low, high = int(edit.positions.min()), int(edit.positions.max())
    if low < start:
        what = f"An edit of {edit.site.value!r} at position {low} lies before its start, {start}."
        raise BadParameterError(what, "Set the edit set's start to its first position.")
    if high >= stop:
        what = f"Positions {edit.positions.tolist()} of an edit at {edit.site.value!r} lie outside prompts of {stop} tokens."
        raise BadParameterError(what, "Count positions from 0.")


def write_all(value: Tensor, site: Site, writes: Sequence[Write], start: int, only: Tensor | None) -> Tensor:
    """The value of a site with its edits; the same tensor if there are none.

    Parameters
    ----------
    value : Tensor, shape (edit, prompt, pos, ...), PATTERN (edit, prompt, head, query, key)
        The value before edits.
    site : Site
        The site of the value.
    writes : sequence of Write
        Edits of this layer, of any site.
    start : int
        First position of the window.
    only : Tensor of int, shape (prompt,), or None
        If given, the sites in `REDUCED` hold only this position of each prompt.
    """
    of_site = [write for write in writes if write.edit.site is site]
    if not of_site:
        return value
    out = value.clone()
    for write in of_site:
        row = out[write.run]
        axis = 2 if site is Site.PATTERN else 1
        if write.edit.head is not None:
            row = row.select(1 if site is Site.PATTERN else 2, write.edit.head)
            axis = 1
        if only is None or site not in REDUCED:
            _write_window(row, write.edit, axis, start)
        else:
            _write_answer(row, write.edit, axis, only)
    return out


def _write_window(row: Tensor, edit: Edit, axis: int, start: int) -> None:
    """Write into (prompt, [head,] pos, ...), positions along ``axis``."""
    if edit.positions is None:
        new = edit.value.narrow(axis, start, row.shape[axis])
        _fit(row.shape, new.shape if edit.site is not Site.PATTERN else new[..., : row.shape[-1]].shape, edit)
        row.copy_(new if edit.site is not Site.PATTERN else new[..., : row.shape[-1]])
        return
    where: tuple[Any, ...] = (torch.arange(len(row)), *[slice(None)] * (axis - 1), edit.positions - start)
    new = edit.value if edit.site is not Site.PATTERN else edit.value[..., : row.shape[-1]]
    _fit(row[where].shape, new.shape, edit)
    row[where] = new.to(row)


def _write_answer(row: Tensor, edit: Edit, axis: int, only: Tensor) -> None:
    """Write into a value that holds one position of each prompt; edits at other positions cannot reach it and are dropped."""
    prompts = torch.arange(len(row))
    first = row.select(axis, 0)
    if edit.positions is None:
        new = edit.value[(prompts, *[slice(None)] * (axis - 1), only)]
        first.copy_(new[..., : first.shape[-1]])
        return
    here = edit.positions == only
    first[here] = edit.value[here][..., : first.shape[-1]].to(first)


def _fit(needed: torch.Size, shape: torch.Size, edit: Edit) -> None:
    """Raise for a wrong shape instead of broadcasting."""
    if needed != shape:
        what = f"An edit of {edit.site.value!r} at layer {edit.layer} has shape {tuple(edit.value.shape)}; {tuple(needed)} is needed."
        raise BadParameterError(what, "Give one value per prompt, position and head.")
