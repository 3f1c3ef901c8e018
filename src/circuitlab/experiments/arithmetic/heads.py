"""Find the heads that write the result, and knock them out in the order of their effects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitlab.comparison.nulls import overlap_null
from circuitlab.core.nodes import Head
from circuitlab.core.progress import step
from circuitlab.experiments.controls import random_heads
from circuitlab.methods import PathPatching
from circuitlab.methods.roles.attention import attention_between
from circuitlab.metrics import LogitDiff, correct
from circuitlab.model.interventions import Knockout
from circuitlab.scores.intervals import mean_interval, rate_interval
from circuitlab.workflows.score import score_batch

if TYPE_CHECKING:
    from circuitlab.experiments.types import ExperimentContext
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["attention_to", "knocked_out", "ranked_heads", "shared_heads", "solved"]

METHOD = PathPatching(direction="noising")


def solved(model: Model, batch: ContrastBatch, n: int) -> ContrastBatch | None:
    """The first ``n`` pairs whose clean prompt the model answers correctly; None if there are fewer."""
    right = np.flatnonzero(_outcomes(model, batch)[0])
    return batch.select(right[:n].tolist()) if len(right) >= n else None


def ranked_heads(context: ExperimentContext, batch: ContrastBatch) -> dict[str, Any]:
    """Effects of heads and MLPs on the logits along direct paths, as shares of the clean logit difference.

    Returns
    -------
    dict
        ``map`` (layer, head) and ``mlps`` (layer,): mean effects divided by the mean clean metric; positive helps the answer. ``order``:
        heads by the size of their effect, the largest first.
    """
    scores = score_batch(context.model, batch, METHOD, LogitDiff(), store=context.store).scores
    clean = float(scores.dataset["clean"].values.mean())
    heads, mlps = scores.mean("heads") / clean, scores.mean("mlps") / clean
    order = np.argsort(-np.abs(heads).ravel(), kind="stable")
    names = [str(Head(*map(int, np.unravel_index(int(i), heads.shape)))) for i in order]
    return {"map": np.round(heads, 5).tolist(), "mlps": np.round(mlps, 5).tolist(), "order": names}


def knocked_out(
    context: ExperimentContext, batches: tuple[ContrastBatch, ContrastBatch], order: Sequence[Head], counts: Sequence[int], n_random: int
) -> dict[str, Any]:
    """Accuracy and logit difference while the first heads of an order, or random heads of the same layers, have their mean output.

    Parameters
    ----------
    context : ExperimentContext
    batches : (ContrastBatch, ContrastBatch)
        The prompts that means are taken from (the corrupt ones), and those that are measured.
    order : sequence of Head
        Heads, the most important first.
    counts : sequence of int
        Numbers of heads that are knocked out.
    n_random : int
        Random sets of each number.

    Returns
    -------
    dict
        ``counts``, and for ``accuracy`` and ``logit_difference``: ``chosen``, an interval over pairs for each count; ``change``, the paired
        change from the unedited model; ``random``, the change of each random set, by count.
    """
    source, held = batches
    shape = (context.model.spec.n_layers, context.model.spec.n_heads)
    plain, intervals = _outcomes(context.model, held), (rate_interval, mean_interval)
    measured: dict[str, Any] = {name: {"chosen": [], "change": [], "random": []} for name in ("accuracy", "logit_difference")}
    for number, count in enumerate(counts):
        first = list(order[:count])
        drawn = random_heads(first, shape, n_random, context.rng("random", held.task.digest, count))
        chosen, *controls = (_outcomes(context.model.edited(Knockout(heads, "mean", source)), held) for heads in (first, *drawn))
        for row, values in enumerate(measured.values()):
            values["chosen"].append(intervals[row](chosen[row]).as_dict())
            values["change"].append(mean_interval(chosen[row] - plain[row]).as_dict())
            values["random"].append([float((control[row] - plain[row]).mean()) for control in controls])
            values["unedited"] = intervals[row](plain[row]).as_dict()
        step(number + 1, len(counts))
    return {"counts": list(counts), **measured}


def attention_to(model: Model, batch: ContrastBatch, heads: Sequence[Head], marks: Sequence[str]) -> dict[str, Any]:
    """Attention from the last token to marked tokens, of these heads and of all other heads of their layers, with paired differences."""
    layers = sorted({head.layer for head in heads})
    mask = np.zeros((model.spec.n_layers, model.spec.n_heads), dtype=bool)
    mask[[head.layer for head in heads], [head.head for head in heads]] = True
    others = np.zeros_like(mask)
    others[layers] = ~mask[layers]
    by_mark = {mark: (value[:, mask].mean(1), value[:, others].mean(1)) for mark, value in attention_between(model, batch, marks).items()}
    total = tuple(np.sum([values[i] for values in by_mark.values()], axis=0) for i in (0, 1))
    named = {**by_mark, "together": total}
    parts = {"chosen": 0, "others": 1}
    measured = {part: {mark: mean_interval(values[i]).as_dict() for mark, values in named.items()} for part, i in parts.items()}
    return {**measured, "difference": mean_interval(total[0] - total[1]).as_dict()}


def shared_heads(first: Sequence[Head], second: Sequence[Head], shape: tuple[int, int]) -> dict[str, float]:
    """Jaccard index of two sets of heads, its mean by chance given the number in each layer, and its one-sided p-value."""
    masks = []
    for heads in (first, second):
        mask = np.zeros(shape, dtype=bool)
        mask[[head.layer for head in heads], [head.head for head in heads]] = True
        masks.append(mask.ravel())
    null = overlap_null(masks[0], masks[1], strata=np.repeat(np.arange(shape[0]), shape[1]))
    shared, either = int((masks[0] & masks[1]).sum()), int((masks[0] | masks[1]).sum())
    return {"shared": shared, "jaccard": shared / either, "by_chance": null.mean_jaccard, "p": null.p_value}


def _outcomes(model: Model, batch: ContrastBatch) -> np.ndarray:
    """Whether each clean prompt is answered correctly, and its logit difference, shape (2, pair)."""
    logits = torch.cat([model.logits(batch.clean[i : i + 32], batch.end[i : i + 32]) for i in range(0, batch.n_pairs, 32)]).double().cpu()
    return np.stack([np.array(correct(logits, batch), dtype=float), LogitDiff()(logits, batch).numpy()])
