"""A decoder with the same values whose backward pass propagates relevance instead of gradients (LRP rules for transformers)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from circuitlab.model.decoder import Block, Decoder
from circuitlab.model.norms import FrozenNorm

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.protocol import Model, Weights

__all__ = ["RelevanceBlock", "RelevanceDecoder", "relevance_decoder", "secant"]

_SMALL = 1e-3  # a slope over this distance is the slope at 0 up to 1e-6


def secant(function: Callable[[Tensor], Tensor], x: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """An elementwise function with function(0) = 0, whose backward pass multiplies by ``function(x) / x`` (the identity rule)."""
    with torch.no_grad():
        value = function(x)
        step = torch.full((1,), _SMALL, dtype=x.dtype, device=x.device)
        at_zero = (function(step) - function(-step)) / (2 * _SMALL)
        slope = torch.where(x == 0, at_zero, value / torch.where(x == 0, 1.0, x))
    return value + slope * (x - x.detach())  # the second term is 0, but its gradient is the slope


class _HeldNorm(FrozenNorm):
    """A norm whose scale is a constant for the backward pass."""

    def scale(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows 1"]:
        """Root mean square, detached."""
        return super().scale(x).detach()


@dataclass(frozen=True, eq=False)
class RelevanceBlock(Block):
    """A layer with the values of `Block` and the backward pass of relevance propagation.

    Norms are linear maps with the scale of this run. Attention weights are constants if ``frozen_pattern`` is true. The backward pass of
    an activation multiplies by output over input. A product of gate and value gives half of the relevance to each factor. Linear maps are
    not changed.

    Parameters
    ----------
    frozen_pattern : bool
        Whether attention weights are constants of the backward pass; the other fields are those of `Block`.
    """

    frozen_pattern: bool = True

    def mix(
        self,
        pattern: Float[Tensor, "*rows head query key"],
        v: Float[Tensor, "*rows key kv_head d_head"],
    ) -> Float[Tensor, "*rows query head d_head"]:
        """The attention-weighted sum of values; a frozen pattern passes nothing back to queries and keys."""
        return super().mix(pattern.detach() if self.frozen_pattern else pattern, v)

    def neurons(self, normed: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_mlp"]:
        """Neuron activations: the activation by the identity rule, the product with the gate by the half rule."""
        up = self.up(normed)
        if self.gate is None:
            return secant(self.activation, up)
        half = secant(self.activation, self.gate(normed)) * up * 0.5
        return half + half.detach()


@dataclass(frozen=True, eq=False)
class RelevanceDecoder(Decoder):
    """A decoder of `RelevanceBlock`, whose final norm has a fixed scale and whose final softcap follows the identity rule.

    Parameters
    ----------
    weights : Weights
        Weights of the readout; the other fields are those of `Decoder`.
    """

    weights: Weights

    def unembed(self, resid: Float[Tensor, "... d_model"], ids: Int[Tensor, " token"] | None = None) -> Float[Tensor, "... token"]:
        """The model's logits, with relevance propagation as their backward pass."""
        every = slice(None) if ids is None else ids
        normed = _held(self.weights.final_norm).apply(resid)
        logits = torch.nn.functional.linear(normed, self.weights.unembed(every), self.weights.unembed_bias(every))
        cap = self.weights.softcap
        return logits if cap is None else secant(partial(_cap, cap=cap), logits)


def relevance_decoder(model: Model, *, frozen_pattern: bool = True) -> RelevanceDecoder:
    """The functional forward of a model with the backward pass of relevance propagation; weights are shared."""
    plain = model.decoder
    blocks = [_relevance_block(block, frozen_pattern) for block in plain.blocks]
    return RelevanceDecoder(blocks, plain.embed, plain.geometry, model.weights, standing=plain.standing)


def _relevance_block(block: Block, frozen_pattern: bool) -> RelevanceBlock:
    parts: dict[str, Any] = {field.name: getattr(block, field.name) for field in dataclasses.fields(block)}
    held_norms = {name: _held(part) for name, part in parts.items() if isinstance(part, FrozenNorm)}
    return RelevanceBlock(**(parts | held_norms), frozen_pattern=frozen_pattern)


def _held(norm: FrozenNorm) -> _HeldNorm:
    return _HeldNorm(norm.kind, norm.gain, norm.bias, norm.eps)


def _cap(logits: Tensor, cap: float) -> Tensor:
    return torch.tanh(logits / cap) * cap
