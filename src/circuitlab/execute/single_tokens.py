"""Words that are one token: those of lists, and a sample of the vocabulary's own."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from circuitlab.core.errors import BadParameterError, TokenizationError

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["Word", "sample_tokens", "single_token", "tokens_of"]

Word = str | int
"""A word as text, exactly as it stands in a prompt (mostly with its leading space), or as a token id."""

_FEWEST = 5
_WORD = re.compile(r"[Ġ▁][A-Za-z]{3,}")


def single_token(model: Model, word: Word) -> int | None:
    """The token of a word, or None if it takes several.

    Raises
    ------
    TokenizationError
        If text is given for a model without a tokenizer.
    BadParameterError
        If a token id is outside the vocabulary.
    """
    if isinstance(word, int):
        if not 0 <= word < model.spec.d_vocab:
            what = f"Token id {word} is outside the vocabulary of {model.spec.name}, 0 to {model.spec.d_vocab - 1}."
            raise BadParameterError(what, "Encode words with this model's own tokenizer.")
        return word
    if model.tokenizer is None:
        what = f"{model.spec.name} has no tokenizer, so the token of {word!r} is not known."
        raise TokenizationError(what, "Pass tokenizer=... to load_model, or give token ids instead of words.")
    ids = model.tokenizer.encode(word, add_special_tokens=False)
    return ids[0] if len(ids) == 1 and ids[0] != model.tokenizer.unk_token_id else None


def tokens_of(model: Model, words: Sequence[Word], n: int, seed: int) -> list[int]:
    """Tokens of the words that take one each, every token once; at most ``n`` of them, drawn at random.

    Raises
    ------
    TokenizationError
        If fewer than 5 are left: permuting them would tell nothing.
    """
    single = (single_token(model, word) for word in words)
    return _drawn(model, list(dict.fromkeys(token for token in single if token is not None)), len(words), (n, seed))


def _drawn(model: Model, tokens: list[int], words: int, draw: tuple[int, int]) -> list[int]:
    """Some of the tokens of so many words, at random; ``draw`` is how many at most, and the seed."""
    n, seed = draw
    if len(tokens) < _FEWEST:
        what = f"{len(tokens)} of {words} words are single tokens of {model.spec.name}; permuting takes {_FEWEST}."
        raise TokenizationError(what, "Give more words, each with its leading space.")
    return random.Random(seed).sample(tokens, min(n, len(tokens)))  # noqa: S311 - a sample, not a secret


def sample_tokens(model: Model, n: int, seed: int) -> list[int]:
    """``n`` tokens of the vocabulary that are words: a leading space and three or more of the letters A to Z, drawn at random.

    Of a model without a tokenizer, or one whose tokens do not mark leading spaces, any tokens. Fewer where there are no more.

    Raises
    ------
    TokenizationError
        If there are fewer than 5.
    """
    size = model.spec.d_vocab
    ids = list(range(size))
    if model.tokenizer is not None:
        pieces = model.tokenizer.convert_ids_to_tokens(list(range(min(size, len(model.tokenizer)))))
        ids = [i for i, piece in enumerate(pieces) if piece is not None and _WORD.fullmatch(piece)] or ids
    return _drawn(model, ids, len(ids), (n, seed))
