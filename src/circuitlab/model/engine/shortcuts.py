"""Edit sets that need not be run, or can start at a later layer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from circuitlab.model.sites import Edit, EditSet, Site

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.model.engine.base_run import BaseRun

__all__ = ["changes_nothing", "moved_up"]


def changes_nothing(edit_set: EditSet, base: BaseRun) -> bool:
    """Whether every edit writes the value that the base run holds there, so that its effect is exactly zero."""
    return all(
        edit.site in base.sites and torch.equal(edit.value, _base_value(base.sites[edit.site][edit.layer], edit)) for edit in edit_set.edits
    )


def moved_up(edit_set: EditSet, base: BaseRun) -> EditSet:
    """The same edit set as an edit of the stream entering the next layer, if it is one edit of MLP_OUT or RESID_POST.

    Everything before is as in the base run, so the layer of the edit need not be run. The edit set is returned unchanged if a standing
    edit of an edited model changes the stream in between.
    """
    if len(edit_set.edits) != 1:
        return edit_set
    (edit,) = edit_set.edits
    if edit.layer + 1 == len(base.keys) or edit.site not in {Site.MLP_OUT, Site.RESID_POST}:
        return edit_set
    if (Site.RESID_PRE, edit.layer + 1) in base.changed:
        return edit_set
    value = edit.value
    if edit.site is Site.MLP_OUT:
        if (Site.RESID_POST, edit.layer) in base.changed:
            return edit_set
        if Site.MLP_OUT not in base.sites:
            return edit_set
        base_out = _base_value(base.sites[Site.MLP_OUT][edit.layer], edit)
        value = _base_value(base.entering[edit.layer + 1], edit) + (value - base_out)
    return replace(edit_set, edits=(Edit(Site.RESID_PRE, edit.layer + 1, value, positions=edit.positions),))


def _base_value(value: Tensor, edit: Edit) -> Tensor:
    """The base run's value where an edit writes; ``value`` is (prompt, pos, ...), or (prompt, head, query, key) for patterns."""
    if edit.head is not None:
        value = value[:, edit.head] if edit.site is Site.PATTERN else value[:, :, edit.head]
    if edit.positions is None:
        return value
    rows = torch.arange(len(value))
    return value[rows, :, edit.positions] if edit.site is Site.PATTERN and edit.head is None else value[rows, edit.positions]
