"""Open a folder of weights as a streamed model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from circuitlab.core.errors import CircuitlabError, ModelError
from circuitlab.model.streaming.heap import return_freed_memory
from circuitlab.model.streaming.laws import first_reading
from circuitlab.model.streaming.model import Opened, StreamedModel
from circuitlab.model.streaming.shards import Shards
from circuitlab.model.streaming.skeleton import Skeleton, require_family
from circuitlab.model.streaming.source import LayerSource
from circuitlab.model.weights.config import check_config
from circuitlab.model.weights.folder import load_tokenizer
from circuitlab.model.weights.folder_hash import remember_hash, remembered_hash
from circuitlab.model.weights.resolve import locate

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

__all__ = ["open_streamed"]


def open_streamed(
    source: str | Path, dtype: torch.dtype, *, tokenizer: PreTrainedTokenizerBase | None = None, name: str | None = None
) -> StreamedModel:
    """Open an alias, a folder, a GGUF file or a hub name as a streamed model: every layer is read, tested and (the first time) hashed.

    Parameters
    ----------
    source : str or Path
        As for `circuitlab.load_model`.
    dtype : torch.dtype
        Dtype in which layers are run; stored weights are converted layer by layer.
    tokenizer : PreTrainedTokenizerBase, optional
        In place of the folder's own.
    name : str, optional
        Its name in results.

    Raises
    ------
    ModelError
        If its family cannot be streamed, or a layer fails a test.
    WeightsError
        If files are missing, damaged or truncated, or hold numbers that are not finite.
    """
    return_freed_memory()
    folder, own_name, entry = locate(source)
    config = check_config(folder, trust_remote_code=False)
    require_family(config, name or own_name)
    shards = Shards(folder)
    label = str(dtype).removeprefix("torch.")
    sha256 = remembered_hash(folder, shards.state(), label)
    if entry is not None and label == "float32":
        sha256 = entry.weights_sha256
    try:
        skeleton = Skeleton(config, shards, dtype)
        layers = LayerSource(shards, skeleton.layers, dtype)
        first = first_reading(skeleton, layers, name or own_name, hashing=sha256 is None)
        if first.sha256 is not None:
            remember_hash(folder, shards.state(), label, first.sha256)
        own = tokenizer if tokenizer is not None else load_tokenizer(folder, trust_remote_code=False)
        return StreamedModel(Opened(skeleton, layers, first), own, name or own_name, sha256 or str(first.sha256))
    except CircuitlabError:
        raise
    except (RuntimeError, AttributeError, ValueError, KeyError, TypeError, IndexError, NotImplementedError) as error:
        what = f"{name or own_name} ({config.model_type}) could not be opened layer by layer: {type(error).__name__}: {error}"
        raise ModelError(what, "Load it without stream=True, to see whether it can be run at all.") from error
