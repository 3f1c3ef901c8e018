"""The identity of what a model computes (weights, configuration, buffers, adapters), and checks whether it has changed."""

from __future__ import annotations

import functools
import hashlib
import secrets
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from circuitlab.core.errors import ModelError
from circuitlab.core.provenance import digest

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Fingerprint", "config_digest", "follows_length", "hash_weights", "state_digest"]

_NAMES_ONLY = {
    "_attn_implementation", "_name_or_path", "architectures", "attn_implementation", "auto_map", "bos_token_id",
    "chunk_size_feed_forward", "decoder_start_token_id", "dtype", "eos_token_id", "finetuning_task", "gradient_checkpointing", "id2label",
    "initializer_range", "is_encoder_decoder", "keys_to_ignore_at_inference", "label2id", "name_or_path", "output_attentions",
    "output_hidden_states", "pad_token_id", "prefix", "problem_type", "quantization_config", "return_dict", "sep_token_id",
    "task_specific_params", "tie_word_embeddings", "tokenizer_class", "torch_dtype", "transformers_version", "use_cache",
}  # fmt: skip
"""Entries of a configuration that no logit depends on. Every other entry is part of the identity, known to circuitlab or not."""


def hash_weights(hf_model: Any) -> str:
    """SHA-256 over the names, shapes and bytes of every parameter, in name order.

    Raises
    ------
    ModelError
        If a weight is not a finite number; the first such parameter is named.
    """
    total = hashlib.sha256()
    for name, value in sorted(hf_model.named_parameters()):
        if value.is_floating_point() and not bool(torch.isfinite(value.detach().sum(dtype=torch.float64))):
            bad = int((~torch.isfinite(value.detach())).sum())
            what = f"Weight {name!r} has {bad} entries that are not finite."
            raise ModelError(what, "The checkpoint is damaged or training diverged; load another one.")
        total.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        total.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return total.hexdigest()


def config_digest(config: Any) -> str:
    """Digest of everything in a configuration that logits may depend on."""
    return digest(_plain({key: value for key, value in config.to_dict().items() if key not in _NAMES_ONLY}))


def state_digest(root: Any) -> str:
    """Digest of what is neither weight nor configuration: classes and attributes of modules, hooks, buffers, and adapters."""
    total = hashlib.sha256(repr(_settings(root)).encode())
    for name, module in root.named_modules():
        for key, value in sorted(module.named_buffers(recurse=False)):
            if not _is_table(module, key):
                total.update(f"{name} {key} {tuple(value.shape)} {value.dtype}".encode())
                total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def follows_length(module: Any) -> bool:
    """Whether a module's rotary angles depend on the length of the prompt, or of an earlier prompt."""
    kinds = getattr(module, "rope_type", None)
    return any("dynamic" in str(kind) or kind == "longrope" for kind in (kinds.values() if isinstance(kinds, dict) else [kinds]))


def _settings(root: Any) -> list[tuple[str, str, str]]:
    """Class and numeric attributes of every module (a scale or an epsilon may be changed there only), and the state of adapters.

    Hooks that other code registered and replaced forward methods are included, because they change logits, too.
    """
    settings = []
    for name, module in root.named_modules():
        adapter = hasattr(module, "merged_adapters")
        attributes = {key: getattr(module, key, None) for key in _ADAPTER} if adapter else {}
        public = {key: value for key, value in vars(module).items() if not key.startswith("_")}
        # The longest prompt so far, which is no setting.
        grows = "max_seq_len_cached" if getattr(module, "rope_type", "default") != "default" else None
        attributes |= {
            key: value for key, value in public.items() if isinstance(value, int | float) and not (grows and key.endswith(grows))
        }
        relevant = {key: attributes[key] for key in sorted(attributes) if key not in _NO_SETTING}
        settings.append((name, type(module).__qualname__, str(_plain(relevant))))
        settings += [(name, "changed from outside", code) for code in _foreign(module)]
    return settings


_PROCESS = secrets.token_hex(8)
"""The effect of foreign code cannot be known, so the identity of a model that runs some is valid in this process only."""

_HARMLESS = ("transformers.", "circuitlab.", "accelerate.")
"""Packages whose hooks record or move values and do not change them."""


def _foreign(module: Any) -> Iterator[str]:
    """Each hook that other code registered on a module, and a forward method that replaced its own."""
    hooks = [*module._forward_pre_hooks.items(), *module._forward_hooks.items()]  # noqa: SLF001 - torch has no public name for them
    for number, hook in hooks:
        if not _origin(hook).startswith(_HARMLESS):
            yield f"{_PROCESS} hook {number}"
    forward = vars(module).get("forward")
    if forward is not None and not _origin(forward).startswith(_HARMLESS):
        yield f"{_PROCESS} forward {_number(forward)}"


def _origin(code: Any) -> str:
    """Name of the module that a function was defined in, followed by a dot; `functools.wraps` does not change it."""
    while isinstance(code, functools.partial):
        code = code.func
    code = getattr(code, "__func__", code)
    return f"{getattr(code, '__globals__', {}).get('__name__') or type(code).__module__}."


_numbered: dict[int, tuple[weakref.ref[Callable[..., Any]], int]] = {}


def _number(code: Callable[..., Any]) -> int:
    """A unique number for every function in this process; its address may be reused once it is deleted."""
    numbered = _numbered.get(id(code))
    if numbered is None or numbered[0]() is not code:
        numbered = _numbered[id(code)] = (weakref.ref(code), 1 + max((number for _, number in _numbered.values()), default=0))
    return numbered[1]


def _is_table(module: Any, key: str) -> bool:
    """Whether a buffer holds rotary angles that depend on the prompt's length, and so change between runs as the configuration says."""
    return key.endswith("inv_freq") and not key.endswith("original_inv_freq") and follows_length(module)


def _plain(value: Any) -> Any:
    """A value that JSON can hold, in a deterministic order."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in (sorted(value, key=str) if isinstance(value, set | frozenset) else value)]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


_ADAPTER = ("active_adapter", "active_adapters", "disable_adapters", "merged_adapters", "scaling")
_NO_SETTING = {
    "gradient_checkpointing", "is_loaded_in_4bit", "is_loaded_in_8bit", "is_quantized", "pad_token_id", "padding_idx", "training",
}  # fmt: skip


@dataclass(frozen=True)
class Fingerprint:
    """A cheap check of a model's tensors: their addresses, how often they were written to, and sums over their bits.

    Parameters
    ----------
    places : tuple
        Name in its module, address, version and size of every parameter and buffer; changes with every assignment and in-place
        operation, except writes through ``.data``.
    sums : tuple of int
        Of every parameter and buffer, sums over its bits by row, and by column of some rows, or a hash of its bytes if they are few; they
        also change with writes through ``.data``.
    settings : int
        Hash of the configuration, the attributes of modules, foreign hooks, and the state of adapters.
    """

    places: tuple[tuple[str, int, int, int], ...]
    sums: tuple[int, ...] = ()
    settings: int = 0

    @classmethod
    def of(cls, root: Any, *, deep: bool = False) -> Fingerprint:
        """The fingerprint of a model; ``deep`` reads every weight once (0.1 s for 135 million parameters)."""
        tensors = _tensors(root)
        places = tuple([(name, value.data_ptr(), _version(value), value.numel()) for name, value in tensors])
        if not deep:
            return cls(places)
        once = {id(value): value for _, value in tensors}.values()
        return cls(places, tuple(map(_bits, once)), hash(repr((config_digest(root.config), _settings(root)))))


def _tensors(root: Any) -> list[tuple[str, Tensor]]:
    """Every parameter and buffer, with its name in its module; those of a module that has two places once.

    This is asked before every run: `torch.nn.Module.named_modules` makes names that nothing here needs, and takes three times as long.
    """
    found: list[tuple[str, Tensor | None]] = []
    todo, seen = [root], set()
    while todo:
        module = todo.pop()
        if module is None or id(module) in seen:
            continue
        seen.add(id(module))
        found += module._parameters.items()  # noqa: SLF001 - read only
        found += [(key, value) for key, value in module._buffers.items() if not _is_table(module, key)]  # noqa: SLF001
        todo += module._modules.values()  # noqa: SLF001
    return [(name, value) for name, value in found if value is not None]


_COLUMNS_OF = 4
"""Sums over columns are taken over every fourth row."""


_SMALL = 2**14
"""Bytes of a tensor that are hashed faster than summed."""


def _version(value: Tensor) -> int:
    return 0 if value.is_inference() else value._version  # noqa: SLF001 - torch has no public name for it


def _bits(value: Tensor) -> int:
    """A number that changes if an entry changes, or if rows or columns are permuted."""
    flat = value.detach().contiguous()
    if flat.nbytes <= _SMALL and flat.device.type == "cpu":
        return hash(flat.flatten().view(torch.uint8).numpy().tobytes())
    rows = flat.reshape(flat.shape[0] if flat.ndim and len(flat) else 1, -1)
    # Eight bytes at a time if rows allow it: sums of 64-bit integers need no conversion.
    whole = not rows.shape[1] * rows.element_size() % 8
    kind = torch.int64 if whole else {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()]
    grid = rows.view(kind)
    # Every entry counts in the sum of its row. Sums of columns cost three times as much, and some rows suffice to notice a permutation.
    columns = grid[::_COLUMNS_OF].sum(0, dtype=torch.int64)
    return hash((tuple(_sampled(columns)), tuple(_sampled(grid.sum(1, dtype=torch.int64)))))


def _sampled(sums: Tensor) -> Iterator[int]:
    weights = torch.arange(1, len(sums) + 1, device=sums.device)
    yield int(sums.sum())
    yield int((sums * weights).sum())
