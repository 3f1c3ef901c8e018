"""load_model: one door for aliases, GGUF files, Hugging Face folders, hub names and models already in memory."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch

from circuitlab.errors import BadParameterError, ModelError
from circuitlab.model.bridge_tokenizer import own_tokenizer
from circuitlab.model.transformer_lens import BridgeModel, bridge_of, is_bridge
from circuitlab.provenance import ModelSpec

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["hash_weights", "load_model", "wrap"]

_PROBE_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}


def load_model(
    model: str | Path | PreTrainedModel | Any,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    name: str | None = None,
    dtype: str = "float32",
) -> BridgeModel:
    """Load a decoder language model.

    Parameters
    ----------
    model : str, Path, PreTrainedModel or TransformerBridge
        An alias (``"smollm2-135m"``), a path to a GGUF file or a Hugging Face folder, a hub name, or a model in memory. A
        Hugging Face model in memory is wrapped in place: its layers become bridge components.
    tokenizer : PreTrainedTokenizerBase, optional
        For a model in memory; without one the model is fed token ids (`ContrastBatch.from_tokens`).
    name : str, optional
        What to call it in results.
    dtype : {"float32", "float64", "bfloat16", "float16"}
        Compute dtype of a model that is loaded here.

    Returns
    -------
    BridgeModel
        A `circuitlab.model.protocol.Model`.

    Raises
    ------
    UnknownNameError
        For a name that is no alias, path or hub name; the near alias is suggested.
    WeightsError
        For files that are damaged, cut short, or not the pinned ones.
    ModelError
        For a family that cannot be served exactly.
    """
    if is_bridge(model):
        return _from_bridge(model, tokenizer, name)
    if isinstance(model, torch.nn.Module):
        return wrap(model, tokenizer, name or type(model).__name__)
    from circuitlab.model.weights.resolve import open_source  # noqa: PLC0415 - only names and paths need the downloader

    opened = open_source(str(model), _dtype(dtype))
    return wrap(opened.model, opened.tokenizer, name or opened.name, opened.weights)


def wrap(hf_model: Any, tokenizer: Any, name: str, weights: str | None = None) -> BridgeModel:
    """Wrap a loaded Hugging Face model and check on a probe that its logits stay what they were."""
    hf_model.eval()
    _need_eager(hf_model)
    spec = _spec(hf_model, name, weights or hash_weights(hf_model))
    probe = (torch.arange(12)[None] * 7 + 3) % spec.d_vocab
    with torch.no_grad():
        before = hf_model(probe.to(hf_model.device)).logits[:, -1].detach().clone()
    state = torch.get_rng_state()  # for some families the bridge draws weights of parts that it then replaces
    try:
        bridge = bridge_of(hf_model, tokenizer)
    finally:
        torch.set_rng_state(state)
    found = BridgeModel(bridge, spec, tokenizer)
    _check_probe(found, probe.to(hf_model.device), before)
    found.probe = (probe, before)
    return found


def _check_probe(model: BridgeModel, probe: torch.Tensor, before: torch.Tensor) -> None:
    after = model.logits(probe, torch.tensor([probe.shape[1] - 1]))
    apart = float((after - before).abs().max())
    tolerance = _PROBE_TOLERANCE.get(before.dtype, 0.5)
    if not apart <= tolerance:
        what = f"{model.spec.name}: logits change by {apart:.2g} when the model is wrapped (allowed: {tolerance:.0e})."
        raise ModelError(what, f"TransformerLens does not serve {type(model.bridge.original_model).__name__} exactly; use another family.")


def _from_bridge(bridge: Any, tokenizer: Any, name: str | None) -> BridgeModel:
    if getattr(bridge, "compatibility_mode", False):
        what = "This TransformerBridge is in compatibility mode, which rewrites weights and shifts logits."
        raise ModelError(what, "Pass a bridge on which enable_compatibility_mode() was not called.")
    hf_model = bridge.original_model
    spec = _spec(hf_model, name or str(bridge.cfg.model_name), hash_weights(hf_model), blocks=bridge.blocks)
    return BridgeModel(bridge, spec, tokenizer if tokenizer is not None else own_tokenizer(bridge.tokenizer))


def hash_weights(hf_model: Any) -> str:
    """SHA-256 over the names, shapes and bytes of every parameter, in name order."""
    total = hashlib.sha256()
    for name, value in sorted(hf_model.named_parameters()):
        total.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        total.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return total.hexdigest()


def _spec(hf_model: Any, name: str, weights: str, blocks: Any = None) -> ModelSpec:
    config = hf_model.config
    config = getattr(config, "text_config", None) or config
    heads, width = config.num_attention_heads, config.hidden_size
    modules = {type(module).__name__ for module in hf_model.modules()} if blocks is None else set()
    layer_norm = any("LayerNorm" in kind for kind in modules) or config.model_type in {"gpt2", "gpt_neox"}
    return ModelSpec(
        name=name,
        family=config.model_type,
        n_layers=config.num_hidden_layers,
        n_heads=heads,
        n_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        d_model=width,
        d_head=getattr(config, "head_dim", None) or width // heads,
        d_vocab=hf_model.get_output_embeddings().weight.shape[0] if blocks is None else config.vocab_size,
        norm="layer" if layer_norm else "rms",
        post_norm=config.model_type in {"gemma2", "gemma3", "gemma3_text"},
        parallel=bool(getattr(config, "use_parallel_residual", False)),
        dtype=str(hf_model.dtype).removeprefix("torch."),
        weights=weights,
    )


def _need_eager(hf_model: Any) -> None:
    """Attention weights exist only in eager attention; the fused kernels never form them."""
    if getattr(hf_model.config, "_attn_implementation", "eager") != "eager":
        hf_model.set_attn_implementation("eager")


def _dtype(name: str) -> torch.dtype:
    known = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        what = f"dtype={name!r} is none of {sorted(known)}."
        raise BadParameterError(what, "Use 'float32'.")
    return known[name]
