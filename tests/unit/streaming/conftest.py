"""Tiny models in several shards, loaded into memory and streamed."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import pytest

from circuitlab.model import load_model
from circuitlab.testing.tiny import joined, tiny_batch, tiny_hf

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3")


@functools.cache
def written(family: str) -> Path:
    """A folder with a tiny model in about ten shards, once in a session."""
    folder = Path(tempfile.mkdtemp(prefix="circuitlab-test-")) / f"tiny-{family}"
    tiny_hf(family).save_pretrained(folder, max_shard_size="12KB")
    assert len(list(folder.glob("*.safetensors"))) > 4
    return folder


@functools.cache
def both(family: str):
    """The model in memory, and the same model streamed."""
    return load_model(written(family)), load_model(written(family), stream=True)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of its own, for a test that damages it."""
    tiny_hf("llama").save_pretrained(tmp_path / "tiny", max_shard_size="12KB")
    return tmp_path / "tiny"


def pairs(model):
    """Pairs of several lengths that differ at several positions, so that they fall into several chunks."""
    return joined(tiny_batch(model, 4), tiny_batch(model, 5, seed=1, unequal=True))
