"""Outputs of MLPs as a sum of what heads wrote, each times one number, and an intercept: the regression of Lv et al."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitlab.core.nodes import Head
from circuitlab.execute.direct_logits import share_logits
from circuitlab.execute.head_writes import head_writes
from circuitlab.experiments.recall_mechanisms.facts import Facts
from circuitlab.model.sites import Site
from circuitlab.scores.intervals import mean_interval

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["Fit", "Read", "coefficients", "decompose", "fit", "read_mlps"]

_RESAMPLES = 400
_DIGITS = 5


@dataclass(frozen=True, eq=False)
class Read:
    """What one layer does at the last token of prompts, in float64.

    Parameters
    ----------
    parts : ndarray, shape (part, row, d_model)
        What each head of the layer writes, and, last, the stream that enters the layer.
    out : ndarray, shape (row, d_model)
        What the layer's MLP adds to the stream.
    """

    parts: np.ndarray
    out: np.ndarray


@dataclass(frozen=True, eq=False)
class Fit:
    """``out`` as ``sum(c_j parts_j) + intercept``.

    Parameters
    ----------
    c : ndarray, shape (part,)
        One number for each part, shared by all rows and dimensions.
    intercept : ndarray, shape (d_model,)
        One vector, shared by all rows.
    """

    c: np.ndarray
    intercept: np.ndarray

    def linear(self, read: Read) -> np.ndarray:
        """The part of every output that the parts explain, without the intercept."""
        return np.einsum("p,prd->rd", self.c, read.parts)

    def explained(self, read: Read) -> float:
        """Share of the outputs' variance over rows that is explained, on rows that need not be those of the fit."""
        missed = read.out - self.linear(read) - self.intercept
        return float(1 - (missed**2).sum() / ((read.out - read.out.mean(0)) ** 2).sum())


def fit(read: Read, weight: np.ndarray | None = None) -> Fit:
    """Least squares over rows and dimensions; ``weight`` counts each row so many times."""
    w = np.ones(len(read.out)) if weight is None else weight
    means = np.einsum("r,prd->pd", w, read.parts) / w.sum(), (w @ read.out) / w.sum()
    parts, out = read.parts - means[0][:, None], read.out - means[1]
    gram = np.einsum("r,prd,qrd->pq", w, parts, parts, optimize=True)
    c = np.linalg.lstsq(gram, np.einsum("r,prd,rd->p", w, parts, out, optimize=True), rcond=1e-10)[0]
    return Fit(c, means[1] - c @ means[0])


@torch.no_grad()
def read_mlps(model: Model, facts: Facts, relation: int) -> tuple[list[Read], torch.Tensor]:
    """Every layer at the last token, and the stream that leaves the last layer."""
    sites = (Site.Z, Site.ATTN_OUT, Site.RESID_PRE, Site.MLP_OUT, Site.RESID_POST)
    run = model.capture(facts.tokens[relation], sites, at=facts.end)
    reads = []
    for layer in range(model.spec.n_layers):
        heads = head_writes(model, layer, run[Site.Z][:, layer], run[Site.ATTN_OUT][:, layer])
        parts = torch.cat([heads, run[Site.RESID_PRE][None, :, layer].double()])
        reads.append(Read(parts.cpu().numpy(), run[Site.MLP_OUT][:, layer].double().cpu().numpy()))
    return reads, run[Site.RESID_POST][:, -1]


def coefficients(model: Model, held: Facts, sets: Sequence[Sequence[Head]], rng: np.random.Generator) -> dict[str, Any]:
    """Coefficients of heads in the MLP of their own layer, beside the mean of their layer's other heads.

    Returns
    -------
    dict
        ``chosen``, the mean difference for the first set with a percentile interval over resampled countries; ``random``, the mean
        difference of every other set; ``map`` of coefficients; ``own`` and ``others``, the two means for the first set.
    """
    reads, _ = read_mlps(model, held, 0)
    fits = [fit(read).c[:-1] for read in reads]
    draws = []
    for _ in range(_RESAMPLES):
        counts = np.bincount(rng.integers(len(held.names), size=len(held.names)), minlength=len(held.names))
        draws.append(
            _difference({head.layer: fit(reads[head.layer], counts[held.owner].astype(float)).c[:-1] for head in sets[0]}, sets[0])
        )
    mean = _difference(dict(enumerate(fits)), sets[0])
    low, high = np.quantile(draws, [0.025, 0.975])
    return {
        "chosen": {"mean": mean, "low": float(low), "high": float(high)},
        "random": [_difference(dict(enumerate(fits)), heads) for heads in sets[1:]],
        "own": {str(head): float(fits[head.layer][head.head]) for head in sets[0]},
        "map": np.round(fits, _DIGITS).tolist(),
    }


def _difference(fits: dict[int, np.ndarray], heads: Sequence[Head]) -> float:
    """Mean over heads of a head's coefficient minus the mean of its layer's heads that are not in the set."""
    each = []
    for head in heads:
        others = [i for i in range(len(fits[head.layer])) if Head(head.layer, i) not in heads]
        each.append(fits[head.layer][head.head] - (fits[head.layer][others].mean() if others else 0.0))
    return float(np.mean(each))


def decompose(model: Model, tuning: Facts, held: Facts) -> dict[str, Any]:
    """Where the parts of every MLP's output point, on held-out countries, with coefficients and intercepts of the others.

    For each layer: ``explained``, on held-out prompts; ``intercept``, what the intercept writes of a prompt's capital above its country;
    ``other_relation``, the same for the intercept of prompts that ask for the language; ``linear``, the same for the linear part;
    ``rest``, what the rest of the output writes of the own capital above the other capitals. ``layer`` is where the intercept does most
    on the countries of the fit. Logits.
    """
    fitted = [read_mlps(model, tuning, relation) for relation in range(2)]
    fits = [[fit(read) for read in reads] for reads, _ in fitted]
    (reads, final), (first, first_final) = read_mlps(model, held, 0), fitted[0]
    layers, strongest = [], []
    for layer, (read, here, there) in enumerate(zip(reads, *fits, strict=True)):
        intercept, other = (np.broadcast_to(each.intercept, read.out.shape) for each in (here, there))
        linear = here.linear(read)
        rest = read.out - linear - intercept
        logits = _logits(model, held, np.stack([intercept, other, linear, rest]), final)
        redirected = held.by_country(logits[0, :, 1] - logits[0, :, 0])
        elsewhere = held.by_country(logits[1, :, 1] - logits[1, :, 0])
        own_part = held.by_country(logits[3, :, 2])
        layers.append({
            "explained": here.explained(read),
            "intercept": mean_interval(redirected).as_dict(),
            "other_relation": mean_interval(elsewhere).as_dict(),
            "difference": mean_interval(redirected - elsewhere).as_dict(),
            "linear": mean_interval(held.by_country(logits[2, :, 1] - logits[2, :, 0])).as_dict(),
            "rest": mean_interval(own_part).as_dict(),
        })  # fmt: skip
        on_fit = np.tile(here.intercept, (1, len(first[layer].out), 1))
        strongest.append(float((_logits(model, tuning, on_fit, first_final)[0] @ [-1.0, 1.0, 0.0]).mean()))
    return {"layers": layers, "layer": int(np.argmax(strongest))}


def _logits(model: Model, facts: Facts, written: np.ndarray, final: torch.Tensor) -> np.ndarray:
    """Logits of the own country, of the own capital, and of the own capital above the other capitals; (part, row, 3)."""
    ids = facts.words[:2].flatten()
    logits = share_logits(model, torch.from_numpy(written).to(final.device), final, ids).cpu().numpy()
    names, capitals = np.split(logits, 2, axis=-1)
    row = np.arange(len(facts.owner))
    above = np.stack([facts.above_others(part) for part in capitals])
    return np.stack([names[:, row, facts.owner], capitals[:, row, facts.owner], above], axis=-1)
