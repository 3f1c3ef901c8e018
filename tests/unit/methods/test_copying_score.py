"""Copying scores from weights alone: right on planted heads, the same for every task, and refused where weights cannot be read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import msgspec
import numpy as np
import pytest
import torch

import circuitlab as cl
from circuitlab.circuits import Significant, Threshold
from circuitlab.core.errors import BadParameterError, ModelError
from circuitlab.core.provenance import WEIGHTS_ALONE
from circuitlab.execute import copying
from circuitlab.execute.contract import provenance_of
from circuitlab.execute.needs import prepared
from circuitlab.methods import method_classes
from circuitlab.methods.copying_score import CopyingScore
from circuitlab.metrics import LogitDiff
from circuitlab.model import load_model
from circuitlab.model.toy import build_planted
from circuitlab.scores.head_scores import HeadScores
from circuitlab.testing.fakes import fake_weights_scores
from circuitlab.testing.laws import LawError
from circuitlab.testing.method_laws import LAW_FAMILIES, check_method, method_laws
from circuitlab.testing.surgery import kill_head, scale_readout
from circuitlab.testing.tiny import tiny_batch, tiny_hf, tiny_model


def test_what_stands_for_a_token_matters_from_layer_one_on() -> None:
    model = tiny_model("llama")
    after, alone = (CopyingScore(embedding=name)(model).mean() for name in ("mlp0", "tokens"))
    np.testing.assert_array_equal(after[0], alone[0])
    assert np.abs(after[1:] - alone[1:]).min() > 1e-4


def test_the_vocabulary_is_summed_in_parts(monkeypatch) -> None:
    model = tiny_model("qwen2")
    whole = CopyingScore()(model).mean()
    monkeypatch.setattr(copying, "_TOGETHER", 7)
    np.testing.assert_allclose(CopyingScore()(model).mean(), whole, atol=1e-6)


@pytest.mark.parametrize("form", ["gqa", "mha"])
@pytest.mark.parametrize(("circuit", "mover", "negative"), [("names", "a2.h0", "a2.h1"), ("copy", "a1.h1", "a1.h2")])
@pytest.mark.parametrize("embedding", ["mlp0", "tokens"])
def test_the_planted_mover_comes_first_and_the_negative_mover_last(form, circuit, mover, negative, embedding) -> None:
    scores = cl.score(build_planted(f"{circuit}-{form}", background=0.0).model, method=CopyingScore(embedding=embedding))
    (first,), (last,) = (scores.top(1, by=by) for by in ("positive", "negative"))
    assert (str(first.node), str(last.node)) == (mover, negative)
    assert (first.mean, last.mean) == pytest.approx((1, -1), abs=1e-4)
    others = [one.mean for one in scores.nodes() if one.node not in {first.node, last.node}]
    assert others == pytest.approx([0.0] * len(others), abs=1e-6), "heads that write where no logit reads have no eigenvalues"


@pytest.mark.parametrize("form", ["gqa", "mha"])
def test_a_successor_does_not_copy(form) -> None:
    scores = cl.score(build_planted(f"successor-{form}").model, method=CopyingScore)
    assert abs(scores["a1.h1"].mean) < 0.01


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_a_dead_head_scores_nothing_and_the_size_of_logits_does_not_count(family) -> None:
    assert CopyingScore()(load_model(kill_head(tiny_hf(family), 1, 2)))["a1.h2"].mean == 0
    plain, doubled = (CopyingScore()(load_model(hf)).mean() for hf in (tiny_hf(family), scale_readout(tiny_hf(family), 2.0)))
    np.testing.assert_allclose(doubled, plain, atol=1e-5)


def test_the_sign_follows_the_output() -> None:
    hf = tiny_hf("llama")
    plain = CopyingScore()(load_model(hf)).mean()
    with torch.no_grad():
        for layer in hf.model.layers:
            layer.self_attn.o_proj.weight.neg_()
    np.testing.assert_allclose(CopyingScore()(load_model(hf)).mean(), -plain, atol=1e-6)


def test_sixteen_bits_give_nearly_the_same() -> None:
    full, half = (CopyingScore()(load_model(tiny_hf("llama", dtype=dtype))).mean() for dtype in (torch.float32, torch.bfloat16))
    assert 0 < np.abs(full - half).max() < 0.05


@pytest.mark.some(3)
@pytest.mark.parametrize("family", LAW_FAMILIES)
def test_every_law_of_weights_holds(family) -> None:
    assert len(check_method(CopyingScore(), families=(family,))) > 10


@dataclass(frozen=True)
class _Broken:
    """Scores from weights with a fault."""

    name: ClassVar[str] = "broken"
    estimand: ClassVar[str] = "nothing"
    additive: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("decoder",)
    cost: ClassVar[str] = "none"
    cite: ClassVar[tuple[str, ...]] = ("elhage2021",)
    weights_only: ClassVar[bool] = True
    units: ClassVar[str] = "of 1"
    contrastive: ClassVar[bool] = False
    fault: str = "none"

    def __call__(self, model, batch=None, metric=None) -> HeadScores:
        generator = np.random.default_rng(0)
        heads = np.stack([generator.normal() + model.weights.output(layer).double().sum((1, 2)).numpy() for layer in range(3)])
        about = provenance_of(self, model, None, None)
        if self.fault == "prompts" and batch is not None:
            heads = heads + float(batch.clean.sum())
        elif self.fault == "chance":
            heads = heads + float(torch.rand(()))
        elif self.fault == "order":
            heads = heads + np.arange(4)
        elif self.fault == "identity":
            return HeadScores.build({"heads": heads}, msgspec.structs.replace(about, params={"other": 1}))
        return HeadScores.build({"heads": heads}, about)


@dataclass(frozen=True)
class _Curious(_Broken):
    """Says what it was handed."""

    @prepared
    def __call__(self, model, batch=None, metric=None) -> tuple:
        return batch, metric


def test_a_method_of_weights_is_handed_no_prompts() -> None:
    model = tiny_model("llama")
    assert _Curious()(model, tiny_batch(model), LogitDiff()) == (None, None)


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ("prompts", "other prompts, and none"),
        ("chance", "determinism"),
        ("chance", "purity"),
        ("order", "head relabelling"),
        ("none", "refuses what it cannot read|runs where nothing"),
    ],
)
def test_a_faulty_method_breaks_the_law_it_should(fault, law) -> None:
    with pytest.raises(LawError, match=law):
        check_method(_Broken(fault=fault), families=("llama",))


def test_an_identity_that_the_run_does_not_keep_is_noticed() -> None:
    with pytest.raises(cl.errors.StoreError, match="was asked for"):
        list(method_laws(_Broken(fault="identity"), ("llama",)))


# What stands around it.


def test_it_is_listed_with_what_it_means() -> None:
    assert method_classes()["copying_score"] is cl.methods.CopyingScore
    assert "raises (1) or lowers (-1)" in CopyingScore.estimand and CopyingScore.cite[0] == "elhage2021"
    with pytest.raises(BadParameterError, match="embedding='mlp1'"):
        CopyingScore(embedding="mlp1")


def test_scores_are_found_again_whatever_the_task(tmp_path) -> None:
    planted = build_planted("copy-gqa")
    first = cl.score(planted.model, method="copying_score", store=tmp_path)
    again = cl.score(planted.model, planted.batch(4), "copying_score", n=3, seed=2, store=tmp_path)
    assert first.provenance.task == again.provenance.task == WEIGHTS_ALONE
    assert first.provenance.fitness is None and first.provenance.metric == "none"
    assert first.provenance.environment == again.provenance.environment, "the second was found, not made"
    assert len(list(tmp_path.glob("*.nc"))) == 1


def test_what_weights_alone_cannot_do_is_refused_before_work_starts(monkeypatch) -> None:
    planted = build_planted("copy-gqa")
    batches = [planted.batch(4), planted.batch(4, seed=1)]
    monkeypatch.setattr(copying, "copying_scores", None)  # nothing may be scored
    method = CopyingScore()
    for ask, lacks in (
        (lambda: cl.find_circuit(planted.model, batches[0], method, rule=Significant()), "test whether a score differs"),
        (lambda: cl.find_circuit(planted.model, batches[0], method, rule=Threshold(0.5, units="fraction")), "total that scores are"),
        (lambda: cl.compare(planted.model, batches, method, rule=2), "difference between tasks"),
        (lambda: cl.transfer(planted.model, batches, method, rule=2), "difference between tasks"),
        (lambda: cl.score(planted.model, batches[0], method, metric="logit_diff"), "answer that logit_diff could read"),
    ):
        with pytest.raises(BadParameterError, match=f"'copying_score' come from weights alone.*{lacks}"):
            ask()
    with pytest.raises(BadParameterError, match=r"'relp' runs prompts, and none are given.*of weights alone there is copying_score"):
        cl.score(planted.model, method="relp")
    with pytest.raises(BadParameterError, match="runs prompts and reads a metric"):
        cl.methods.RelevancePatching()(planted.model)


def test_a_circuit_from_weights_is_evaluated_and_compared() -> None:
    planted = build_planted("copy-gqa")
    scores = cl.score(planted.model, method="copying_score")
    circuit = cl.top_heads(scores, 2)
    assert set(circuit) == planted.nodes
    found = cl.evaluate(planted.model, circuit, planted.batch(6), scores=scores)
    assert "all fresh: the circuit was picked from weights alone" in repr(found)
    assert found.faithfulness["mean"] == pytest.approx(cl.evaluate(planted.model, circuit, planted.batch(6)).faithfulness["mean"])
    table = cl.compare(planted.model, planted.batch(6), ["activation_patching", "copying_score"], rule=2)
    assert table.rows[0].jaccard["mean"] == 1 and np.isnan(table.rows[0].jaccard["low"])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: tiny_model("gptj"), "cannot be taken apart"),
        (lambda: tiny_model("mbart"), "cannot be told from what it adds for its position"),
        (lambda: tiny_model("llama").edited(cl.interventions.Knockout("a1.h2")), "is edited"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_weights_that_cannot_be_read_exactly_are_refused(make, says) -> None:
    with pytest.raises(ModelError, match=f"copying_score cannot run on this model: .*{says}"):
        cl.score(make(), method="copying_score")


def test_prompts_play_no_part_even_when_they_do_not_fit() -> None:
    model = tiny_model("gpt2")
    batch = replace(tiny_batch(model), clean=torch.full((4, 9), 10**6))
    np.testing.assert_array_equal(CopyingScore()(model, batch, LogitDiff()).mean(), CopyingScore()(model).mean())


def test_scores_of_weights_have_no_study_functions() -> None:
    planted = build_planted("copy-gqa")
    from circuitlab.workflows.functional import FunctionalComparison

    scores = {"a": replace(fake_weights_scores(np.ones((2, 4))), provenance=cl.score(planted.model, method="copying_score").provenance)}
    with pytest.raises(BadParameterError, match="no task whose circuit could be run"):
        FunctionalComparison()(planted.model, scores, {"a": cl.Circuit(["a1.h1"])})
