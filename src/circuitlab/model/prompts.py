"""Read prompts as rows of token ids: text, token ids, or the clean prompts of a batch."""

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
"""One prompt (text, or token ids), several prompts, or a batch, whose clean prompts and marks are used."""


@dataclass(frozen=True)
class Prompts:
    """Token ids of prompts.

    Parameters
    ----------
    ids : tuple of tuple of int
        One row per prompt, unpadded; lengths may differ.
    alone : bool
        Whether a single prompt was given, and not a list of one.
    marks : mapping of str to tuple of int
        Named positions, one per prompt, if the prompts come from a batch.
    """

    ids: tuple[tuple[int, ...], ...]
    alone: bool
    marks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def read_prompts(prompts: PromptLike, tokenizer: PreTrainedTokenizerBase | None, spec: ModelSpec) -> Prompts:
    """Read prompts, and refuse those that the model cannot run.

    Text is encoded with the special tokens that the tokenizer puts before it, but without those that it puts after it (an EOS).

    Raises
    ------
    TokenizationError
        If text is given and there is no tokenizer.
    BadParameterError
        If a prompt is empty, is padded, begins with two BOS tokens, or contains something other than token ids of the vocabulary.
    """
    if isinstance(prompts, ContrastBatch):
        rows = [row[: end + 1] for row, end in zip(prompts.clean.tolist(), prompts.end.tolist(), strict=True)]
        prompt_tokens = Prompts(
            tuple(map(tuple, rows)), alone=False, marks={name: tuple(at.tolist()) for name, at in prompts.marks.items()}
        )
    else:
        prompt_tokens = _read(prompts, tokenizer, spec)
    for number, ids in enumerate(prompt_tokens.ids):
        _check(number, ids, tokenizer, spec)
    return prompt_tokens


def _read(prompts: Any, tokenizer: PreTrainedTokenizerBase | None, spec: ModelSpec) -> Prompts:
    plain = _plain(prompts)
    if isinstance(plain, str):
        return Prompts((_encoded(plain, tokenizer, spec),), alone=True)
    if isinstance(plain, bytes | Mapping) or not isinstance(plain, Iterable):
        what = f"Prompts cannot be of type {type(prompts).__name__}."
        raise BadParameterError(what, "Give text, a list of texts, token ids, or a batch.")
    items = [_plain(item) for item in plain]
    if not items:
        raise BadParameterError("No prompt was given.", "Give text, a list of texts, token ids, or a batch.")
    if all(_is_id(item) for item in items):
        return Prompts((tuple(items),), alone=True)
    rows = [
        _encoded(item, tokenizer, spec) if isinstance(item, str) else _ids(number, item, tokenizer) for number, item in enumerate(items)
    ]
    return Prompts(tuple(rows), alone=False)


def _plain(value: Any) -> Any:
    """Tensors, arrays and columns as lists; everything else unchanged."""
    return value.tolist() if hasattr(value, "tolist") else value


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _ids(number: int, prompt: Any, tokenizer: PreTrainedTokenizerBase | None) -> tuple[int, ...]:
    ids = [_plain(item) for item in prompt] if isinstance(prompt, Iterable) and not isinstance(prompt, bytes | Mapping) else [prompt]
    if invalid := [token for token in ids if not _is_id(token)]:
        what = f"Prompt {number} contains {invalid[0]!r} ({type(invalid[0]).__name__}), which is not a token id."
        raise BadParameterError(what, "Give text, or one flat list of integers for each prompt.")
    if not isinstance(prompt, Iterable):
        what = f"Prompt {number} is the number {prompt!r}, while other prompts are lists."
        raise BadParameterError(what, "Give a list of ids for each prompt.")
    pad = None if tokenizer is None else tokenizer.pad_token_id
    if tokenizer is not None and pad is not None:
        most = 1 if pad in {tokenizer.bos_token_id, tokenizer.eos_token_id} else 0  # padding that is also BOS or EOS may occur once
        for side, step in (("left", 1), ("right", -1)):
            if len(ids) > most and set(ids[::step][: most + 1]) == {pad}:
                what = f"Prompt {number} is padded on the {side} with {tokenizer.pad_token!r} (token {pad})."
                raise BadParameterError(what, "Give prompts without padding; their lengths may differ.")
    return tuple(ids)


def _encoded(text: str, tokenizer: PreTrainedTokenizerBase | None, spec: ModelSpec) -> tuple[int, ...]:
    if tokenizer is None:
        what = f"Model {spec.name!r} has no tokenizer, but a prompt is text."
        raise TokenizationError(what, "Pass tokenizer=... to load_model, or give token ids.")
    if not text:
        raise BadParameterError("A prompt is empty.", "Give at least one word, or [tokenizer.bos_token_id] to generate from nothing.")
    ids = list(tokenizer(text)["input_ids"])
    text_ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    stops = [start + len(text_ids) for start in range(len(ids) - len(text_ids) + 1) if ids[start : start + len(text_ids)] == text_ids]
    return tuple(ids[: stops[0]] if stops else ids)


def _check(number: int, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase | None, spec: ModelSpec) -> None:
    if not ids:
        raise BadParameterError(f"Prompt {number} is empty.", "Give at least one token.")
    if outside := [token for token in ids if not 0 <= token < spec.d_vocab]:
        what = f"Prompt {number} holds token id {outside[0]}; {spec.name} has ids 0 to {spec.d_vocab - 1}."
        raise BadParameterError(what, "Encode prompts with this model's tokenizer.")
    bos = None if tokenizer is None else tokenizer.bos_token_id
    if tokenizer is not None and bos is not None and list(ids[:2]) == [bos, bos]:
        what = f"Prompt {number} begins with {tokenizer.bos_token!r} (token {bos}) twice."
        raise BadParameterError(what, "The tokenizer adds it already: remove it from the text.")
