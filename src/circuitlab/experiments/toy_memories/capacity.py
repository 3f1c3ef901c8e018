"""Linear attention as a memory: how many pairs of keys and values it holds before they interfere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from circuitlab.core.progress import step
from circuitlab.scores.intervals import mean_interval

__all__ = ["KNEES", "capacities", "interference"]

KNEES = ("retrieval", "noise", "error_free")
_GRID = 28
_FEWEST, _MOST = 2, 12
_READ = 256
"""Least number of pairs that a mean is taken over; small memories are filled several times."""


def interference(n: int, d_k: int, d_v: int, rng: np.random.Generator, rank: int | None = None) -> dict[str, float]:
    """Store ``n`` pairs of random unit keys and values in ``M = sum k v'``, and read every one with its key.

    Parameters
    ----------
    n : int
        Pairs.
    d_k, d_v : int
        Width of keys and values.
    rng : numpy Generator
    rank : int, optional
        Keys are drawn from so many of the ``d_k`` dimensions (a control); all otherwise.

    Returns
    -------
    dict
        ``retrieval``: share of pairs whose own value is the nearest of all values to what is read. ``noise``: what the other pairs add,
        squared, relative to the value, squared; the mean. ``error_free``: the largest that the others could add, the sum of the absolute
        products of its key with theirs; the mean.
    """
    keys = np.zeros((n, d_k))
    keys[:, : rank or d_k] = rng.standard_normal((n, min(rank or d_k, d_k)))
    values = rng.standard_normal((n, d_v))
    keys, values = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (keys, values))
    read = keys @ (keys.T @ values)
    nearest = (read @ values.T).argmax(1)
    products = np.abs(keys @ keys.T)
    return {
        "retrieval": float((nearest == np.arange(n)).mean()),
        "noise": float(((read - values) ** 2).sum(1).mean()),
        "error_free": float((products.sum(1) - 1).mean()),
    }


def capacities(widths: Sequence[int], d_v: int, seeds: int, rng: np.random.Generator, rank: int | None = None) -> dict[str, Any]:
    """How many pairs fit, by width of the keys, and how that grows with the width.

    Returns
    -------
    dict
        ``pairs``: numbers of pairs by width; ``curves``: the mean retrieval there. ``knees``: for each of `KNEES`, the number of pairs at
        which retrieval falls to a half, the noise reaches the value, or the largest possible error reaches it, with intervals over seeds;
        ``exponents``: the slope of the logarithm of the knee over that of the width.
    """
    pairs = {d: np.unique(np.geomspace(_FEWEST, _MOST * d, _GRID).round().astype(int)) for d in widths}
    knees = {name: np.zeros((seeds, len(widths))) for name in KNEES}
    curves: dict[int, list[np.ndarray]] = {d: [] for d in widths}
    for seed in range(seeds):
        for column, d in enumerate(widths):
            rows = [[interference(int(n), d, d_v, rng, rank) for _ in range(-(-_READ // int(n)))] for n in pairs[d]]
            measured = {name: np.array([np.mean([one[name] for one in row]) for row in rows]) for name in KNEES}
            curves[d].append(measured["retrieval"])
            for name, limit in zip(KNEES, (0.5, 1.0, 1.0), strict=True):
                knees[name][seed, column] = _crossing(pairs[d], measured[name], limit, falls=name == "retrieval")
        step(seed + 1, seeds)
    slopes = {name: np.array([np.polyfit(np.log(widths), np.log(row), 1)[0] for row in knee]) for name, knee in knees.items()}
    return {
        "widths": list(widths),
        "pairs": {str(d): pairs[d].tolist() for d in widths},
        "curves": {str(d): np.mean(curves[d], axis=0).round(4).tolist() for d in widths},
        "knees": {name: [mean_interval(knee[:, i]).as_dict() for i in range(len(widths))] for name, knee in knees.items()},
        "exponents": {name: mean_interval(slope).as_dict() for name, slope in slopes.items()},
    }


def _crossing(pairs: np.ndarray, values: np.ndarray, limit: float, *, falls: bool) -> float:
    """Where the values first cross the limit, interpolated on the logarithm of the pairs; NaN if that is outside the pairs tried."""
    over = values < limit if falls else values > limit
    at = int(over.argmax())
    if at == 0:
        return float("nan")
    share = (limit - values[at - 1]) / (values[at] - values[at - 1])
    return float(np.exp(np.log(pairs[at - 1]) + share * (np.log(pairs[at]) - np.log(pairs[at - 1]))))
