"""Attribution patching is the derivative of exact patching, on every family, and adds up where the model adds up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitlab.core.errors import AlignmentError, BadParameterError, ModelError, UnknownNameError
from circuitlab.core.progress import report_progress
from circuitlab.execute.gradients import gradient_run
from circuitlab.execute.reference import with_reference
from circuitlab.methods.activation_patching import ActivationPatching
from circuitlab.methods.attribution_patching import AttributionPatching
from circuitlab.metrics import KLDivergence, LogitDiff, LogProb
from circuitlab.model import load_model
from circuitlab.model.engine.by_hooks import sweep_by_hooks
from circuitlab.model.sites import Edit, EditSet, Site
from circuitlab.testing.method_laws import LAW_FAMILIES, check_method, method_laws
from circuitlab.testing.tiny import FAMILIES, tiny_batch, tiny_hf

METRIC = LogitDiff()
STREAM = {
    "attns": Site.ATTN_OUT,
    "mlps": Site.MLP_OUT,
    "resid_pre": Site.RESID_PRE,
    "resid_mid": Site.RESID_MID,
    "resid_post": Site.RESID_POST,
}
SLOPE = 1e-3  # of a five-point difference quotient in float32
STEP = 0.02


def slopes(model, batch, site, direction, metric=METRIC) -> np.ndarray:
    """Derivative of exact patching at no patch, (pair, layer[, head]): the metric with ``value + step * (other - value)`` written in."""
    run, other = (batch.corrupt, batch.clean) if direction == "denoising" else (batch.clean, batch.corrupt)
    here, there = (model.capture(tokens, [site])[site] for tokens in (run, other))
    axis = {Site.PATTERN: 2}.get(site, 3)
    heads = range(here.shape[axis]) if site.per_head else (None,)
    edit_sets = []
    for step in (STEP, -STEP, STEP / 2, -STEP / 2):
        value = here + step * (there - here)
        for layer in range(model.spec.n_layers):
            for head in heads:
                one = value[:, layer] if head is None else value[:, layer].select(axis - 1, head)
                edit_sets.append(EditSet((Edit(site, layer, one, head=head),)))
    logits = sweep_by_hooks(model, run, batch.end, edit_sets)
    far_up, far_down, up, down = metric(logits.double(), batch).numpy().reshape(4, -1, batch.n_pairs)
    slope = (8 * (up - down) - (far_up - far_down)) / (6 * STEP)
    shape = (batch.n_pairs, model.spec.n_layers, *((len(heads),) if site.per_head else ()))
    return (slope if direction == "denoising" else -slope).T.reshape(shape)


def assert_slopes(got: np.ndarray, expected: np.ndarray) -> None:
    """Fail unless they agree, and unless there is something to compare."""
    assert np.abs(expected).max() > 20 * SLOPE, "the reference holds no slope worth comparing"
    np.testing.assert_allclose(got, expected, rtol=0, atol=SLOPE)


@pytest.mark.some(direction=3)
@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_node_is_the_derivative_of_exact_patching(family: str, direction: str) -> None:
    model = load_model(tiny_hf(family))
    batch = tiny_batch(model, n=3, unequal=True)
    for site in (Site.Z, Site.Q, Site.K, Site.V, Site.PATTERN):
        scores = AttributionPatching(direction=direction, parts=("heads",), site=site.value, pairs_per_pass=2)(model, batch, METRIC)
        assert_slopes(scores.values(scores.parts[0]), slopes(model, batch, site, direction))
    parts = tuple(part for part, site in STREAM.items() if site in model.sites)
    scores = AttributionPatching(direction=direction, parts=parts)(model, batch, METRIC)
    for part in parts:
        assert_slopes(scores.values(part), slopes(model, batch, STREAM[part], direction))


@pytest.mark.parametrize("metric", [LogProb(), KLDivergence()], ids=["log_prob", "kl"])
def test_a_metric_over_the_whole_vocabulary(metric) -> None:
    model = load_model(tiny_hf("qwen2"))
    batch = with_reference(model, metric, tiny_batch(model, n=2))
    scores = AttributionPatching(parts=("heads",))(model, batch, metric)
    assert_slopes(scores.values("heads"), slopes(model, batch, Site.Z, "denoising", metric))


def test_the_parity_check_can_fail() -> None:
    model = load_model(tiny_hf("llama"))
    batch = tiny_batch(model, n=3)
    expected = slopes(model, batch, Site.Z, "denoising")
    wrong = AttributionPatching(direction="noising", parts=("heads",))(model, batch, METRIC).values("heads")
    with pytest.raises(AssertionError):
        assert_slopes(wrong, expected)
    with pytest.raises(AssertionError):
        assert_slopes(ActivationPatching(parts=("heads",))(model, batch, METRIC).values("heads"), expected)
    with pytest.raises(AssertionError, match="no slope"):
        assert_slopes(expected * 0, expected * 0)


def alike(family: str, distance: float):
    """A model in which the two tokens of every pair have nearly the same embedding, and the pairs."""
    hf = tiny_hf(family)
    batch = tiny_batch(load_model(tiny_hf(family)), n=3)
    table = hf.get_input_embeddings().weight
    with torch.no_grad():
        for i in range(batch.n_pairs):
            place = int(batch.mark("CHANGE")[i])
            clean, corrupt = int(batch.clean[i, place]), int(batch.corrupt[i, place])
            table[corrupt] = table[clean] + distance * torch.linspace(-1, 1, table.shape[1])
    return load_model(hf), batch


@pytest.mark.some(2)
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "gemma3"])
def test_exact_patching_is_reached_as_differences_shrink(family: str) -> None:
    sites = ("z", "k", "v")
    apart = []
    for distance in (0.1, 0.02):
        model, batch = alike(family, distance)
        worst = []
        for site in sites:
            exact = ActivationPatching(site=site)(model, batch, METRIC)
            first = AttributionPatching(site=site)(model, batch, METRIC)
            for part in exact.parts:
                size = np.abs(exact.values(part)).max()
                assert size > 1e-4
                worst.append(np.abs(exact.values(part) - first.values(part)).max() / size)
        apart.append(max(worst))
    assert apart[1] < 0.05
    assert apart[1] < apart[0] / 2  # the error is of second order: five times closer, five times less of the effect


@pytest.mark.parametrize("family", FAMILIES)
def test_sums_hold_where_the_model_is_a_sum(family: str) -> None:
    model = load_model(tiny_hf(family))
    batch = tiny_batch(model, n=3, unequal=True)
    parts = ("heads", "attns", "mlps", "resid_pre", "resid_post", "embed")
    scores = AttributionPatching(parts=parts)(model, batch, METRIC)
    got = {part: scores.values(part) for part in parts}
    np.testing.assert_allclose(got["embed"], got["resid_pre"][:, 0], atol=1e-6)
    np.testing.assert_allclose(got["resid_post"][:, :-1], got["resid_pre"][:, 1:], atol=1e-6)
    if not model.spec.post_norm:
        np.testing.assert_allclose(got["heads"].sum(-1), got["attns"], atol=1e-5)
    else:  # the norm between heads and stream bends the sum
        assert np.abs(got["heads"].sum(-1) - got["attns"]).max() > 1e-2
    run = gradient_run(model, METRIC, batch, batch.corrupt)
    other = gradient_run(model, METRIC, batch, batch.clean, track=False)
    (final,) = run.gradients([run.trace.final])
    writes = other.trace.layers[0].resid_pre - run.trace.layers[0].resid_pre
    for there, here in zip(other.trace.layers, run.trace.layers, strict=True):
        writes = writes + there.attn_out - here.attn_out + there.mlp_out - here.mlp_out
    np.testing.assert_allclose((writes * final).sum((1, 2)).detach(), got["resid_post"][:, -1], atol=1e-5)


def test_values_hold_all_that_a_pattern_carries() -> None:
    """z is linear in v with the pattern held, so the shared heads' scores are those of z minus what the patterns' change makes."""
    model = load_model(tiny_hf("qwen2"))
    batch = tiny_batch(model, n=3)
    run, other = (gradient_run(model, METRIC, batch, tokens) for tokens in (batch.corrupt, batch.clean))
    here, there = run.trace.layers[1], other.trace.layers[1]
    (gradient,) = run.gradients([here.z])
    by_value = model.decoder.blocks[1].mix(here.pattern, there.v - here.v)
    expected = (by_value * gradient).sum((1, 3)).unflatten(1, (2, 2)).sum(2)
    scores = AttributionPatching(parts=("heads",), site="v")(model, batch, METRIC)
    np.testing.assert_allclose(scores.values("kv_heads")[:, 1], expected.detach(), atol=1e-5)


def test_positions_add_up_and_marks_pick_them() -> None:
    model = load_model(tiny_hf("llama"))
    batch = tiny_batch(model, n=3)
    for site in ("z", "k", "pattern"):
        whole, each, marks = (
            AttributionPatching(parts=("heads", "mlps", "embed"), site=site, positions=positions)(model, batch, METRIC)
            for positions in (("all",), ("each",), ("CHANGE", "END"))
        )
        for part in whole.parts:
            np.testing.assert_allclose(each.values(part).sum(1), whole.values(part), atol=1e-5)
            for mark in ("CHANGE", "END"):
                places = batch.mark(mark).numpy()
                picked = each.values(part)[np.arange(3), places]
                np.testing.assert_allclose(marks.values(part, mark=mark), picked, atol=1e-6)
    np.testing.assert_array_equal(each.values("embed")[0, int(batch.mark("CHANGE")[0]) + 1 :], 0)


def test_baselines_are_those_of_exact_patching() -> None:
    model = load_model(tiny_hf("gemma2"))
    batch = tiny_batch(model, n=3, unequal=True)
    exact = ActivationPatching(parts=("mlps",))(model, batch, METRIC)
    for direction in ("denoising", "noising"):
        first = AttributionPatching(direction=direction, parts=("mlps",))(model, batch, METRIC)
        for name in ("clean", "corrupt", "total"):
            np.testing.assert_allclose(first.dataset[name], exact.dataset[name], atol=1e-5)


@pytest.mark.some(direction=2)
@pytest.mark.parametrize("family", LAW_FAMILIES)
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_every_law_holds(direction: str, family: str) -> None:
    parts = ("heads", "attns", "mlps", "resid_pre", "resid_post", "embed")
    assert len(check_method(AttributionPatching(direction=direction, parts=parts), families=(family,))) > 8


@pytest.mark.parametrize("site", ["q", "pattern"])
def test_laws_of_queries_and_patterns(site: str) -> None:
    """The planted heads attend alike in both prompts, so that they have no effect through queries or patterns, exactly as in patching."""
    laws = list(method_laws(AttributionPatching(parts=("heads",), site=site), ("llama", "gemma2")))
    assert [law.name for law in laws if not law.ok] == [law.name for law in laws if "planted" in law.name]


def test_chunks_change_cost_and_not_results_and_report_progress() -> None:
    model = load_model(tiny_hf("llama"))
    batch = tiny_batch(model, n=4, unequal=True)
    seen: list[tuple[int, int]] = []
    with report_progress(lambda done, total: seen.append((done, total))):
        small = AttributionPatching(pairs_per_pass=1)(model, batch, METRIC)
    large = AttributionPatching(pairs_per_pass=64)(model, batch, METRIC)
    np.testing.assert_allclose(small.values("heads"), large.values("heads"), atol=1e-5)
    assert small.provenance.run_id() == large.provenance.run_id()
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_misuse_is_refused() -> None:
    model = load_model(tiny_hf("gpt_neox"))
    batch = tiny_batch(model)
    with pytest.raises(UnknownNameError, match="Did you mean 'heads'"):
        AttributionPatching(parts=("head",))
    with pytest.raises(UnknownNameError, match="Did you mean 'denoising'"):
        AttributionPatching(direction="denoise")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="site"):
        AttributionPatching(site="w")  # type: ignore[arg-type]
    with pytest.raises(BadParameterError, match="cannot be scored"):
        AttributionPatching(positions=("all", "END"))
    with pytest.raises(BadParameterError, match="pairs_per_pass=0"):
        AttributionPatching(pairs_per_pass=0)
    with pytest.raises(UnknownNameError, match="mark 'S3'"):
        AttributionPatching(positions=("S3",))(model, batch, METRIC)
    with pytest.raises(ModelError, match="resid_mid"):
        AttributionPatching(parts=("resid_mid",))(model, batch, METRIC)
    with pytest.raises(AlignmentError, match="no positions in common"):
        AttributionPatching(positions=("each",))(model, tiny_batch(model, unequal=True), METRIC)
    with pytest.raises(BadParameterError, match="'kl' has zero gradient at the clean run"):
        AttributionPatching(direction="noising")(model, batch, KLDivergence())
