"""The first reading of a streamed model: every layer is taken apart, tested and hashed, one at a time."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from circuitlab.core.errors import ModelError, WeightsError
from circuitlab.core.progress import step
from circuitlab.model.anatomy.build import model_parts
from circuitlab.model.decoder.assemble import Assembled, assemble
from circuitlab.model.decoder.build import TOLERANCE, site_values
from circuitlab.model.decoder.linear import Linear
from circuitlab.model.decoder.rotary import Geometry
from circuitlab.model.hooks import HookedRun, own_modes
from circuitlab.model.norms import FrozenNorm
from circuitlab.model.sites import Site
from circuitlab.model.streaming.blocks import LINEARS
from circuitlab.model.streaming.geometry import require_same_stream
from circuitlab.model.streaming.skeleton import OneLayer, layer_kind

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.model.anatomy import ModelParts
    from circuitlab.model.decoder.block import Block
    from circuitlab.model.decoder.rotary import Rotation
    from circuitlab.model.streaming.skeleton import Skeleton
    from circuitlab.model.streaming.source import LayerSource

__all__ = ["FirstReading", "first_reading"]

_LENGTH = 12
_HASHED_BYTES = 1 << 26
_WHOLE = "Load it without stream=True."


@dataclass(frozen=True, eq=False)
class FirstReading:
    """What is known of every layer after it was in memory once.

    Parameters
    ----------
    outline : list of Block
        The layers without the weights of their linear maps, which are on the meta device.
    weights : list of dict of str to str
        For each layer, names inside the layer by the field of its block.
    layouts : list of (Rotation, float)
        Each layer's layout of rotary angles, and the factor of its position bias.
    ones : dict of str to OneLayer
        A model of one layer for every kind of layer.
    parts : ModelParts
        The parts of the whole model; modules are those of models of one layer.
    sha256 : str or None
        Hash of all weights (`circuitlab.model.identity.hash_weights`), if it was asked for.
    """

    outline: list[Block]
    weights: list[dict[str, str]]
    layouts: list[tuple[Rotation, float]]
    ones: dict[str, OneLayer]
    parts: ModelParts
    sha256: str | None


def first_reading(skeleton: Skeleton, source: LayerSource, name: str, *, hashing: bool) -> FirstReading:
    """Read every layer once.

    On a model of one layer that holds its weights: the laws of `model_parts` for the first layer of every kind; for each layer, what
    attention and the MLP add must sum to the step of the stream, its block must give the values of every site and the stream that leaves.

    Raises
    ------
    ModelError
        If a layer fails, or its linear maps are not weights as they are stored.
    WeightsError
        If a weight is not a finite number, or a file cannot be read.
    """
    if getattr(skeleton.root.get_output_embeddings(), "bias", None) is not None:
        raise ModelError(f"{name} cannot be streamed: its unembedding has a bias.", _WHOLE)
    total = hashlib.sha256() if hashing else None
    ones: dict[str, OneLayer] = {}
    layers: dict[int, tuple[Block, dict[str, str], tuple[Rotation, float]]] = {}
    by_layer = {full: layer for layer, names in enumerate(skeleton.layers) for full in names.values()}
    try:
        groups = [(layer, list(group)) for layer, group in itertools.groupby(sorted(skeleton.shapes), by_layer.get)]  # hashed in this order
        order = [layer for layer, _ in groups if layer is not None]
        after = dict(itertools.pairwise(order))
        for layer, group in groups:
            if layer is None:
                for full in group:
                    _hash_outer(skeleton, full, total)
                continue
            source.load(layer, after.get(layer))
            for inside, full in skeleton.layers[layer].items():
                _require_finite(source.tensor(inside), full, source.shards.files[source.shards.places[full].file])
            for inside in sorted(skeleton.layers[layer], key=skeleton.layers[layer].__getitem__):
                _hash(total, skeleton.layers[layer][inside], source.tensor(inside), skeleton.shapes[skeleton.layers[layer][inside]])
            layers[layer] = _taken_apart(skeleton, source, layer, ones, name)
            step(len(layers), len(skeleton.layers))
    finally:
        source.settle()
        for one in ones.values():
            one.empty()
    ordered = [layers[i] for i in range(len(skeleton.layers))]
    kinds = [layer_kind(skeleton.config, i) for i in range(len(ordered))]
    first = ones[kinds[0]].parts
    parts = replace(first, layers=[ones[kind].parts.layers[0] for kind in kinds], embed=None, unembed=None)
    outline, weights, layouts = (list(column) for column in zip(*ordered, strict=True))
    return FirstReading(outline, weights, layouts, ones, parts, None if total is None else total.hexdigest())


def _hash(total: Any, name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if total is not None:
        total.update(f"{name} {shape} {value.dtype}".encode())
        total.update(value.contiguous().view(torch.uint8).numpy().data)


def _hash_outer(skeleton: Skeleton, name: str, total: Any) -> None:
    """Check and hash a weight outside the layers, some rows at a time."""
    if total is None:
        return
    shape, shards = skeleton.shapes[name], skeleton.shards
    rows = max(1, _HASHED_BYTES // (skeleton.dtype.itemsize * max(1, torch.Size(shape[1:]).numel())))
    total.update(f"{name} {shape} {skeleton.dtype}".encode())
    for first in range(0, shape[0], rows):
        block = shards.block(name, first, min(first + rows, shape[0]), skeleton.dtype)
        _require_finite(block, name, shards.files[shards.places[name].file])
        total.update(block.contiguous().view(torch.uint8).numpy().data)


def _require_finite(value: Tensor, name: str, file: Any) -> None:
    if bool(torch.isfinite(value.sum(dtype=torch.float64))):
        return
    bad = int((~torch.isfinite(value)).sum())
    what = f"{file}: {bad} of {value.numel()} numbers of {name} are NaN or infinite as {str(value.dtype).removeprefix('torch.')}."
    raise WeightsError(what, "The weights are damaged, or were saved after training diverged.")


def _taken_apart(
    skeleton: Skeleton, source: LayerSource, layer: int, ones: dict[str, OneLayer], name: str
) -> tuple[Block, dict[str, str], tuple[Rotation, float]]:
    """The outline, the names of the weights, and the layout of rotary angles of the layer in memory."""
    kind = layer_kind(skeleton.config, layer)
    new = kind not in ones
    if new:
        ones[kind] = OneLayer(skeleton.config, kind, skeleton.dtype)
        ones[kind].fill_ends(skeleton.shards, skeleton.outer, skeleton.dtype)
    one = ones[kind]
    one.fill(source.tensor)
    try:
        if new:
            one.parts = _parts(one, skeleton.config)
        assembled, where = _assembled(one)
        require_same_stream(one, assembled.block, where.laid_out(assembled.rotation, assembled.bias_factor), layer)
        weights = _stored_maps(assembled.block, one)
    except ModelError as error:
        what = f"Layer {layer} of {name} cannot be streamed: {error.what}"
        raise ModelError(what, _WHOLE) from error
    return _outline(assembled.block), weights, (assembled.rotation, assembled.bias_factor)


def _parts(one: OneLayer, config: Any) -> ModelParts:
    """The parts of a model of one layer, all of whose sites and readout must pass."""
    with own_modes(one.root):
        parts = model_parts(one.root)
    if parts.lacks:
        site, reason = next(iter(parts.lacks.items()))
        raise ModelError(f"it has no site {site.value!r} ({reason})", _WHOLE)
    if parts.readout_lacks or parts.logit_scale != 1:
        raise ModelError(parts.readout_lacks or f"its logits are multiplied by {parts.logit_scale}", _WHOLE)
    if parts.length_dependent:
        raise ModelError("its rotary angles depend on the length of the prompt", _WHOLE)
    # The logits of a few tokens may be too small to show a softcap.
    return replace(parts, softcap=getattr(config, "final_logit_softcapping", None))


def _assembled(one: OneLayer) -> tuple[Assembled, Geometry]:
    """The block of the layer in a model of one layer, whose parts must sum to the step of the stream; and its geometry as recorded."""
    run = HookedRun(one.root, one.parts)
    tokens = (torch.arange(2)[:, None] * 37 + torch.arange(_LENGTH)[None] * 11 + 5) % one.vocabulary
    calls: list[dict[str, Any]] = []
    with own_modes(one.root):
        values = {site: value for (site, _), value in site_values(run, tokens).items()}
        run.entering(tokens[:1], lambda _layer, _resid, named: calls.append(named))
        where = Geometry.of_call(calls[0], _LENGTH)
        summed = values[Site.RESID_PRE] + values[Site.ATTN_OUT] + values[Site.MLP_OUT]
        post = values[Site.RESID_POST]
        apart, size = float((summed - post).abs().max()), float(post.abs().max())
        if not apart <= TOLERANCE.get(post.dtype, 0.1) * max(1.0, size):
            raise ModelError(f"what attention and the MLP add misses the step of the stream by {apart:.2g}", _WHOLE)
        return assemble(one.parts.layers[0], values, where), where


def _stored_maps(block: Block, one: OneLayer) -> dict[str, str]:
    """The name of each linear map's weight in its layer.

    Raises
    ------
    ModelError
        If a map is not one stored weight: fused projections, experts, factors.
    """
    if block.experts is not None:
        raise ModelError("its MLP is run as a whole module, without linear maps", _WHOLE)
    stored = dict(one.layer.named_parameters())
    weights: dict[str, str] = {}
    for part in LINEARS:
        linear = getattr(block, part)
        if linear is None:
            continue
        same = (name for name, value in stored.items() if _is_view(linear.weight, value))
        name = next(same, None)
        if name is None:
            raise ModelError(f"its map {part!r} is not a weight as it is stored, but fused with others or scaled", _WHOLE)
        weights[part] = name
    return weights


def _is_view(weight: Tensor, value: Tensor) -> bool:
    return (
        value.ndim == 2  # noqa: PLR2004 - a matrix
        and weight.data_ptr() == value.data_ptr()
        and weight.shape == value.T.shape
        and weight.stride() == value.T.stride()
    )


def _outline(block: Block) -> Block:
    """The block with everything but the weights of its maps in memory of its own."""
    maps = {
        part: Linear(torch.empty_like(linear.weight, device="meta"), None if linear.bias is None else linear.bias.clone())
        for part in LINEARS
        if (linear := getattr(block, part)) is not None
    }
    norms = {
        part: replace(norm, gain=norm.gain.clone(), bias=None if norm.bias is None else norm.bias.clone())
        for part in ("norm_attn", "norm_mlp", "post_attn", "post_mlp", "q_norm", "k_norm")
        if isinstance(norm := getattr(block, part), FrozenNorm)
    }
    return replace(block, **maps, **norms, sinks=None if block.sinks is None else block.sinks.clone())  # type: ignore[arg-type]
