"""The equations of contextual decomposition, one function for each kind of step (Hsu et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from circuitlab.methods.decomposition.parts import Parts
from circuitlab.model.decoder.linear import Linear

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.methods.decomposition.rule import Product, Rule
    from circuitlab.model.norms import FrozenNorm

__all__ = ["activation", "clipped", "linear", "norm", "product", "softmax"]

_SMALL = 1e-8
"""Added to the denominators of the published bias split."""


def linear(rule: Rule, x: Parts, map_: Linear, true: Tensor) -> Parts:
    """``x @ weight + bias``; the bias is shared in proportion to the magnitudes of the two outputs."""
    plain = Linear(map_.weight, None)
    y = x.through(plain, true)
    if map_.bias is None:
        return y
    other = y.carried if y.carried is not None else true - map_.bias - y.relevant
    return _with_bias(rule, y, map_.bias, (y.relevant, other))


def norm(rule: Rule, x: Parts, of: FrozenNorm, true: Tensor) -> Parts:
    """LayerNorm or RMSNorm with the scale of the whole activation; its bias is shared in proportion to the magnitudes of the two inputs.

    A bounded norm scales an irrelevant part that is larger than the activation by its own size; the relevant part gets the rest.
    """
    gain, scale = of.gain.to(x.true.dtype), of.scale(x.total)
    factor = gain / scale

    def centred(part: Tensor) -> Tensor:
        return part - part.mean(-1, keepdim=True) if of.kind == "layer" else part

    y = x.through(lambda part: centred(part) * factor, true)
    if rule.norm == "bounded":
        own_scale = torch.maximum(scale, of.scale(x.irrelevant))
        irrelevant = centred(x.irrelevant) * (gain / own_scale)
        relevant = torch.where(own_scale > scale, centred(x.total) * factor - irrelevant, y.relevant)
        y = Parts(relevant, true, None if y.carried is None else irrelevant)
    return y if of.bias is None else _with_bias(rule, y, of.bias.to(true.dtype), (x.relevant, x.irrelevant))


def _with_bias(rule: Rule, y: Parts, bias: Tensor, sizes: tuple[Tensor, Tensor]) -> Parts:
    """Add a bias, shared in proportion to ``sizes``; it is irrelevant where both are zero."""
    if rule.bias == "irrelevant":
        return Parts(y.relevant, y.true, None if y.carried is None else y.carried + bias)
    relevant, irrelevant = sizes[0].abs(), sizes[1].abs()
    if rule.bias == "published":
        share, rest = relevant / (relevant + irrelevant + _SMALL), irrelevant / (relevant + irrelevant + _SMALL)
    else:
        share = torch.where(relevant > 0, relevant / (relevant + irrelevant), 0.0)
        rest = 1 - share
    carried = None if y.carried is None else y.carried + bias * rest
    return Parts(torch.addcmul(y.relevant, bias, share), y.true, carried)


def activation(rule: Rule, x: Parts, function: Callable[[Tensor], Tensor], true: Tensor) -> Parts:
    """An elementwise function."""
    whole = true if x.carried is None else function(x.total)
    if rule.activation == "remainder":
        irrelevant = function(x.irrelevant)
        return Parts(whole - irrelevant, true, None if x.carried is None else irrelevant)
    relevant = function(x.relevant) - function(torch.zeros_like(x.true[:1, :1]))
    if rule.activation == "shapley":
        relevant = 0.5 * (relevant + whole - function(x.irrelevant))
    return Parts(relevant, true, None if x.carried is None else whole - relevant)


def product(how: Product, a: Parts, b: Parts, times: Callable[[Tensor, Tensor], Tensor], true: Tensor) -> Parts:
    """A bilinear function of two activations: a product, queries with keys, weights with values."""
    relevant = times(a.relevant, b.relevant)
    if how != "both":
        anything = times(a.relevant, b.total) + times(a.irrelevant, b.relevant)
        relevant = anything if how == "any" else 0.5 * (relevant + anything)
    carried = None if a.carried is None else times(a.total, b.total) - relevant
    return Parts(relevant, true, carried)


def softmax(rule: Rule, scores: Parts, visible: Tensor, true: Tensor) -> Parts:
    """Attention weights from scores, for rules without frozen weights; keys that a query cannot attend to get none."""

    def weights(values: Tensor) -> Tensor:
        return values.masked_fill(~visible, float("-inf")).softmax(-1)

    whole = true if scores.carried is None else weights(scores.total)
    if rule.softmax == "alone":
        relevant = weights(scores.relevant)
    else:
        relevant = whole - weights(scores.irrelevant)
        if rule.softmax == "shapley":
            relevant = 0.5 * (relevant + weights(scores.relevant))
    return Parts(relevant, true, None if scores.carried is None else whole - relevant)


def clipped(rule: Rule, x: Parts) -> Parts:
    """The published treatment of parts of opposite sign.

    The larger part becomes the whole activation and the smaller part zero: each part is clipped between 0 and the activation.
    """
    if rule.signs == "free":
        return x
    low, high = x.total.clamp(max=0), x.total.clamp(min=0)
    return Parts(x.relevant.clamp(low, high), x.true, None if x.carried is None else x.carried.clamp(low, high))
