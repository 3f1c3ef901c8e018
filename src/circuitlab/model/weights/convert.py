"""Convert GGUF to safetensors once; transformers would dequantise at every load, which takes 15 to 30 seconds."""

from __future__ import annotations

from pathlib import Path

from circuitlab.core.errors import WeightsError
from circuitlab.model.weights.folder import check_loaded, quiet_transformers
from circuitlab.model.weights.gguf_header import check_header

__all__ = ["check_whole", "convert_gguf"]

_SIZES = ("block_count", "embedding_length", "attention.head_count")


def convert_gguf(path: Path, folder: Path) -> str:
    """Dequantise a GGUF file into a Hugging Face folder with float32 safetensors; return the weights' hash.

    Raises
    ------
    WeightsError
        If the file is not a GGUF file, is truncated, lacks weights, or has an architecture that transformers cannot read.
    """
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    from circuitlab.model.identity import hash_weights  # noqa: PLC0415

    check_whole(path)
    try:
        with quiet_transformers():
            model, report = AutoModelForCausalLM.from_pretrained(
                str(path.parent),
                gguf_file=path.name,
                dtype=torch.float32,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report, with their shapes
            )
            tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name, trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError, OSError, RuntimeError, NotImplementedError, IndexError) as error:
        what = f"transformers cannot read {path}: {error}"
        raise WeightsError(what, "Convert it to a Hugging Face folder with safetensors and pass that folder.") from error
    check_loaded(path, model, report)
    # The tensors are float32 now, but the model is still marked as quantised, and transformers refuses to save such models.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.config.tie_word_embeddings = bool(getattr(model.config, "tie_word_embeddings", False))
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return hash_weights(model)


def check_whole(path: Path) -> None:
    """Read the header of a GGUF file and compare the file's size with where its last tensor ends.

    Raises
    ------
    WeightsError
        If it is not a GGUF file, is cut short or damaged, or does not give the size of its model.
    """
    from gguf import GGUFReader  # noqa: PLC0415

    check_header(path)
    try:
        reader = GGUFReader(str(path))
        tensors, fields = reader.tensors, set(reader.fields)
        end = max(int(tensor.data_offset) + int(tensor.n_bytes) for tensor in tensors)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
        what = f"{path} is cut short or damaged ({path.stat().st_size} bytes; {type(error).__name__} while reading its table of tensors)."
        raise WeightsError(what, "Download it again.") from error
    if end > path.stat().st_size:
        what = f"{path} is cut short: {path.stat().st_size} bytes of {end}."
        raise WeightsError(what, "Download it again.")
    # Without these, transformers falls back to the default sizes of the family: several billion parameters.
    if missing := [key for key in _SIZES if not any(field.endswith(f".{key}") for field in fields)]:
        what = f"{path} does not give the size of its model: it lacks {', '.join(missing)}."
        raise WeightsError(what, "It may contain only an adapter or a vocabulary; give a GGUF file of a whole model.")
