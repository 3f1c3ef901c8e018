"""One layer as a `Block`: norms, projections, and what is found by trying (scale, softcap, rotation, the MLP's activation)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from circuitlab.core.errors import ModelError
from circuitlab.model.anatomy.watch import first_tensor, is_linear
from circuitlab.model.decoder.block import Block
from circuitlab.model.decoder.linear import Linear
from circuitlab.model.decoder.rotary import ROTATIONS, Geometry, Rotation
from circuitlab.model.hooks import evaluating
from circuitlab.model.norms import FrozenNorm
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.model.anatomy.parts import HeadMap, LayerParts, Write

__all__ = ["Assembled", "assemble"]

_CLOSE = {torch.float64: 1e-6, torch.float32: 1e-4}
_GATED = 3


@dataclass(frozen=True, eq=False)
class Assembled:
    """A block, the layout of its family's rotary angles, and the factor of its position bias."""

    block: Block
    rotation: Rotation
    bias_factor: float


def assemble(parts: LayerParts, values: Mapping[Site, Tensor], where: Geometry) -> Assembled:
    """The block of a layer that reproduces the values of one run.

    Raises
    ------
    ModelError
        If no kind of attention or MLP that circuitlab knows gives those values.
    """
    width = values[Site.RESID_PRE].shape[-1]
    block = _attention_of(parts, width)
    block = _with_mlp(block, parts, values, width)
    return _attending(block, parts, values, where)


def _heads(heads: HeadMap | None) -> Linear:
    if heads is None:
        raise ModelError("a projection of attention is missing", "Use hooks.")
    return Linear.of(heads.module).columns(heads.index)


def _scaled(linear: Linear, factor: float) -> Linear:
    return linear if factor == 1 else Linear(linear.weight * factor, None if linear.bias is None else linear.bias * factor)


def _after(posts: tuple[Any, ...], write: Write | None, width: int) -> tuple[FrozenNorm | None, float]:
    """The norm of a part's output with its factor, or None and the factor of the output itself."""
    if write is None:
        raise ModelError("what it adds to the residual stream is not known", "Use hooks.")
    if posts and write.module is posts[-1]:
        return FrozenNorm.of(posts[-1], width).times(write.scale), 1.0
    return None, write.scale


def _attention_of(parts: LayerParts, width: int) -> Block:
    post, factor = _after(parts.attn_post, parts.attn_out, width)
    q, k, v = _heads(parts.q), _heads(parts.k), _heads(parts.v)
    shared = len(parts.k.index) if parts.k is not None else 0
    d_key = k.weight.shape[1] // shared
    if d_key != parts.d_value:
        what = f"its keys have {d_key} numbers and its values {parts.d_value}"
        raise ModelError(what, "Use hooks.")
    empty = Linear(q.weight[:0, :0], None)
    return Block(
        norm_attn=FrozenNorm.of(parts.attn_norm, width),
        norm_mlp=FrozenNorm.of(parts.mlp_norm if parts.mlp_norm is not None or not parts.parallel else parts.attn_norm, width),
        post_attn=post,
        post_mlp=None,
        q=q,
        k=k,
        v=v,
        o=_scaled(Linear.of(parts.o), factor),
        q_norm=_norm_of_heads(parts.q_norm, q, d_key),
        k_norm=_norm_of_heads(parts.k_norm, k, d_key),
        gate=None,
        up=empty,
        down=empty,
        activation=torch.nn.Identity(),
        scale=d_key**-0.5,
        softcap=None,
        n_kv_heads=shared,
        d_head=parts.d_value,
        parallel=parts.parallel,
        sinks=_sinks(parts),
    )


def _norm_of_heads(module: Any, projection: Linear, d_key: int) -> FrozenNorm | None:
    if module is None:
        return None
    weight = getattr(module, "weight", None)
    size = d_key if weight is None else weight.numel()
    if size not in {d_key, projection.weight.shape[1]}:
        raise ModelError(f"a norm of queries or keys has {size} weights", "Use hooks.")
    return FrozenNorm.of(module, size)


def _sinks(parts: LayerParts) -> Tensor | None:
    if not parts.sink:
        return None
    candidates = [value for value in parts.attention.parameters(recurse=False) if value.shape == (parts.n_heads,)]
    if len(candidates) != 1:
        raise ModelError("its attention has a sink whose scores were not found", "Use hooks.")
    return candidates[0].detach()


def _near(actual: Tensor, expected: Tensor) -> bool:
    close = _CLOSE.get(expected.dtype, 3e-2)
    return actual.shape == expected.shape and bool((actual - expected).abs().max() <= close * expected.abs().max().clamp(min=1.0))


def _with_mlp(block: Block, parts: LayerParts, values: Mapping[Site, Tensor], width: int) -> Block:
    """The block with the MLP that reproduces this run's values."""
    post, factor = _after(parts.mlp_post, parts.mlp_out, width)
    read = values[Site.RESID_PRE] if parts.parallel else values[Site.RESID_MID]
    block = replace(block, post_mlp=post)
    normed = block.norm_mlp.apply(read)
    for gate, up, down in _orders(parts):
        for activation in _activations(parts):
            tried = replace(block, gate=gate, up=up, down=_scaled(down, factor), activation=activation)
            if _near(tried.mlp(normed), values[Site.MLP_OUT]):
                return tried
    if parts.mlp is not None:
        tried = replace(block, experts=_Experts(parts.mlp, factor))
        if _near(tried.mlp(normed), values[Site.MLP_OUT]):
            return tried
    raise ModelError("its MLP is of a kind that circuitlab does not know", "Use hooks.")


@dataclass(frozen=True, eq=False)
class _Experts:
    """The model's own mixture-of-experts module; rows do not interact."""

    module: Any
    factor: float

    def __call__(self, normed: Tensor) -> Tensor:
        flat = normed.reshape(1, -1, normed.shape[-1])
        with evaluating(self.module):  # routers add noise in training mode
            out = first_tensor(self.module(flat))
        if out is None:
            raise ModelError("its MLP gives no tensor", "Use hooks.")
        out = out if self.factor == 1 else out * self.factor
        return out.reshape(normed.shape)


def _orders(parts: LayerParts) -> Iterator[tuple[Linear | None, Linear, Linear]]:
    """Every assignment of the MLP's maps to gate, up and down."""
    try:
        maps = [Linear.of(module) for module in parts.mlp_maps]
    except ModelError:
        return  # not linear maps of their inputs: the MLP's own module is run
    if len(maps) == _GATED:
        yield maps[0], maps[1], maps[2]
        yield maps[1], maps[0], maps[2]
    elif maps:
        first, down = maps
        inner = down.weight.shape[0]
        if first.weight.shape[1] == 2 * inner:
            halves = [first.columns(torch.arange(inner)[None] + start) for start in (0, inner)]
            yield halves[0], halves[1], down
            yield halves[1], halves[0], down
        elif first.weight.shape[1] == inner:
            yield None, first, down


def _activations(parts: LayerParts) -> Iterator[Callable[[Tensor], Tensor]]:
    """Candidates for the MLP's activation, by attribute name and among child modules."""
    seen: set[int] = set()
    for holder in (parts.mlp, parts.layer):
        if holder is None:
            continue
        children = [module for _, module in holder.named_children() if not is_linear(module) and not any(True for _ in module.parameters())]
        by_name = [getattr(holder, name, None) for name in ("act_fn", "act", "activation_fn", "activation", "gelu_impl", "act_func")]
        for activation in (*by_name, *children):
            if callable(activation) and id(activation) not in seen:
                seen.add(id(activation))
                yield activation


def _attending(block: Block, parts: LayerParts, values: Mapping[Site, Tensor], where: Geometry) -> Assembled:
    """The block with the scale, softcap and rotation that reproduce this run's attention and outputs."""
    normed = block.norm_attn.apply(values[Site.RESID_PRE])
    q, k, v = (block.split(part(normed)) for part in (block.q, block.k, block.v))
    if not all(_near(projected, values[site]) for projected, site in ((q, Site.Q), (k, Site.K), (v, Site.V))):
        raise ModelError("its queries, keys or values are not linear in its normed stream", "Use hooks.")
    rotations = ROTATIONS if where.angles is not None else ("none",)
    for rotation, (scale, cap) in itertools.product(rotations, _scales(block, parts)):
        for factor in (1.0, scale) if where.bias is not None else (1.0,):
            tried = replace(block, scale=scale, softcap=cap, pairs=rotation.startswith("pairs"))
            laid_out = where.laid_out(rotation, factor)
            if laid_out.angles is not None and (laid_out.angles[0].shape[-1] > block.d_head or laid_out.angles[0].shape[-1] % 2):
                continue
            pattern, z = tried.attend(q, k, v, laid_out)
            if (
                _near(pattern, values[Site.PATTERN].to(pattern.dtype))
                and _near(z, values[Site.Z])
                and _near(tried.write(z), values[Site.ATTN_OUT])
            ):
                return Assembled(tried, rotation, factor)
    raise ModelError("its attention is of a kind that circuitlab does not know", "Use hooks.")


def _scales(block: Block, parts: LayerParts) -> Iterator[tuple[float, float | None]]:
    """Factors and softcaps of attention scores to try: attributes of the module, one over the square root of d_head, and 1."""
    by_name = [
        getattr(parts.attention, name, None)
        for name in ("scaling", "scale", "scale_attn", "inv_norm_factor", "softmax_scale", "norm_factor")
    ]
    numbers = [float(x) for x in by_name if isinstance(x, int | float) or (isinstance(x, torch.Tensor) and x.numel() == 1)]
    scales = dict.fromkeys([*numbers, *(1 / number for number in numbers if number), 1 / math.sqrt(block.d_head), 1.0])
    cap = getattr(parts.attention, "attn_logit_softcapping", None)
    for scale in scales:
        yield scale, float(cap) if cap else None
        if cap:
            yield scale, None
