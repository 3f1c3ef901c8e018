"""Kinds of positions that a mean over prompts is taken over."""

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
    """Whether all prompts of a batch have one length."""
    return len(set(batch.end.tolist())) == 1


def position_kinds(batch: ContrastBatch, how: str) -> Int[Tensor, "pair pos"]:
    """Number of the kind that each position is of.

    ``"mean"``: every position is a kind of its own where all prompts have one length; otherwise all positions are one kind.
    ``"mean_by_mark"``: every mark is a kind, and all unmarked positions are kind 0 (a position with two marks counts as the first in
    alphabetical order). ``"mean_by_template"``: prompts of each template apart: every position is a kind where all prompts of the template
    have one length; every mark, and all unmarked positions together, otherwise.

    Raises
    ------
    BadParameterError
        If means by template are asked for and the batch does not name them.
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
        few = batch.select(pairs)
        own = _by_position(few) if equal_lengths(few) else _by_mark(few)
        labels[pairs, : own.shape[1]] = own + used
        used += int(own.max()) + 1
    return labels
