"""What replaces the value of an ablated node: its value in the corrupt run, zeros, or a mean over corrupt runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch

from circuitlab.core.errors import UnknownNameError
from circuitlab.execute.sweeps import batch_by_length
from circuitlab.model.interventions.kinds import equal_lengths, position_kinds

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model
    from circuitlab.model.sites import Site

__all__ = ["Ablation", "Means", "describe_ablation", "require_ablation"]

Ablation: TypeAlias = Literal["resample", "zero", "mean", "mean_by_mark", "mean_by_template"]

_PHRASES = {
    "resample": "the value of the paired corrupt prompt, position by position",
    "zero": "zeros",
    "mean": "the mean over the corrupt prompts",
    "mean_by_mark": "the mean over the corrupt prompts at the same mark; over all unmarked positions elsewhere",
    "mean_by_template": "the mean over the template's corrupt prompts, position by position; by mark where those differ in length",
}
_PAIRS_PER_PASS = 8


def require_ablation(name: str) -> None:
    """Raise `UnknownNameError` unless there is an ablation of this name."""
    if name not in get_args(Ablation):
        raise UnknownNameError("ablation", name, get_args(Ablation))


def describe_ablation(name: Ablation, batch: ContrastBatch) -> str:
    """What replaces the value of an ablated node, in words."""
    if name != "mean":
        return _PHRASES[name]
    return _PHRASES[name] + (", position by position" if equal_lengths(batch) else ", over all real positions (prompts differ in length)")


@dataclass(frozen=True, eq=False)
class Means:
    """Mean values over the corrupt prompts of a whole batch, one for each kind of position.

    ``"mean"``: every position is a separate kind if all prompts have one length; otherwise all real positions are one kind.
    ``"mean_by_mark"``: every mark is a kind, and all unmarked real positions are one (a position with two marks counts as the mark that is
    first in alphabetical order).
    ``"mean_by_template"``: the corrupt prompts of each template are averaged separately, as in Wang et al. (2022): every position is a kind
    if all prompts of the template have one length; otherwise every mark is a kind, and all unmarked positions are one.

    Parameters
    ----------
    labels : Tensor of int, shape (pair, pos)
        Kind of each position.
    values : dict
        Mean of each kind in float64 by site, (kind, layer, ...), and for ``"embed"``, (kind, d_model).
    """

    labels: Int[Tensor, "pair pos"]
    values: dict[Site | str, Float[Tensor, "kind ..."]]

    @classmethod
    @torch.no_grad()
    def of(cls, model: Model, batch: ContrastBatch, sites: list[Site], how: Ablation, *, embed: bool = False) -> Means:
        """Run every corrupt prompt once and average its values at the sites, and the embedding if ``embed``."""
        batch = replace(batch, one_length=model.length_dependent)
        labels = position_kinds(batch, how)
        kinds = int(labels.max()) + 1
        sums: dict[Site | str, Tensor] = {}
        counts = torch.zeros(kinds, dtype=torch.float64)
        for pairs in batch_by_length(batch, _PAIRS_PER_PASS):
            chunk = batch.select(pairs)
            kind = labels[pairs, : chunk.clean.shape[1]][chunk.mask]
            captured = model.capture(chunk.corrupt, sites, marks=chunk.marks)
            values: dict[Site | str, Tensor] = {site: value.transpose(1, 2) for site, value in captured.items()}
            if embed:
                values["embed"] = model.decoder.embed(chunk.corrupt)
            for name, value in values.items():
                real = value[chunk.mask.to(value.device)].double()
                sums.setdefault(name, real.new_zeros(kinds, *real.shape[1:])).index_add_(0, kind.to(real.device), real)
            counts += torch.bincount(kind.cpu(), minlength=kinds)
        divisors = {name: counts.to(total.device).clamp(min=1).view(-1, *[1] * (total.ndim - 1)) for name, total in sums.items()}
        return cls(labels, {name: total / divisors[name] for name, total in sums.items()})

    def at(self, name: Site | str, pairs: list[int], length: int) -> Float[Tensor, "pair pos ..."]:
        """The mean values at the first ``length`` positions of some pairs in float64, (pair, pos, layer, ...)."""
        values = self.values[name]
        return values[self.labels[pairs, :length].to(values.device)]
