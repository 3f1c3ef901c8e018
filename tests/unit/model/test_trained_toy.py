"""The trained induction model does its task with the two heads that were left alive, and exact methods find them."""

from __future__ import annotations

import pytest
import torch

from circuitlab.core.errors import ModelError
from circuitlab.core.nodes import Head
from circuitlab.execute.paths import path_effect
from circuitlab.methods.activation_patching import ActivationPatching
from circuitlab.methods.path_patching import PathPatching
from circuitlab.metrics import LogitDiff, correct
from circuitlab.model.sites import Edit, Site
from circuitlab.model.toy import trained, trained_induction
from circuitlab.workflows.planted import grade

METRIC = LogitDiff()


@pytest.fixture(scope="module", params=["gqa", "mha"])
def planted(request):
    state = torch.get_rng_state()
    found = trained_induction(request.param)
    assert torch.equal(state, torch.get_rng_state())
    return found


def test_the_two_heads_do_the_task(planted) -> None:
    batch = planted.batch(64, seed=5)
    model = planted.model
    assert sum(correct(model.logits(batch.clean, batch.end), batch)) >= 62
    z = model.capture(batch.clean, [Site.Z])[Site.Z]
    every = {Head(layer, head) for layer in range(2) for head in range(4)}

    def without(heads) -> float:
        edits = [Edit(Site.Z, head.layer, torch.zeros_like(z[:, 0, :, 0]), head=head.head) for head in sorted(heads)]
        return float(METRIC(model.with_edits(edits).logits(batch.clean, batch.end), batch).mean())

    whole = float(METRIC(model.logits(batch.clean, batch.end), batch).mean())
    assert whole > 3
    assert without(every - planted.nodes) == pytest.approx(whole, rel=0.15)
    for head in planted.nodes:
        assert without({head}) < 0.5 * whole


@pytest.mark.parametrize("method", [ActivationPatching(), PathPatching()], ids=lambda method: method.name)
def test_exact_methods_find_them(planted, method) -> None:
    found = grade(method, planted, seeds=2)
    assert found.auroc["mean"] == found.sign_accuracy["mean"] == 1


def test_the_composition_is_through_keys(planted) -> None:
    batch = planted.batch(16)
    kv = 2 if planted.form == "mha" else 1
    gap = float(ActivationPatching()(planted.model, batch, METRIC).dataset["total"].values.mean())
    assert float(path_effect(planted.model, batch, METRIC, f"a0.h1->a1.kv{kv}<k>->logits").values.mean()) > 0.3 * gap
    assert float(path_effect(planted.model, batch, METRIC, "a1.h2->logits").values.mean()) > 0.5 * gap


def test_a_task_that_is_not_learned_is_an_error(monkeypatch) -> None:
    monkeypatch.setattr(trained, "_STEPS", 2)
    with pytest.raises(ModelError, match=r"not learned in 2 steps; the loss is \d"):
        trained_induction("mha")
