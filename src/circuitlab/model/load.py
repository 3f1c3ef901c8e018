"""load_model: one door for aliases, GGUF files, Hugging Face folders, hub names and models already in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from circuitlab.core.errors import BadParameterError, CircuitlabError, ModelError
from circuitlab.model.hooked import HookedModel
from circuitlab.model.transformer_lens import is_bridge, unwrapped

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["load_model"]


def load_model(
    model: str | Path | PreTrainedModel | Any,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    name: str | None = None,
    dtype: str = "float32",
    trust_remote_code: bool = False,
) -> HookedModel:
    """Load a decoder language model.

    Parameters
    ----------
    model : str, Path, PreTrainedModel, PeftModel or TransformerBridge
        An alias (``"smollm2-135m"``), a path to a GGUF file or a Hugging Face folder, a hub name, or a model in memory. A model in memory
        is run as it is and never changed, but for its attention implementation: attention weights exist in eager attention only.
    tokenizer : PreTrainedTokenizerBase, optional
        For a model in memory; without one the model is fed token ids (`ContrastBatch.from_tokens`).
    name : str, optional
        What to call it in results.
    dtype : {"float32", "float64", "bfloat16", "float16"}
        Compute dtype of a model that is loaded here.
    trust_remote_code : bool
        Run code that a folder or hub repository brings along. Never done unless asked for.

    Returns
    -------
    HookedModel
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
        plain, own, own_name = unwrapped(model)
        return _wrapped(plain, tokenizer if tokenizer is not None else own, name or own_name)
    if isinstance(model, torch.nn.Module):
        return _wrapped(model, tokenizer, name or type(model).__name__)
    from circuitlab.model.weights.resolve import open_source  # noqa: PLC0415 - only names and paths need the downloader

    opened = open_source(model, _dtype(dtype), trust_remote_code=trust_remote_code)
    return _wrapped(opened.model, tokenizer if tokenizer is not None else opened.tokenizer, name or opened.name, opened.weights)


def _wrapped(root: Any, tokenizer: Any, name: str, weights: str | None = None) -> HookedModel:
    if not callable(getattr(root, "get_output_embeddings", None)) or not hasattr(root, "config"):
        what = f"{type(root).__name__} is no Hugging Face language model."
        raise ModelError(what, "Pass a PreTrainedModel with a language-modelling head, a folder, or a name.")
    if getattr(root.config, "is_encoder_decoder", False):
        what = f"{type(root).__name__} is an encoder-decoder; circuitlab serves decoder-only models."
        raise ModelError(what, "Load a decoder language model, such as Llama, Gemma, Qwen or GPT-2.")
    _need_eager(root)
    try:
        return HookedModel(root, tokenizer, name, weights)
    except CircuitlabError:
        raise
    except (RuntimeError, AttributeError, ValueError, KeyError, TypeError, IndexError, NotImplementedError) as error:
        family = getattr(root.config, "model_type", type(root).__name__)
        what = f"{name} ({family}) could not be run on a test prompt: {type(error).__name__}: {error}"
        raise ModelError(what, "Check that the model generates text with transformers alone; its family may not be a decoder.") from error


def _need_eager(root: Any) -> None:
    """Attention weights exist only in eager attention; the fused kernels never form them."""
    if getattr(root.config, "_attn_implementation", "eager") != "eager":
        try:
            root.set_attn_implementation("eager")
        except (ValueError, AttributeError, NotImplementedError) as error:
            what = f"{type(root).__name__} has no eager attention: {error}"
            raise ModelError(what, "Attention weights exist in eager attention only.") from error


def _dtype(name: str) -> torch.dtype:
    known = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        what = f"dtype={name!r} is none of {sorted(known)}."
        raise BadParameterError(what, "Use 'float32'.")
    return known[name]
