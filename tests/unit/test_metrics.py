"""Metrics on logits made by hand."""

from __future__ import annotations

import math

import pytest
import torch

from circuitlab.errors import UnknownNameError
from circuitlab.metrics import AnswerLogit, LogitDiff, LogProb, ProbDiff, correct, get_metric
from circuitlab.model.batch import ContrastBatch


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
