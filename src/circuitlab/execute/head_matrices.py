"""The matrices of one layer's heads, with the norms around them folded in: what weight-only scores are computed from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from circuitlab.model.decoder.linear import Linear
    from circuitlab.model.norms import FrozenNorm
    from circuitlab.model.protocol import Model

__all__ = ["HeadMatrices", "at_least_float32", "singular_values", "triangle"]


@dataclass(frozen=True, eq=False)
class HeadMatrices:
    """W_Q, W_K, W_V and W_O of one layer, in single precision or better; rows are read from the left (``x @ v @ o``).

    Parameters
    ----------
    q : Tensor, shape (head, d_model, d_key)
    k : Tensor, shape (kv_head, d_model, d_key)
    v : Tensor, shape (kv_head, d_model, d_head)
    o : Tensor, shape (head, d_head, d_model)

    Notes
    -----
    What is folded: the gain (and the centring) of the norm that attention reads through, of norms of queries and keys, and of a norm
    after the output projection, and the residual multiplier. Each is the norm at a fixed scale, and the scale is one positive number for
    each position, so directions, ranks and ratios of norms are those of the model. What is left out: biases, which are the same whatever
    is attended to, and rotary positions, so that queries and keys meet as they do at the same position.
    """

    q: Float[Tensor, "head d_model d_key"]
    k: Float[Tensor, "kv_head d_model d_key"]
    v: Float[Tensor, "kv_head d_model d_head"]
    o: Float[Tensor, "head d_head d_model"]

    @classmethod
    @torch.no_grad()
    def of(cls, model: Model, layer: int) -> HeadMatrices:
        """Read one layer of a model that can be taken apart."""
        block = model.decoder.blocks[layer]
        q = _read(block.q, block.norm_attn, block.q_norm, block.d_key)
        k = _read(block.k, block.norm_attn, block.k_norm, block.d_key)
        v = _read(block.v, block.norm_attn, None, block.d_head)
        o = at_least_float32(block.o.weight).unflatten(0, (-1, block.d_head))
        return cls(q, k, v, o if block.post_attn is None else block.post_attn.linear(o))

    @property
    def group(self) -> int:
        """Query heads that share a key/value head."""
        return len(self.q) // len(self.k)

    def shared(self, matrices: Float[Tensor, "kv_head rows columns"]) -> Float[Tensor, "head rows columns"]:
        """What each query head uses of matrices that key/value heads have."""
        return matrices.repeat_interleave(self.group, dim=0)


def _read(linear: Linear, norm: FrozenNorm, inner: FrozenNorm | None, size: int) -> Float[Tensor, "head d_model size"]:
    flat = norm.folded_into(at_least_float32(linear.weight))
    if inner is not None and inner.gain.numel() != size:  # one norm over all heads (OLMo 2)
        flat = inner.linear(flat)
    heads = flat.unflatten(-1, (-1, size))
    if inner is not None and inner.gain.numel() == size:
        heads = inner.linear(heads)
    return heads.transpose(0, 1)


def at_least_float32(value: Tensor) -> Tensor:
    """The same numbers in double precision where they are, in single precision otherwise."""
    return value if value.dtype == torch.float64 else value.float()


def triangle(tall: Float[Tensor, "*map d_model d_head"]) -> Float[Tensor, "*map small d_head"]:
    """A small matrix with the same products ``A.T @ A``, so that norms and singular values of ``tall @ x`` are those of ``small @ x``."""
    small: Tensor = torch.linalg.qr(tall, mode="r").R
    return small


def singular_values(
    left: Float[Tensor, "*map d_model d_head"], right: Float[Tensor, "*map d_head d_model"]
) -> Float[Tensor, "*map singular"]:
    """Singular values of ``left @ right``, at most d_head, without forming the product."""
    values: Tensor = torch.linalg.svdvals(triangle(left) @ triangle(right.transpose(-1, -2)).transpose(-1, -2))
    return values
