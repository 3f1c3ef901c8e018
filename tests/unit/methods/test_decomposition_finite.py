"""A decomposition stays finite where a part leaves the range of the activation; where it does not, the other pairs are not lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Embed, Mlp
from circuitlab.core.progress import report_progress
from circuitlab.execute import checkpoint
from circuitlab.execute.contract import provenance_of
from circuitlab.methods.contextual_decomposition import ContextualDecomposition
from circuitlab.methods.decomposition import RULES, Options, Rule, Source
from circuitlab.methods.decomposition import steps as equations
from circuitlab.methods.decomposition.parts import Parts
from circuitlab.methods.decomposition.readout import Readout
from circuitlab.methods.decomposition.relevance import relevance_to_metric
from circuitlab.methods.decomposition.targets import Target, relevance_to_targets
from circuitlab.metrics import LogitDiff
from circuitlab.model import load_model
from circuitlab.model.batch import ContrastBatch
from circuitlab.model.norms import FrozenNorm
from circuitlab.model.prepare import prepare_batch
from circuitlab.store import Cache
from circuitlab.testing.tiny import tiny_batch, tiny_hf, tiny_model
from circuitlab.workflows.score import score_batch

METRIC = LogitDiff()
METHOD = ContextualDecomposition(tokens_together=1)
BOUNDED = Rule.parse("ablation, norm=bounded")
NORMS = {
    "rms": FrozenNorm("rms", torch.linspace(0.5, 2.0, 8), None, 1e-6),
    "layer": FrozenNorm("layer", torch.linspace(0.5, 2.0, 8), torch.linspace(-1.0, 1.0, 8), 1e-6),
}


def divided(times: float) -> Parts:
    """An activation of ordinary size whose irrelevant part is so many times as large."""
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(1, 2, 8, generator=generator)
    return Parts(true - times * torch.randn(3, 1, 2, 8, generator=generator), true)


@pytest.mark.parametrize("rule", ["ablation", "exact", "published"])
def test_a_prompt_whose_baseline_is_enormous(rule: str) -> None:
    """With the scales of norms held, gates square the irrelevant part in every layer: a million, 1e12, 1e24, and no number any more."""
    hf = tiny_hf("llama")
    hf.model.embed_tokens.weight.data[7].mul_(1e6)
    model = load_model(hf)
    row = [3, 4, 5, 6, 8]
    batch = ContrastBatch.from_tokens([row, row], [[3, 4, 7, 6, 8], [3, 4, 9, 6, 8]], [[10]] * 2, [[11]] * 2)
    found = relevance_to_metric(model, batch, METRIC, [Source((Embed(),))], Options(Rule.parse(rule)))
    alone = relevance_to_metric(model, batch.select([1]), METRIC, [Source((Embed(),))], Options(Rule.parse(rule)))
    assert np.isfinite(found.values).all()
    assert found.bounded.tolist() == [[rule != "published", False]], "the published rule clips parts to the activation"
    np.testing.assert_allclose(found.values[:, 1], alone.values[:, 0], atol=1e-5, err_msg="the pair beside it is not touched")


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("times", [1.0, 1e3, 1e8])
def test_a_norm_keeps_sums_and_bounds_the_irrelevant_part(kind: str, times: float) -> None:
    norm, x = NORMS[kind], divided(times)
    found = equations.norm(BOUNDED, x, norm, norm.apply(x.true))
    assert torch.allclose(found.relevant + found.irrelevant, found.true.expand_as(found.relevant), atol=1e-4)
    bias = 0.0 if norm.bias is None else norm.bias
    assert float((found.irrelevant - bias).abs().max()) <= 1.001 * float(norm.gain.max()) * 8**0.5


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("times", [0.5, 1e3])
def test_a_held_norm_is_linear_in_the_relevant_part(kind: str, times: float) -> None:
    norm, x = NORMS[kind], divided(times)
    found = equations.norm(RULES["ablation"], x, norm, norm.apply(x.true))
    centred = x.relevant - x.relevant.mean(-1, keepdim=True) if kind == "layer" else x.relevant
    assert torch.equal(found.relevant, centred * (norm.gain / norm.scale(x.true)))


def test_carrying_both_parts_gives_the_same_out_of_range() -> None:
    norm, x = NORMS["rms"], divided(1e4)
    both = Parts(x.relevant, x.true, x.irrelevant)
    one, other = (equations.norm(BOUNDED, some, norm, norm.apply(x.true)) for some in (x, both))
    assert torch.allclose(one.relevant, other.relevant, rtol=1e-3, atol=1e-3)
    assert torch.allclose(one.irrelevant, other.irrelevant, rtol=1e-3, atol=1e-3)


def test_a_pair_that_is_not_finite_is_named_and_the_others_are_kept(tmp_path, monkeypatch) -> None:
    model, store, batch = tiny_model("llama"), Cache(tmp_path), tiny_batch(tiny_model("llama"), 4)
    monkeypatch.setattr(checkpoint, "_SECONDS_BETWEEN_SAVES", 1e9)
    relevance, spoiled_pair = Readout.relevance, batch.clean[2]

    def spoiled(self, logits):
        return np.where(self.batch.clean.eq(spoiled_pair).all(1).numpy(), np.inf, relevance(self, logits))

    with monkeypatch.context() as patch:
        patch.setattr(Readout, "relevance", spoiled)
        with pytest.raises(BadParameterError, match=r"'ablation' 1 pairs .* pair 2 \(source a0.h0\).*values"):
            score_batch(model, batch, METHOD, METRIC, store=store)
    kept = store.checkpoint(provenance_of(METHOD, model, batch, METRIC).run_id()).load()
    assert kept["done"].tolist() == [True, True, False, True]
    steps: list[int] = []
    with report_progress(lambda done, _total: steps.append(done)):
        found = score_batch(model, batch, METHOD, METRIC, store=store).scores
    sources = model.spec.n_layers * (model.spec.n_heads + 1)
    assert min(steps) > 3 * sources, "pairs that were finished are not run again"
    np.testing.assert_allclose(found.values("heads"), METHOD(model, batch, METRIC).values("heads"), atol=1e-6)


@pytest.mark.real_model
def test_released_weights_on_a_shipped_task(smollm2) -> None:
    """Without m0, pair 6 of `docstring` leaves the range of its norms: its relevance overflowed, and all eight pairs were lost."""
    batch = prepare_batch(smollm2, "docstring", 8).select([3, 4, 5, 6])  # pair 6 comes last
    found = relevance_to_metric(smollm2, batch, METRIC, [Source((Mlp(0),))], Options(RULES["ablation"]))
    assert np.isfinite(found.values).all()
    assert found.bounded[0].tolist() == [False, False, False, True]
    assert found.values[0, 3] == pytest.approx(found.values[0].mean(), abs=4), "and is like that of the other pairs"
    assert found.invariant.error < 1e-4


def test_relevance_to_heads_is_finite_too() -> None:
    hf = tiny_hf("llama")
    hf.model.embed_tokens.weight.data[7].mul_(1e12)
    model = load_model(hf)
    row = [3, 4, 5, 6, 8]
    batch = ContrastBatch.from_tokens([row, row], [[3, 4, 7, 6, 8], [3, 4, 9, 6, 8]], [[10]] * 2, [[11]] * 2)
    found = relevance_to_targets(model, batch, [Source((Embed(),))], [Target.parse("a2.h1")], Options(RULES["ablation"]))
    other = relevance_to_targets(model, batch.select([1]), [Source((Embed(),))], [Target.parse("a2.h1")], Options(RULES["ablation"]))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[..., 1], other[..., 0], rtol=1e-5)
