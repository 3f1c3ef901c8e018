"""Tokens as people name them: the text of an id, and the id of a word."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from circuitlab.core.errors import BadParameterError, TokenizationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from circuitlab.core.provenance import ModelSpec

__all__ = ["texts_of", "token_id"]

_BEFORE = "a"
"""A word before a token that begins with a space: many tokenizers put a space of their own before whatever begins a text."""


def texts_of(tokenizer: PreTrainedTokenizerBase | None, ids: Iterable[int]) -> tuple[str, ...]:
    """Tokens as text; their ids where there is no tokenizer."""
    if tokenizer is None:
        return tuple(map(str, ids))
    return tuple(cast("str", tokenizer.decode([one], clean_up_tokenization_spaces=False)) for one in ids)


def token_id(tokenizer: PreTrainedTokenizerBase | None, spec: ModelSpec, word: str | int) -> int:
    """The id of a word that is one token; an id stands for itself.

    Raises
    ------
    TokenizationError
        If the word is not one token, or there is no tokenizer.
    BadParameterError
        If the id is outside the vocabulary.
    """
    if isinstance(word, int):
        if not 0 <= word < spec.d_vocab:
            what = f"Token id {word} was given; {spec.name} has ids 0 to {spec.d_vocab - 1}."
            raise BadParameterError(what, "Encode words with this model's own tokenizer.")
        return word
    if tokenizer is None:
        what = f"Model {spec.name!r} has no tokenizer, and was given the word {word!r}."
        raise TokenizationError(what, "Pass tokenizer=... to load_model, or give token ids.")
    lead = list(tokenizer(_BEFORE, add_special_tokens=False)["input_ids"]) if word.startswith(" ") else []
    ids = list(tokenizer(f"{_BEFORE}{word}" if lead else word, add_special_tokens=False)["input_ids"])
    own = ids[len(lead) :]
    if len(own) != 1 or ids[: len(lead)] != lead:
        what = f"{word!r} is {len(own)} tokens, {[*texts_of(tokenizer, own)]}."
        raise TokenizationError(what, "Give a word that is one token, with the space before it if it follows another word.")
    return own[0]
