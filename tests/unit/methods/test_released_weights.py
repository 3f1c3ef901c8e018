"""Methods that check themselves do so on released weights: SmolLM2, and Gemma 3 where it was fetched."""

from __future__ import annotations

import numpy as np
import pytest

from circuitlab.methods.code_overlap import CodeOverlap
from circuitlab.methods.contextual_decomposition import ContextualDecomposition
from circuitlab.metrics import LogitDiff
from circuitlab.model.prepare import prepare_batch
from circuitlab.workflows.score import run_checks


@pytest.mark.real_model
@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
@pytest.mark.parametrize(
    ("method", "check"),
    [(ContextualDecomposition(parts=("mlps",)), "invariant"), (CodeOverlap(examples=2, trials=1, epochs=150), "dictionary")],
    ids=["contextual_decomposition", "code_overlap"],
)
def test_self_checks(request, name: str, method, check: str) -> None:
    model = request.getfixturevalue(name)
    scores = method(model, prepare_batch(model, "ioi", 2), LogitDiff())
    found = run_checks(scores)
    assert found[check]["ok"] and found["finite"]["ok"], found
    assert all(np.abs(scores.values(part)).max() > 0 for part in scores.parts)
    if check == "invariant":
        assert 0 < found[check]["value"] < 1e-4
