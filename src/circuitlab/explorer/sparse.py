"""Attention patterns as sparse rows: the strongest keys of every query, and the share of attention that they keep."""

from __future__ import annotations

from typing import Any

import numpy as np

from circuitlab.explorer.packed import pack, unpack

__all__ = ["KEYS", "LEAST", "MOST_HEADS", "dense_attention", "sparse_attention"]

KEYS, LEAST = 8, 0.01
"""Keys kept of a query, and the weight below which none is."""
MOST_HEADS = 512
"""Heads whose attention a payload lists; of a larger model, the strongest ones."""
_SCALE = 1e-4
_STEP = 0.004  # of a weight in one byte: two thirds of a page are weights, and 1 is a multiple of it
_BYTE = 256


def sparse_attention(pattern: np.ndarray) -> dict[str, Any]:
    """The strongest keys of every query.

    Parameters
    ----------
    pattern : ndarray, shape (head, query, key)
        Attention weights of the heads that are listed.

    Returns
    -------
    dict
        ``counts`` (head, query), ``keys`` and ``weights`` of all rows in turn, strongest first, to a step of 0.004; and ``kept``
        (head,), the share of the attention of all queries that these weights are.

    Examples
    --------
    >>> rows = sparse_attention(np.array([[[1.0, 0.0], [0.3, 0.7]]]))
    >>> dense_attention(rows, 2)[0].round(4).tolist()
    [[1.0, 0.0], [0.3, 0.7]]
    """
    order = np.argsort(-pattern, axis=-1, kind="stable")[..., :KEYS]
    values = np.take_along_axis(pattern, order, axis=-1)
    kept = values >= LEAST
    mass = pattern.sum((-1, -2))
    share = np.divide((values * kept).sum((-1, -2)), mass, out=np.ones_like(mass), where=mass > 0)
    return {
        "counts": pack(kept.sum(-1), "uint8"),
        "keys": pack(order[kept], "uint8" if pattern.shape[-1] <= _BYTE else "uint16"),
        "weights": pack(values[kept], "uint8", _STEP),
        "kept": pack(np.clip(share, 0, 1), "uint16", _SCALE),
    }


def dense_attention(rows: dict[str, Any], n_keys: int) -> np.ndarray:
    """The pattern that sparse rows stand for, (head, query, key), 0 where a key was not kept."""
    counts, keys, weights = (unpack(rows[name]) for name in ("counts", "keys", "weights"))
    dense = np.zeros((counts.size, n_keys))
    dense[np.repeat(np.arange(counts.size), counts.ravel().astype(int)), keys.astype(int)] = weights
    return dense.reshape(*counts.shape, n_keys)
