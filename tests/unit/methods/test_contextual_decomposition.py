"""Contextual decomposition: every activation stays whole, sources are what they say, and rules do what their names promise."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.methods.activation_patching import ActivationPatching
from circuitlab.methods.contextual_decomposition import ContextualDecomposition
from circuitlab.methods.decomposition import RULES, Options, Rule, Source
from circuitlab.methods.decomposition.forward import run_layers
from circuitlab.methods.decomposition.prompts import prompts_of
from circuitlab.methods.decomposition.relevance import relevance_to_metric
from circuitlab.methods.decomposition.source import BASELINES, ordered
from circuitlab.methods.logit_attribution import LogitAttribution
from circuitlab.metrics import KLDivergence, LogitDiff, ProbDiff
from circuitlab.model import load_model
from circuitlab.testing.method_laws import LAW_FAMILIES, check_method
from circuitlab.testing.tiny import FAMILIES, shared_tiny_model, tiny_batch, tiny_hf, tiny_model
from circuitlab.workflows.score import run_checks

METRIC = LogitDiff()
ODD = Rule(activation="shapley", product="shapley", gate="shapley", softmax="shapley", signs="clipped")
SOURCES = (
    Source(("embed",), at=(3,)),
    Source(("embed", "a1.h2", "m2"), at=("CHANGE", "END")),
    Source(("a0.kv1",)),
    Source(("a0.h2", "a1.h0")),
    Source(("m0",), at=("END",)),
    Source(("a1.kv0",), at=(4, 5)),
    Source(("a2.h3",)),
    Source(("m2",)),
)


@pytest.mark.some(rule=2)
@pytest.mark.parametrize("rule", ["ablation", "exact"])
@pytest.mark.parametrize("family", LAW_FAMILIES)
def test_every_law_holds(family: str, rule: str) -> None:
    assert len(check_method(ContextualDecomposition(rule=rule), families=(family,))) > 8


@pytest.mark.some(family=1, rule=2)
@pytest.mark.parametrize(("rule", "baseline"), list(zip([*RULES.values(), ODD], BASELINES * 2, strict=False)), ids=[*RULES, "odd"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_sum_to_the_activation_in_every_layer(family: str, rule: Rule, baseline: str) -> None:
    model = load_model(tiny_hf(family, dtype=torch.float64))
    found = relevance_to_metric(model, tiny_batch(model, 2, unequal=True), METRIC, SOURCES, Options(rule, baseline))
    assert np.abs(found.values).max() > 1e-3
    assert not np.isnan(found.invariant.layers).any()
    assert found.invariant.error < (1e-9 if rule.keeps_sums else 1e-3)
    assert found.invariant.difference < 1e-9


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_sum_to_the_activation_in_float32(family: str) -> None:
    model = shared_tiny_model(family)
    scores = ContextualDecomposition(parts=("heads", "kv_heads", "mlps", "embed"))(model, tiny_batch(model, 2), METRIC)
    assert 0 < scores.provenance.measured["invariant_error"] < 1e-4


def test_the_invariant_can_fail() -> None:
    """The published bias split loses bias where both parts are tiny."""
    hf = tiny_hf("gpt2", dtype=torch.float64)
    hf.transformer.h[1].ln_2.weight.data.mul_(1e-7)
    hf.transformer.h[1].ln_2.bias.data.zero_()
    model = load_model(hf)
    batch = tiny_batch(model, 2)
    exact, published = (relevance_to_metric(model, batch, METRIC, SOURCES[3:4], Options(RULES[name])) for name in ("exact", "published"))
    assert exact.invariant.error < 1e-9
    assert published.invariant.error > 1e-4


@pytest.mark.laws
@pytest.mark.parametrize("family", FAMILIES)
def test_taking_what_is_left_equals_carrying_both_parts(family: str) -> None:
    model = load_model(tiny_hf(family, dtype=torch.float64))
    batch = tiny_batch(model, 3, unequal=True)
    rule = Rule()
    for _, prompts in prompts_of(model, batch, SOURCES, Options(rule)):
        some = [SOURCES[i] for i in ordered(SOURCES)]
        fast, both = (run_layers(rule, prompts, some, carry=carry) for carry in (False, True))
        torch.testing.assert_close(fast.relevant, both.relevant, atol=1e-9, rtol=0)
        assert fast.relevant.abs().max() > 0.1


@pytest.mark.parametrize("rule", ["exact", "exact, product=any, softmax=remainder"])
def test_how_sources_are_grouped_changes_nothing(rule: str) -> None:
    model = tiny_model("gemma3")
    batch = tiny_batch(model, 3, unequal=True)
    options = [Options(Rule.parse(rule), tokens_together=size) for size in (1, 9999)]
    few, many = (relevance_to_metric(model, batch, METRIC, SOURCES, one).values for one in options)
    np.testing.assert_allclose(few, many, atol=1e-5)


def test_positions_before_the_first_difference_have_nothing_relevant() -> None:
    """The same prompts, with a difference put at the very first position of another pair, so that nothing is left out."""
    model = tiny_model("llama")
    batch = tiny_batch(model, 3)
    early = batch.select([0, 1, 2])
    corrupt = early.corrupt.clone()
    corrupt[2] = (corrupt[2] + 1) % model.spec.d_vocab
    whole = ContextualDecomposition()(model, replace(early, corrupt=corrupt), METRIC)
    cut = ContextualDecomposition()(model, batch, METRIC)
    np.testing.assert_allclose(whole.values()[:2], cut.values()[:2], atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_the_ablation_rule_is_exact_patching_where_the_scales_of_norms_are_constant(family: str) -> None:
    hf = tiny_hf(family, dtype=torch.float64)
    for module in hf.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = 1e8
            module.weight.data.mul_(1e4)
    model = load_model(hf)
    batch = tiny_batch(model, 2)
    found = ContextualDecomposition(rule="ablation")(model, batch, METRIC)
    exact = ActivationPatching(direction="noising")(model, batch, METRIC)
    for part in ("heads", "mlps"):
        size = np.abs(exact.values(part)).max()
        assert size > 1e-2
        np.testing.assert_allclose(found.values(part), exact.values(part), rtol=0, atol=1e-3 * size)
        other = ContextualDecomposition(rule="exact")(model, batch, METRIC).values(part)
        assert np.abs(other - exact.values(part)).max() > 0.1 * size


def test_a_node_of_the_last_layer_is_given_its_direct_share() -> None:
    """Heads of the last layer, and the last MLP, without biases: what logit attribution says of the difference of their outputs."""
    model = tiny_model("qwen3")
    batch = tiny_batch(model, 3)
    zero = ContextualDecomposition(baseline="zero", positions=("END",))(model, batch, METRIC)
    direct = LogitAttribution()(model, batch, METRIC)
    np.testing.assert_allclose(zero.values("mlps", mark="END")[:, -1], direct.values("mlps")[:, -1], atol=1e-5)


def test_sources_at_marks_and_positions() -> None:
    model = tiny_model("llama")
    batch = tiny_batch(model, 3)
    marked = ContextualDecomposition(positions=("CHANGE", "END"))(model, batch, METRIC)
    each = ContextualDecomposition(positions=("each",), parts=("heads", "kv_heads", "mlps", "embed"))(model, batch, METRIC)
    assert each.marks == tuple(map(str, range(9)))
    for pair in range(3):
        place = str(int(batch.marks["CHANGE"][pair]))
        np.testing.assert_allclose(marked.values(mark="CHANGE")[pair], each.values(mark=place)[pair], atol=1e-5)
    assert np.abs(each.values("embed", mark="0")).max() < 1e-6
    assert np.abs(each.values("kv_heads")).max() > 1e-2


def test_metrics_that_are_not_linear_and_metrics_of_the_whole_vocabulary() -> None:
    model = tiny_model("llama")
    batch = tiny_batch(model, 2)
    everything = relevance_to_metric(model, batch, ProbDiff(), [Source(("embed",))], Options(RULES["ablation"], "zero"))
    nothing = ProbDiff()(model.unembed(torch.zeros(2, model.spec.d_model)).double(), batch).numpy()
    np.testing.assert_allclose(everything.values[0], everything.clean - nothing, atol=1e-6)
    for metric in (KLDivergence(), ProbDiff(), LogitDiff(reduce="max")):
        scores = ContextualDecomposition(rule="exact")(model, batch, metric)
        assert np.abs(scores.values()).max() > 1e-6


def test_the_run_reports_its_invariant() -> None:
    model = tiny_model("llama")
    scores = ContextualDecomposition(rule="exact")(model, tiny_batch(model, 2), METRIC)
    assert run_checks(scores)["invariant"] == {"ok": True, "value": scores.provenance.measured["invariant_error"]}
    assert run_checks(scores)["norms_held"] == {"ok": True, "value": 1.0}
    measured = {"invariant_error": 1e-3, "invariant_difference": 0.0, "bounded_share": 0.25}
    bad = replace(scores, provenance=msgspec.structs.replace(scores.provenance, measured=measured))
    assert not run_checks(bad)["invariant"]["ok"]
    assert run_checks(bad)["norms_held"] == {"ok": False, "value": 0.75}


def test_what_is_not_finite_is_found_in_every_part() -> None:
    model = tiny_model("llama")
    scores = ContextualDecomposition(rule="exact", parts=("heads", "mlps"))(model, tiny_batch(model, 2), METRIC)
    assert run_checks(scores)["finite"] == {"ok": True, "value": 1.0}
    mlps = scores.dataset["mlps"].copy()
    mlps[0, 0] = np.nan
    assert not run_checks(replace(scores, dataset=scores.dataset.assign(mlps=mlps)))["finite"]["ok"]


# Rules


@pytest.mark.parametrize("rule", [*RULES.values(), ODD, Rule(gate="both"), Rule(bias="published")])
def test_rules_are_read_back_from_their_text(rule: Rule) -> None:
    assert Rule.parse(str(rule)) == rule


def test_wrong_names_are_refused() -> None:
    for text, near in (("exakt", "exact"), ("exact, gates=any", "gate"), ("exact, gate=anny", "any")):
        with pytest.raises(UnknownNameError, match=near):
            ContextualDecomposition(rule=text)
    with pytest.raises(UnknownNameError, match="corrupt"):
        ContextualDecomposition(baseline="corupt")
    with pytest.raises(UnknownNameError, match="heads"):
        ContextualDecomposition(parts=("head",))
    for wrong in ({"parts": ()}, {"positions": ()}, {"positions": ("all", "END")}, {"tokens_together": 0}):
        with pytest.raises(BadParameterError):
            ContextualDecomposition(**wrong)
    with pytest.raises(BadParameterError, match="cannot be a source"):
        Source(("logits",))
    with pytest.raises(BadParameterError, match="has no nodes"):
        Source(())


def test_sources_that_the_model_or_the_prompts_lack_are_refused() -> None:
    model = tiny_model("llama")
    batch = tiny_batch(model, 2)
    for sources, said in (([], "No source"), ([Source(("a9.h0",))], "a9.h0"), ([Source(("embed",), at=(40,))], "Position 40")):
        with pytest.raises(BadParameterError, match=said):
            relevance_to_metric(model, batch, METRIC, sources)
    with pytest.raises(UnknownNameError, match="CHANGE"):
        relevance_to_metric(model, batch, METRIC, [Source(("embed",), at=("CHANG",))])
