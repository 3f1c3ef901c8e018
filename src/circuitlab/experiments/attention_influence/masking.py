"""What passages and key-value prompts lose when many heads attend evenly at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.core.nodes import Head
from circuitlab.core.progress import step
from circuitlab.execute.text_loss import next_token_losses
from circuitlab.experiments.attention_influence.probe import KeyValue
from circuitlab.model.interventions import EditPattern
from circuitlab.scores.intervals import mean_interval

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["compared", "influence", "masked_losses", "welch"]

Rows = Sequence[Sequence[int]]


def influence(model: Model, rows: Rows, sets: Sequence[Sequence[Head]]) -> np.ndarray:
    """``(L_ref - L_base) / L_base`` of every row when the heads of a set attend evenly, shape (set, row)."""
    base = _means(model, rows)
    return np.stack([(masked - base) / base for masked in _masked(model, rows, sets)])


def masked_losses(model: Model, prompts: Sequence[KeyValue], sets: Sequence[Sequence[Head]]) -> np.ndarray:
    """Loss of the answers of key-value prompts, in nats per token: the model as it is, then each set masked; shape (1 + set, prompt)."""
    rows = [prompt.tokens for prompt in prompts]
    starts = [prompt.answer[0] - 1 for prompt in prompts]
    return np.stack([_means(model, rows, starts), *_masked(model, rows, sets, starts)])


def compared(chosen: np.ndarray, random: np.ndarray) -> dict[str, Any]:
    """A value for each row against its mean over random sets: both, the paired difference (95 % over rows), the mean of every set."""
    return {
        "chosen": mean_interval(chosen).as_dict(),
        "difference": mean_interval(chosen - random.mean(0)).as_dict(),
        "random": [float(values.mean()) for values in random],
        "random_mean": mean_interval(random.mean(0)).as_dict(),
    }


def welch(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Difference of two means of independent rows with Welch's 95 % interval."""
    from scipy import stats  # noqa: PLC0415 - scipy.stats costs 0.3 s that light commands need not pay

    limits = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    return {"mean": float(first.mean() - second.mean()), "low": float(limits.low), "high": float(limits.high)}


def _masked(model: Model, rows: Rows, sets: Sequence[Sequence[Head]], starts: Sequence[int] | None = None) -> list[np.ndarray]:
    losses = []
    for number, heads in enumerate(sets):
        losses.append(_means(model.edited(EditPattern(list(heads), "uniform")), rows, starts))
        step(number + 1, len(sets))
    return losses


def _means(model: Model, rows: Rows, starts: Sequence[int] | None = None) -> np.ndarray:
    """Mean loss of each row, from a token on."""
    begin = [0] * len(rows) if starts is None else starts
    return np.array([float(losses[first:].mean()) for losses, first in zip(next_token_losses(model, rows), begin, strict=True)])
