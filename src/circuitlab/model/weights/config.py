"""Check a model folder's config.json, before any weights are read, for whether it is a decoder that circuitlab can run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from circuitlab.core.errors import ModelError

__all__ = ["check_config", "read_config"]

_MOST_LAYERS = 100_000  # far above any model; a config is built layer by layer, and a larger number would take forever
_LONGEST = 300  # characters of another library's message that are shown
_COUNTS = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_size", "vocab_size", "head_dim", "intermediate_size")
_MAY_BE_NULL = {"num_key_value_heads", "head_dim", "intermediate_size"}
_PLAIN_PARTS = {"attn_config", "ffn_config"}  # sub-configs that describe a part of each layer, not another network
_WITHOUT_ATTENTION = {"linear_attention", "conv", "moe", "mlp", "mamba", "recurrent"}
_BOTH_WAYS = {"bert-generation", "xlnet"}  # bidirectional unless is_decoder is set, although transformers has no masked LM of them
_DECODERS = "circuitlab studies decoder language models with attention (Llama, Qwen, Gemma, GPT-2, ...)."


def read_config(folder: Path) -> dict[str, Any]:
    """The fields of a folder's config.json.

    Raises
    ------
    ModelError
        If there is none, or it is not a JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        adapter = " It holds a PEFT adapter." if (folder / "adapter_config.json").is_file() else ""
        what = f"{folder} holds no config.json, so it is not a Hugging Face model folder.{adapter}"
        fix = "Load the base model, apply the adapter with peft, and pass the model." if adapter else ""
        raise ModelError(what, fix or "Give a folder written by save_pretrained, or a GGUF file.")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        what = f"{path} cannot be read: {type(error).__name__}: {_short(error)}"
        raise ModelError(what, "The file is damaged; copy it again.") from error
    if not isinstance(fields, dict):
        what = f"{path} holds a JSON {type(fields).__name__}, not an object."
        raise ModelError(what, "The file is damaged; copy it again.")
    return fields


def check_config(folder: Path, *, trust_remote_code: bool) -> Any:
    """Build the config of a folder, or raise with the reason why its model cannot be run.

    Parameters
    ----------
    folder : Path
        A folder with a config.json; its weights may not be there yet.
    trust_remote_code : bool
        Whether code in the folder may run.

    Returns
    -------
    PretrainedConfig
        The config.

    Raises
    ------
    ModelError
        If the config is damaged, needs code that is not part of transformers, or does not describe a decoder language model.
    """
    fields = read_config(folder)
    custom = _check_code(folder, fields, trust_remote_code)
    _check_plain_weights(folder, fields)
    _check_counts(folder, fields)
    config = _build(folder, trust_remote_code)
    if not custom:
        _check_kind(folder, config, fields.get("architectures"))
    _check_heads(folder, config)
    return config


def _check_code(folder: Path, fields: dict[str, Any], trust_remote_code: bool) -> bool:
    """Refuse configs that would download or run code; return whether the folder's own code is used."""
    from transformers import CONFIG_MAPPING, __version__  # noqa: PLC0415

    for where, value in _walk(fields):
        if ("attn_implementation" in where or "experts_implementation" in where) and isinstance(value, str) and "/" in value:
            what = f"{folder / 'config.json'} requests the compute kernel {value!r} ({where}), which is code downloaded from a hub."
            raise ModelError(what, "Remove that field: circuitlab runs eager attention.")
    kind, code = fields.get("model_type"), fields.get("auto_map")
    if isinstance(code, dict) and code and trust_remote_code:
        return True
    if isinstance(kind, str) and kind in CONFIG_MAPPING:
        return False
    if code:
        classes = ", ".join(sorted({str(value) for value in code.values()})) if isinstance(code, dict) else str(code)
        what = f"{folder} needs its own code ({classes}) for model_type {kind!r}; that code was not run."
        raise ModelError(what, "Read the code; if you trust it, pass trust_remote_code=True.")
    what = f"{folder / 'config.json'} has model_type {kind!r}, which transformers {__version__} does not know."
    raise ModelError(what, "Check the folder, or load the model yourself and pass it.")


def _check_plain_weights(folder: Path, fields: dict[str, Any]) -> None:
    for where, value in _walk(fields):
        if where.rsplit(".", 1)[-1] in {"quantization_config", "compression_config"} and value is not None:
            method = value.get("quant_method", "unnamed") if isinstance(value, dict) else value
            what = f"{folder} holds quantised weights ({where}: {method}), whose layers compute other values than plain ones."
            raise ModelError(what, "Save the model dequantised (model.dequantize(), then save_pretrained), or pass a GGUF file.")
    if (folder / "adapter_config.json").is_file():
        what = f"{folder} holds an adapter (adapter_config.json) beside a whole model, and it is not clear whether to apply it."
        raise ModelError(what, "Move the adapter elsewhere, or apply it with peft and pass the model.")


def _check_counts(folder: Path, fields: dict[str, Any]) -> None:
    """Refuse layers, heads and widths that are not positive integers. The file is checked, because building a config may divide by them."""
    from transformers import CONFIG_MAPPING  # noqa: PLC0415

    known = fields.get("model_type") in CONFIG_MAPPING
    renamed = CONFIG_MAPPING[fields["model_type"]].attribute_map if known else {}
    for level in (fields, *(value for value in fields.values() if isinstance(value, dict))):
        for count in _COUNTS:
            name = next((n for n in (renamed.get(count, count), count) if n in level), None)
            if name is None or (level[name] is None and count in _MAY_BE_NULL):
                continue
            for value in level[name] if isinstance(level[name], list) else [level[name]]:
                most = _MOST_LAYERS if count == "num_hidden_layers" else 1 << 40
                if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
                    what = f"{folder / 'config.json'} has {name} = {_short(repr(value))}, which is not possible."
                    raise ModelError(what, "The file is damaged; copy it again.")


def _build(folder: Path, trust_remote_code: bool) -> Any:
    from huggingface_hub.errors import StrictDataclassError  # noqa: PLC0415
    from transformers import AutoConfig  # noqa: PLC0415

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=not trust_remote_code)
    except (
        *(OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError, ArithmeticError, ImportError),
        StrictDataclassError,
    ) as error:
        what = f"{folder / 'config.json'} cannot be used: {type(error).__name__}: {_short(error)}"
        raise ModelError(what, "The file is damaged, or was written by another version of transformers.") from error


def _check_kind(folder: Path, config: Any, architectures: Any) -> None:
    """Refuse everything but decoder language models, by the class that would be loaded and the class that was saved."""
    from transformers import AutoModelForCausalLM  # noqa: PLC0415
    from transformers.models.auto.modeling_auto import (  # noqa: PLC0415
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind = config.model_type
    reason = None
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    parts = set(config.sub_configs) - _PLAIN_PARTS
    if config.is_encoder_decoder:
        reason = "is an encoder-decoder"
    elif parts:
        text = config.sub_configs.get("text_config")
        exact = name is not None and AutoModelForCausalLM._model_mapping[type(config)].config_class is text  # noqa: SLF001
        if text is None or not exact:
            reason = f"consists of several networks ({', '.join(sorted(parts))}); its language model cannot be loaded on its own"
    elif name is None:
        reason = "has no language-modelling decoder in transformers"
    elif (kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES or kind in _BOTH_WAYS) and not getattr(config, "is_decoder", False):
        reason = "is an encoder: its tokens attend to later ones (is_decoder is not set)"
    if reason is None:
        saved = [str(each) for each in architectures] if isinstance(architectures, list) else []
        head = [each for each in saved if each != name and not each.endswith(("ForCausalLM", "Model", "ForConditionalGeneration"))]
        if saved and len(head) == len(saved):
            reason = f"was saved as {head[0]}, which does not have a language-modelling head"
    if reason is not None:
        what = f"{folder}: {kind} {reason}."
        raise ModelError(what, _DECODERS)


def _check_heads(folder: Path, config: Any) -> None:
    """Refuse layers without attention, and head counts that differ between layers or do not divide."""
    text = config.get_text_config(decoder=True)
    try:
        heads, shared = getattr(text, "num_attention_heads", None), getattr(text, "num_key_value_heads", None)
        layers = getattr(text, "num_hidden_layers", None)
    except RuntimeError as error:  # raised by transformers if the value differs between layers
        what = f"{folder}: the layers of {config.model_type} have different shapes: {_short(error)}"
        raise ModelError(what, _DECODERS) from error
    kinds = getattr(text, "layer_types", None) or []
    bare = [(layer, kind) for layer, kind in enumerate(kinds) if kind in _WITHOUT_ATTENTION]
    reason = None
    if bare:
        reason = f"layer {bare[0][0]} is {bare[0][1]!r} and has no attention heads ({len(bare)} of {len(kinds)} layers)"
    elif not heads:
        reason = f"{config.model_type} has no attention heads"
    elif not isinstance(heads, int) or not isinstance(layers, int):
        reason = f"num_hidden_layers = {layers!r} and num_attention_heads = {_short(repr(heads))} are not one number each"
    elif isinstance(shared, int) and heads % shared:
        reason = f"{heads} query heads cannot share {shared} key/value heads evenly"
    if reason is not None:
        what = f"{folder}: {reason}."
        raise ModelError(what, _DECODERS)


def _walk(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of nested JSON objects with its dotted name."""
    pending = [(name, value)]
    while pending:
        where, item = pending.pop()
        if where:
            yield where, item
        if isinstance(item, dict):
            pending += [(f"{where}.{key}" if where else key, inner) for key, inner in item.items()]


def _short(message: object) -> str:
    """The beginning of a message, so that an error stays readable."""
    text = " ".join(str(message).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
