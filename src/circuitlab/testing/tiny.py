"""Tiny random-weight models of every supported family, and random prompt pairs for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from circuitlab.model import load_model
from circuitlab.model.batch import ContrastBatch
from circuitlab.model.protocol import Model
from circuitlab.testing.families import ALL_FAMILIES, configuration

__all__ = ["ALL_FAMILIES", "FAMILIES", "joined", "tiny_batch", "tiny_hf", "tiny_model"]

FAMILIES = ("gpt2", "gpt_neox", "llama", "qwen2", "qwen3", "gemma2", "gemma3")
"""The families that every law of methods is run on."""


def tiny_hf(family: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, dropout: float | None = None) -> Any:
    """A Hugging Face model of a family with 3 layers, 4 query heads and random weights, not wrapped yet.

    Grouped-query families have 2 key/value heads; Gemma's sliding window is 4 tokens, shorter than the prompts of
    `tiny_batch`; gains and biases are random too, so that no law passes by their being 1 or 0. ``dropout`` is the share of every dropout
    that the family has in training; the weights are the same with and without it.
    """
    from transformers import AutoModelForCausalLM

    config = configuration(family)
    if dropout is not None:
        for name in [name for name, value in config.to_dict().items() if isinstance(value, float) and "drop" in name]:
            setattr(config, name, dropout)
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


def tiny_batch(model: Model, n: int = 4, *, seed: int = 0, unequal: bool = False, lengths: Sequence[int] = ()) -> ContrastBatch:
    """Random pairs of 9 tokens that differ in one place, marked CHANGE; with ``unequal``, of 7, 8, 9, ... tokens, or of ``lengths``."""
    generator = torch.Generator().manual_seed(seed)
    vocab = model.spec.d_vocab
    clean, corrupt, change, answers, foils = [], [], [], [], []
    for i, length in enumerate(lengths or (7 + i if unequal else 9 for i in range(n))):
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


def joined(*batches: ContrastBatch) -> ContrastBatch:
    """The pairs of several batches in one, with the marks of the first."""
    rows: dict[str, list[list[int]]] = {"clean": [], "corrupt": [], "answers": [], "foils": []}
    marks: dict[str, list[int]] = {name: [] for name in batches[0].marks}
    for batch in batches:
        for name, kept in rows.items():
            stops = batch.end + 1 if name in {"clean", "corrupt"} else (getattr(batch, name) >= 0).sum(1)
            kept += [row[:stop] for row, stop in zip(getattr(batch, name).tolist(), stops.tolist(), strict=True)]
        for name in marks:
            marks[name] += batch.marks[name].tolist()
    return ContrastBatch.from_tokens(rows["clean"], rows["corrupt"], rows["answers"], rows["foils"], marks=marks)
