"""The QK fix: changed queries or keys act exactly on attention, and to first order on everything after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from circuitlab.execute.nodes_in_trace import Point

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from circuitlab.execute.first_order import GradientRunPair
    from circuitlab.model.decoder import Block, Decoder

__all__ = ["Attention", "attention_of", "fixed_effect"]


@dataclass(frozen=True, eq=False)
class Attention:
    """The map from queries and keys to attention in one layer, for prompts of one length.

    Parameters
    ----------
    block : Block
        Norms of queries and keys, scale and softcap of the scores.
    angles : (Tensor, Tensor) or None
        Rotary angles of every position.
    hidden : Tensor of bool, shape (query, key)
        Keys that a query cannot attend to.
    bias : Tensor, shape (head, query or 1, key), optional
        Added to the scores (ALiBi).
    """

    block: Block
    angles: tuple[Tensor, Tensor] | None
    hidden: Tensor
    bias: Tensor | None = None

    def scores(self, q: Float[Tensor, "pair query head d_head"], k: Float[Tensor, "pair key kv_head d_head"]) -> Tensor:
        """Attention scores before the mask, (pair, head, query, key), in float64: float32 is too coarse where softmax saturates."""
        block = self.block
        plain = block.scores(block.rotated_q(q.double(), self.angles), block.rotated_k(k.double(), self.angles))
        return plain if self.bias is None else plain + self.bias

    def pattern(self, q: Float[Tensor, "pair query head d_head"], k: Float[Tensor, "pair key kv_head d_head"]) -> Tensor:
        """Attention weights, (pair, head, query, key), in float64."""
        return self.scores(q, k).masked_fill(self.hidden, float("-inf")).softmax(-1)


def attention_of(decoder: Decoder, layer: int, length: int) -> Attention:
    """Attention of one layer on prompts of one length; it must have no sinks (`circuitlab.execute.needs`)."""
    block, where = decoder.blocks[layer], decoder.geometry(length)[layer]
    bias = None if where.bias is None else where.biased(0, length)
    return Attention(block, where.angles_of(0, length), ~where.visible[:length, :length], bias)


def fixed_effect(
    contrast: GradientRunPair,
    point: Point,
    gradient: Float[Tensor, "pair head query key"],
    attention: Attention,
) -> Float[Tensor, "pair ..."]:
    """Effect of queries or keys: the true change of attention times the gradient at the pattern, (pair[, mark], head or kv_head).

    Queries change their own rows. Keys of all positions together change every row; the key at one position changes one column of the
    scores, whose effect on each row is `_column_effect`. The effect of a key/value head is the sum over its query heads.
    """
    edited, source = contrast.edited.trace.layers[point.layer], contrast.source.layers[point.layer]
    q, k = edited.q.detach(), edited.k.detach()
    weight = gradient.double() * contrast.sign
    if point.field == "q":
        by_head = ((attention.pattern(source.q, k) - attention.pattern(q, k)) * weight).sum(-1)
    elif contrast.chosen.positions == ("all",):
        by_head = ((attention.pattern(q, source.k) - attention.pattern(q, k)) * weight).sum(-1)
    else:
        by_head = _column_effect(attention, attention.scores(q, k), attention.scores(q, source.k), weight).sum(-2)
    if point.field == "k":
        by_head = by_head.unflatten(1, (attention.block.n_kv_heads, -1)).sum(2)
    return contrast.chosen.placed(by_head.transpose(1, 2), contrast.batch)


def _column_effect(
    attention: Attention,
    scores: Float[Tensor, "pair head query key"],
    changed: Float[Tensor, "pair head query key"],
    weight: Float[Tensor, "pair head query key"],
) -> Float[Tensor, "pair head query key"]:
    """First-order effect, by query and key, of changing the score of that key only.

    With p the old and p' the new weight of key t, all other weights are scaled by (1 - p') / (1 - p). The row's change times the gradient
    G is therefore (p' - p) (G_t - M_t), where M_t is the weighted mean of G over the other keys, and p' = sigmoid(log p + change - log(1
    - p)). 1 - p is computed as the sum of the other weights: a subtraction would be rounding noise where attention is saturated.
    """
    import torch  # noqa: PLC0415

    logs = scores.masked_fill(attention.hidden, float("-inf")).log_softmax(-1)
    old = logs.exp()
    rest = _all_but_one(old)
    mean = _all_but_one(old * weight) / torch.where(rest > 0, rest, 1.0)
    new = torch.sigmoid(logs + (changed - scores) - rest.log())
    return (new - old) * (weight - mean)


def _all_but_one(values: Float[Tensor, "*rows key"]) -> Float[Tensor, "*rows key"]:
    """For every entry the sum of all other entries, without subtraction."""
    import torch  # noqa: PLC0415

    before = torch.nn.functional.pad(values.cumsum(-1)[..., :-1], (1, 0))
    after = torch.nn.functional.pad(values.flip(-1).cumsum(-1)[..., :-1], (1, 0)).flip(-1)
    return before + after
