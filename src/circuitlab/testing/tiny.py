"""Tiny random-weight models of every supported family, and random prompt pairs for them."""

from __future__ import annotations

from typing import Any

import torch

from circuitlab.errors import UnknownNameError
from circuitlab.model import load_model
from circuitlab.model.batch import ContrastBatch
from circuitlab.model.protocol import Model

__all__ = ["FAMILIES", "tiny_batch", "tiny_hf", "tiny_model"]

FAMILIES = ("gpt2", "gpt_neox", "llama", "qwen2", "qwen3", "gemma2", "gemma3")
"""Families with a tiny configuration."""

_VOCAB, _LAYERS, _WIDTH = 48, 3, 32


def tiny_hf(family: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """A Hugging Face model of a family with 3 layers, 4 query heads and random weights, not wrapped yet.

    Grouped-query families have 2 key/value heads; Gemma's sliding window is 4 tokens, shorter than the prompts of
    `tiny_batch`; gains and biases are random too, so that no law passes by their being 1 or 0.
    """
    from transformers import AutoModelForCausalLM

    config = _config(family)
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        hf = AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(dtype).eval()
        with torch.no_grad():
            for name, value in hf.named_parameters():
                if value.ndim == 1:
                    value.add_(torch.randn_like(value) * 0.2)
                elif "embed" in name or "wte" in name or "wpe" in name:
                    value.copy_(torch.randn_like(value) * 0.5)
                else:
                    value.copy_(torch.randn_like(value) * (1.2 / value.shape[-1] ** 0.5))
    finally:
        torch.set_rng_state(state)
    return hf


def tiny_model(family: str, *, seed: int = 0) -> Model:
    """`tiny_hf`, wrapped."""
    return load_model(tiny_hf(family, seed=seed), name=f"tiny-{family}")


def tiny_batch(model: Model, n: int = 4, *, seed: int = 0, unequal: bool = False) -> ContrastBatch:
    """Random pairs of 9 tokens that differ in one place, marked CHANGE; with ``unequal``, of 7, 8, 9, ... tokens."""
    generator = torch.Generator().manual_seed(seed)
    vocab = model.spec.d_vocab
    clean, corrupt, change, answers, foils = [], [], [], [], []
    for i in range(n):
        length = 7 + i if unequal else 9
        row = torch.randint(0, vocab, (length,), generator=generator).tolist()
        place = 2 + i % 3
        other = list(row)
        other[place] = (row[place] + 1 + int(torch.randint(0, vocab - 2, (1,), generator=generator))) % vocab
        pick = torch.randperm(vocab, generator=generator)[:2].tolist()
        clean.append(row)
        corrupt.append(other)
        change.append(place)
        answers.append([pick[0]])
        foils.append([pick[1]])
    return ContrastBatch.from_tokens(clean, corrupt, answers, foils, marks={"CHANGE": change})


def _config(family: str) -> Any:
    import transformers as hf

    shared: dict[str, Any] = {
        "vocab_size": _VOCAB,
        "hidden_size": _WIDTH,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": 4,
        "intermediate_size": 40,
        "max_position_embeddings": 64,
    }
    grouped = shared | {"num_key_value_heads": 2}
    gemma = grouped | {"head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8}
    kinds = [("layer_types", ["sliding_attention", "full_attention", "sliding_attention"])]
    builders = {
        "gpt2": lambda: hf.GPT2Config(vocab_size=_VOCAB, n_embd=_WIDTH, n_layer=_LAYERS, n_head=4, n_positions=64, resid_pdrop=0.0),
        "gpt_neox": lambda: hf.GPTNeoXConfig(**shared, rotary_pct=0.5),
        "llama": lambda: hf.LlamaConfig(**grouped, head_dim=8),
        "qwen2": lambda: hf.Qwen2Config(**grouped),
        "qwen3": lambda: hf.Qwen3Config(**grouped, head_dim=8),
        "gemma2": lambda: hf.Gemma2Config(**gemma, **dict(kinds), final_logit_softcapping=5.0, attn_logit_softcapping=20.0),
        "gemma3": lambda: hf.Gemma3TextConfig(**gemma, **dict(kinds)),
    }
    if family not in builders:
        raise UnknownNameError("family", family, builders)
    config = builders[family]()
    config.bos_token_id = config.eos_token_id = config.pad_token_id = 0
    return config
