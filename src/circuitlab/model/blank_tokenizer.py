"""A tokenizer that stands in where a model has none: TransformerBridge wants one, circuitlab then never uses it."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

__all__ = ["blank_tokenizer"]


def blank_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """A word-level tokenizer over ``t0``, ``t1``, ... for a vocabulary of the given size."""
    from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: PLC0415

    words = {f"t{i}": i for i in range(vocab_size)}
    backend = Tokenizer(models.WordLevel(words, unk_token="t0"))  # noqa: S106 - a token of text, no secret
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="t0", pad_token="t0", bos_token="t0", eos_token="t0")  # noqa: S106
