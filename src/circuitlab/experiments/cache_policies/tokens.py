"""Cache policies by token: which keys of a prompt every key/value head keeps, chosen on the unedited model while it reads the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch

from circuitlab.core.nodes import KVHead
from circuitlab.experiments.cache_policies.policies import ANSWERING
from circuitlab.model.interventions import KeepKeys
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from circuitlab.core.provenance import ModelSpec
    from circuitlab.execute.continuations import Continuation
    from circuitlab.model.protocol import Model

__all__ = ["ChosenTokens", "Chunks", "Heterogeneous", "Reading", "TokenPolicy", "n_heterogeneous"]

_LOOKED, _POOL = 8, 5
"""Last queries whose attention is averaged, and neighbouring keys over which it is: CompressKV's (8, 5)."""
_MOST, _LEAST = 0.3, 1
"""Task-KV's share of heterogeneous heads in the first layer, and their number in the last: Mistral's."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What the unedited model computes on a prompt and its answer, in every layer.

    Parameters
    ----------
    said : Continuation
        The prompt and its answer.
    spec : ModelSpec
        Layers and heads.
    pattern : Tensor, shape (layer, head, query, key)
    z, q, k, v : Tensor, shape (layer, pos, head or kv_head, width)
        As in `Site`: queries and keys before any norm and rotation.
    """

    said: Continuation
    spec: ModelSpec
    pattern: Float[Tensor, "layer head query key"]
    z: Float[Tensor, "layer pos head d_value"]
    q: Float[Tensor, "layer pos head d_key"]
    k: Float[Tensor, "layer pos kv_head d_key"]
    v: Float[Tensor, "layer pos kv_head d_value"]

    @classmethod
    def of(cls, model: Model, said: Continuation) -> Reading:
        """Run the prompt and its answer once."""
        sites = [Site.PATTERN, Site.Z, Site.Q, Site.K, Site.V]
        seen = model.capture(torch.tensor([said.tokens]), sites)
        return cls(said, model.spec, *(seen[site][0].float() for site in sites))

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return self.said.end + 1

    def looked(self, pool: int, window: int) -> Float[Tensor, "layer head key"]:
        """Attention to each token of the prompt, mean over its last queries and neighbouring keys."""
        rows = self.pattern[:, :, self.length - window : self.length, : self.length].double().mean(2)
        return torch.nn.functional.avg_pool1d(rows, pool, 1, pool // 2)

    def by_group(self, values: Tensor) -> Tensor:
        """Values of query heads (layer, head, ...) as (layer, kv_head, head of the group, ...)."""
        return values.unflatten(1, (self.spec.n_kv_heads, -1))

    def rng(self, seed: int) -> np.random.Generator:
        """A generator for this prompt."""
        return np.random.default_rng([seed, *self.said.tokens[: self.length]])


class TokenPolicy(Protocol):
    """Which keys of a prompt are kept while its answer is given."""

    def edit(self, reading: Reading) -> KeepKeys:
        """The edit for one prompt; keys after the prompt are kept."""
        ...

    def kept(self, reading: Reading) -> float:
        """Share of the prompt's cache that is kept (of what is attended to, where other keys stay in memory)."""
        ...


def _every_group(spec: ModelSpec) -> list[KVHead]:
    return [KVHead(layer, head) for layer in range(spec.n_layers) for head in range(spec.n_kv_heads)]


@dataclass(frozen=True)
class ChosenTokens:
    """Every layer keeps the tokens that some of its heads attend to most at the end of the prompt (CompressKV).

    Parameters
    ----------
    heads : tuple of tuple of int, one for each layer
        The query heads that choose.
    share : float
        Share of the prompt's tokens that is kept, the last ones counted.
    window : int
        Last queries whose attention is averaged; their keys are kept.
    pool : int
        Odd number of neighbouring keys over which attention is averaged.
    """

    heads: tuple[tuple[int, ...], ...]
    share: float
    window: int = _LOOKED
    pool: int = _POOL

    def edit(self, reading: Reading) -> KeepKeys:
        """The edit for one prompt; keys after the prompt are kept."""
        spec, old = reading.spec, reading.length - self.window
        looked = reading.pattern[:, :, old : reading.length, :old].double().mean(2)
        pooled = torch.nn.functional.avg_pool1d(looked, self.pool, 1, self.pool // 2)
        keep = torch.zeros(spec.n_layers, reading.length, dtype=torch.bool)
        for layer, heads in enumerate(self.heads):
            keep[layer, pooled[layer, list(heads)].mean(0).topk(min(self._budget(reading), old)).indices] = True
        keep[:, old:] = True
        return KeepKeys(_every_group(spec), keep=keep.repeat_interleave(spec.n_kv_heads, 0), positions=ANSWERING)

    def _budget(self, reading: Reading) -> int:
        return max(1, round(self.share * reading.length) - self.window)

    def kept(self, reading: Reading) -> float:
        """Share of the prompt's cache that is kept."""
        return min(reading.length, self._budget(reading) + self.window) / reading.length


def n_heterogeneous(layer: int, spec: ModelSpec) -> int:
    """Key/value heads of a layer that keep everything under Task-KV: by a line over the layers, and one at least."""
    most = _MOST * spec.n_kv_heads
    count = most - (most - _LEAST) * layer / max(1, spec.n_layers - 1)
    return min(max(_LEAST, round(count)), spec.n_kv_heads - 1)


@dataclass(frozen=True)
class Heterogeneous:
    """In every layer the heads far from the layer's mean keep everything, the others what they attend to most (Task-KV).

    Parameters
    ----------
    share : float
        Share of the cache that is kept in a layer.
    rest : {"tokens", "mean", "none"}
        What the others keep beside the first and last tokens: the tokens of the middle that they attend to most at the end of the prompt;
        or as many more of the last ones, with a compensation token, or without.
    drawn : int, optional
        Seed: as many other key/value heads of the layer, drawn at random, keep everything instead.
    sinks, recent : int
        First and last tokens that the others keep.
    """

    share: float
    rest: Literal["tokens", "mean", "none"] = "tokens"
    drawn: int | None = None
    sinks: int = 4
    recent: int = 8

    def full(self, reading: Reading) -> Bool[Tensor, "layer kv_head"]:
        """The key/value heads that keep everything: those whose mean output on the prompt is furthest from the layer's mean (L2).

        A key/value head has the largest distance of its query heads. The nearest one is added where a layer has heads enough that half of
        them still do not keep everything.
        """
        spec = reading.spec
        means = reading.z[:, : reading.length].double().mean(1)
        far = reading.by_group((means - means.mean(1, keepdim=True)).norm(dim=-1)).amax(-1)
        out = torch.zeros(spec.n_layers, spec.n_kv_heads, dtype=torch.bool)
        rng = None if self.drawn is None else reading.rng(self.drawn)
        for layer, distances in enumerate(far):
            count, order = n_heterogeneous(layer, spec), distances.argsort(descending=True, stable=True).tolist()
            chosen = order[:count] + (order[-1:] if 2 * (count + 1) <= spec.n_kv_heads else [])
            if rng is not None:
                others = [head for head in order if head not in chosen]
                chosen = [others[i] for i in rng.choice(len(others), min(len(chosen), len(others)), replace=False).tolist()]
            out[layer, chosen] = True
        return out

    def edit(self, reading: Reading) -> KeepKeys:
        """The edit for one prompt; keys after the prompt are kept."""
        full, length = self.full(reading), reading.length
        looked = reading.by_group(reading.looked(_POOL, min(_LOOKED, length))).mean(2)
        groups = [group for group in _every_group(reading.spec) if not bool(full[group.layer, group.head])]
        keep = torch.zeros(len(groups), length, dtype=torch.bool)
        keep[:, : self.sinks] = True
        for row, group in zip(keep, groups, strict=True):
            middle = self._middle(reading, int(full[group.layer].sum()))
            row[max(0, length - self.recent - (0 if self.rest == "tokens" else middle)) :] = True
            if self.rest == "tokens":
                free = looked[group.layer, group.head].masked_fill(row, -1.0)
                row[free.topk(min(middle, int((~row).sum()))).indices] = True
        return KeepKeys(groups, keep=keep, compensate=self.rest == "mean", positions=ANSWERING)

    def _middle(self, reading: Reading, full: int) -> int:
        n = reading.spec.n_kv_heads
        own = round((self.share * n - full) / (n - full) * reading.length)
        return max(0, min(own, reading.length) - self.sinks - self.recent)

    def kept(self, reading: Reading) -> float:
        """Share of the prompt's cache that is kept."""
        n, full = reading.spec.n_kv_heads, self.full(reading).sum(1).tolist()
        own = [min(1.0, (self.sinks + self.recent + self._middle(reading, count)) / reading.length) for count in full]
        return float(np.mean([(count + (n - count) * part) / n for count, part in zip(full, own, strict=True)]))


@dataclass(frozen=True)
class Chunks:
    """Every query reads the first and the last chunk of the prompt, and those whose representations fit it best (LongHeads).

    Within a chunk, each head attends from the chunk's own queries; the mean of what it reads is a query for the chunk's keys, and the mean
    of the keys under that attention represents the chunk. Queries and keys are those before rotation. The query heads of a group choose
    together, by the mean of their products.

    Parameters
    ----------
    share : float
        Share of the prompt's chunks that a query reads.
    size : int
        Tokens of a chunk.
    drawn : int, optional
        Seed: as many chunks, drawn at random, are read instead.
    """

    share: float
    size: int = 8
    drawn: int | None = None

    def edit(self, reading: Reading) -> KeepKeys:
        """The edit for one prompt; keys after the prompt are kept."""
        spec, length, end = reading.spec, reading.length, reading.said.end
        fits = self._fits(reading)
        middle = fits[..., 1:-1]
        count = min(self._count(reading) - 2, middle.shape[-1])
        read = torch.zeros(fits.shape, dtype=torch.bool)
        read[..., [0, -1]] = True
        if count > 0:
            order = middle if self.drawn is None else torch.from_numpy(reading.rng(self.drawn).random(tuple(middle.shape)))
            read.scatter_(-1, order.topk(count).indices + 1, value=True)
        keep = torch.ones(spec.n_layers, spec.n_kv_heads, end + fits.shape[2], length, dtype=torch.bool)
        keep[:, :, end:] = read.repeat_interleave(self.size, -1)[..., :length]
        return KeepKeys(_every_group(spec), keep=keep.flatten(0, 1), positions=ANSWERING)

    def _n_chunks(self, reading: Reading) -> int:
        return -(-reading.length // self.size)

    def _count(self, reading: Reading) -> int:
        return max(3, round(self.share * self._n_chunks(reading)))

    def kept(self, reading: Reading) -> float:
        """Share of the prompt's chunks that a query reads; all of them stay in memory."""
        return min(1.0, self._count(reading) / self._n_chunks(reading))

    def _fits(self, reading: Reading) -> Float[Tensor, "layer kv_head query chunk"]:
        """How well each chunk fits each query from the prompt's last token on."""
        group = reading.spec.n_heads // reading.spec.n_kv_heads
        keys, values = (part[:, : reading.length].repeat_interleave(group, 2) for part in (reading.k, reading.v))
        scale = keys.shape[-1] ** -0.5
        chunks = []
        for start in range(0, reading.length, self.size):
            part = slice(start, min(start + self.size, reading.length))
            scores = torch.einsum("lihd,ljhd->lhij", reading.q[:, part], keys[:, part]) * scale
            later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            asks = torch.einsum("lhij,ljhd->lhd", scores.masked_fill(later, float("-inf")).softmax(-1), values[:, part]) / scores.shape[-1]
            weights = (torch.einsum("lhd,ljhd->lhj", asks, keys[:, part]) * scale).softmax(-1)
            chunks.append(torch.einsum("lhj,ljhd->lhd", weights, keys[:, part]))
        fits = torch.einsum("lqhd,lhcd->lhqc", reading.q[:, reading.said.end :], torch.stack(chunks, 2))
        return reading.by_group(fits).mean(2)
