"""One layer as functions: norm, project, rotate, attend, write, MLP. Reads the loaded modules' weights in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange

from circuitlab.model.decoder.linear import Linear
from circuitlab.model.decoder.rotary import Geometry, rotate
from circuitlab.model.norms import FrozenNorm
from circuitlab.model.readout import source

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from circuitlab.provenance import ModelSpec

__all__ = ["Block"]


@dataclass(frozen=True, eq=False)
class Block:
    """The parts of one layer. Axes before ``pos`` are free; grouped-query heads are never copied or padded.

    Parameters
    ----------
    norm_attn, norm_mlp : FrozenNorm
        Norms that attention and the MLP read the residual stream through.
    post_attn, post_mlp : FrozenNorm or None
        Norms of what they write (Gemma 2 and 3).
    q, k, v, o : Linear
        Projections of attention.
    q_norm, k_norm : FrozenNorm or None
        Norms of each query and key before rotation (Qwen 3, Gemma 3).
    gate : Linear or None
        The gate of a gated MLP.
    up, down : Linear
        Input (beside the gate) and output of the MLP.
    activation : callable
        Of the gate where there is one, of ``up`` otherwise.
    scale : float
        Factor of the attention scores.
    softcap : float or None
        Softcap of the attention scores (Gemma 2).
    n_kv_heads : int
    parallel : bool
        Whether the MLP reads what attention reads (GPT-NeoX).
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

    @classmethod
    def of(cls, block: Any, spec: ModelSpec) -> Block:
        """Read a bridge block by the bridge's canonical names; a part that is missing raises AttributeError or KeyError."""
        attention, mlp = block.attn, block.mlp
        inner = source(attention)
        norms = {name: FrozenNorm.of(source(getattr(block, name))) for name in ("ln1", "ln2")}
        posts = {name: FrozenNorm.of(source(getattr(block, name))) if spec.post_norm else None for name in ("ln1_post", "ln2_post")}
        heads = {name: FrozenNorm.of(source(getattr(attention, name))) if hasattr(inner, name) else None for name in ("q_norm", "k_norm")}
        modules = dict(source(mlp).named_children())
        return cls(
            norm_attn=norms["ln1"],
            norm_mlp=norms["ln2"],
            post_attn=posts["ln1_post"],
            post_mlp=posts["ln2_post"],
            q=Linear.of(source(attention.q)),
            k=Linear.of(source(attention.k)),
            v=Linear.of(source(attention.v)),
            o=Linear.of(source(attention.o)),
            q_norm=heads["q_norm"],
            k_norm=heads["k_norm"],
            gate=Linear.of(source(mlp.gate)) if hasattr(mlp, "gate") else None,
            up=Linear.of(source(getattr(mlp, "in"))),
            down=Linear.of(source(mlp.out)),
            activation=modules["act_fn"] if "act_fn" in modules else modules["act"],
            scale=float(inner.scaling),
            softcap=getattr(inner, "attn_logit_softcapping", None),
            n_kv_heads=spec.n_kv_heads,
            d_head=spec.d_head,
            parallel=spec.parallel,
        )

    def split(self, flat: Float[Tensor, "*rows pos all"]) -> Float[Tensor, "*rows pos head d_head"]:
        """Divide a projection among its heads."""
        return flat.unflatten(-1, (-1, self.d_head))

    def turned_q(self, q: Float[Tensor, "*rows pos head d_head"], angles: Any) -> Float[Tensor, "*rows pos head d_head"]:
        """Queries as they meet keys: q-norm, then rotation; ``angles`` are those of the positions given, or None."""
        return rotate(q if self.q_norm is None else self.q_norm.apply(q), angles)

    def turned_k(self, k: Float[Tensor, "*rows pos kv_head d_head"], angles: Any) -> Float[Tensor, "*rows pos kv_head d_head"]:
        """Keys as they meet queries: k-norm, then rotation."""
        return rotate(k if self.k_norm is None else self.k_norm.apply(k), angles)

    def scores(
        self,
        q: Float[Tensor, "*rows query head d_head"],
        k: Float[Tensor, "*rows key kv_head d_head"],
    ) -> Float[Tensor, "*rows head query key"]:
        """Attention scores before the mask, scaled and soft-capped; each key head serves its group of queries."""
        grouped = rearrange(q, "... q (kv g) d -> ... kv g q d", kv=self.n_kv_heads)
        keys = rearrange(k, "... k kv d -> ... kv 1 d k")
        return self.capped((grouped @ keys).flatten(-4, -3) * self.scale)

    def capped(self, scores: Tensor) -> Tensor:
        """Scores after the softcap, where there is one."""
        return scores if self.softcap is None else torch.tanh(scores / self.softcap) * self.softcap

    def mix(
        self,
        pattern: Float[Tensor, "*rows head query key"],
        v: Float[Tensor, "*rows key kv_head d_head"],
    ) -> Float[Tensor, "*rows query head d_head"]:
        """Attention-weighted values, z."""
        grouped = pattern.unflatten(-3, (self.n_kv_heads, -1))
        z = grouped @ rearrange(v, "... k kv d -> ... kv 1 k d")
        return rearrange(z, "... kv g q d -> ... q (kv g) d")

    def weigh(self, q: Tensor, keys: Tensor, where: Geometry) -> Float[Tensor, "*rows head query key"]:
        """Attention weights of raw queries, which are the last positions of those that ``keys`` (turned) hold."""
        stop = keys.shape[-3]
        start = stop - q.shape[-3]
        scores = self.scores(self.turned_q(q, where.angles_of(start, stop)), keys)
        return scores.masked_fill(~where.visible[start:stop, :stop], float("-inf")).softmax(-1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, where: Geometry) -> tuple[Tensor, Tensor]:
        """Pattern and z of whole prompts from raw q, k and v."""
        pattern = self.weigh(q, self.turned_k(k, where.angles_of(0, k.shape[-3])), where)
        return pattern, self.mix(pattern, v)

    def write(self, z: Float[Tensor, "*rows head d_head"]) -> Float[Tensor, "*rows d_model"]:
        """What attention adds to the residual stream: output projection, its bias, post-norm."""
        raw = self.o(z.flatten(-2))
        return raw if self.post_attn is None else self.post_attn.apply(raw)

    def neurons(self, normed: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_mlp"]:
        """Activations that the MLP's output projection reads."""
        up = self.up(normed)
        return self.activation(up) if self.gate is None else self.activation(self.gate(normed)) * up

    def mlp(self, normed: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """What the MLP adds to the residual stream, from its normed input."""
        raw = self.down(self.neurons(normed))
        return raw if self.post_mlp is None else self.post_mlp.apply(raw)

    def head_writes(self, z: Float[Tensor, "*rows head d_head"]) -> Float[Tensor, "*rows head d_model"]:
        """What each head puts into the sum that the output projection forms, before its bias and any post-norm."""
        heads = self.o.weight.unflatten(0, (-1, self.d_head))
        return torch.einsum("...hd,hdm->...hm", z, heads)
