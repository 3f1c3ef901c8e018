"""Load a Hugging Face folder as a model, and check that every weight was read from its files."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from circuitlab.core.errors import ModelError, WeightsError
from circuitlab.model.weights.config import check_config

__all__ = ["StoredTensor", "check_loaded", "load_tokenizer", "quiet_transformers", "read_folder", "stored_tensors"]

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_INDEX = "model.safetensors.index.json"
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
_OTHER_NETWORK = re.compile(r"[^.]*(vision|visual|image|audio|speech|multi_?modal|projector|connector)", re.IGNORECASE)
_FLOATS = {"F64", "F32", "F16", "BF16"}
_SPARE = 1 << 26  # weights (256 MB) that a config may describe in addition to twice those stored, before it is refused
_SHOWN = 3
_LONGEST = 400
_COPY_AGAIN = "The folder is damaged or incomplete; copy it again."


class StoredTensor(NamedTuple):
    """One tensor in the header of a safetensors file: its file, dtype and number of entries."""

    file: Path
    dtype: str
    size: int


def read_folder(folder: Path, dtype: Any, *, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """Load (model, tokenizer or None) from a Hugging Face folder: safetensors only, eager attention, no randomly initialised weight.

    Parameters
    ----------
    folder : Path
        The folder.
    dtype : torch.dtype
        Dtype of the model's weights.
    trust_remote_code : bool
        Whether code in the folder may run.

    Returns
    -------
    tuple
        The model, and its tokenizer if the folder has one.

    Raises
    ------
    ModelError
        If the folder does not hold a decoder language model.
    WeightsError
        If its weights are missing, damaged, quantised, not finite, or differ from what its config describes.
    """
    config = check_config(folder, trust_remote_code=trust_remote_code)
    stored = stored_tensors(folder)
    _check_described(folder, config, stored, trust_remote_code)
    model = _load_model(folder, config, dtype, stored, trust_remote_code)
    return model, load_tokenizer(folder, trust_remote_code=trust_remote_code)


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Names and types of the tensors in a folder, from the headers of its safetensors files.

    Raises
    ------
    WeightsError
        If there are none, or a file is missing, empty, truncated or not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    stored: dict[str, StoredTensor] = {}
    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a dict
                    part = opened.get_slice(name)
                    size = 1
                    for axis in part.get_shape():
                        size *= axis
                    if name in stored:
                        what = f"{path} and {stored[name].file.name} both hold {name!r}."
                        raise WeightsError(what, "Remove the files that do not belong to this model.")
                    stored[name] = StoredTensor(path, part.get_dtype(), size)
        except (SafetensorError, OSError, ValueError) as error:
            size = path.stat().st_size if path.is_file() else 0
            what = f"The weights in {path} cannot be loaded ({size} bytes): {error}"
            raise WeightsError(what, _COPY_AGAIN) from error
    return stored


def check_loaded(where: Path, model: Any, report: dict[str, Any]) -> None:
    """Raise `WeightsError` unless transformers loaded every weight of a model, and no others, with the right shapes.

    Parameters
    ----------
    where : Path
        File or folder, for messages.
    model : PreTrainedModel
        The loaded model.
    report : dict
        The report of ``from_pretrained(..., output_loading_info=True)``, which leaves out tied weights and those that the model's
        class ignores.
    """
    kind = type(model).__name__
    if missing := sorted(report["missing_keys"]):
        what = f"{where} lacks {len(missing)} of the weights of {kind}: {_names(missing)}; transformers would initialise them randomly."
        raise WeightsError(what, _COPY_AGAIN)
    if misshapen := sorted(report["mismatched_keys"]):
        name, shape, needed = misshapen[0]
        sizes = f"{name} is {tuple(shape)}, not {tuple(needed)}"
        what = f"{where} holds {len(misshapen)} weights of another shape than its config says: {sizes}."
        raise WeightsError(what, "Config and weights do not belong together; copy the folder again.")
    if unexpected := sorted(report["unexpected_keys"]):
        what = f"{where} holds {len(unexpected)} weights that {kind} does not have: {_names(unexpected)}; they would be ignored."
        raise WeightsError(
            what, "Config and weights do not belong together; copy the folder again, or load the model yourself and pass it."
        )
    if report.get("error_msgs"):
        what = f"{where}: {report['error_msgs'][0]}"
        raise WeightsError(what, _COPY_AGAIN)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide progress bars and advice of transformers; errors still raise."""
    from transformers.utils import logging as hf_logging  # noqa: PLC0415

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers would read."""
    if scattered := sorted(path.name for path in folder.iterdir() if _DISTRIBUTED.fullmatch(path.name)):
        what = f"{folder} holds a distributed checkpoint ({scattered[0]}, ...)."
        raise WeightsError(what, "Consolidate it and save it with save_pretrained.")
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if (folder / _INDEX).is_file():
        return _shards(folder / _INDEX)
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if others:
        what = f"{folder} holds {others[0]} but neither model.safetensors nor {_INDEX}."
        raise WeightsError(what, "Give a folder written by save_pretrained.")
    what = f"{folder} holds no safetensors file; circuitlab never unpickles weights."
    raise WeightsError(what, "Convert the weights with save_pretrained(..., safe_serialization=True).")


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()), key=str)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"{index} is not an index of safetensors files: {type(error).__name__}: {error}"
        raise WeightsError(what, _COPY_AGAIN) from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            what = f"{index} names {name!r}, which is not a safetensors file of its folder."
            raise WeightsError(what, "circuitlab reads weights only from safetensors files beside their index.")
        if not (index.parent / name).is_file():
            what = f"The weights in {index.parent} cannot be loaded: {name} is missing ({len(names)} files belong to them)."
            raise WeightsError(what, _COPY_AGAIN)
    return [index.parent / name for name in names]


def _check_described(folder: Path, config: Any, stored: dict[str, StoredTensor], trust_remote_code: bool) -> None:
    """Refuse a config that describes far more weights than are stored, before memory is allocated for them."""
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    n_stored = sum(tensor.size for tensor in stored.values())
    layers = config.get_text_config(decoder=True).num_hidden_layers
    nonempty = sum(tensor.size > 0 for tensor in stored.values())
    if layers > nonempty:
        what = f"{folder / 'config.json'} says num_hidden_layers = {layers}, but only {nonempty} tensors are stored."
        raise WeightsError(what, "Config and weights do not belong together; copy the folder again.")
    what = f"transformers cannot build the model that {folder / 'config.json'} describes"
    with _own_errors(what, "Check the file, or load the model yourself and pass it."), quiet_transformers(), torch.device("meta"):
        shapes = AutoModelForCausalLM.from_config(config, attn_implementation="eager", trust_remote_code=trust_remote_code)
    n_described = sum(value.numel() for value in [*shapes.parameters(), *shapes.buffers()])
    if n_described > 2 * n_stored + _SPARE:
        what = f"{folder / 'config.json'} describes a model of {n_described:,} numbers, but only {n_stored:,} are stored."
        raise WeightsError(what, "Config and weights do not belong together; copy the folder again.")


def _load_model(folder: Path, config: Any, dtype: Any, stored: dict[str, StoredTensor], trust_remote_code: bool) -> Any:
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    with _own_errors(f"The weights in {folder} cannot be loaded", _COPY_AGAIN), quiet_transformers(), _conversions_named():
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            attn_implementation="eager",
            trust_remote_code=trust_remote_code,
            local_files_only=not trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report, with their shapes
        )
    if config.get_text_config(decoder=True) is not config:
        report["unexpected_keys"] = _of_this_network(stored, report["unexpected_keys"])
    check_loaded(folder, model, report)
    _check_floats(model, stored)
    _check_finite(folder, model, stored)
    return model


def _check_floats(model: Any, stored: dict[str, StoredTensor]) -> None:
    """Refuse integer and eight-bit tensors, except masks and position ids that old checkpoints store as buffers."""
    buffers = {_tail(name) for name, _ in model.named_buffers()}
    ignored = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected or ()]  # noqa: SLF001
    ignored += [re.compile(r"rotary_emb\.inv_freq$"), re.compile(r"(^|\.)position_ids$")]
    for name, tensor in stored.items():
        if tensor.dtype in _FLOATS or any(pattern.search(name) for pattern in ignored):
            continue
        if _tail(name) not in buffers:
            what = f"{tensor.file} holds {name!r} as {tensor.dtype}; quantised weights compute other values than plain ones."
            raise WeightsError(what, "Save the model dequantised, in float32 or bfloat16.")


def _tail(name: str) -> str:
    """The last two parts of a tensor's name; the parts before them may differ between files and models (a prefix, ffn for mlp)."""
    return ".".join(name.rsplit(".", 2)[-2:])


def _check_finite(folder: Path, model: Any, stored: dict[str, StoredTensor]) -> None:
    """Refuse weights that are NaN or infinite, because every score would be, too."""
    import torch  # noqa: PLC0415

    for name, value in model.named_parameters():
        if not value.numel():
            continue
        least, most = torch.aminmax(value.detach())  # NaN if any entry is; reads the weights once and copies nothing
        if torch.isfinite(least) and torch.isfinite(most):
            continue
        tensor = stored.get(name)
        where = tensor.file if tensor else folder
        bad = int((~torch.isfinite(value)).sum())
        if tensor is not None and value.dtype == torch.float16 and tensor.dtype in _FLOATS - {"F16"} and not torch.isnan(value).any():
            what = f"{where}: {bad} of {value.numel()} numbers of {name} are too large for float16."
            raise WeightsError(what, "Use dtype='bfloat16' or dtype='float32'.")
        what = f"{where}: {bad} of {value.numel()} numbers of {name} are NaN or infinite."
        raise WeightsError(what, "The weights are damaged, or were saved after training diverged.")


def load_tokenizer(folder: Path, *, trust_remote_code: bool) -> Any:
    """The folder's tokenizer; None if it has no tokenizer files, for which transformers would return an empty tokenizer."""
    from transformers import AutoTokenizer  # noqa: PLC0415

    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return None
    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=not trust_remote_code)
    except Exception as error:
        # The tokenizers library raises a bare Exception for a file that it cannot parse; anything not named here is a bug of circuitlab.
        if type(error) is not Exception and not isinstance(
            error, OSError | ValueError | KeyError | TypeError | AttributeError | IndexError | ImportError | RuntimeError
        ):
            raise
        what = f"The tokenizer in {folder} cannot be loaded: {type(error).__name__}: {error}"
        raise ModelError(what, "Copy its files again, or load it yourself and pass tokenizer=.") from error


@contextlib.contextmanager
def _own_errors(what: str, fix: str) -> Iterator[None]:
    """Raise `WeightsError` for errors of transformers while it builds and loads a model."""
    from huggingface_hub.errors import StrictDataclassError  # noqa: PLC0415
    from safetensors import SafetensorError  # noqa: PLC0415

    try:
        yield
    except (
        *(OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError, ArithmeticError, AssertionError, ImportError),
        *(SafetensorError, StrictDataclassError),
    ) as error:
        message = " ".join(str(error).split())[:_LONGEST]
        raise WeightsError(f"{what}: {type(error).__name__}: {message}", fix) from error


@contextlib.contextmanager
def _conversions_named() -> Iterator[None]:
    """Name the weights that could not be assembled (experts are stored one by one); transformers only logs them."""
    log, text = logging.getLogger("transformers.modeling_utils"), io.StringIO()
    handler, level, propagate = logging.StreamHandler(text), log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.WARNING)
    log.propagate = False
    try:
        yield
    except RuntimeError as error:
        names = re.findall(r"^(\S+)\s+\|.*CONVERSION", text.getvalue(), re.MULTILINE)
        if not names:
            raise
        what = f"of the tensors that make up {_names(names)}, some are missing or have another shape"
        raise RuntimeError(what) from error
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate


def _of_this_network(stored: dict[str, StoredTensor], unexpected: set[str]) -> set[str]:
    """The unused keys of a text model, without those of vision or audio networks in the same checkpoint."""
    used = {name.split(".", 1)[0] for name in stored.keys() - unexpected}
    return {name for name in unexpected if name.split(".", 1)[0] in used or not _OTHER_NETWORK.match(name)}


def _names(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
