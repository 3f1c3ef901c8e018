"""Heads that raise the right label: what every head writes for which label, where it looks, and what is lost without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitlab.core.nodes import Head
from circuitlab.execute.direct_logits import head_logits
from circuitlab.methods import ActivationPatching, LogitAttribution
from circuitlab.metrics import LogitDiff
from circuitlab.model.sites import Site
from circuitlab.scores.intervals import mean_interval

if TYPE_CHECKING:
    from circuitlab.experiments.multiple_choice.questions import Choices
    from circuitlab.model.protocol import Model

__all__ = ["choose_letter_heads", "direct_and_total", "label_attention", "letter_scores", "side_by_side", "typology"]

_FEW = 0.05
"""Share of all heads whose direct effects are added up."""
_CANDIDATES = 10
_SMALL = 0.25
"""A direct effect counts as small below this share of the total one."""
_DRAWS = 1000


def typology(model: Model, asked: Choices) -> np.ndarray:
    """What heads add directly to each label's logit over the mean of the labels, shape (row, layer, head, label), in logits."""
    batch = asked.batch
    written = head_logits(model, batch.clean, batch.end, torch.tensor(asked.labels), marks=batch.marks).cpu().numpy()
    return np.asarray(written - written.mean(-1, keepdims=True))


def letter_scores(written: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The doubly centred matrix of true label against boosted label, and each row's share of the mean of its diagonal.

    Parameters
    ----------
    written : ndarray, shape (row, ..., label)
        From `typology`.
    true : ndarray of int, shape (row,)

    Returns
    -------
    matrix : ndarray, shape (..., true label, boosted label)
        Means over rows, without what a head does whichever label is right.
    own : ndarray, shape (row, ...)
        What is written for the right label, without the mean over true labels of what is written for it.
    """
    means = np.stack([written[true == label].mean(0) for label in range(written.shape[-1])], axis=-2)
    always = means.mean(-2)
    own = np.stack([row[..., label] - always[..., label] for row, label in zip(written, true.tolist(), strict=True)])
    return means - always[..., None, :], own


def choose_letter_heads(model: Model, asked: Choices, k: int) -> dict[str, Any]:
    """The ``k`` heads that raise the right label most, whichever it is: those with the largest mean diagonal."""
    matrix, _ = letter_scores(typology(model, asked), asked.true)
    diagonal = np.diagonal(matrix, axis1=-2, axis2=-1).mean(-1)
    best = np.argsort(-diagonal, axis=None, kind="stable")[:k]
    heads = [Head(*map(int, np.unravel_index(index, diagonal.shape))) for index in best]
    return {"heads": [str(head) for head in heads], "map": np.round(diagonal, 5).tolist()}


def label_attention(model: Model, asked: Choices) -> dict[str, np.ndarray]:
    """Attention from the last token to labels (``L``) and contents (``C``), right one minus mean of the others: (row, layer, head)."""
    batch = asked.batch
    pattern = model.capture(batch.clean, (Site.PATTERN,), at=batch.end, marks=batch.marks)[Site.PATTERN].double().cpu()
    rows, true = torch.arange(batch.n_pairs), torch.from_numpy(asked.true)
    more = {}
    for kind in ("L", "C"):
        places = asked.places(kind)
        seen = torch.stack([pattern[rows, :, :, places[:, i]] for i in range(places.shape[1])], dim=-1)
        right = seen[rows, :, :, true]
        others = (seen.sum(-1) - right) / (places.shape[1] - 1)
        more[kind] = (right - others).numpy()
    return more


def side_by_side(values: np.ndarray, chosen: Sequence[Head], controls: Sequence[Sequence[Head]]) -> dict[str, Any]:
    """Mean over the chosen heads of values (row, layer, head) with its interval over rows, and the mean for every control set."""
    of_chosen = np.mean([values[:, head.layer, head.head] for head in chosen], axis=0)
    of_controls = [float(np.mean([values[:, head.layer, head.head] for head in drawn])) for drawn in controls]
    return {"chosen": mean_interval(of_chosen).as_dict(), "random": of_controls}


def direct_and_total(model: Model, halves: tuple[Choices, Choices], rng: np.random.Generator) -> dict[str, Any]:
    """Direct and total effects of all heads on right label minus the other prompt's label: chosen on one half, measured on the other."""
    patching = ActivationPatching(direction="noising", parts=("heads",))
    (first_direct, direct), (first_total, total) = (
        [np.asarray(method(model, half.batch, LogitDiff()).values("heads")) for half in halves]
        for method in (LogitAttribution(run="contrast"), patching)
    )
    n_heads = direct[0].size
    few = max(1, round(_FEW * n_heads))
    order = rng.permutation(n_heads)[:few]
    top = np.argsort(-first_direct.mean(0), axis=None, kind="stable")[:few]
    share, other = (_share(direct.reshape(len(direct), -1), heads, rng) for heads in (top, order))
    return {
        "direct": np.round(direct.mean(0), 5).tolist(),
        "total": np.round(total.mean(0), 5).tolist(),
        "few": few,
        "share": share,
        "share_random": other["mean"],
        "indirect": _indirect((first_direct, first_total), (direct, total)),
    }


def _share(direct: np.ndarray, heads: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """Effects of some heads as a share of all positive ones, 0 where there is none; interval by resampling rows."""

    def share(rows: np.ndarray) -> float:
        mean = rows.mean(0)
        positive = float(mean[mean > 0].sum())
        return float(mean[heads].sum()) / positive if positive > 0 else 0.0

    drawn = [share(direct[rng.integers(len(direct), size=len(direct))]) for _ in range(_DRAWS)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"mean": share(direct), "low": float(low), "high": float(high)}


def _indirect(first: tuple[np.ndarray, np.ndarray], held: tuple[np.ndarray, np.ndarray]) -> list[dict[str, Any]]:
    """Heads with a large total and a small direct effect on the first half, and both effects on the second."""
    direct, total = (values.mean(0) for values in first)
    small = np.argwhere((total > 0) & (np.abs(direct) < _SMALL * total))
    chosen = sorted(map(tuple, small.tolist()), key=lambda at: -total[at])[:_CANDIDATES]
    confidence = 1 - 0.05 / max(1, len(chosen))
    rows = []
    for layer, head in chosen:
        one = [values[:, layer, head] for values in held]
        beyond = one[1] - np.sign(one[0].mean()) * one[0] / _SMALL
        rows.append(
            {
                "head": str(Head(layer, head)),
                "direct": mean_interval(one[0]).as_dict(),
                "total": mean_interval(one[1]).as_dict(),
                "beyond": mean_interval(beyond, confidence=confidence).as_dict(),
            }
        )
    return rows
