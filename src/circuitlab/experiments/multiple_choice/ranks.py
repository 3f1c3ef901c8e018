"""How many dimensions of queries and keys the heads need: projected onto subspaces of rank r, against random ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from circuitlab.core.nodes import Head, KVHead
from circuitlab.core.progress import step
from circuitlab.model.interventions import Add, Project, Replace
from circuitlab.model.sites import Site
from circuitlab.scores.intervals import mean_interval

if TYPE_CHECKING:
    from circuitlab.experiments.multiple_choice.questions import Choices
    from circuitlab.model.interventions import Intervention
    from circuitlab.model.protocol import Model

__all__ = ["Subspace", "loss_by_rank", "subspaces"]


@dataclass(frozen=True, eq=False)
class Subspace:
    """The mean of a value over prompts, and the directions along which it varies, strongest first.

    Parameters
    ----------
    node : Head or KVHead
        The head.
    site : {"q", "k"}
        Queries as projected, or keys: before any norm and rotation.
    positions : tuple of str
        Marks at which it was read, and is projected.
    mean : Tensor, shape (d_head,)
        The mean.
    directions : Tensor, shape (direction, d_head)
        Orthonormal.
    """

    node: Head | KVHead
    site: Literal["q", "k"]
    positions: tuple[str, ...]
    mean: torch.Tensor
    directions: torch.Tensor

    def projected(self, rank: int, basis: torch.Tensor | None = None) -> list[Intervention]:
        """Keep the mean and ``rank`` directions around it, or those of another basis; rank 0 leaves the mean."""
        if rank == 0:
            return [Replace(self.node, self.mean, site=self.site, positions=self.positions)]
        kept = self.directions[:rank] if basis is None else basis
        return [
            Add(self.node, -self.mean, site=self.site, positions=self.positions),
            Project(self.node, kept, site=self.site, positions=self.positions),
            Add(self.node, self.mean, site=self.site, positions=self.positions),
        ]


def subspaces(model: Model, asked: Choices, heads: Sequence[Head], read: str) -> list[Subspace]:
    """Queries of the heads at the last token, and their keys at the options' labels (``read="L"``) or contents (``"C"``).

    Query heads that share a key head share its subspace.
    """
    batch, group = asked.batch, model.spec.n_heads // model.spec.n_kv_heads
    queries = model.capture(batch.clean, (Site.Q,), at=batch.end, marks=batch.marks)[Site.Q]
    keys = model.capture(batch.clean, (Site.K,), marks=batch.marks)[Site.K]
    places = asked.places(read)
    marks = tuple(f"{read}{i}" for i in range(places.shape[1]))
    spaces = [_subspace(head, "q", ("END",), queries[:, head.layer, head.head]) for head in heads]
    for kv in dict.fromkeys(KVHead(head.layer, head.head // group) for head in heads):
        at = keys[torch.arange(len(places))[:, None], kv.layer, places, kv.head]
        spaces.append(_subspace(kv, "k", marks, at.flatten(0, 1)))
    return spaces


def _subspace(node: Head | KVHead, site: Literal["q", "k"], positions: tuple[str, ...], values: torch.Tensor) -> Subspace:
    mean = values.double().mean(0)
    directions = torch.linalg.svd(values.double() - mean, full_matrices=True)[2]
    return Subspace(node, site, positions, mean.float(), directions.float())


def loss_by_rank(
    model: Model, asked: Choices, spaces: Sequence[Subspace], ranks: Sequence[int], random: tuple[int, np.random.Generator]
) -> dict[str, Any]:
    """Loss with queries and keys of all heads projected at once, by rank, and the same with random subspaces.

    Parameters
    ----------
    model, asked
        The prompts that are measured chose neither the heads nor the subspaces.
    spaces : sequence of Subspace
    ranks : sequence of int
        From 0; those above the width of a head are left out.
    random : (int, numpy Generator)
        Number of draws of random subspaces for each rank.

    Returns
    -------
    dict
        Losses in nats with intervals over questions; for each rank from 1 the paired differences ``rise`` (over the unedited model),
        ``against_random`` (random minus chosen) and ``beyond_tenth`` (the rise minus a tenth of the rise at rank 0).
    """
    draws, rng = random
    width = len(spaces[0].mean)
    used = [rank for rank in ranks if 0 < rank < width]
    plain, gone = asked.losses(model), _losses(model, asked, [space.projected(0) for space in spaces])
    rows: list[dict[str, Any]] = []
    for number, rank in enumerate(used):
        kept = _losses(model, asked, [space.projected(rank) for space in spaces])
        others = [_losses(model, asked, [space.projected(rank, _random_basis(rank, width, rng)) for space in spaces]) for _ in range(draws)]
        control = np.mean(others, axis=0)
        pairs = {
            "loss": kept,
            "random": control,
            "rise": kept - plain,
            "against_random": control - kept,
            "beyond_tenth": kept - plain - (gone - plain) / 10,
        }
        rows.append({"rank": rank, **{name: mean_interval(values).as_dict() for name, values in pairs.items()}})
        step(number + 1, len(used))
    removal = {"unedited": plain, "rank_0": gone, "rise_at_0": gone - plain}
    return {**{name: mean_interval(values).as_dict() for name, values in removal.items()}, "width": width, "ranks": rows}


def _losses(model: Model, asked: Choices, edits: Sequence[Sequence[Intervention]]) -> np.ndarray:
    return asked.losses(model.edited(*(edit for each in edits for edit in each)))


def _random_basis(rank: int, width: int, rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(np.linalg.qr(rng.normal(size=(width, rank)))[0].T).float()
