"""Queries, keys and values of one head split into what every writer of the stream put there; norms held at their values in the run.

With the scale of the norm before attention fixed, and those of the norms of queries and keys (Qwen 3, Gemma 3, OLMo 2), a query is a linear
function of the stream at its position, rotation included, and so is a key. A score is their product, and so a sum over pairs of writers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from circuitlab.execute.upstream import require_sum
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.core.nodes import Port
    from circuitlab.execute.upstream import Upstream
    from circuitlab.model.norms import FrozenNorm

__all__ = ["HeadInput", "SplitScore", "split_score"]

_SITES: dict[Port, Site] = {"q": Site.Q, "k": Site.K, "v": Site.V}


@dataclass(frozen=True, eq=False)
class HeadInput:
    """One head's query, key or value at some positions, as a linear function of what writers put into the stream there.

    Parameters
    ----------
    up : Upstream
        The run.
    port : {"q", "k", "v"}
    head : int
        A query head, or the key/value head of a key or value.
    at : Tensor of int, shape (pos,)
    """

    up: Upstream
    port: Port
    head: int
    at: Int[Tensor, " pos"]

    @property
    def edited(self) -> bool:
        """Whether an edit of an edited model changed queries, keys or values of this layer."""
        return (_SITES[self.port], self.up.layer) in self.up.changed

    @property
    def norm(self) -> FrozenNorm | None:
        """The norm behind the projection, where there is one."""
        return {"q": self.up.block.q_norm, "k": self.up.block.k_norm, "v": None}[self.port]

    @cached_property
    def _projected(self) -> tuple[Tensor, Tensor]:
        """The projection of all heads as the run went on with it, and before any edits; (pos, head, d_head)."""
        whole = getattr(self.up.front, self.port)[0, self.at].double()
        return whole, self.up.front.projected["qkv".index(self.port)][0, self.at].double()

    @cached_property
    def _weight(self) -> Tensor:
        return getattr(self.up.block, self.port).weight.double()

    @cached_property
    def whole(self) -> Float[Tensor, "pos d_head"]:
        """What the run computed, as it enters the score or the mix."""
        block, raw = self.up.block, self._projected[0]
        if self.port == "v":
            return raw[:, self.head]
        made = block.rotated_q if self.port == "q" else block.rotated_k
        return made(raw, self._angles)[:, self.head]

    @cached_property
    def terms(self) -> Float[Tensor, "writer pos d_head"]:
        """One term for each writer, then those of biases and of edits in this layer; they sum to `whole`, which is checked."""
        stream = self.up.front.resid_pre[0, self.at].double()
        parts = [self._through(self.up.block.norm_attn.share(some, stream) @ self._weight) for some in self.up.writes(self.at)]
        terms = torch.cat([*parts, self._constant()[None], self._edit()[None]])
        name = f"The {({'q': 'query', 'k': 'key', 'v': 'value'})[self.port]} of head {self.head} in layer {self.up.layer}"
        require_sum(terms.sum(0), self.whole, self.whole.norm(dim=-1), self.up.front.q.dtype, name)
        return terms

    def along(self, direction: Float[Tensor, " d_head"]) -> Float[Tensor, "pos d_model"]:
        """The vector whose product with what a writer added to the stream is that writer's term along a direction."""
        stream = self.up.front.resid_pre[0, self.at].double()
        with torch.inference_mode(mode=False), torch.enable_grad():
            added = torch.zeros_like(stream).requires_grad_(True)
            term = self._through((self.up.block.norm_attn.share(added, stream) @ self._weight)[None])[0]
            (gradient,) = torch.autograd.grad((term @ direction).sum(), [added])
        return gradient

    def scales(self) -> dict[str, float]:
        """Scales of the norms that are held fixed, at the first of the positions, by name; without those that a family lacks."""
        scales = {}
        stream, raw = self.up.front.resid_pre[0, self.at[:1]].double(), self._projected[0][:1]
        if self.up.block.norm_attn.kind != "none":
            scales["norm"] = float(self.up.block.norm_attn.scale(stream)[0, 0])
        if self.norm is not None:
            apart = self.norm.gain.numel() == self.up.block.d_head
            scales[f"{self.port} norm"] = float(self.norm.scale(raw[0, self.head] if apart else raw[0].flatten()))
        return scales

    @property
    def _angles(self) -> tuple[Tensor, Tensor] | None:
        angles = self.up.where.angles
        return None if angles is None or self.port == "v" else (angles[0][self.at], angles[1][self.at])

    def _through(self, flat: Float[Tensor, "writer pos all"]) -> Float[Tensor, "writer pos d_head"]:
        """Terms of all heads as they reach the score: the norm's scale held, this head alone, rotated."""
        parts = self.up.block.split(flat)
        norm, whole = self.norm, self._projected[0]
        if norm is not None and norm.gain.numel() == self.up.block.d_head:
            parts = norm.share(parts, whole)
        elif norm is not None:
            parts = norm.share(parts.flatten(-2), whole.flatten(-2)).unflatten(-1, whole.shape[-2:])
        return self._turned(parts[..., self.head, :])

    def _turned(self, x: Float[Tensor, "*rows pos d_head"]) -> Float[Tensor, "*rows pos d_head"]:
        return self.up.block.rotate(x[..., None, :], self._angles)[..., 0, :]

    def _constant(self) -> Float[Tensor, "pos d_head"]:
        """What is there without any writer: biases of the norm, of the projection and of the norm behind it."""
        block, n = self.up.block, len(self.at)
        linear, flat = getattr(block, self.port), self._projected[0].flatten(-2)
        raw = torch.zeros_like(flat)
        if block.norm_attn.bias is not None:
            raw = raw + block.norm_attn.bias.double() @ self._weight
        if linear.bias is not None:
            raw = raw + linear.bias.double()
        term = self._through(raw[None])[0]
        if self.norm is not None and self.norm.bias is not None:
            own = self.norm.bias.double().reshape(-1, block.d_head)
            term = term + self._turned(own[self.head % len(own)].expand(n, -1))
        return term

    def _edit(self) -> Float[Tensor, "pos d_head"]:
        """What edits of queries, keys or values in this very layer added."""
        whole, before = self._projected
        return self._through((whole - before).flatten(-2)[None])[0] if self.edited else torch.zeros_like(whole[:, self.head])


@dataclass(frozen=True, eq=False)
class SplitScore:
    """A score, or its contrast with other keys, and its terms.

    Parameters
    ----------
    writers : tuple of str
        Those of the stream, then ``bias`` (on either side the biases that stand there without any writer), then ``edit`` where an
        edited model changes queries or keys of this layer.
    matrix : Tensor, shape (writer, writer)
        Terms: writer at the query, writer at the key.
    score : Tensor, shape ()
        From the run's own query and keys, before softcap and position bias.
    position : float
        Position bias (ALiBi), which is added to the score and belongs to no writer.
    scales : dict of str to float
        What was held fixed.
    """

    writers: tuple[str, ...]
    matrix: Float[Tensor, "writer writer"]
    score: Float[Tensor, ""]
    position: float
    scales: dict[str, float]


@torch.no_grad()
def split_score(up: Upstream, head: int, query: int, key: int, others: Sequence[int] = ()) -> SplitScore:
    """Split the score of a query head at one query and key; with ``others``, that score minus its mean at these keys.

    Raises
    ------
    AdditivityError
        If the terms do not sum to the score.
    """
    block = up.block
    group = up.front.q.shape[-2] // block.n_kv_heads
    keys = torch.tensor([key, *others], device=up.embed.device)
    asks, holds = HeadInput(up, "q", head, keys.new_tensor([query])), HeadInput(up, "k", head // group, keys)
    weight = torch.zeros(len(keys), dtype=torch.float64, device=keys.device)
    weight[0] = 1.0
    weight[1:] = -1.0 / max(1, len(others))
    scaled = asks.terms[:, 0] * block.scale
    matrix = scaled @ torch.einsum("wpd,p->wd", holds.terms, weight).T
    scores = block.scale * holds.whole @ asks.whole[0]
    size = block.scale * asks.whole.norm() * holds.whole.norm(dim=-1).max()
    require_sum(matrix.sum(), scores @ weight, size, up.front.q.dtype, f"The score of head {head} in layer {up.layer}")
    names = (*up.writers, "bias", "edit")
    kept = slice(None) if asks.edited or holds.edited else slice(0, -1)
    scales = {f"{name} at the query": value for name, value in asks.scales().items()}
    scales |= {f"{name} at the key": value for name, value in holds.scales().items()}
    position = float(_position_bias(up, head, query)[keys].double() @ weight)
    return SplitScore(names[kept], matrix[kept, kept], scores @ weight, position, scales)


def _position_bias(up: Upstream, head: int, query: int) -> Float[Tensor, " pos"]:
    length = up.embed.shape[0]
    if up.where.bias is None:
        return torch.zeros(length, dtype=torch.float64, device=up.embed.device)
    rows = up.where.biased(0, length)
    return rows[min(head, len(rows) - 1), min(query, rows.shape[1] - 1)]
