"""How well a ranking of heads finds given heads, beside random rankings: for experiments about methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.circuits.chance import p_value
from circuitlab.circuits.roc import roc_of_values
from circuitlab.experiments.types import Claim, Gate, interval_words, judged

if TYPE_CHECKING:
    from circuitlab.experiments.types import ExperimentContext
    from circuitlab.model.batch import ContrastBatch

__all__ = ["ALPHA", "judge_ranking", "own_heads", "published_heads", "ranked_against", "ready_tasks"]

ALPHA = 0.05
_SHUFFLES = 2000

PUBLISHED = {
    "ioi": ("ioi_gpt2_small", "ioi_gpt2_small_oneill", "ioi_gpt2_small_cdt"),
    "greater_than": ("greater_than_gpt2_small", "greater_than_gpt2_small_oneill", "greater_than_gpt2_small_cdt"),
}
"""Published circuits of GPT-2 small, by task."""


def ranked_against(scores: np.ndarray, heads: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Area under the ROC curve of scores against given heads, and that of shuffled scores.

    Parameters
    ----------
    scores : ndarray, shape (layer, head)
        Larger where a head is more likely to be one of them.
    heads : ndarray of bool, shape (layer, head)
        The given heads.
    rng : numpy Generator

    Returns
    -------
    dict
        ``auroc``; ``p``, the share of rankings shuffled over all heads that are as good; ``p_within`` and ``within``, the same share and
        the mean for rankings shuffled within each layer, which keep what the layers alone tell; ``heads``, their number.

    Raises
    ------
    BadParameterError
        If all or none of the heads are given.

    Examples
    --------
    >>> scores = np.array([[0.0, 0.1, 0.2, 3.0], [0.0, 4.0, 5.0, 0.3]])
    >>> ranked_against(scores, scores > 1, np.random.default_rng(0))["auroc"]
    1.0
    """
    from scipy.stats import rankdata  # noqa: PLC0415 - scipy.stats is slow to import

    area = roc_of_values(scores, heads).auroc
    ranks, count = rankdata(scores).reshape(scores.shape), int(heads.sum())
    copies = np.tile(ranks, (_SHUFFLES, 1, 1))
    shuffled = {"": rng.permuted(copies.reshape(_SHUFFLES, -1), axis=1).reshape(copies.shape), "_within": rng.permuted(copies, axis=2)}
    areas = {name: (rows[:, heads].sum(1) - count * (count + 1) / 2) / (count * (heads.size - count)) for name, rows in shuffled.items()}
    by_chance = {f"p{name}": p_value(area, values + 1e-12) for name, values in areas.items()}
    return {"auroc": area, **by_chance, "within": float(areas["_within"].mean()), "heads": count}


def judge_ranking(claim: Claim, by_task: Mapping[str, Mapping[str, Any]]) -> Claim:
    """By `ranked_against` of each task: better than chance within layers on every task, or in part over all heads on some task.

    ``trials`` in a task's data, an interval of the area, is said where there is one.
    """
    here = "; ".join(
        f"{task}: area {one['auroc']:.2f}"
        + (f", {interval_words(one['trials'])} one by one" if "trials" in one else "")
        + f" (p = {one['p']:.2g}); shuffled within layers {one['within']:.2f} (p = {one['p_within']:.2g})"
        for task, one in by_task.items()
    )
    within = all(one["p"] < ALPHA and one["p_within"] < ALPHA for one in by_task.values())
    return judged(claim, here, holds=within, partly=any(one["p"] < ALPHA for one in by_task.values()))


def ready_tasks(context: ExperimentContext, tasks: Sequence[str], pairs: int) -> Gate:
    """Met where the model can do one of the tasks; ``measured["ready"]`` says which. ``pairs`` is the least that each must have."""
    from circuitlab.workflows.fitness import check_task  # noqa: PLC0415 - torch

    reports = [check_task(context.model, task, max(64, pairs), seed=context.seed, least=pairs) for task in tasks]
    ready = {report.task: report.ready for report in reports}
    return Gate(met=any(ready.values()), reason=" ".join(report.reason for report in reports), measured={"ready": ready})


def own_heads(context: ExperimentContext, batch: ContrastBatch, share: float) -> dict[str, np.ndarray]:
    """The heads of this model that matter most for a batch, by two exact methods, as masks of shape (layer, head).

    Parameters
    ----------
    context : ExperimentContext
        The model, and the store that keeps the scores.
    batch : ContrastBatch
        Pairs that no ranked score has seen.
    share : float
        Share of all heads that is kept, by the magnitude of the mean effect; rounded up.
    """
    from circuitlab.circuits.select import top_mask  # noqa: PLC0415
    from circuitlab.methods import ActivationPatching, PathPatching  # noqa: PLC0415 - torch
    from circuitlab.metrics import get_metric  # noqa: PLC0415
    from circuitlab.workflows.score import score_batch  # noqa: PLC0415

    methods = {"activation patching": ActivationPatching(parts=("heads",)), "path patching to the logits": PathPatching(senders=("heads",))}
    masks = {}
    for number, (name, method) in enumerate(methods.items()):
        with context.share(number / len(methods), (number + 1) / len(methods)):
            scores = score_batch(context.model, batch, method, get_metric(batch.metric), store=context.store).scores
        mean = scores.mean("heads")
        masks[name] = top_mask(mean.ravel(), int(np.ceil(share * mean.size))).reshape(mean.shape)
    return masks


def published_heads(context: ExperimentContext, task: str) -> dict[str, np.ndarray]:
    """The published lists of heads of a task, as masks of shape (layer, head); none unless the model is GPT-2 small."""
    from circuitlab.circuits import published_circuit  # noqa: PLC0415
    from circuitlab.core.nodes import Head  # noqa: PLC0415

    spec, masks = context.model.spec, {}
    if (spec.family, spec.n_layers, spec.n_heads, spec.d_model) != ("gpt2", 12, 12, 768):
        return {}
    for name in PUBLISHED.get(task, ()):
        mask = np.zeros((spec.n_layers, spec.n_heads), dtype=bool)
        for node in published_circuit(name).circuit.nodes:
            if isinstance(node, Head):
                mask[node.layer, node.head] = True
        masks[name] = mask
    return masks
