"""One layer as functions: norm, project, rotate, attend, write, MLP. The loaded modules' weights are read in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange

from circuitlab.core.errors import ModelError
from circuitlab.model.decoder.linear import Linear
from circuitlab.model.decoder.rotary import Geometry, rotate
from circuitlab.model.norms import FrozenNorm

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

__all__ = ["Block"]


@dataclass(frozen=True, eq=False)
class Block:
    """The parts of one layer. Axes before ``pos`` are free; the heads of grouped-query attention are never copied or padded.

    Parameters
    ----------
    norm_attn, norm_mlp : FrozenNorm
        Norms that attention and the MLP read the residual stream through.
    post_attn, post_mlp : FrozenNorm or None
        Norms of their outputs (Gemma 2 and 3).
    q, k, v, o : Linear
        Projections of attention.
    q_norm, k_norm : FrozenNorm or None
        Norms of each query and key before rotation (Qwen 3, Gemma 3).
    gate : Linear or None
        The gate of a gated MLP.
    up, down : Linear
        Input (beside the gate) and output of the MLP.
    activation : callable
        Applied to the gate where there is one, to ``up`` otherwise.
    scale : float
        Factor of the attention scores.
    softcap : float or None
        Softcap of the attention scores (Gemma 2).
    n_kv_heads, d_head : int
        Number of key/value heads, and the width of a head's value and z.
    parallel : bool
        Whether the MLP reads the stream that attention reads (GPT-NeoX).
    pairs : bool
        Whether rotary embedding pairs neighbouring dimensions (GLM, Cohere) instead of the two halves.
    sinks : Tensor, shape (head,), or None
        Scores of an attention sink, whose weight goes to no key (gpt-oss).
    experts : callable or None
        A mixture of experts in place of ``gate``, ``up`` and ``down``, which are then empty.
    """

    norm_attn: FrozenNorm
    norm_mlp: FrozenNorm
    post_attn: FrozenNorm | None
    post_mlp: FrozenNorm | None
    q: Linear
    k: Linear
    v: Linear
    o: Linear
    q_norm: FrozenNorm | None
    k_norm: FrozenNorm | None
    gate: Linear | None
    up: Linear
    down: Linear
    activation: Callable[[Tensor], Tensor]
    scale: float
    softcap: float | None
    n_kv_heads: int
    d_head: int
    parallel: bool
    pairs: bool = False
    sinks: Float[Tensor, " head"] | None = None
    experts: Callable[[Tensor], Tensor] | None = None

    @property
    def heads_apart(self) -> bool:
        """Whether each head's queries and keys are independent of other heads'; a norm over all heads (OLMo 2) couples them."""
        return all(norm is None or norm.gain.numel() == self.d_key for norm in (self.q_norm, self.k_norm))

    @property
    def d_key(self) -> int:
        """Width of a head's query and key."""
        return self.k.weight.shape[1] // self.n_kv_heads

    def require_neurons(self) -> None:
        """Raise `ModelError` for a mixture of experts, whose MLP has no fixed set of neurons."""
        if self.experts is not None:
            what = "The MLPs of this model are mixtures of experts, which choose different weights for every input."
            raise ModelError(what, "Use activation_patching, attribution_patching, eap or logit_attribution.")

    def split(self, flat: Float[Tensor, "*rows pos all"]) -> Float[Tensor, "*rows pos head d_head"]:
        """Split a projection into its heads."""
        return flat.unflatten(-1, (-1, self.d_head))

    def rotate(self, x: Float[Tensor, "*rows pos head d_head"], angles: Any) -> Float[Tensor, "*rows pos head d_head"]:
        """Queries or keys after the rotary embedding."""
        return rotate(x, angles, pairs=self.pairs)

    def rotated_q(self, q: Float[Tensor, "*rows pos head d_head"], angles: Any) -> Float[Tensor, "*rows pos head d_head"]:
        """Queries after q-norm and rotation; ``angles`` are those of their positions, or None."""
        return self.rotate(_normed(self.q_norm, q), angles)

    def rotated_k(self, k: Float[Tensor, "*rows pos kv_head d_head"], angles: Any) -> Float[Tensor, "*rows pos kv_head d_head"]:
        """Keys after k-norm and rotation."""
        return self.rotate(_normed(self.k_norm, k), angles)

    def scores(
        self,
        q: Float[Tensor, "*rows query head d_head"],
        k: Float[Tensor, "*rows key kv_head d_head"],
    ) -> Float[Tensor, "*rows head query key"]:
        """Attention scores before the mask, scaled and soft-capped; each key head is shared by its group of query heads."""
        grouped = rearrange(q, "... q (kv g) d -> ... kv g q d", kv=self.n_kv_heads)
        keys = rearrange(k, "... k kv d -> ... kv 1 d k")
        return self.capped((grouped @ keys).flatten(-4, -3) * self.scale)

    def capped(self, scores: Tensor) -> Tensor:
        """Scores after the softcap, if there is one."""
        return scores if self.softcap is None else torch.tanh(scores / self.softcap) * self.softcap

    def weights(
        self, scores: Float[Tensor, "*rows head query key"], hidden: Bool[Tensor, "query key"]
    ) -> Float[Tensor, "*rows head query key"]:
        """Attention weights from soft-capped scores with their bias; ``hidden`` keys get zero, and a sink takes its share."""
        scores = scores.masked_fill(hidden, float("-inf"))
        if self.sinks is None:
            return scores.softmax(-1)
        sink = self.sinks.to(scores.dtype)[:, None, None].expand(*scores.shape[:-1], 1)
        return torch.cat([scores, sink], dim=-1).softmax(-1)[..., :-1]

    def mix(
        self,
        pattern: Float[Tensor, "*rows head query key"],
        v: Float[Tensor, "*rows key kv_head d_head"],
    ) -> Float[Tensor, "*rows query head d_head"]:
        """The attention-weighted sum of values, z."""
        grouped = pattern.unflatten(-3, (self.n_kv_heads, -1))
        z = grouped @ rearrange(v, "... k kv d -> ... kv 1 k d")
        return rearrange(z, "... kv g q d -> ... q (kv g) d")

    def weigh(self, q: Tensor, keys: Tensor, where: Geometry) -> Float[Tensor, "*rows head query key"]:
        """Attention weights of unrotated queries at the last positions of ``keys``, which are rotated already."""
        stop = keys.shape[-3]
        start = stop - q.shape[-3]
        scores = self.scores(self.rotated_q(q, where.angles_of(start, stop)), keys)
        if where.bias is not None:
            scores = scores + where.biased(start, stop)
        return self.weights(scores, ~where.visible[start:stop, :stop])

    def attend(self, q: Tensor, k: Tensor, v: Tensor, where: Geometry) -> tuple[Tensor, Tensor]:
        """Pattern and z of whole prompts from q, k and v as projected."""
        pattern = self.weigh(q, self.rotated_k(k, where.angles_of(0, k.shape[-3])), where)
        return pattern, self.mix(pattern, v)

    def write(self, z: Float[Tensor, "*rows head d_head"]) -> Float[Tensor, "*rows d_model"]:
        """What attention adds to the residual stream: output projection with its bias, then the post-norm."""
        raw = self.o(z.flatten(-2))
        return raw if self.post_attn is None else self.post_attn.apply(raw)

    def neurons(self, normed: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_mlp"]:
        """Neuron activations: the input of the MLP's output projection."""
        up = self.up(normed)
        return self.activation(up) if self.gate is None else self.activation(self.gate(normed)) * up

    def mlp(self, normed: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """What the MLP adds to the residual stream, given its normed input."""
        raw = self.down(self.neurons(normed)) if self.experts is None else self.experts(normed)
        return raw if self.post_mlp is None else self.post_mlp.apply(raw)

    def head_writes(self, z: Float[Tensor, "*rows head d_head"]) -> Float[Tensor, "*rows head d_model"]:
        """Each head's term in the output projection, before its bias and any post-norm."""
        heads = self.o.weight.unflatten(0, (-1, self.d_head))
        return torch.einsum("...hd,hdm->...hm", z, heads)


def _normed(norm: FrozenNorm | None, x: Float[Tensor, "*rows head d_head"]) -> Float[Tensor, "*rows head d_head"]:
    """Apply a norm to each head, or to all heads as one vector if its gain has that length."""
    if norm is None:
        return x
    if norm.gain.numel() == x.shape[-1]:
        return norm.apply(x)
    return norm.apply(x.flatten(-2)).unflatten(-1, x.shape[-2:])
