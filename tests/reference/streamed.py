"""Tiny models in several shards, loaded into memory and streamed; each is written once in a session."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from circuitlab.model import load_model
from circuitlab.testing.tiny import joined, tiny_batch, tiny_hf

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3")


@functools.cache
def _home() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="circuitlab-test-")  # removed with the process


def write_shards(family: str, folder: Path) -> Path:
    """A tiny model in about ten files."""
    tiny_hf(family).save_pretrained(folder, max_shard_size="12KB")
    assert len(list(folder.glob("*.safetensors"))) > 4
    return folder


@functools.cache
def both(family: str):
    """The model in memory, and the same model streamed."""
    folder = write_shards(family, Path(_home().name) / f"tiny-{family}")
    return load_model(folder), load_model(folder, stream=True)


def pairs(model):
    """Pairs of several lengths that differ at several positions, so that they fall into several chunks."""
    return joined(tiny_batch(model, 4), tiny_batch(model, 5, seed=1, unequal=True))
