"""Copying scores against the eigenvalues of matrices of vocabulary by vocabulary, from the families' own modules."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitlab.execute import copying
from circuitlab.methods.copying_score import CopyingScore
from circuitlab.model import load_model
from circuitlab.testing.tiny import FAMILIES, tiny_hf
from reference.copying import copying_score

ROUNDED = {"llama", "qwen2", "qwen3", "gemma2", "gemma3"}
"""Families whose norms round to float32 inside, also in a float64 model."""


def both(family: str, embedding: str) -> tuple[np.ndarray, np.ndarray]:
    hf = tiny_hf(family, dtype=torch.float64)
    slow = [[copying_score(hf, layer, head, after_mlp=embedding == "mlp0") for head in range(4)] for layer in range(3)]
    return CopyingScore(embedding=embedding)(load_model(hf)).mean(), np.array(slow)


def agree(family: str, embedding: str) -> bool:
    found, slow = both(family, embedding)
    assert np.ptp(slow) > 0.1
    return bool(np.abs(found - slow).max() < (1e-5 if family in ROUNDED else 1e-9))


@pytest.mark.some(family=1, embedding=3)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("embedding", ["mlp0", "tokens"])
def test_scores_are_those_of_the_whole_vocabulary(family, embedding) -> None:
    assert agree(family, embedding)


def test_a_value_head_of_another_group_would_be_noticed(monkeypatch) -> None:
    shares = copying._shares
    monkeypatch.setattr(copying, "_shares", lambda matrices, least: shares(matrices.roll(1, 0), least))
    assert not agree("llama", "mlp0")
