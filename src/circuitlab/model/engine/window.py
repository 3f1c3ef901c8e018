"""Edits cut to the prompts and positions that a sweep recomputes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from circuitlab.errors import BadParameterError
from circuitlab.model.protocol import Edit, Site

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["in_window"]


def in_window(edit: Edit, start: int, rows: slice) -> Edit:
    """The edit for rows of a pass that begins at position ``start``.

    Parameters
    ----------
    edit : Edit
        With one value per prompt, at absolute positions.
    start : int
        First position that is computed.
    rows : slice
        Rows of the pass that this intervention has.
    """
    if edit.positions is not None:
        if int(edit.positions.min()) < start:
            what = f"An edit of {edit.site.value!r} at position {int(edit.positions.min())} lies before its start, {start}."
            raise BadParameterError(what, "Let the intervention start at its first position.")
        return replace(edit, positions=edit.positions - start, rows=rows)
    return replace(edit, value=_cut(edit.value, start, edit), rows=rows)


def _cut(value: Tensor, start: int, edit: Edit) -> Tensor:
    if edit.site is not Site.PATTERN:
        return value[:, start:]
    return value[:, start:] if edit.head is not None else value[:, :, start:]
