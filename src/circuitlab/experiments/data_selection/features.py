"""Vectors of passages: mean activations of a sparse autoencoder's units, of the stream itself, and counts of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitlab.execute.on_text import grouped_by_length
from circuitlab.experiments.data_selection.kinds import Split
from circuitlab.methods.sae import Training, train
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["WAYS", "Settings", "average_precision", "ranking", "similarities", "streams", "vectors"]

WAYS = ("features", "dense", "tokens")
_TOGETHER = 512


@dataclass(frozen=True)
class Settings:
    """Training of the autoencoder: units, active units of a token, epochs, token vectors that it is trained on, and its seed."""

    units: int
    active: int
    epochs: int
    tokens: int
    seed: int


def streams(model: Model, rows: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """The stream that leaves the middle layer, each token's vector at length sqrt(d_model), without a row's first token.

    Directions only, because a few tokens have vectors hundreds of times as long as all others.
    """
    layer, out = (model.spec.n_layers - 1) // 2, [np.zeros(0)] * len(rows)
    for which, tokens in grouped_by_length(list(rows), _TOGETHER):
        values = model.capture(tokens, [Site.RESID_POST], layers=[layer])[Site.RESID_POST][:, 0, 1:].float()
        values = values / values.norm(dim=-1, keepdim=True) * values.shape[-1] ** 0.5
        for number, value in zip(which, values.cpu().numpy(), strict=True):
            out[number] = value
    return out


def vectors(model: Model, parts: Split, settings: Settings) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A vector of every passage for each of `WAYS`, and what the autoencoder explains.

    The autoencoder is trained on token vectors of the passages that can be selected, and its most active units of each token are kept, as
    in a TopK autoencoder. ``dense`` is the mean of the same vectors without it; ``tokens`` counts the tokens.
    """
    each = streams(model, parts.rows)
    of_pool = np.concatenate([each[i] for i in parts.pool])
    centre = of_pool.mean(0)
    drawn = np.random.default_rng(settings.seed).permutation(len(of_pool))[: settings.tokens]
    training = Training(size=settings.units, epochs=settings.epochs, scale="rms")
    learned = train(torch.from_numpy(of_pool[drawn] - centre)[None], training, [settings.seed])[0]
    dictionary = replace(learned, activation="topk", k=settings.active)
    activations = [dictionary.encode(torch.from_numpy(values - centre)).numpy() for values in each]
    others = torch.from_numpy(np.concatenate([each[i] for held in parts.held for i in held]) - centre)
    counts = np.zeros((len(parts.rows), model.spec.d_vocab), dtype=np.float32)
    for number, row in enumerate(parts.rows):
        np.add.at(counts[number], list(row), 1.0)
    about = {
        "explained": dictionary.explained(others),
        "used": int((np.stack([values.mean(0) for values in activations]) > 0).any(0).sum()),
        "tokens": len(drawn),
    }
    dense = np.stack([(values - centre).mean(0) for values in each])
    return {"features": np.stack([values.mean(0) for values in activations]), "dense": dense, "tokens": counts}, about


def similarities(way: str, prototype: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Similarity of one vector with others: the cosine of dense ones, and otherwise ``sum(min) / sum(max)``, the generalised Jaccard index.

    Examples
    --------
    >>> similarities("features", np.array([1.0, 0.0, 2.0]), np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0], [1.0, 0.0, 1.0]])).round(2).tolist()
    [1.0, 0.0, 0.67]
    """
    if way == "dense":
        size = np.linalg.norm(prototype) * np.linalg.norm(others, axis=1)
        return np.asarray(others @ prototype / np.where(size > 0, size, 1.0))
    least, most = np.minimum(prototype, others).sum(1), np.maximum(prototype, others).sum(1)
    return np.asarray(least / np.where(most > 0, most, 1.0))


def ranking(way: str, each: np.ndarray, parts: Split, task: int) -> list[int]:
    """Passages that can be selected, the most similar to the mean of a task's examples first."""
    prototype = each[list(parts.examples[task])].mean(0)
    order = np.argsort(-similarities(way, prototype, each[list(parts.pool)]), kind="stable")
    return [parts.pool[i] for i in order.tolist()]


def average_precision(right: np.ndarray) -> float:
    """Mean, over the right passages of a ranking, of the share of right ones up to each.

    Examples
    --------
    >>> average_precision(np.array([True, False, True]))
    0.8333333333333333
    """
    at = np.flatnonzero(right)
    return float(((np.arange(len(at)) + 1) / (at + 1)).mean())
