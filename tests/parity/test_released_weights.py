"""On released weights, SmolLM2 and Gemma 3 where it was fetched, the engine equals hooks and methods that check themselves pass."""

from __future__ import annotations

import numpy as np
import pytest
from tolerances import REAL_FLOAT32

from circuitlab.methods.code_overlap import CodeOverlap
from circuitlab.methods.contextual_decomposition import ContextualDecomposition
from circuitlab.metrics import LogitDiff
from circuitlab.model.engine.by_hooks import sweep_by_hooks
from circuitlab.model.prepare import prepare_batch
from circuitlab.model.sites import Edit, EditSet, Site
from circuitlab.workflows.score import run_checks

METRIC = LogitDiff()
MODELS = ["smollm2", pytest.param("gemma3", marks=pytest.mark.every)]
"""Loading Gemma takes as long as all that is then asked of it."""
REAL_SITES = [
    (Site.Z, "all"),
    (Site.Q, "END"),
    (Site.K, "S2"),
    (Site.V, "S2"),
    (Site.PATTERN, "all"),
    (Site.RESID_PRE, "S2"),
    (Site.ATTN_OUT, "S2"),
    (Site.RESID_MID, "END"),
    (Site.MLP_OUT, "all"),
]


@pytest.mark.some(3)
@pytest.mark.real_model
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("site", "position"), REAL_SITES)
def test_the_engine_equals_hooks(request, name, site, position) -> None:
    model = request.getfixturevalue(name)
    batch = prepare_batch(model, "ioi", 2)
    values = model.capture(batch.clean, [site])[site]
    place = None if position == "all" else batch.mark(position)
    sweep = []
    for layer in (3, 11, model.spec.n_layers - 2):
        for head in range({Site.K: model.spec.n_kv_heads, Site.V: model.spec.n_kv_heads}.get(site, 3)) if site.per_head else (None,):
            value = values[:, layer]
            if head is not None:
                value = value[:, head] if site is Site.PATTERN else value[:, :, head]
            value = value if place is None else value[range(2), place]
            edit = Edit(site, layer, value, head=head, positions=place)
            sweep.append(EditSet((edit,), int((batch.first_difference() if place is None else place).min())))
    ids, placed = batch.over_tokens()
    fast = METRIC(model.sweep(batch.corrupt, batch.end, sweep, ids).double(), placed)
    slow = METRIC(sweep_by_hooks(model, batch.corrupt, batch.end, sweep).double(), batch)
    np.testing.assert_allclose(fast.numpy(), slow.numpy(), rtol=0, atol=REAL_FLOAT32)
    assert (slow - METRIC(model.logits(batch.corrupt, batch.end).double(), batch)).abs().max() > 20 * REAL_FLOAT32


@pytest.mark.real_model
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("method", "check"),
    [(ContextualDecomposition(parts=("mlps",)), "invariant"), (CodeOverlap(examples=2, trials=1, epochs=150), "dictionary")],
    ids=["contextual_decomposition", "code_overlap"],
)
def test_self_checks(request, name: str, method, check: str) -> None:
    model = request.getfixturevalue(name)
    scores = method(model, prepare_batch(model, "ioi", 2), METRIC)
    found = run_checks(scores)
    assert found[check]["ok"] and found["finite"]["ok"], found
    assert all(np.abs(scores.values(part)).max() > 0 for part in scores.parts)
    if check == "invariant":
        assert 0 < found[check]["value"] < 1e-4
