"""One layer of a decomposed run: attention up to z, and everything after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from circuitlab.methods.decomposition import steps
from circuitlab.methods.decomposition.parts import Parts

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.methods.decomposition.known import KnownLayer
    from circuitlab.methods.decomposition.rule import Rule
    from circuitlab.model.norms import FrozenNorm

__all__ = ["LayerParts", "blocks_of", "decompose_inputs", "decompose_mixing", "decompose_output"]

_TOKENS = 1024
"""Positions that go through a layer together, so that intermediate values stay in the CPU cache."""


@dataclass(frozen=True, eq=False)
class LayerParts:
    """Queries, keys and values as projected, and the residual stream from which they were computed."""

    resid: Parts
    q: Parts
    k: Parts
    v: Parts


def blocks_of(sources: int, tokens: int) -> Iterator[slice]:
    """Slices of sources whose positions fit in the CPU cache."""
    size = max(1, _TOKENS // max(1, tokens))
    return (slice(first, first + size) for first in range(0, sources, size))


def decompose_inputs(rule: Rule, known: KnownLayer, resid: Parts) -> LayerParts:
    """Attention's norm and projections, for the window only."""
    block, base, start = known.block, known.base, known.start
    normed = steps.norm(rule, resid, block.norm_attn, base.attn_in)
    q, k, v = (
        steps.linear(rule, normed, part, true.flatten(-2)).through(block.split, true)
        for part, true in ((block.q, base.q), (block.k, base.k[:, start:]), (block.v, base.v[:, start:]))
    )
    return LayerParts(resid, q, k, v)


def decompose_mixing(rule: Rule, known: KnownLayer, inputs: LayerParts) -> Parts:
    """Attention from its inputs to z."""
    block, base, start = known.block, known.base, known.start
    q = _rotated(rule, known, inputs.q, block.q_norm, known.rotated_q)
    k = _rotated(rule, known, inputs.k, block.k_norm, known.rotated_k[:, start:])
    k, v = _with_earlier(k, known.rotated_k, start), _with_earlier(inputs.v, base.v, start)
    if rule.softmax == "frozen":
        # Attention weights are constants, so that z is linear in the values.
        return v.through(lambda part: block.mix(base.pattern, part), base.z)
    scores = steps.product(rule.product, q, k, replace(block, softcap=None).scores, known.dots)
    if block.softcap is not None:
        scores = steps.activation(rule, scores, block.capped, known.scores)
    weights = steps.softmax(rule, scores, known.visible, base.pattern)
    return steps.product(rule.product, weights, v, block.mix, base.z)


def _rotated(rule: Rule, known: KnownLayer, x: Parts, norm: FrozenNorm | None, true: Tensor) -> Parts:
    """Queries or keys after their norm and rotation."""
    if norm is not None:
        x = steps.norm(rule, x, norm, norm.apply(x.true))
    return x.through(lambda part: known.block.rotate(part, known.angles), true)


def _with_earlier(x: Parts, true: Tensor, start: int) -> Parts:
    """The activation with the positions before the window, where nothing is relevant."""
    if not start:
        return x
    earlier = true[:, :start].expand(len(x.relevant), -1, -1, -1, -1)
    relevant = torch.cat([torch.zeros_like(earlier), x.relevant], dim=2)
    return Parts(relevant, true, None if x.carried is None else torch.cat([earlier, x.carried], dim=2))


def decompose_output(
    rule: Rule,
    known: KnownLayer,
    resid: Parts,
    z: Parts,
    written: Callable[[Parts], Parts] = lambda mlp_out: mlp_out,
) -> Parts:
    """From z to the residual stream that leaves the layer; ``written`` may change the MLP's output."""
    block, base = known.block, known.base
    attn = steps.linear(rule, z.through(lambda part: part.flatten(-2), base.z.flatten(-2)), block.o, known.raw_attn)
    if block.post_attn is not None:
        attn = steps.norm(rule, attn, block.post_attn, base.attn_out)
    mid = resid.plus(attn, base.resid_mid)
    normed = steps.norm(rule, resid if block.parallel else mid, block.norm_mlp, base.mlp_in)
    mlp = steps.linear(rule, _neurons(rule, known, normed), block.down, known.raw_mlp)
    if block.post_mlp is not None:
        mlp = steps.norm(rule, mlp, block.post_mlp, base.mlp_out)
    return steps.clipped(rule, mid.plus(written(steps.clipped(rule, mlp)), known.post))


def _neurons(rule: Rule, known: KnownLayer, normed: Parts) -> Parts:
    block = known.block
    up = steps.clipped(rule, steps.linear(rule, normed, block.up, known.up))
    if block.gate is None or known.gate is None or known.gated is None:
        return steps.activation(rule, up, block.activation, known.neurons)
    gate = steps.clipped(rule, steps.linear(rule, normed, block.gate, known.gate))
    gated = steps.activation(rule, gate, block.activation, known.gated)
    return steps.product(rule.gate, gated, up, torch.mul, known.neurons)
