"""GGUF to safetensors, once: transformers dequantises at every load, which costs 15 to 30 seconds."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from circuitlab.errors import WeightsError

__all__ = ["convert_gguf", "read_folder"]

_MAGIC = b"GGUF"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_SIZES = ("block_count", "embedding_length", "attention.head_count")


def convert_gguf(path: Path, folder: Path) -> str:
    """Dequantise a GGUF file into a Hugging Face folder with float32 safetensors; return the weights' hash.

    Raises
    ------
    WeightsError
        If the file is no GGUF file, is cut short, or holds an architecture that transformers cannot read.
    """
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    from circuitlab.model.identity import hash_weights  # noqa: PLC0415

    _check_whole(path)
    try:
        with _quiet_transformers():
            model = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    except (ValueError, KeyError, OSError, RuntimeError, NotImplementedError, IndexError) as error:
        what = f"transformers cannot read {path}: {error}"
        raise WeightsError(what, "Convert it to a Hugging Face folder with safetensors and pass that folder.") from error
    # The tensors are plain float32 by now, but the model still calls itself quantised, and transformers refuses to save those.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.config.tie_word_embeddings = bool(getattr(model.config, "tie_word_embeddings", False))
    with _quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return hash_weights(model)


def read_folder(folder: Path | str, dtype: Any) -> tuple[Any, Any]:
    """Load (model, tokenizer or None) from a Hugging Face folder or hub name; safetensors only, eager attention."""
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    with _quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True, attn_implementation="eager")
        # Of a folder of weights alone transformers would make up an empty tokenizer; such a model is fed token ids instead.
        bare = Path(folder).is_dir() and not any((Path(folder) / name).is_file() for name in _TOKENIZER_FILES)
        tokenizer = None if bare else AutoTokenizer.from_pretrained(folder)
    return model, tokenizer


def _check_whole(path: Path) -> None:
    """Read the header and compare the file's size with where its last tensor ends."""
    from gguf import GGUFReader  # noqa: PLC0415

    with path.open("rb") as handle:
        if handle.read(4) != _MAGIC:
            what = f"{path} is no GGUF file: it does not begin with 'GGUF'."
            raise WeightsError(what, "Give a GGUF file or a Hugging Face folder.")
    try:
        reader = GGUFReader(str(path))
        tensors, fields = reader.tensors, set(reader.fields)
        end = max(int(tensor.data_offset) + int(tensor.n_bytes) for tensor in tensors)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        what = f"{path} is cut short or damaged ({path.stat().st_size} bytes; {type(error).__name__} while reading its table of tensors)."
        raise WeightsError(what, "Fetch it again.") from error
    if end > path.stat().st_size:
        what = f"{path} is cut short: {path.stat().st_size} bytes of {end}."
        raise WeightsError(what, "Fetch it again.")
    # Without these, transformers falls back to the default sizes of the family: several billion parameters.
    if missing := [key for key in _SIZES if not any(field.endswith(f".{key}") for field in fields)]:
        what = f"{path} does not say how large its model is: it lacks {', '.join(missing)}."
        raise WeightsError(what, "It may hold an adapter or a vocabulary; give a GGUF file of a whole model.")


@contextlib.contextmanager
def _quiet_transformers() -> Any:
    """Progress bars and advice of transformers stay out of the terminal; errors still raise."""
    from transformers.utils import logging as hf_logging  # noqa: PLC0415

    level = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        hf_logging.set_verbosity(level)
        hf_logging.enable_progress_bar()
