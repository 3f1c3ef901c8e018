"""load_model: load aliases, GGUF files, Hugging Face folders, hub names and models in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import torch

from circuitlab.core.errors import BadParameterError, CircuitlabError, ModelError
from circuitlab.model.device import require_device, require_one_device
from circuitlab.model.hooked import HookedModel
from circuitlab.model.hooks import device_of
from circuitlab.model.transformer_lens import is_bridge, unwrapped

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from circuitlab.model.streaming import StreamedModel

__all__ = ["load_model"]


@overload
def load_model(
    model: str | Path | PreTrainedModel | Any,
    *,
    tokenizer: PreTrainedTokenizerBase | None = ...,
    name: str | None = ...,
    dtype: str = ...,
    trust_remote_code: bool = ...,
    stream: Literal[False] = ...,
    device: str | None = ...,
) -> HookedModel: ...
@overload
def load_model(
    model: str | Path | PreTrainedModel | Any,
    *,
    tokenizer: PreTrainedTokenizerBase | None = ...,
    name: str | None = ...,
    dtype: str = ...,
    trust_remote_code: bool = ...,
    stream: bool,
    device: str | None = ...,
) -> HookedModel | StreamedModel: ...
def load_model(
    model: str | Path | PreTrainedModel | Any,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    name: str | None = None,
    dtype: str = "float32",
    trust_remote_code: bool = False,
    stream: bool = False,
    device: str | None = None,
) -> HookedModel | StreamedModel:
    """Load a decoder language model.

    Parameters
    ----------
    model : str, Path, PreTrainedModel, PeftModel or TransformerBridge
        An alias (``"smollm2-135m"``), a path to a GGUF file or a Hugging Face folder, a hub name, or a model in memory. A model in memory
        is not changed, except that it is switched to eager attention: fused kernels do not compute attention weights.
    tokenizer : PreTrainedTokenizerBase, optional
        For a model in memory; without one the model takes token ids only (`ContrastBatch.from_tokens`).
    name : str, optional
        Its name in results.
    dtype : {"float32", "float64", "bfloat16", "float16"}
        Dtype in which a checkpoint is loaded and run; a model in memory keeps its own.
    trust_remote_code : bool
        Whether code in a folder or hub repository may run.
    stream : bool
        Keep one layer in memory at a time, for a model that is bigger than memory: layers are read from the folder whenever they are
        needed. Activation patching, attribution patching and path patching to the logits run on such a model and give the same numbers;
        everything else is refused by name.
    device : str, optional
        Where a checkpoint runs: ``"cpu"`` by default, or ``"cuda"``, ``"cuda:1"``. Prompts stay in the memory of the processor and are
        moved for each run. A model in memory runs where it is, and is not moved.

    Returns
    -------
    HookedModel or StreamedModel
        A `circuitlab.model.protocol.Model`.

    Raises
    ------
    UnknownNameError
        If the name is not an alias, path or hub name; the closest alias is suggested.
    WeightsError
        If files are damaged, truncated, or differ from the pinned ones.
    ModelError
        If the model cannot be run exactly.
    BadParameterError
        If the dtype is unknown, the device is not there or not supported, a model in memory is on another one, or a model in memory, one
        with code of its own or one on another device than the processor is to be streamed.
    """
    place = None if device is None else require_device(device)
    if stream and place is not None and place.type != "cpu":
        what = f"stream=True and device={device!r} were given: layers are streamed to the processor only."
        raise BadParameterError(what, "Leave one of them out.")
    if stream:
        return _streamed(model, tokenizer, name, _dtype(dtype), trust_remote_code=trust_remote_code)
    if is_bridge(model):
        plain, bridge_tokenizer, bridge_name = unwrapped(model)
        _require_there(plain, place)
        return _wrapped(plain, tokenizer if tokenizer is not None else bridge_tokenizer, name or bridge_name)
    if isinstance(model, torch.nn.Module):
        _require_there(model, place)
        return _wrapped(model, tokenizer, name or type(model).__name__)
    from circuitlab.model.weights.resolve import open_source  # noqa: PLC0415 - only names and paths need the downloader

    opened = open_source(model, _dtype(dtype), trust_remote_code=trust_remote_code)
    root = opened.model if place is None else opened.model.to(place)
    return _wrapped(root, tokenizer if tokenizer is not None else opened.tokenizer, name or opened.name, opened.weights)


def _require_there(root: torch.nn.Module, place: torch.device | None) -> None:
    """Raise unless a model in memory is where it is wanted: it belongs to the caller, and is not moved."""
    where = device_of(root)
    if place is not None and (where.type, where.index or 0) != (place.type, place.index or 0):
        what = f"device={str(place)!r} was given for a model in memory that is on {str(where)!r}."
        raise BadParameterError(what, f"Move it first: model.to({str(place)!r}), or leave device out.")


def _streamed(model: Any, tokenizer: Any, name: str | None, dtype: torch.dtype, *, trust_remote_code: bool) -> StreamedModel:
    from circuitlab.model.streaming.opening import open_streamed  # noqa: PLC0415 - only names and paths need the downloader

    if isinstance(model, torch.nn.Module) or is_bridge(model):
        what = f"stream=True was given for a {type(model).__name__}, which is in memory already."
        raise BadParameterError(what, "Give the folder of its weights, or leave stream out.")
    if trust_remote_code:
        what = "stream=True and trust_remote_code=True were given: layers run by code of their own cannot be proved to work one at a time."
        raise BadParameterError(what, "Leave one of them out.")
    return open_streamed(model, dtype, tokenizer=tokenizer, name=name)


def _wrapped(root: Any, tokenizer: Any, name: str, weights: str | None = None) -> HookedModel:
    if not callable(getattr(root, "get_output_embeddings", None)) or not hasattr(root, "config"):
        what = f"{type(root).__name__} is not a Hugging Face language model."
        raise ModelError(what, "Pass a PreTrainedModel with a language-modelling head, a folder, or a name.")
    if getattr(root.config, "is_encoder_decoder", False):
        what = f"{type(root).__name__} is an encoder-decoder; circuitlab serves decoder-only models."
        raise ModelError(what, "Load a decoder language model, such as Llama, Gemma, Qwen or GPT-2.")
    require_one_device(root, name)
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
    """Switch to eager attention; fused kernels never compute the attention weights."""
    if getattr(root.config, "_attn_implementation", "eager") != "eager":
        try:
            root.set_attn_implementation("eager")
        except (ValueError, AttributeError, NotImplementedError) as error:
            what = f"{type(root).__name__} has no eager attention: {error}"
            raise ModelError(what, "circuitlab needs eager attention, because fused kernels do not compute attention weights.") from error


def _dtype(name: str) -> torch.dtype:
    dtypes = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in dtypes:
        what = f"dtype={name!r} is not one of {sorted(dtypes)}."
        raise BadParameterError(what, "Use 'float32'.")
    return dtypes[name]
