"""A folder of weights in several shards."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.reference.streamed import write_shards


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of its own, for a test that damages it."""
    return write_shards("llama", tmp_path / "tiny")
