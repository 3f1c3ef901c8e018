"""A tiny model whose tokens are whole words."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from circuitlab.model import load_model
from circuitlab.model.protocol import Model


def word_model(words: Sequence[str]) -> Model:
    """A random Llama with one token for each word, and ``?`` for all others."""
    vocab = {word: i for i, word in enumerate(dict.fromkeys(["?", *words]))}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    config = LlamaConfig(vocab_size=len(vocab), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")
    return load_model(LlamaForCausalLM(config).eval(), tokenizer=tokenizer, name="words")
