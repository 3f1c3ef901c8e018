"""What an ablated node is given instead of its own value: the corrupt run's, nothing, or a mean over corrupt runs."""

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

_WORDS = {
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
    """What an ablated node is given, in words."""
    if name != "mean":
        return _WORDS[name]
    return _WORDS[name] + (", position by position" if equal_lengths(batch) else ", over all real positions (prompts differ in length)")


@dataclass(frozen=True, eq=False)
class Means:
    """Mean values over the corrupt prompts of a whole batch, one for each kind of position.

    ``"mean"``: every position is a kind of its own where all prompts have one length; otherwise all real positions are one kind.
    ``"mean_by_mark"``: every mark is a kind, and all unmarked real positions are one (a position with two marks counts as the first in
    alphabetical order).
    ``"mean_by_template"``: corrupt prompts of each template apart, as Wang et al. (2022) average theirs: every position is a kind where all
    prompts of the template have one length; every mark, and all unmarked positions together, otherwise.

    Parameters
    ----------
    labels : Tensor of int, shape (pair, pos)
        Kind of each position.
    values : dict
        Site (or ``"embed"``) to the mean of each kind in float64, (kind, layer, ...) (``"embed"``: (kind, d_model)).
    """

    labels: Int[Tensor, "pair pos"]
    values: dict[Site | str, Float[Tensor, "kind ..."]]

    @classmethod
    @torch.no_grad()
    def of(cls, model: Model, batch: ContrastBatch, sites: list[Site], how: Ablation, *, embed: bool = False) -> Means:
        """Run every corrupt prompt once and average."""
        batch = replace(batch, one_length=model.length_dependent)
        labels = position_kinds(batch, how)
        kinds = int(labels.max()) + 1
        sums: dict[Site | str, Tensor] = {}
        counts = torch.zeros(kinds, dtype=torch.float64)
        for pairs in batch_by_length(batch, _PAIRS_PER_PASS):
            few = batch.select(pairs)
            kind = labels[pairs, : few.clean.shape[1]][few.mask]
            held = model.capture(few.corrupt, sites, marks=few.marks)
            read: dict[Site | str, Tensor] = {site: value.transpose(1, 2) for site, value in held.items()}
            if embed:
                read["embed"] = model.decoder.embed(few.corrupt)
            for name, value in read.items():
                real = value[few.mask.to(value.device)].double()
                sums.setdefault(name, real.new_zeros(kinds, *real.shape[1:])).index_add_(0, kind.to(real.device), real)
            counts += torch.bincount(kind.cpu(), minlength=kinds)
        share = {name: counts.to(one.device).clamp(min=1).view(-1, *[1] * (one.ndim - 1)) for name, one in sums.items()}
        return cls(labels, {name: one / share[name] for name, one in sums.items()})

    def at(self, name: Site | str, pairs: list[int], length: int) -> Float[Tensor, "pair pos ..."]:
        """The ablated value of some pairs in float64, (pair, pos, layer, ...)."""
        values = self.values[name]
        return values[self.labels[pairs, :length].to(values.device)]
