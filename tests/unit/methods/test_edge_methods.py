"""EAP and EAP-IG: the laws of every method, sums that are exact, what integrated gradients converge to, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.execute.gradients import gradient_run
from circuitlab.methods import get_method
from circuitlab.methods.eap import EdgeAttributionPatching
from circuitlab.methods.eap_ig import EdgeAttributionPatchingIG
from circuitlab.metrics import KLDivergence, LogitDiff
from circuitlab.model.batch import ContrastBatch
from circuitlab.model.sites import Edit, Site
from circuitlab.model.toy import planted_model
from circuitlab.testing.method_laws import LAW_FAMILIES, check_method
from circuitlab.testing.tiny import FAMILIES, shared_tiny_model, tiny_batch, tiny_model

METRIC = LogitDiff()


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return shared_tiny_model(request.param)


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama")


@pytest.mark.some(method=2)
@pytest.mark.parametrize("family", LAW_FAMILIES)
@pytest.mark.parametrize("method", [EdgeAttributionPatching(), EdgeAttributionPatchingIG(steps=2)], ids=lambda m: m.name)
def test_laws_on_every_family(method, family) -> None:
    check_method(method, families=(family,))


@pytest.mark.some(method=1, family=1)
@pytest.mark.parametrize("family", ["gpt_neox", "llama", "gemma3"])
@pytest.mark.parametrize(
    "method",
    [EdgeAttributionPatching(direction="denoising"), EdgeAttributionPatchingIG(steps=2, variant="activations", points="left")],
    ids=["denoising", "activations"],
)
def test_laws_of_the_other_parameters(method, family) -> None:
    check_method(method, families=(family,))


def node_attribution(model, batch, direction: str) -> dict[str, np.ndarray]:
    """Gradient at every node's output times its change, from a whole unwindowed run."""
    runs = {name: gradient_run(model, METRIC, batch, getattr(batch, name)) for name in ("clean", "corrupt")}

    def outputs(run) -> list[torch.Tensor]:
        return [run.embed, *(layer.z for layer in run.trace.layers), *(layer.mlp_out for layer in run.trace.layers)]

    here = runs["clean" if direction == "noising" else "corrupt"]
    found = here.gradients(outputs(here))
    change = [a.detach() - b.detach() for a, b in zip(outputs(runs["clean"]), outputs(runs["corrupt"]), strict=True)]
    products = [(g * c).numpy() for g, c in zip(found, change, strict=True)]
    n = len(here.trace.layers)
    return {
        "embed": products[0].sum((1, 2)),
        "heads": np.stack([p.sum((1, 3)) for p in products[1 : n + 1]], 1),
        "mlps": np.stack([p.sum((1, 2)) for p in products[n + 1 :]], 1),
    }


@pytest.mark.some(model=1, direction=3)
@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_outgoing_edges_sum_to_the_node(model, direction) -> None:
    batch = tiny_batch(model, 4, unequal=True)
    scores = EdgeAttributionPatching(direction=direction, pairs_per_pass=3)(model, batch, METRIC)
    for part, expected in node_attribution(model, batch, direction).items():
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(scores.values(part), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.some(3)
def test_input_gradients_integrate_to_the_gap(model) -> None:
    batch = tiny_batch(model, 3, unequal=True)
    errors = {}
    for points in ("midpoint", "left"):
        scores = EdgeAttributionPatchingIG(steps=30, points=points)(model, batch, METRIC)
        errors[points] = np.abs(scores.values("embed") - scores.dataset["total"].values).max()
    assert np.abs(scores.dataset["total"].values).max() > 0.3
    assert errors["midpoint"] < 1e-3
    assert errors["midpoint"] < 5e-2 * errors["left"], "the midpoint rule converges much faster than the left one"
    assert errors["left"] < 0.1


@pytest.mark.some(3)
def test_activation_gradients_integrate_to_the_joint_patch(model) -> None:
    """All edges that leave a group sum to the exact effect of patching the group from the corrupt run into the clean run."""
    batch = tiny_batch(model, 2)
    scores = EdgeAttributionPatchingIG(steps=20, variant="activations")(model, batch, METRIC)
    source = model.capture(batch.corrupt, [Site.Z, Site.MLP_OUT])
    clean = METRIC(model.logits(batch.clean, batch.end), batch)
    for layer in range(model.spec.n_layers):
        for site, found in ((Site.Z, scores.values("heads")[:, layer].sum(-1)), (Site.MLP_OUT, scores.values("mlps")[:, layer])):
            patched = METRIC(model.with_edits([Edit(site, layer, source[site][:, layer])]).logits(batch.clean, batch.end), batch)
            np.testing.assert_allclose(found, (clean - patched).numpy(), rtol=0, atol=2e-3)
    np.testing.assert_allclose(scores.values("embed"), scores.dataset["total"].values, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("method", "distraction"),
    [
        (EdgeAttributionPatching(), 0.3),
        (EdgeAttributionPatchingIG(), 0.15),
        (EdgeAttributionPatchingIG(variant="activations"), 1e-4),
    ],
    ids=["eap", "inputs", "activations"],
)
def test_the_planted_edges_are_first(method, distraction: float) -> None:
    """The loud head that nothing reads turns the stream, and so changes the scale of norms: to first order that counts.

    The size of the stream is the same in both runs, so that its true effect is 0. EAP does not see that, nor does a way between inputs;
    moving that head's own output does.
    """
    planted = planted_model()
    scores = method.edges(planted.model, planted.batch(), METRIC)
    best, second = scores.top(2, by="positive")
    worst = scores.top(1, by="negative")[0]
    assert {str(best.edge), str(second.edge)} == {"a1.h1->logits", "embed->a1.kv0<v>"}
    assert second.mean > 0 > worst.mean
    assert str(worst.edge) in {"a1.h2->logits", "embed->a1.kv1<v>"}
    for distractor in planted.distractors:
        row = scores.layout.sender_names.index(str(distractor))
        assert np.abs(scores.mean()[row]).max() < distraction * best.mean


def test_chunks_change_nothing_and_leave_the_identity(llama) -> None:
    batch = tiny_batch(llama, 5, unequal=True)
    one = EdgeAttributionPatchingIG(steps=2, pairs_per_pass=1).edges(llama, batch, METRIC)
    many = EdgeAttributionPatchingIG(steps=2, pairs_per_pass=5).edges(llama, batch, METRIC)
    np.testing.assert_allclose(one.values(), many.values(), rtol=0, atol=1e-5)
    assert one.provenance.run_id() == many.provenance.run_id()


def test_prompts_that_differ_at_once_or_only_at_the_end(llama) -> None:
    rows = [[3, 9, 5, 7, 2], [3, 9, 5, 7, 2], [4, 9, 5, 7, 2]]
    others = [[4, 9, 5, 7, 2], [3, 9, 5, 7, 6], [4, 9, 5, 7, 2]]
    differing = [*others[:2], [3, 9, 5, 7, 2]]
    batch = ContrastBatch.from_tokens(rows, differing, [1, 1, 1], [8, 8, 8])
    batch = replace(batch, corrupt=torch.tensor(others))  # equal prompts are refused where a batch is made
    together = EdgeAttributionPatching(pairs_per_pass=3).edges(llama, batch, METRIC)
    for i in range(3):
        alone = EdgeAttributionPatching().edges(llama, batch.select([i]), METRIC)
        np.testing.assert_allclose(alone.values()[0], together.values()[i], rtol=0, atol=1e-5)
    assert (together.values()[2] == 0).all(), "equal prompts leave nothing to swap"
    assert (np.abs(together.values()[:2]).max((1, 2)) > 0.01).all()


@dataclass(frozen=True)
class _Flat(LogitDiff):
    """Has no gradient on pairs whose answer is in ``dead``."""

    name: ClassVar[str] = "flat"
    dead: tuple[int, ...] = ()

    def __call__(self, logits, batch):
        alive = torch.tensor([float(int(row[0]) not in self.dead) for row in batch.answers])
        return super().__call__(logits, batch) * alive.to(logits)


@pytest.mark.parametrize("method", [EdgeAttributionPatching(pairs_per_pass=1), EdgeAttributionPatchingIG(steps=2, pairs_per_pass=1)])
def test_a_pair_without_a_gradient_scores_zero_among_others(llama, method) -> None:
    batch = ContrastBatch.from_tokens([[3, 9, 5], [3, 9, 6]], [[3, 8, 5], [3, 8, 6]], [1, 2], [7, 7])
    metric = _Flat(dead=(0,))  # answers are places in the list of tokens that are unembedded: 1 is the first
    single = [method.edges(llama, batch.select([i]), LogitDiff()).values()[0] for i in range(2)]
    plain = method.edges(llama, batch, METRIC).values()
    np.testing.assert_allclose(plain, single, rtol=0, atol=1e-5)
    with pytest.raises(BadParameterError, match="zero gradient"):
        method.edges(llama, batch, metric)
    object.__setattr__(metric, "whole_vocabulary", True)
    object.__setattr__(metric, "dead", (1,))
    found = method.edges(llama, batch, metric).values()
    assert (found[0] == 0).all()
    np.testing.assert_allclose(found[1], plain[1], rtol=0, atol=1e-5)


def test_kl_is_refused_where_it_is_flat(llama) -> None:
    batch, kl = tiny_batch(llama, 2), KLDivergence()
    with pytest.raises(BadParameterError, match="zero gradient"):
        EdgeAttributionPatching().edges(llama, batch, kl)
    for method in (EdgeAttributionPatching(direction="denoising"), EdgeAttributionPatchingIG(), EdgeAttributionPatchingIG(points="left")):
        assert np.abs(method.edges(llama, batch, kl).values()).max() > 1e-4


@pytest.mark.parametrize("name", ["eap", "eap_ig"])
def test_found_by_name_and_bad_parameters_are_refused(name: str) -> None:
    assert get_method(name).contrastive
    with pytest.raises(BadParameterError, match="at least 1"):
        get_method(name, {"pairs_per_pass": 0})


def test_bad_choices_suggest_the_near_one() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'noising'"):
        EdgeAttributionPatching(direction="noisin")
    with pytest.raises(UnknownNameError, match="Did you mean 'activations'"):
        EdgeAttributionPatchingIG(variant="activation")
    with pytest.raises(UnknownNameError, match="points"):
        EdgeAttributionPatchingIG(points="right")
    with pytest.raises(BadParameterError, match="steps=0"):
        EdgeAttributionPatchingIG(steps=0)


@pytest.mark.real_model
def test_edges_of_smollm2_sum_to_the_nodes(smollm2) -> None:
    from circuitlab.model.prepare import prepare_batch

    batch = prepare_batch(smollm2, "ioi", 2)
    edges = EdgeAttributionPatching().edges(smollm2, batch, METRIC)
    assert edges.layout.n_edges == 70_651
    scores = edges.to_head_scores()
    for part, expected in node_attribution(smollm2, batch, "noising").items():
        np.testing.assert_allclose(scores.values(part), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
