"""Find and test the parts of a model; what fails a test is left out, with the reason."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from circuitlab.core.errors import ModelError
from circuitlab.model.anatomy.find import Probe, find_layers, find_parts, mixing
from circuitlab.model.anatomy.heads import layouts, norms_of_heads
from circuitlab.model.anatomy.parts import ModelParts
from circuitlab.model.anatomy.tested import attention_faults, stream_faults
from circuitlab.model.anatomy.watch import Watched, is_norm, watch
from circuitlab.model.hooks import length_dependent
from circuitlab.model.norms import FrozenNorm
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["model_parts", "probe_tokens"]

_LENGTH = 9
_CLOSE = {torch.float64: 1e-5, torch.float32: 1e-4}
"""Norms of many families round to float32 inside, also in a float64 model."""
_PER_HEAD = (Site.Q, Site.K, Site.V)


def probe_tokens(n_vocab: int, rows: int, length: int, device: torch.device) -> Tensor:
    """Token ids for tests, shape (row, pos); the same for every model with this vocabulary size."""
    places = torch.arange(rows)[:, None] * 37 + torch.arange(length)[None] * 11 + 5
    return (places % n_vocab).to(device)


def model_parts(root: Any) -> ModelParts:
    """Find and test the parts of a model that is ready to run (see `circuitlab.model.hooks.own_modes`).

    Raises
    ------
    ModelError
        If it has no output embeddings, is not causal, or runs no list of layers on one residual stream.
    """
    unembed = root.get_output_embeddings()
    if unembed is None or getattr(unembed, "weight", None) is None:
        what = f"{type(root).__name__} has no output embeddings, so it makes no logits."
        raise ModelError(what, "Load a model with a language-modelling head.")
    vocabulary = int(unembed.weight.shape[0])
    tokens = probe_tokens(min(vocabulary, root.get_input_embeddings().weight.shape[0]), 2, _LENGTH, unembed.weight.device)
    with watch(root) as watched:
        logits = root(input_ids=tokens, use_cache=False).logits
    _require_causal(root, tokens, logits)
    probe = Probe(watched, (2, _LENGTH), list(_numbers(root.config.to_dict())))
    modules = find_layers(root, probe)
    probe = replace(probe, mixed=mixing(root, modules, tokens, probe))
    layers = [find_parts(layer, probe) for layer in modules]
    width = next(int(call.entered.shape[-1]) for call in watched.of(layers[0].layer) if call.entered is not None)
    parts = ModelParts(layers, d_model=width, embed=root.get_input_embeddings(), length_dependent=length_dependent(root))
    parts = replace(parts, lacks=_missing(parts))
    parts = _with_heads(root, parts, watched, tokens[:1])
    parts = _without(parts, stream_faults(root, parts, tokens))
    return _with_readout(parts, unembed, probe, logits)


def _require_causal(root: Any, tokens: Tensor, logits: Tensor) -> None:
    """Raise `ModelError` if another last token changes the logits of earlier positions: right padding would then change every score."""
    other = tokens.clone()
    other[:, -1] = tokens[:, 0]
    moved = (root(input_ids=other, use_cache=False).logits - logits)[:, :-1].abs().max()
    if moved > _CLOSE.get(logits.dtype, 5e-2) * logits.abs().max().clamp(min=1.0):
        what = f"{type(root).__name__} looks ahead: another last token moves the logits of earlier positions by {float(moved):.2g}."
        raise ModelError(what, "circuitlab serves causal decoders; an encoder needs is_decoder=True in its configuration.")


def _numbers(config: Any) -> Iterator[float]:
    """Every float in a configuration."""
    if isinstance(config, dict):
        for value in config.values():
            yield from _numbers(value)
    elif isinstance(config, float):
        yield config


def _missing(parts: ModelParts) -> dict[Site, str]:
    """Sites that at least one layer does not have, with the reason."""
    lacks: dict[Site, str] = {}
    for index, layer in enumerate(parts.layers):
        here: dict[Site, str] = {}
        if layer.attention is None:
            why = f"layer {index} has no attention with one softmax over keys"
            here = dict.fromkeys((Site.Z, Site.PATTERN, *_PER_HEAD, Site.ATTN_OUT, Site.MLP_OUT, Site.RESID_MID), why)
        elif layer.attn_out is None or layer.mlp_out is None:
            why = f"layer {index} does not add attention and one MLP to the residual stream"
            here = dict.fromkeys((Site.ATTN_OUT, Site.MLP_OUT, Site.RESID_MID), why)
        elif layer.parallel:
            here = {Site.RESID_MID: f"attention and MLP of layer {index} read the same stream: there is nothing between them"}
        lacks = here | lacks
    heads = {(layer.n_heads, layer.d_value) for layer in parts.layers if layer.attention is not None}
    if len(heads) > 1:
        why = f"layers have different heads: {sorted(heads)} (heads, numbers in each)"
        lacks = dict.fromkeys((Site.Z, Site.PATTERN, *_PER_HEAD), why) | lacks
    return lacks


def _without(parts: ModelParts, faults: dict[Site, str]) -> ModelParts:
    return replace(parts, lacks={**faults, **parts.lacks})


def _with_heads(root: Any, parts: ModelParts, watched: Watched, tokens: Tensor) -> ModelParts:
    """Choose the layout of heads that passes every test, or else the one with the fewest faults."""
    if Site.Z in parts.lacks:
        return parts
    best: tuple[ModelParts, dict[Site, str]] | None = None
    options = itertools.zip_longest(*(layouts(layer, watched) for layer in parts.layers))
    for option in itertools.islice(itertools.chain(options, [tuple(parts.layers)]), 64):
        if any(layer is None for layer in option):
            continue
        candidate = replace(parts, layers=list(option))
        unrecognised = _unrecognised(candidate)
        faults = unrecognised | attention_faults(root, candidate, tokens, unrecognised)
        if best is None or len(faults) < len(best[1]):
            best = (candidate, faults)
        if not faults:
            break
    if best is None:
        return _without(parts, dict.fromkeys(_PER_HEAD, "its projections were not recognised"))
    chosen, faults = best
    return _without(replace(chosen, layers=[norms_of_heads(layer, watched) for layer in chosen.layers]), faults)


def _unrecognised(parts: ModelParts) -> dict[Site, str]:
    """Projections that were not recognised in some layer, or whose head counts differ between layers."""
    maps_by_site = {Site.Q: [x.q for x in parts.layers], Site.K: [x.k for x in parts.layers], Site.V: [x.v for x in parts.layers]}
    lacks = {}
    for site, maps in maps_by_site.items():
        if any(head_map is None for head_map in maps):
            lacks[site] = "attention has no projection that holds each head's numbers"
        elif len({tuple(head_map.index.shape) for head_map in maps if head_map is not None}) > 1:
            lacks[site] = "layers have different numbers of heads there"
    return lacks


def _with_readout(parts: ModelParts, unembed: Any, probe: Probe, logits: Tensor) -> ModelParts:
    """Add the final norm, unembedding, factor and softcap, if they reproduce the logits from the last layer's stream."""
    (last,) = probe.watched.of(parts.layers[-1].layer)
    calls = [call for call in probe.watched.calls if call.began > last.ended]
    final = last.left
    norm = next((c for c in calls if is_norm(c.module) and final is not None and _same(c.entered, final)), None)
    read = next((c for c in calls if c.module is unembed), None)
    if final is None or read is None or not _same(read.entered, final if norm is None else norm.left):
        return replace(
            parts,
            unembed=None if read is None else unembed,
            readout_lacks="the unembedding reads more than the last layer's stream through a norm",
        )
    module = None if norm is None else norm.module
    parts = replace(parts, final_norm=module, unembed=unembed)
    try:
        frozen = FrozenNorm.of(module, final.shape[-1])
    except ModelError as error:
        return replace(parts, readout_lacks=str(error))
    bias = getattr(unembed, "bias", None)
    plain = frozen.apply(probe.stream(final).double()) @ unembed.weight.double().T + (0.0 if bias is None else bias.double())
    for cap, scale in _readouts(probe.factors, plain, logits.double()):
        predicted = plain * scale if cap is None else cap * torch.tanh(plain * scale / cap)
        if (predicted - logits).abs().max() <= _CLOSE.get(final.dtype, 5e-2) * logits.abs().max().clamp(min=1.0):
            return replace(parts, softcap=cap, logit_scale=scale)
    return replace(parts, readout_lacks="the logits are not the unembedding of the normed stream, times a factor, through a softcap")


def _readouts(factors: Sequence[float], plain: Tensor, logits: Tensor) -> Iterator[tuple[float | None, float]]:
    """Pairs of softcap and factor to try: those that the configuration holds, and the factor fitted to this run."""
    fit = float((plain * logits).sum() / (plain * plain).sum().clamp(min=1e-30))
    scales = [1.0, *factors, *(1 / factor for factor in factors if factor)]
    near = [scale for scale in scales if abs(scale - fit) <= 1e-3 * abs(fit)]
    yield from ((None, scale) for scale in [*near, fit])
    yield from ((cap, 1.0) for cap in factors if cap > 0)


def _same(a: Any, b: Any) -> bool:
    return a is not None and b is not None and a.data_ptr() == b.data_ptr() and a.numel() == b.numel()
