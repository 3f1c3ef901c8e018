"""AtP*: the QK fix predicts attention exactly, GradDrop equals a decoder whose layers pass nothing back, one layer at a time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from circuitlab.core.errors import BadParameterError, ModelError, UnknownNameError
from circuitlab.execute import nodes_in_trace, qk_fix
from circuitlab.execute.first_order import GradientRunPair
from circuitlab.execute.gradients import gradient_run
from circuitlab.execute.nodes_in_trace import NodeSelection, Point
from circuitlab.methods.activation_patching import ActivationPatching
from circuitlab.methods.atp_star import AttributionPatchingStar
from circuitlab.methods.attribution_patching import AttributionPatching
from circuitlab.metrics import KLDivergence, LogitDiff
from circuitlab.model import load_model
from circuitlab.model.decoder import Decoder
from circuitlab.model.engine.by_hooks import sweep_by_hooks
from circuitlab.model.sites import Edit, EditSet, Site
from circuitlab.testing.families import configuration
from circuitlab.testing.method_laws import LAW_FAMILIES, check_method, method_laws
from circuitlab.testing.tiny import FAMILIES, tiny_batch, tiny_hf

METRIC = LogitDiff()
LAYER = 1


def contrast_of(model, batch, site: str, positions: tuple[str, ...] = ("all",)) -> GradientRunPair:
    """The two runs, the corrupt one with a graph."""
    run = gradient_run(model, METRIC, batch, batch.corrupt)
    other = gradient_run(model, METRIC, batch, batch.clean, track=False)
    return GradientRunPair(run, other.trace, batch, NodeSelection(("heads",), site, positions), 1)


def pattern_after(model, batch, site: Site, head: int, position: int | None = None) -> torch.Tensor:
    """Attention of a layer in a corrupt run whose query or key comes from the clean run, by hooks: (pair, head, query, key)."""
    value = model.capture(batch.clean, [site], layers=[LAYER])[site][:, 0, :, head]
    at = None if position is None else torch.full((batch.n_pairs,), position)
    edit = Edit(site, LAYER, value if position is None else value[:, position], head=head, positions=at)
    return model.with_edits([edit]).capture(batch.corrupt, [Site.PATTERN], layers=[LAYER])[Site.PATTERN][:, 0]


@pytest.mark.some(family=1, site=3)
@pytest.mark.parametrize("site", [Site.Q, Site.K])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_predicted_attention_is_that_of_an_edited_run(family: str, site: Site) -> None:
    model = load_model(tiny_hf(family))
    batch = tiny_batch(model, n=3)
    before = model.capture(batch.corrupt, [Site.PATTERN], layers=[LAYER])[Site.PATTERN][:, 0]
    attention = qk_fix.attention_of(model.decoder, LAYER, batch.corrupt.shape[1])
    traces = [model.decoder.trace(model.decoder.embed(tokens)).layers[LAYER] for tokens in (batch.clean, batch.corrupt)]
    q, k = (traces[0].q, traces[1].k) if site is Site.Q else (traces[1].q, traces[0].k)
    predicted = attention.pattern(q, k)
    heads = model.spec.n_heads if site is Site.Q else model.spec.n_kv_heads
    size = model.spec.n_heads // heads
    for head in range(heads):
        edited = pattern_after(model, batch, site, head)
        own = slice(head * size, (head + 1) * size)
        torch.testing.assert_close(predicted[:, own].float(), edited[:, own], atol=1e-6, rtol=0)
        assert (edited[:, own] - before[:, own]).abs().max() > 1e-3  # every query head of a shared key changes
        others = [h for h in range(model.spec.n_heads) if h // size != head]
        torch.testing.assert_close(edited[:, others], before[:, others])


@pytest.mark.laws
@pytest.mark.parametrize("family", FAMILIES)
def test_one_changed_key_by_formula_equals_an_edited_run(family: str) -> None:
    model = load_model(tiny_hf(family))
    batch = tiny_batch(model, n=3)
    contrast = contrast_of(model, batch, "k", ("each",))
    point = Point("kv_heads", "k", LAYER)
    pattern = contrast.edited.trace.layers[LAYER].pattern
    gradient = torch.randn(pattern.shape, generator=torch.Generator().manual_seed(0))
    attention = qk_fix.attention_of(model.decoder, LAYER, pattern.shape[-1])
    found = qk_fix.fixed_effect(contrast, point, gradient, attention)
    assert found.shape == (3, batch.corrupt.shape[1], model.spec.n_kv_heads)
    size = model.spec.n_heads // model.spec.n_kv_heads
    for head in range(model.spec.n_kv_heads):
        own = slice(head * size, (head + 1) * size)
        for position in range(batch.corrupt.shape[1]):
            change = pattern_after(model, batch, Site.K, head, position) - pattern.detach()
            expected = (change * gradient)[:, own].sum((1, 2, 3))
            torch.testing.assert_close(found[:, position, head].float(), expected, atol=2e-5, rtol=0)
    assert found.abs().max() > 0.1
    with pytest.raises(AssertionError):
        torch.testing.assert_close(found.sum(1).float(), qk_fix.fixed_effect(all_keys(contrast), point, gradient, attention).float())


def all_keys(contrast: GradientRunPair) -> GradientRunPair:
    """All keys change together: not the sum of one after the other."""
    return dataclasses.replace(contrast, chosen=dataclasses.replace(contrast.chosen, positions=("all",)))


def test_the_formula_holds_where_attention_is_saturated() -> None:
    model = load_model(tiny_hf("gpt2"))
    attention = qk_fix.attention_of(model.decoder, 0, 4)
    generator = torch.Generator().manual_seed(0)
    scores = torch.tensor([0.0, 60.0, 10.0, -5.0], dtype=torch.float64).expand(1, 1, 4, 4)
    changed = scores + torch.randn(4, 4, dtype=torch.float64, generator=generator) * 50
    changed[..., 2, 1] = -60.0
    weight = torch.randn(1, 1, 4, 4, dtype=torch.float64, generator=generator)
    found = qk_fix._column_effect(attention, scores, changed, weight)
    seen = torch.ones(4, 4, dtype=torch.bool).tril()
    before = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    for key in range(4):
        column = torch.where(torch.arange(4) == key, changed, scores)
        after = column.masked_fill(~seen, float("-inf")).softmax(-1)
        torch.testing.assert_close(found[..., key], ((after - before) * weight).sum(-1), atol=1e-12, rtol=1e-9)
    assert found[0, 0, 2, 1].abs() > 0.1  # a key with all of the attention loses it


@pytest.mark.parametrize("site", [Site.Q, Site.K])
def test_the_fix_is_the_slope_along_the_true_change_of_attention(site: Site) -> None:
    """What follows the pattern is linear only for small changes, so the reference writes ``pattern + step * (new - pattern)``."""
    model = load_model(tiny_hf("qwen3"))
    batch = tiny_batch(model, n=3)
    scores = AttributionPatchingStar(parts=("heads",), site=site.value, reduce="none")(model, batch, METRIC)
    got = scores.values(scores.parts[0])[:, LAYER]
    before = model.capture(batch.corrupt, [Site.PATTERN], layers=[LAYER])[Site.PATTERN][:, 0]
    step = 0.01
    for head in range(got.shape[1]):
        change = pattern_after(model, batch, site, head) - before
        ends = [EditSet((Edit(Site.PATTERN, LAYER, before + sign * step * change),)) for sign in (1, -1)]
        up, down = METRIC(sweep_by_hooks(model, batch.corrupt, batch.end, ends).double(), batch)
        np.testing.assert_allclose(got[:, head], (up - down).numpy() / (2 * step), atol=5e-4)
    assert np.abs(got).max() > 0.02
    plain = AttributionPatching(parts=("heads",), site=site.value)(model, batch, METRIC)
    assert np.abs(plain.values(plain.parts[0])[:, LAYER] - got).max() > 0.005


@pytest.mark.parametrize("site", ["q", "k"])
def test_the_fix_sees_what_a_saturated_softmax_hides(site: str) -> None:
    hf = tiny_hf("llama")
    with torch.no_grad():
        for layer in hf.model.layers:
            layer.self_attn.q_proj.weight.mul_(6)
    model = load_model(hf)
    batch = tiny_batch(model, n=6)
    exact = ActivationPatching(parts=("heads",), site=site)(model, batch, METRIC)
    part = exact.parts[0]
    last = exact.values(part)[:, -1]  # nothing but the final norm follows: the fix is nearly exact
    fixed, plain = (
        method(model, batch, METRIC).values(part)[:, -1]
        for method in (
            AttributionPatchingStar(parts=("heads",), site=site, reduce="none"),
            AttributionPatching(parts=("heads",), site=site),
        )
    )
    assert np.abs(fixed - last).mean() < np.abs(plain - last).mean() / 3


class _Gated(Decoder):
    """A decoder in which one layer's additions to the stream pass nothing back."""

    closed = -1

    def at_layer(self, layer, length, cache=None, tap=None):
        run = super().at_layer(layer, length, cache, tap)
        return dataclasses.replace(run, tap=self._close) if layer == self.closed else run

    @staticmethod
    def _close(site, _layer, value):
        if site in {Site.ATTN_OUT, Site.MLP_OUT}:
            value.register_hook(torch.zeros_like)
        return value


def dropped_scores(model, batch, layer: int, contrast: GradientRunPair, points: list[Point]) -> list[torch.Tensor]:
    """Effects with one layer dropped, from a new run with a closed gate."""
    plain = model.decoder
    gated = _Gated(plain.blocks, plain.embed, plain.geometry)
    object.__setattr__(gated, "closed", layer)
    run = gradient_run(model, METRIC, batch, batch.corrupt, gated)
    inside = {"q": "pattern", "k": "pattern"}
    at = [getattr(run.trace.layers[point.layer], inside.get(point.field, point.field)) for point in points]
    effects = []
    for point, gradient in zip(points, run.gradients(at), strict=True):
        if point.field in inside:
            attention = qk_fix.attention_of(plain, point.layer, gradient.shape[-1])
            effects.append(qk_fix.fixed_effect(contrast, point, gradient, attention))
        else:
            difference = nodes_in_trace.value_at(contrast.source, point) - nodes_in_trace.value_at(run.trace, point)
            effects.append((difference.detach() * gradient).sum(-1).sum(1))
    return effects


@pytest.mark.some(family=1, site=2)
@pytest.mark.parametrize("site", ["z", "q", "k", "v"])
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "gemma2", "gemma3"])
def test_dropping_equals_a_run_with_a_closed_gate(family: str, site: str) -> None:
    model = load_model(tiny_hf(family))
    batch = tiny_batch(model, n=3)
    chosen = NodeSelection(("heads", "attns", "mlps"), site, ("all",))
    points = chosen.points(model.spec.n_layers)
    contrast = dataclasses.replace(contrast_of(model, batch, site), chosen=chosen)
    runs = [dropped_scores(model, batch, layer, contrast, points) for layer in range(3)]
    signed, absolute = (
        AttributionPatchingStar(parts=chosen.parts, site=site, reduce=reduce)(model, batch, METRIC) for reduce in ("signed", "absolute")
    )
    for index, point in enumerate(points):
        others = torch.stack([run[index] for layer, run in enumerate(runs) if layer != point.layer]).detach()
        np.testing.assert_allclose(signed.values(point.part)[:, point.layer], others.mean(0), atol=2e-5)
        np.testing.assert_allclose(absolute.values(point.part)[:, point.layer], others.abs().mean(0), atol=2e-5)
        if "heads" in point.part:  # a node's own layer: nothing is left (at attns and mlps the gate lies behind what is read)
            assert float(runs[point.layer][index].abs().max()) == 0
    plain = AttributionPatching(parts=chosen.parts, site=site)(model, batch, METRIC)
    for part in plain.parts:
        assert np.abs(plain.values(part)[:, 0] - signed.values(part)[:, 0]).max() > 1e-3
        assert (absolute.values(part) >= np.abs(signed.values(part)) - 1e-6).all()


def test_nodes_of_the_last_layer_have_nothing_to_drop() -> None:
    model = load_model(tiny_hf("llama"))
    batch = tiny_batch(model, n=3)
    star, plain = (method(model, batch, METRIC) for method in (AttributionPatchingStar(), AttributionPatching()))
    np.testing.assert_allclose(star.values("heads")[:, -1], plain.values("heads")[:, -1], atol=1e-6)
    none = AttributionPatchingStar(reduce="none")(model, batch, METRIC)
    np.testing.assert_allclose(none.values("heads"), plain.values("heads"), atol=1e-6)


def test_one_layer_alone_is_plain() -> None:
    hf = tiny_hf("llama")
    hf.model.layers = hf.model.layers[:1]
    hf.config.num_hidden_layers = 1
    model = load_model(hf)
    batch = tiny_batch(model, n=2)
    star, plain = (method(model, batch, METRIC) for method in (AttributionPatchingStar(), AttributionPatching()))
    np.testing.assert_allclose(star.values("heads"), plain.values("heads"), atol=1e-6)


def test_marks_positions_and_directions() -> None:
    model = load_model(tiny_hf("llama"))
    batch = tiny_batch(model, n=3)
    for direction in ("denoising", "noising"):
        for site in ("z", "q", "v"):
            each, marks, whole = (
                AttributionPatchingStar(direction=direction, site=site, positions=positions)(model, batch, METRIC)
                for positions in (("each",), ("END", "CHANGE"), ("all",))
            )
            part = each.parts[0]
            np.testing.assert_allclose(each.values(part).sum(1), whole.values(part), atol=1e-5)
            picked = each.values(part)[np.arange(3), batch.mark("CHANGE").numpy()]
            np.testing.assert_allclose(marks.values(part, mark="CHANGE"), picked, atol=1e-6)
        each, marks = (
            AttributionPatchingStar(direction=direction, site="k", positions=positions)(model, batch, METRIC)
            for positions in (("each",), ("END",))
        )
        picked = each.values("kv_heads")[np.arange(3), batch.end.numpy()]
        np.testing.assert_allclose(marks.values("kv_heads", mark="END"), picked, atol=1e-6)
        assert np.abs(picked).max() > 1e-4


@pytest.mark.some(direction=2)
@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("family", LAW_FAMILIES)
def test_every_law_holds(family: str, direction: str) -> None:
    method = AttributionPatchingStar(direction=direction, parts=("heads", "attns", "mlps"))
    assert len(check_method(method, families=(family,))) > 8


@pytest.mark.parametrize(
    ("method", "broken"),
    [
        (AttributionPatchingStar(site="q"), {"planted helper", "planted hinderer"}),  # planted heads attend alike in both prompts
        (AttributionPatchingStar(reduce="absolute"), {"planted hinderer"}),  # absolute values have no sign
    ],
    ids=["q", "absolute"],
)
def test_laws_of_variants_that_cannot_have_all(method, broken) -> None:
    failed = [law.name for law in method_laws(method, ("llama", "gemma3")) if not law.ok]
    assert len(failed) == len(broken)
    assert all(any(name.startswith(start) for start in broken) for name in failed)


def test_misuse_is_refused() -> None:
    model = load_model(tiny_hf("llama"))
    with pytest.raises(UnknownNameError, match="part 'resid_pre'"):
        AttributionPatchingStar(parts=("resid_pre",))
    with pytest.raises(UnknownNameError, match="site 'pattern'"):
        AttributionPatchingStar(site="pattern")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="Did you mean 'signed'"):
        AttributionPatchingStar(reduce="sign")  # type: ignore[arg-type]
    with pytest.raises(BadParameterError, match="'kl' has zero gradient at the clean run"):
        AttributionPatchingStar(direction="noising")(model, tiny_batch(model), KLDivergence())


def test_queries_and_keys_of_attention_with_sinks_are_refused_before_any_run(monkeypatch) -> None:
    torch.manual_seed(0)
    model = load_model(AutoModelForCausalLM.from_config(configuration("gpt_oss"), attn_implementation="eager"))
    batch = tiny_batch(model, 2)
    assert AttributionPatchingStar(site="v", parts=("heads",))(model, batch, METRIC).n_pairs == 2
    model.decoder.geometry(1)
    monkeypatch.setattr(Decoder, "trace", lambda *_: pytest.fail("work has begun"))
    for site in ("q", "k"):
        with pytest.raises(ModelError, match=r"has sinks.* needs less with its default parameters"):
            AttributionPatchingStar(site=site, parts=("heads",))(model, batch, METRIC)
