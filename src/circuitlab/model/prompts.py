"""Prompts to go on from: text, token ids, or the clean prompts of a batch, as rows of token ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from circuitlab.core.errors import BadParameterError, TokenizationError
from circuitlab.model.batch import ContrastBatch

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from circuitlab.core.provenance import ModelSpec

__all__ = ["PromptLike", "Prompts", "read_prompts"]

PromptLike: TypeAlias = "str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]] | Tensor | ContrastBatch"
"""One prompt (text, or token ids), several, or a batch, which stands for its clean prompts with their marks."""


@dataclass(frozen=True)
class Prompts:
    """Token ids of prompts.

    Parameters
    ----------
    ids : tuple of tuple of int
        One row per prompt, unpadded; lengths may differ.
    alone : bool
        Whether one prompt was given by itself, and not a list of one.
    marks : mapping of str to tuple of int
        Named positions, one per prompt, where the prompts come from a batch.
    """

    ids: tuple[tuple[int, ...], ...]
    alone: bool
    marks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def read_prompts(given: PromptLike, tokenizer: PreTrainedTokenizerBase | None, spec: ModelSpec) -> Prompts:
    """Read prompts, and refuse those that the model cannot go on from.

    Text is encoded with the special tokens that the tokenizer puts before it; what it would put after it (an EOS) is left out.

    Raises
    ------
    TokenizationError
        If text is given and there is no tokenizer.
    BadParameterError
        If a prompt is empty, is padded, begins with two BOS tokens, or holds something other than ids of the vocabulary.
    """
    if isinstance(given, ContrastBatch):
        rows = [row[: end + 1] for row, end in zip(given.clean.tolist(), given.end.tolist(), strict=True)]
        read = Prompts(tuple(map(tuple, rows)), alone=False, marks={name: tuple(at.tolist()) for name, at in given.marks.items()})
    else:
        read = _read(given, tokenizer, spec)
    for number, ids in enumerate(read.ids):
        _check(number, ids, tokenizer, spec)
    return read


def _read(given: Any, tokenizer: PreTrainedTokenizerBase | None, spec: ModelSpec) -> Prompts:
    plain = _plain(given)
    if isinstance(plain, str):
        return Prompts((_encoded(plain, tokenizer, spec),), alone=True)
    if isinstance(plain, bytes | Mapping) or not isinstance(plain, Iterable):
        what = f"Prompts of type {type(given).__name__} were given."
        raise BadParameterError(what, "Give text, a list of texts, token ids, or a batch.")
    items = [_plain(one) for one in plain]
    if not items:
        raise BadParameterError("No prompt was given.", "Give text, a list of texts, token ids, or a batch.")
    if all(_is_id(one) for one in items):
        return Prompts((tuple(items),), alone=True)
    rows = [_encoded(one, tokenizer, spec) if isinstance(one, str) else _ids(number, one, tokenizer) for number, one in enumerate(items)]
    return Prompts(tuple(rows), alone=False)


def _plain(value: Any) -> Any:
    """Tensors, arrays and columns as lists; everything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _ids(number: int, given: Any, tokenizer: PreTrainedTokenizerBase | None) -> tuple[int, ...]:
    ids = [_plain(one) for one in given] if isinstance(given, Iterable) and not isinstance(given, bytes | Mapping) else [given]
    if wrong := [one for one in ids if not _is_id(one)]:
        what = f"Prompt {number} holds {wrong[0]!r} ({type(wrong[0]).__name__}), which is no token id."
        raise BadParameterError(what, "Give text, or one flat list of whole numbers for each prompt.")
    if not isinstance(given, Iterable):
        what = f"Prompt {number} is the number {given!r}, beside prompts that are lists."
        raise BadParameterError(what, "Give a list of ids for each prompt.")
    pad = None if tokenizer is None else tokenizer.pad_token_id
    if tokenizer is not None and pad is not None:
        most = 1 if pad in {tokenizer.bos_token_id, tokenizer.eos_token_id} else 0  # a BOS or EOS that is also the padding stands once
        for side, step in (("left", 1), ("right", -1)):
            if len(ids) > most and set(ids[::step][: most + 1]) == {pad}:
                what = f"Prompt {number} is padded on the {side} with {tokenizer.pad_token!r} (token {pad})."
                raise BadParameterError(what, "Give prompts without padding; their lengths may differ.")
    return tuple(ids)


def _encoded(text: str, tokenizer: PreTrainedTokenizerBase | None, spec: ModelSpec) -> tuple[int, ...]:
    if tokenizer is None:
        what = f"Model {spec.name!r} has no tokenizer, and was given text as a prompt."
        raise TokenizationError(what, "Pass tokenizer=... to load_model, or give token ids.")
    if not text:
        raise BadParameterError("A prompt is empty.", "Give at least one word, or [tokenizer.bos_token_id] to write from nothing.")
    ids = list(tokenizer(text)["input_ids"])
    own = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    stops = [start + len(own) for start in range(len(ids) - len(own) + 1) if ids[start : start + len(own)] == own]
    return tuple(ids[: stops[0]] if stops else ids)


def _check(number: int, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase | None, spec: ModelSpec) -> None:
    if not ids:
        raise BadParameterError(f"Prompt {number} holds no token.", "Give at least one.")
    if outside := [one for one in ids if not 0 <= one < spec.d_vocab]:
        what = f"Prompt {number} holds token id {outside[0]}; {spec.name} has ids 0 to {spec.d_vocab - 1}."
        raise BadParameterError(what, "Encode prompts with this model's own tokenizer.")
    bos = None if tokenizer is None else tokenizer.bos_token_id
    if tokenizer is not None and bos is not None and list(ids[:2]) == [bos, bos]:
        what = f"Prompt {number} begins with {tokenizer.bos_token!r} (token {bos}) twice."
        raise BadParameterError(what, "The tokenizer adds it already: take it out of the text.")
