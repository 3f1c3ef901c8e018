"""Tiny models with random weights, of every supported family, and random prompt pairs for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from circuitlab.model import load_model
from circuitlab.model.batch import ContrastBatch
from circuitlab.model.identity import Fingerprint
from circuitlab.model.protocol import Model
from circuitlab.testing.families import ALL_FAMILIES, configuration

__all__ = ["ALL_FAMILIES", "FAMILIES", "SHARED", "joined", "kept_model", "shared_tiny_model", "tiny_batch", "tiny_hf", "tiny_model"]

FAMILIES = ("gpt2", "gpt_neox", "llama", "qwen2", "qwen3", "gemma2", "gemma3")
"""The families on which every law of methods runs."""

SHARED: dict[str, Model] = {}
"""By family, the models that tests share."""


def tiny_hf(family: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, dropout: float | None = None) -> Any:
    """A Hugging Face model of a family with 3 layers, 4 query heads and random weights, not loaded into circuitlab.

    Families with grouped queries have 2 key/value heads. Gemma's sliding window is 4 tokens, shorter than the prompts of `tiny_batch`.
    Gains and biases are random too, so that no law holds only because they are 1 or 0. ``dropout`` sets every dropout rate of the
    family's config; the weights do not depend on it.
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
    """`tiny_hf`, loaded into circuitlab."""
    return load_model(tiny_hf(family, seed=seed), name=f"tiny-{family}")


def shared_tiny_model(family: str) -> Model:
    """`tiny_model`, built once in a process and kept in `SHARED`: for tests that change nothing of the model."""
    if family not in SHARED:
        SHARED[family] = tiny_model(family)
    return SHARED[family]


_KEPT: dict[tuple[str, ...], tuple[Any, Fingerprint]] = {}


def kept_model(key: tuple[str, ...], build: Callable[[], Any]) -> Any:
    """What ``build`` gives, a model of circuitlab, under a name of its own: built once in a process, and again where it was changed since.

    Laws check many methods on the same few models, and a method that changes one of them must not spoil it for the next.
    """
    if key not in _KEPT or Fingerprint.of(_KEPT[key][0].root, deep=True) != _KEPT[key][1]:
        model = build()
        _KEPT[key] = (model, Fingerprint.of(model.root, deep=True))
    return _KEPT[key][0]


def tiny_batch(model: Model, n: int = 4, *, seed: int = 0, unequal: bool = False, lengths: Sequence[int] = ()) -> ContrastBatch:
    """Random pairs of 9 tokens that differ at one position, marked CHANGE; with ``unequal``, of 7, 8, 9, ... tokens, or of ``lengths``."""
    generator = torch.Generator().manual_seed(seed)
    vocab = model.spec.d_vocab
    clean, corrupt, change, answers, foils = [], [], [], [], []
    for i, length in enumerate(lengths or (7 + i if unequal else 9 for i in range(n))):
        row = torch.randint(0, vocab, (length,), generator=generator).tolist()
        position = 2 + i % 3
        changed = list(row)
        changed[position] = (row[position] + 1 + int(torch.randint(0, vocab - 2, (1,), generator=generator))) % vocab
        tokens = torch.randperm(vocab, generator=generator)[:2].tolist()
        clean.append(row)
        corrupt.append(changed)
        change.append(position)
        answers.append([tokens[0]])
        foils.append([tokens[1]])
    return ContrastBatch.from_tokens(clean, corrupt, answers, foils, marks={"CHANGE": change})


def joined(*batches: ContrastBatch) -> ContrastBatch:
    """The pairs of several batches in one batch, with the marks that the first one has."""
    fields: dict[str, list[list[int]]] = {"clean": [], "corrupt": [], "answers": [], "foils": []}
    marks: dict[str, list[int]] = {name: [] for name in batches[0].marks}
    for batch in batches:
        for name, rows in fields.items():
            stops = batch.end + 1 if name in {"clean", "corrupt"} else (getattr(batch, name) >= 0).sum(1)
            rows += [row[:stop] for row, stop in zip(getattr(batch, name).tolist(), stops.tolist(), strict=True)]
        for name in marks:
            marks[name] += batch.marks[name].tolist()
    return ContrastBatch.from_tokens(fields["clean"], fields["corrupt"], fields["answers"], fields["foils"], marks=marks)
