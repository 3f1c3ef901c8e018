"""Shared fixtures."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session")
def smollm2():
    """SmolLM2-135M-Instruct, loaded once."""
    from circuitlab.model import load_model

    torch.set_num_threads(2)
    return load_model("smollm2-135m")
