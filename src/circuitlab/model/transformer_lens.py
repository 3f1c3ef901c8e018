"""The only adapter to TransformerLens: a bridge is run as the model that it wraps, and a bridge can be made from a model."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, Any

import torch

from circuitlab.core.errors import ModelError
from circuitlab.model.bridge_tokenizer import own_tokenizer, tokenizer_for_bridge

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["is_bridge", "to_bridge", "unwrapped"]

_PROBE = 12
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}


def is_bridge(value: object) -> bool:
    """Whether a value is a TransformerBridge; for other values TransformerLens is not imported, which takes seconds."""
    if not type(value).__module__.startswith("transformer_lens"):
        return False
    from transformer_lens.model_bridge import TransformerBridge  # noqa: PLC0415 - it is imported already

    return isinstance(value, TransformerBridge)


def unwrapped(bridge: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None, str]:
    """The Hugging Face model inside a bridge as a separate model that shares its weights, with the bridge's tokenizer and name.

    Raises
    ------
    ModelError
        If the bridge is in compatibility mode, or its logits are not those of the model that it wraps.
    """
    if getattr(bridge, "compatibility_mode", False):
        what = "This TransformerBridge is in compatibility mode, which rewrites weights and shifts logits."
        raise ModelError(what, "Pass a bridge on which enable_compatibility_mode() was not called.")
    wrapped = bridge.original_model
    with torch.device("meta"):
        plain = type(wrapped)(wrapped.config)
    state = {name.replace("_original_component.", "").replace("original_component.", ""): v for name, v in wrapped.state_dict().items()}
    names = set(plain.state_dict())
    missing = sorted(names - set(state))
    if missing:
        what = f"The model inside this TransformerBridge lacks {', '.join(missing[:3])} ({len(missing)} weights)."
        raise ModelError(what, "Load the model itself with load_model(name) or load_model(hf_model).")
    plain.load_state_dict({name: value for name, value in state.items() if name in names}, assign=True)
    _fill_buffers(plain, wrapped)
    plain.tie_weights()
    plain.set_attn_implementation("eager")
    plain.eval()
    _check(bridge, plain)
    return plain, own_tokenizer(bridge.tokenizer), str(bridge.cfg.model_name)


def to_bridge(hf_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None) -> Any:
    """A TransformerBridge of a copy of a Hugging Face model, for the tools of TransformerLens; the model itself is not changed.

    A bridge changes the model that it wraps in place, so it gets a copy, which doubles the memory.
    """
    from transformer_lens.model_bridge import TransformerBridge  # noqa: PLC0415 - seconds, and only here

    copied = copy.deepcopy(hf_model).eval()
    if not getattr(copied.config, "architectures", None):
        copied.config.architectures = [type(hf_model).__name__]
    root, state = logging.getLogger(), torch.get_rng_state()
    level = root.level
    root.setLevel(logging.ERROR)  # hides advice about model names, which a model in memory does not have
    try:
        bridge_tokenizer = tokenizer_for_bridge(tokenizer)
        return TransformerBridge.boot_transformers("local/model", hf_model=copied, tokenizer=bridge_tokenizer, dtype=hf_model.dtype)
    finally:
        root.setLevel(level)
        torch.set_rng_state(state)


def _fill_buffers(plain: Any, wrapped: Any) -> None:
    """Set buffers that are not in the state dict (rotary frequencies, masks) from a model that is built with values."""
    with_values = type(wrapped)(wrapped.config)
    for (_, target), (_, real) in zip(plain.named_modules(), with_values.named_modules(), strict=True):
        for name, value in real.named_buffers(recurse=False):
            if target._buffers.get(name) is not None and target._buffers[name].is_meta:  # noqa: SLF001 - no public way to set one
                target._buffers[name] = value  # noqa: SLF001


def _check(bridge: Any, plain: Any) -> None:
    """Raise `ModelError` if the bridge computes something else than the model that it wraps."""
    tokens = (torch.arange(_PROBE)[None] * 7 + 3) % plain.config.get_text_config().vocab_size
    with torch.no_grad():
        expected = plain(tokens).logits
        actual = bridge(tokens, return_type="logits")
    apart = float((actual - expected).abs().max())
    tolerance = _TOLERANCE.get(expected.dtype, 0.5)
    if not apart <= tolerance:
        wraps = type(plain).__name__
        what = f"This TransformerBridge's logits are {apart:.2g} away from those of the {wraps} that it wraps (allowed: {tolerance:.0e})."
        raise ModelError(what, "Load the Hugging Face model itself with load_model; it does not need TransformerLens.")
