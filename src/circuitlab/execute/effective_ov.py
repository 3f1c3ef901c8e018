"""What heads would write if they attended to one token and nothing else: the effective OV circuit, from the weights alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

from circuitlab.core.errors import UnknownNameError
from circuitlab.execute.head_matrices import HeadMatrices, at_least_float32
from circuitlab.model.token_vectors import token_vectors

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from circuitlab.model.norms import FrozenNorm
    from circuitlab.model.protocol import Model

__all__ = ["READS", "EffectiveOV", "Reads", "TokenStreams"]

Reads: TypeAlias = Literal["mlp0", "mlp0_unnormed", "stream", "embedding"]
READS: tuple[Reads, ...] = ("mlp0", "mlp0_unnormed", "stream", "embedding")
"""What heads after layer 0 are given of a token: what the first MLP makes of its (normed) embedding; the same of the embedding without the
norm, as in the script of Gould et al.; embedding and first MLP together; the embedding alone."""

_LARGEST = (True, False)
_BLOCK = 8192
"""Tokens of the vocabulary whose logits are formed at once."""
_STEP = 2048
"""The same where most rows are done with after a few tokens."""
_ROUNDING = 1e-3
"""By how much a token must stand above others, as a share of the spread of a row's logits, to be above them however they are rounded."""


@dataclass(frozen=True, eq=False)
class TokenStreams:
    """What heads read of some tokens when nothing but the token is there.

    Heads of layer 0 read its embedding, which is exact but for learned positions. Later heads read what ``reads`` says: what the attention
    of layer 0 adds is left out, also to what the first MLP is given where that MLP comes after attention.

    Parameters
    ----------
    first, later : Tensor, shape (token, d_model)
        Stream for layer 0 and for the layers after it, before their norms.
    """

    first: Float[Tensor, "token d_model"]
    later: Float[Tensor, "token d_model"]

    @classmethod
    @torch.no_grad()
    def of(cls, model: Model, ids: Int[Tensor, " token"], reads: Reads) -> TokenStreams:
        """Streams of some tokens; raises `UnknownNameError` for another ``reads``."""
        if reads not in READS:
            raise UnknownNameError("what heads read", reads, READS)
        embedded, block = token_vectors(model)(ids), model.decoder.blocks[0]
        if reads == "embedding":
            later = embedded
        elif reads == "mlp0_unnormed":
            later = block.mlp(embedded)
        else:
            later = block.mlp(block.norm_mlp.apply(embedded)) + (embedded if reads == "stream" else 0)
        return cls(at_least_float32(embedded), at_least_float32(later))

    def at(self, layer: int) -> Float[Tensor, "token d_model"]:
        """What heads of a layer read, before its norm."""
        return self.later if layer else self.first


@dataclass(frozen=True, eq=False)
class EffectiveOV:
    """What every head writes to the logits for some tokens that it might attend to.

    ``logits[head, a, b] = unembed[b] . norm(W_O W_V norm(stream of a))``, up to a positive factor for each head and token: the scale of
    the final norm, and of a norm after attention, is left at 1. Ranks of tokens b are not touched by that. Biases are left out, for they
    are written whatever the head attends to.

    Parameters
    ----------
    model : Model
    streams : TokenStreams
    """

    model: Model
    streams: TokenStreams

    @classmethod
    def of(cls, model: Model, ids: Int[Tensor, " token"], reads: Reads = "mlp0") -> EffectiveOV:
        """The effective OV of some tokens."""
        return cls(model, TokenStreams.of(model, ids, reads))

    def normed(self, layer: int) -> Float[Tensor, "token d_model"]:
        """What `HeadMatrices.v` reads: streams over the scale of the layer's norm, whose gain and centring those matrices hold."""
        return _unscaled(self.model.decoder.blocks[layer].norm_attn, self.streams.at(layer))

    def written(self, layer: int) -> Float[Tensor, "head token d_model"]:
        """What each head of a layer writes for each token, ready to be unembedded."""
        heads = HeadMatrices.of(self.model, layer)
        return self.model.weights.final_norm.linear(heads.shared(self.normed(layer) @ heads.v) @ heads.o)

    def logits(self, layer: int, targets: Int[Tensor, " target"]) -> Float[Tensor, "head token target"]:
        """Logits of some tokens only: the vocabulary is never squared."""
        return self.written(layer) @ at_least_float32(self.model.weights.unembed(targets)).T

    def among_top(self, layer: int, targets: Int[Tensor, " target"], k: int) -> tuple[Bool[Tensor, "head token target"], ...]:
        """Whether each target is among the ``k`` tokens of the whole vocabulary that a head writes most, and among those it writes least.

        Another token that is written equally much counts against a target, so a head that writes nothing has no top. Most heads write no
        target so much: as soon as ``k + 1`` other tokens stand above all targets, and as many below, nothing more is computed of a head and
        token.
        """
        written = self.written(layer)
        rows, targets = written.flatten(0, 1), targets.to(written.device)
        own = rows @ at_least_float32(self.model.weights.unembed(targets)).T
        high, low = own.amax(-1), own.amin(-1)
        open_rows, ends = torch.arange(len(rows), device=rows.device), [rows[:, :0], rows[:, :0]]
        hits = [torch.zeros_like(own, dtype=torch.bool) for _ in _LARGEST]
        for start in range(0, self.model.spec.d_vocab, _STEP):
            logits = rows[open_rows] @ at_least_float32(self.model.weights.unembed(slice(start, start + _STEP))).T
            parts = [torch.cat([end, _extreme(logits, k, largest)], -1) for end, largest in zip(ends, _LARGEST, strict=True)]
            top, bottom = ends = [_extreme(part, k, largest) for part, largest in zip(parts, _LARGEST, strict=True)]
            here = ((targets >= start) & (targets < start + logits.shape[-1])).nonzero()[:, 0]
            own[open_rows[:, None], here] = logits[..., (targets[here] - start)]  # formed alike, so that a token ties with itself
            if top.shape[-1] > k:
                slack = _ROUNDING * (top[:, -1] - bottom[:, -1])
                kept = (high[open_rows] >= top[:, -1] - slack) | (low[open_rows] <= bottom[:, -1] + slack)
                open_rows, ends = open_rows[kept], [end[kept] for end in ends]
            if not len(open_rows):
                break
        hits[0][open_rows], hits[1][open_rows] = own[open_rows] > ends[0][:, -1:], own[open_rows] < ends[1][:, -1:]
        return hits[0].unflatten(0, written.shape[:2]), hits[1].unflatten(0, written.shape[:2])

    def by_block(self, written: Float[Tensor, "*rows d_model"]) -> Iterator[tuple[int, Float[Tensor, "*rows some"]]]:
        """Logits of what is written, a part of the vocabulary at a time: first token of the part, and logits of its tokens."""
        for start in range(0, self.model.spec.d_vocab, _BLOCK):
            columns = at_least_float32(self.model.weights.unembed(slice(start, start + _BLOCK)))
            yield start, written @ columns.T


def _extreme(logits: Float[Tensor, "*rows some"], k: int, largest: bool) -> Float[Tensor, "*rows few"]:
    """The ``k + 1`` largest or smallest numbers of each row, the last of them behind the others."""
    return logits.topk(min(k + 1, logits.shape[-1]), dim=-1, largest=largest).values


def _unscaled(norm: FrozenNorm, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
    """An input over the scale of a norm, without centring, gain and bias."""
    return x / norm.scale(x)
