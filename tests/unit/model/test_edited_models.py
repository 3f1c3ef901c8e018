"""An edited model is a model: methods, evaluation and the store see its edits, whichever engine runs it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitlab.core.errors import BadParameterError, ModelError
from circuitlab.evaluation.nodes import NodeCircuitRunner
from circuitlab.execute.contract import provenance_of
from circuitlab.methods import get_method
from circuitlab.metrics import LogitDiff
from circuitlab.model.interventions import Add, EditPattern, Knockout, Project, Replace, Scale
from circuitlab.model.toy import build_planted
from circuitlab.store import Cache
from circuitlab.testing.tiny import FAMILIES, shared_tiny_model, tiny_batch, tiny_model
from circuitlab.workflows.score import score_batch

METRIC = LogitDiff()
VECTOR = torch.linspace(-1, 1, 32)


def edits_of(model) -> dict[str, list]:
    """Interventions at every site, at all positions, at a mark, at the end and at a number."""
    head = VECTOR[: model.spec.d_head]
    return {
        "knockout": [Knockout(["a1.h2", "m0"], "zero")],
        "scale": [Scale("a0.h1", 0.3), Scale("m1", 2.0, positions="CHANGE")],
        "add": [Add("a2.h3", head, positions="last"), Add("r1.pre", VECTOR, positions=2)],
        "replace": [Replace("a1.h0", head, site="q"), Replace("m2", VECTOR, positions=-1)],
        "pattern": [EditPattern("a1.h1", "uniform")],
        "project": [Project("a1.h2", torch.eye(model.spec.d_head)[:2], keep=False)],
        "stream": [Project("r2.pre", torch.eye(32)[:5], keep=False), Add("r0.post", VECTOR)],
    }


@pytest.fixture(params=FAMILIES)
def model(request):
    return shared_tiny_model(request.param)


@pytest.mark.some(kind=3, model=2)
@pytest.mark.parametrize("kind", ["knockout", "scale", "add", "replace", "pattern", "project", "stream"])
def test_patching_an_edited_model_is_the_same_by_hooks(model, kind) -> None:
    edited, batch = model.edited(*edits_of(model)[kind]), tiny_batch(model, 3, unequal=True)
    exact, hooks = (get_method("activation_patching", {"engine": engine})(edited, batch, METRIC) for engine in ("exact", "hooks"))
    plain = get_method("activation_patching")(model, batch, METRIC)
    for part in ("heads", "mlps", "clean", "corrupt"):
        np.testing.assert_allclose(exact.dataset[part], hooks.dataset[part], atol=2e-4)
    assert np.abs(exact.dataset["clean"] - plain.dataset["clean"]).max() > 1e-3


@pytest.mark.parametrize("kind", ["knockout", "scale", "pattern", "project"])
def test_the_parts_of_an_edited_run_still_add_up(model, kind) -> None:
    edited, batch = model.edited(*edits_of(model)[kind]), tiny_batch(model, 3, unequal=True)
    scores = get_method("logit_attribution")(edited, batch, METRIC)
    assert np.abs(scores.residual()).max() < 1e-3


def test_attribution_patching_is_the_slope_of_patching_an_edited_model(model) -> None:
    """Of a head behind which everything is nearly linear over a small step: the two runs are moved close together."""
    batch = tiny_batch(model, 2)
    edited = model.edited(Scale("a0.h0", 0.5), Knockout("a2.h1", "zero"))
    slope = get_method("attribution_patching")(edited, batch, METRIC).dataset["heads"].values
    exact = get_method("activation_patching")(edited, batch, METRIC).dataset["heads"].values
    assert (slope[:, 2, 1] == 0).all(), "a head that is knocked out has nothing to swap"
    np.testing.assert_allclose(exact[:, 2, 1], 0, atol=1e-5)
    assert np.corrcoef(slope[:, 2].ravel(), exact[:, 2].ravel())[0, 1] > 0.9


def test_edges_of_an_edited_model_sum_to_its_nodes(model) -> None:
    edited, batch = model.edited(Scale("a0.h1", 0.5), Knockout("a1.h2", "zero")), tiny_batch(model, 3)
    edges = get_method("eap", {"direction": "denoising"})(edited, batch, METRIC)
    nodes = get_method("attribution_patching", {"direction": "denoising"})(edited, batch, METRIC)
    np.testing.assert_allclose(edges.dataset["mlps"], nodes.dataset["mlps"], atol=1e-4)
    assert np.abs(edges.dataset["heads"].values[:, 1, 2]).max() < 1e-6


def test_a_circuit_of_everything_is_the_edited_model(model) -> None:
    edited, batch = model.edited(Knockout("a1.h2", "zero")), tiny_batch(model, 3)
    runs = NodeCircuitRunner(edited, batch, METRIC)
    full = runs.run(np.ones((1, len(runs.elements)), dtype=bool))[0]
    np.testing.assert_allclose(full, METRIC(edited.logits(batch.clean, batch.end).double(), batch), atol=1e-4)


def test_a_method_without_rules_for_edits_refuses_by_name() -> None:
    model = tiny_model("llama")
    with pytest.raises(ModelError, match="tiny-llama is edited"):
        get_method("contextual_decomposition")(model.edited(Knockout("a1.h2")), tiny_batch(model, 2), METRIC)


def test_edits_are_part_of_the_identity_and_of_what_is_stored(tmp_path) -> None:
    model, method, store = tiny_model("llama"), get_method("activation_patching"), Cache(tmp_path)
    batch = tiny_batch(model, 2)
    variants = [
        model,
        model.edited(Knockout("a1.h2")),
        model.edited(Knockout("a1.h1")),
        model.edited(Scale("a1.h2", 0.5)),
        model.edited(Knockout("a1.h2"), Scale("a0.h0", 0.5)),
        model.edited(Scale("a0.h0", 0.5), Knockout("a1.h2")),
        model.edited(Knockout("a1.h2", positions="CHANGE")),
    ]
    ids = [provenance_of(method, one, batch, METRIC).run_id() for one in variants]
    assert len(set(ids)) == len(variants)
    first = score_batch(model, batch, method, METRIC, store=store)
    edited = score_batch(variants[1], batch, method, METRIC, store=store)
    again = score_batch(model.edited(Knockout("a1.h2")), batch, method, METRIC, store=store)
    assert not first.cached and not edited.cached and again.cached
    assert not np.allclose(first.scores.dataset["heads"], edited.scores.dataset["heads"])


def test_edits_are_refused_before_anything_runs() -> None:
    model = tiny_model("gpt_neox")
    for wrong, says in ((Knockout("a9.h0"), "a9"), (Knockout("a0.h7"), "h7"), (Add("r1.mid", VECTOR), "resid_mid")):
        with pytest.raises((BadParameterError, ModelError), match=says):
            model.edited(wrong)


def test_editing_twice_keeps_the_first_edit_and_the_model_itself_stays() -> None:
    model, batch = tiny_model("llama"), tiny_batch(tiny_model("llama"), 2)
    plain = model.logits(batch.clean, batch.end)
    twice = model.edited(Knockout("a1.h2")).edited(Knockout("a0.h1"))
    together = model.edited(Knockout("a1.h2"), Knockout("a0.h1"))
    torch.testing.assert_close(twice.logits(batch.clean, batch.end), together.logits(batch.clean, batch.end), atol=0, rtol=0)
    assert twice.spec.edits == together.spec.edits
    torch.testing.assert_close(model.logits(batch.clean, batch.end), plain, atol=0, rtol=0)


def test_an_offset_on_two_heads_is_trained() -> None:
    """On a planted model: gradients flow through the model's own forward pass to the offset, and to nothing else."""
    planted = build_planted("induction-gqa")
    model, batch = planted.model, planted.batch(4)
    offset = torch.nn.Parameter(torch.zeros(model.spec.d_head))
    edited = model.edited(Add(["a0.h0", "a1.h0"], offset, positions="last"))
    before = edited.spec.edits
    optimizer = torch.optim.Adam([offset], lr=0.1)
    losses = []
    for _ in range(12):
        logits = edited.logits(batch.clean, batch.end, gradients=True)
        loss = -METRIC(logits, batch).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    assert edited.spec.edits != before, "an offset that has trained is another edit"
    assert all(value.grad is None for value in model.root.parameters())
