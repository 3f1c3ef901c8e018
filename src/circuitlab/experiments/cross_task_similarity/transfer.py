"""What examples of one task do for another, how alike tasks are inside the model, and whether the two go together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitlab.core.progress import step
from circuitlab.model.sites import Site
from circuitlab.scores.intervals import mean_interval, rate_change_interval, rate_interval

if TYPE_CHECKING:
    from jaxtyping import Float

    from circuitlab.experiments.cross_task_similarity.prompts import CrossPrompts, Row
    from circuitlab.model.protocol import Model

__all__ = ["MEASURES", "answered", "gains", "own_help", "related", "similarities"]

MEASURES = ("right", "likely")
_TOGETHER = 8
_FLAT = 1e-9


def answered(model: Model, rows: Sequence[Row], answers: Sequence[int]) -> Float[np.ndarray, "measure row"]:
    """Whether the answer is the likeliest next token (0 or 1), and its log-probability in nats, for each prompt."""
    values = np.zeros((2, len(rows)))
    groups = [
        some[start : start + _TOGETHER]
        for length in sorted({len(row) for row in rows})
        for some in [[i for i, row in enumerate(rows) if len(row) == length]]
        for start in range(0, len(some), _TOGETHER)
    ]
    for number, some in enumerate(groups):
        tokens = torch.tensor([rows[i] for i in some])
        logits = model.logits(tokens, torch.full((len(some),), tokens.shape[1] - 1)).double().cpu()
        wanted = torch.tensor([answers[i] for i in some])
        values[0, some] = (logits.argmax(-1) == wanted).double().numpy()
        values[1, some] = logits.log_softmax(-1)[torch.arange(len(some)), wanted].numpy()
        step(number + 1, len(groups))
    return values


def own_help(model: Model, prompts: CrossPrompts) -> dict[str, Any]:
    """Accuracy without examples, and its change with examples of the same task, with intervals over tasks."""
    n = len(prompts.names)
    alone = _table(model, [prompts.alone[t] for t in range(n)], prompts.answers)
    own = _table(model, [prompts.shown[t][t] for t in range(n)], prompts.answers)
    return {"alone": rate_interval(alone[0]).as_dict(), "own": rate_change_interval(own[0] - alone[0]).as_dict()}


def gains(model: Model, prompts: CrossPrompts) -> dict[str, Any]:
    """What examples change, by source and target, in accuracy (``right``) and log-probability (``likely``).

    ``alone``: values without examples, by target. ``shown``: changes with examples, by source and target. ``dealt``: the same with the
    examples' answers moved. ``cross``: the mean change over sources other than the target, with its interval over targets; for ``shown``,
    for ``dealt``, and for their difference.
    """
    n = len(prompts.names)
    alone = _table(model, [prompts.alone[t] for t in range(n)], prompts.answers)
    tables = {}
    for name, rows in (("shown", prompts.shown), ("dealt", prompts.dealt)):
        flat = _table(model, [rows[s][t] for s in range(n) for t in range(n)], [prompts.answers[t] for _ in range(n) for t in range(n)])
        tables[name] = flat.reshape(2, n, n) - alone[:, None]
    others = {name: _others(table) for name, table in tables.items()}
    others["difference"] = others["shown"] - others["dealt"]
    limits = {"right": (-1.0, 1.0), "likely": None}
    return {
        measure: {
            "alone": alone[i].round(5).tolist(),
            **{name: table[i].round(5).tolist() for name, table in tables.items()},
            "cross": {name: mean_interval(values[i], within=limits[measure]).as_dict() for name, values in others.items()},
        }
        for i, measure in enumerate(MEASURES)
    }


def _table(model: Model, rows: Sequence[Sequence[Row]], answers: Sequence[Sequence[int]]) -> Float[np.ndarray, "measure cell"]:
    """Means of `answered` over the prompts of each cell; all prompts run together."""
    flat = answered(model, [row for cell in rows for row in cell], [answer for cell in answers for answer in cell])
    ends = np.cumsum([len(cell) for cell in rows])[:-1]
    return np.stack([part.mean(-1) for part in np.split(flat, ends, axis=-1)], axis=-1)


def _others(table: Float[np.ndarray, "measure source target"]) -> Float[np.ndarray, "measure target"]:
    n = table.shape[-1]
    outside = ~np.eye(n, dtype=bool)
    return np.asarray((table * outside).sum(-2) / (n - 1))


def similarities(model: Model, prompts: CrossPrompts) -> dict[str, Any]:
    """Cosine of the residual stream leaving each layer between tasks, (layer, task, task).

    ``definition``: of the mean over the tokens of a task's definition. ``last``: of the mean, over its prompts without examples, of the
    last token.
    """
    words = np.stack([_stream(model, row)[:, first:].mean(1) for row, first in prompts.definitions], axis=1)
    last = np.stack([np.mean([_stream(model, row)[:, -1] for row in rows], axis=0) for rows in prompts.alone], axis=1)
    return {"definition": _cosines(words).round(6).tolist(), "last": _cosines(last).round(6).tolist()}


def _stream(model: Model, row: Row) -> Float[np.ndarray, "layer pos width"]:
    return np.asarray(model.capture(torch.tensor([row]), [Site.RESID_POST])[Site.RESID_POST][0].double().cpu().numpy())


def _cosines(vectors: Float[np.ndarray, "layer task width"]) -> Float[np.ndarray, "layer task task"]:
    unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(unit @ unit.transpose(0, 2, 1))


def related(
    gain: Float[np.ndarray, "source target"], similarity: Float[np.ndarray, "layer source target"], draws: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Whether sources that are more alike a target help it more.

    The correlation is over ordered pairs of different tasks, with each target's mean taken off both. Tasks are permuted for its p-value,
    since pairs that share a task are not independent.

    Returns
    -------
    dict
        ``layers``: the correlation in each layer. ``mean``: that with the mean similarity over layers; ``p``: the share of permutations of
        the tasks in which it is at least as large, the observed order included; ``null``: the 5th and 95th percentile of the permutations.
    """
    n = len(gain)
    whole = similarity.mean(0)
    orders = [np.arange(n), *(rng.permutation(n) for _ in range(draws))]
    null = np.array([_correlation(gain, whole[np.ix_(order, order)]) for order in orders])
    return {
        "layers": [round(_correlation(gain, layer), 5) for layer in similarity],
        "mean": float(null[0]),
        "p": float((null >= null[0] - _FLAT).mean()),
        "null": np.quantile(null[1:], [0.05, 0.95]).tolist(),
    }


def _correlation(gain: Float[np.ndarray, "source target"], similarity: Float[np.ndarray, "source target"]) -> float:
    """Over pairs of different tasks, within targets; 0 where one of the two does not vary."""
    outside = ~np.eye(len(gain), dtype=bool)
    centred = []
    for table in (gain, similarity):
        mean = (table * outside).sum(0) / outside.sum(0)
        centred.append((table - mean)[outside])
    size = np.linalg.norm(centred[0]) * np.linalg.norm(centred[1])
    return float(centred[0] @ centred[1] / size) if size > _FLAT else 0.0
