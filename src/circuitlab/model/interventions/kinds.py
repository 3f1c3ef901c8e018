"""Group positions into kinds, over which means are taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from circuitlab.core.errors import BadParameterError

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from circuitlab.model.batch import ContrastBatch

__all__ = ["equal_lengths", "position_kinds"]


def equal_lengths(batch: ContrastBatch) -> bool:
    """Whether all prompts of a batch have the same length."""
    return len(set(batch.end.tolist())) == 1


def position_kinds(batch: ContrastBatch, how: str) -> Int[Tensor, "pair pos"]:
    """The kind of each position, as a number.

    ``"mean"``: if all prompts have the same length, each position is a kind; otherwise all positions are one kind.
    ``"mean_by_mark"``: each mark is a kind, and all unmarked positions are kind 0 (a position with two marks counts as the one that is
    first in alphabetical order). ``"mean_by_template"``: kinds within each template, by position if its prompts have the same length,
    otherwise by mark.

    Raises
    ------
    BadParameterError
        If means by template are requested and the batch has no template names.
    """
    if how == "mean_by_mark":
        return _by_mark(batch)
    if how == "mean_by_template":
        return _by_template(batch)
    return _by_position(batch) if equal_lengths(batch) else torch.zeros_like(batch.clean)


def _by_position(batch: ContrastBatch) -> Int[Tensor, "pair pos"]:
    return torch.arange(batch.clean.shape[1]).expand(batch.clean.shape)


def _by_mark(batch: ContrastBatch) -> Int[Tensor, "pair pos"]:
    labels = torch.zeros(batch.clean.shape, dtype=torch.long)
    for number, name in reversed(list(enumerate(sorted(batch.marks), start=1))):
        labels[torch.arange(batch.n_pairs), batch.marks[name]] = number
    return labels


def _by_template(batch: ContrastBatch) -> Int[Tensor, "pair pos"]:
    if not batch.templates:
        what = "These prompts do not say which template each was made from."
        raise BadParameterError(what, "Name them with batch.with_templates, or use mean_by_mark.")
    labels, used = torch.zeros(batch.clean.shape, dtype=torch.long), 0
    for template in sorted(set(batch.templates)):
        pairs = [i for i, name in enumerate(batch.templates) if name == template]
        group = batch.select(pairs)
        kinds = _by_position(group) if equal_lengths(group) else _by_mark(group)
        labels[pairs, : kinds.shape[1]] = kinds + used
        used += int(kinds.max()) + 1
    return labels
