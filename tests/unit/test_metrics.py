"""Metrics on logits made by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.execute.gradients import gradient_run
from circuitlab.execute.reference import with_reference
from circuitlab.methods.activation_patching import ActivationPatching
from circuitlab.methods.logit_attribution import LogitAttribution
from circuitlab.metrics import METRICS, AnswerLogit, KLDivergence, LogitDiff, LogProb, ProbDiff, correct, get_metric
from circuitlab.model import load_model
from circuitlab.model.batch import ContrastBatch
from circuitlab.testing.tiny import tiny_batch, tiny_hf


@pytest.fixture
def batch() -> ContrastBatch:
    return ContrastBatch.from_tokens([[1, 2], [1, 2]], [[1, 3], [1, 3]], answers=[[0], [1, 2]], foils=[[1, 3], [4]])


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.tensor([[4.0, 1.0, 0.0, 3.0, 0.0], [0.0, 2.0, 6.0, 0.0, 5.0]])


def test_logit_diff_reduces_sets(batch: ContrastBatch, logits: torch.Tensor) -> None:
    assert LogitDiff()(logits, batch).tolist() == [4 - 2, 4 - 5]
    assert LogitDiff(reduce="max")(logits, batch).tolist() == [4 - 3, 6 - 5]
    soft = LogitDiff(reduce="logsumexp")(logits, batch)
    assert soft[0].item() == pytest.approx(4 - math.log(math.e + math.e**3))


def test_coefficients_rebuild_linear_metrics(batch: ContrastBatch, logits: torch.Tensor) -> None:
    for metric in (LogitDiff(), AnswerLogit()):
        ids, weights = metric.coefficients(batch)
        assert (logits.gather(1, ids) * weights).sum(1).tolist() == pytest.approx(metric(logits, batch).tolist())


def test_probabilities(batch: ContrastBatch, logits: torch.Tensor) -> None:
    p = logits.softmax(-1)
    assert ProbDiff()(logits, batch)[1].item() == pytest.approx((p[1, 1] + p[1, 2] - p[1, 4]).item())
    assert LogProb()(logits, batch)[1].item() == pytest.approx(math.log(p[1, 1] + p[1, 2]), abs=1e-6)


def test_leading_axes_are_kept(batch: ContrastBatch, logits: torch.Tensor) -> None:
    stacked = torch.stack([logits, logits + 1, logits * 2])
    for name in ("logit_diff", "prob_diff", "answer_logit", "log_prob"):
        metric = get_metric(name)
        assert metric(stacked, batch).shape == (3, 2)
        assert metric(stacked, batch)[0].tolist() == metric(logits, batch).tolist()


def test_correct_needs_the_best_answer_to_beat_every_rival(batch: ContrastBatch, logits: torch.Tensor) -> None:
    assert correct(logits, batch) == [True, True]
    assert correct(-logits, batch) == [False, True]
    assert batch.chance() == pytest.approx((1 / 3 + 2 / 3) / 2)


def test_unknown_metric_suggests() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'logit_diff'"):
        get_metric("logit_dif")


def test_divergence_is_that_of_the_definition_and_never_positive(batch: ContrastBatch, logits: torch.Tensor) -> None:
    other = logits.flip(1) * 0.7
    held = replace(batch, reference=logits.log_softmax(-1))
    p, q = logits.softmax(-1), other.softmax(-1)
    expected = -(p * (p / q).log()).sum(-1)
    torch.testing.assert_close(KLDivergence()(other, held), expected)
    assert (expected < -0.1).all()
    assert KLDivergence()(logits, held).abs().max() < 1e-6
    assert KLDivergence()(torch.stack([logits, other, other]), held).shape == (3, 2)
    swapped = -(q * (q / p).log()).sum(-1)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(KLDivergence()(other, held), swapped)


def test_divergence_without_a_reference_says_what_to_do(batch: ContrastBatch, logits: torch.Tensor) -> None:
    with pytest.raises(BadParameterError, match="with_reference"):
        KLDivergence()(logits, batch)


def test_only_metrics_that_ask_for_it_get_a_reference() -> None:
    model = load_model(tiny_hf("llama"))
    batch = tiny_batch(model, n=3, unequal=True)
    assert [name for name, cls in METRICS.items() if cls.needs_reference] == ["kl"]
    assert with_reference(model, LogitDiff(), batch) is batch
    held = with_reference(model, KLDivergence(), batch)
    assert held.task == batch.task
    assert held.reference.shape == (3, model.spec.d_vocab)
    torch.testing.assert_close(held.select([2, 0]).reference, held.reference[[2, 0]])
    stale = replace(batch, reference=torch.zeros_like(held.reference))
    torch.testing.assert_close(with_reference(model, KLDivergence(), stale).reference, held.reference)


def test_patching_everything_in_restores_the_clean_distribution() -> None:
    model = load_model(tiny_hf("qwen3"))
    batch = tiny_batch(model, n=3)
    scores = ActivationPatching(parts=("resid_pre", "heads"))(model, batch, KLDivergence())
    assert scores.provenance.units == "nats"
    np.testing.assert_allclose(scores.dataset["clean"], 0, atol=1e-5)
    assert (scores.dataset["total"] > 1e-3).all()
    np.testing.assert_allclose(scores.values("resid_pre")[:, 0], scores.dataset["total"], atol=1e-5)
    with pytest.raises(BadParameterError, match="linear in the logits"):
        LogitAttribution()(model, batch, KLDivergence())


def test_the_clean_run_is_refused_where_the_divergence_is_flat() -> None:
    model = load_model(tiny_hf("llama"))
    metric = KLDivergence()
    batch = with_reference(model, metric, tiny_batch(model))
    at_clean = gradient_run(model, metric, batch, batch.clean)
    with pytest.raises(BadParameterError, match="'kl' has zero gradient at the clean run"):
        at_clean.gradients([at_clean.trace.layers[0].z])
    at_corrupt = gradient_run(model, metric, batch, batch.corrupt)
    (found,) = at_corrupt.gradients([at_corrupt.trace.layers[0].z])
    assert found.abs().max() > 1e-3
    untracked = gradient_run(model, metric, batch, batch.corrupt, track=False)
    assert not untracked.value.requires_grad
    torch.testing.assert_close(untracked.value, at_corrupt.value.detach())
