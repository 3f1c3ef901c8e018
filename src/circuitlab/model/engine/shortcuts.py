"""Edit sets that need not be run, or not from where they edit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from circuitlab.model.sites import Edit, EditSet, Site

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.model.engine.base_run import BaseRun

__all__ = ["changes_nothing", "moved_up"]


def changes_nothing(one: EditSet, base: BaseRun) -> bool:
    """Whether every edit writes what the base run has there (as far as the base run kept it): the effect is exactly zero."""
    return all(edit.site in base.sites and torch.equal(edit.value, _held(base.sites[edit.site][edit.layer], edit)) for edit in one.edits)


def moved_up(one: EditSet, base: BaseRun) -> EditSet:
    """The same edit set, written where the next layer begins, if it is one edit of what a layer's MLP adds or of what leaves a layer.

    Everything up to there is as in the base run, so the layer of the edit need not be run at all. Not where a standing edit of an edited
    model would still change the stream on the way.
    """
    if len(one.edits) != 1:
        return one
    (edit,) = one.edits
    if edit.layer + 1 == len(base.keys) or edit.site not in {Site.MLP_OUT, Site.RESID_POST}:
        return one
    if (Site.RESID_PRE, edit.layer + 1) in base.changed:
        return one
    value = edit.value
    if edit.site is Site.MLP_OUT:
        if (Site.RESID_POST, edit.layer) in base.changed:
            return one
        if Site.MLP_OUT not in base.sites:
            return one
        added = _held(base.sites[Site.MLP_OUT][edit.layer], edit)
        value = _held(base.entering[edit.layer + 1], edit) + (value - added)
    return replace(one, edits=(Edit(Site.RESID_PRE, edit.layer + 1, value, positions=edit.positions),))


def _held(value: Tensor, edit: Edit) -> Tensor:
    """What the base run has where an edit writes; ``value`` is (prompt, pos, ...), or (prompt, head, query, key) for patterns."""
    if edit.head is not None:
        value = value[:, edit.head] if edit.site is Site.PATTERN else value[:, :, edit.head]
    if edit.positions is None:
        return value
    rows = torch.arange(len(value))
    return value[rows, :, edit.positions] if edit.site is Site.PATTERN and edit.head is None else value[rows, edit.positions]
