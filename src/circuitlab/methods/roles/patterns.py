"""Numbers of attention patterns: one function per role, plain numpy, of the weights and of which keys each query can see.

Every function takes ``pattern (..., query, key)``, weights after the softmax, and ``seen``, booleans that broadcast to it: which keys a
query can see at all. It is the causal triangle where it is not given; layers with a window, or with chunks, see less. Rows may sum to less
than 1 where the softmax has a sink outside the keys; what lies on keys is what is measured. Every function gives two arrays of shape
``(...)``: the number, and what the same rows would give on average if attention did not care which of the visible keys is which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = ["at_targets", "focus", "kurtosis", "locality", "on_marked", "received", "sink", "span", "triangle", "within_rows"]

Pattern: TypeAlias = "Float[np.ndarray, '*lead query key']"
Seen: TypeAlias = "Bool[np.ndarray, '*lead query key']"
Numbers: TypeAlias = "tuple[Float[np.ndarray, '*lead'], Float[np.ndarray, '*lead']]"

_FLAT = 1e-10
"""Variance, as a share of the squared mean, below which numbers are the same but for rounding."""


def triangle(length: int) -> Seen:
    """Which keys a query sees in a causal model: itself and all before it."""
    return np.tri(length, dtype=bool)


def at_targets(pattern: Pattern, targets: Seen, seen: Seen | None = None) -> Numbers:
    """Mean attention to target keys, over the queries that have any; and to as many other visible keys of the same queries.

    Parameters
    ----------
    pattern : ndarray
        Weights.
    targets : ndarray of bool, shape (query, key) or one that broadcasts to the pattern
        Where the role would look. A target that a query cannot see counts with the 0 that it gets.
    seen : ndarray of bool, optional
        Which keys each query can see.
    """
    visible = _seen(pattern, seen)
    aim = targets & visible
    there = (pattern * aim).sum(-1)
    n_aim, n_other = aim.sum(-1), (visible & ~targets).sum(-1)
    other = (pattern * (visible & ~targets)).sum(-1)
    # A query that sees targets alone says nothing: it looks there whatever the head does.
    control = np.where(n_other > 0, other / np.maximum(n_other, 1) * n_aim, there)
    rows = np.broadcast_to(targets.any(-1), there.shape)
    return _mean(there, rows), _mean(control, rows)


def sink(pattern: Pattern, seen: Seen | None = None, early: int = 8) -> Numbers:
    """Mean attention to the first key over all queries; and to the mean of the other ``early`` keys that the same queries see.

    The first is the sink mass of ACT and the importance score of Gu et al. (2025): the sum of column 0 over the number of its queries.
    """
    visible = _seen(pattern, seen)
    others = visible[..., 1:early]
    n_other = others.sum(-1)
    first = pattern[..., 0]
    other = (pattern[..., 1:early] * others).sum(-1) / np.maximum(n_other, 1)
    control = np.where(visible[..., 0], np.where(n_other > 0, other, first), 0.0)
    return first.mean(-1), control.mean(-1)


def span(pattern: Pattern, seen: Seen | None = None) -> Numbers:
    """Mean distance of attention, as a share of the longest possible one; and that of the same queries looking evenly at what they see.

    The distance is ``d = sum A[t, s] (t - s)`` of the WAAD paper; the longest possible is that to the first token. Rows count with what
    they give to keys.
    """
    visible = _seen(pattern, seen)
    query = np.arange(pattern.shape[-2])
    distance = np.abs(query[:, None] - np.arange(pattern.shape[-1])[None, :])
    mass = pattern.sum(-1)
    even = (visible * distance).sum(-1) / np.maximum(visible.sum(-1), 1)
    longest = (mass * query).sum(-1)
    far = np.tensordot(pattern, distance.astype(pattern.dtype), axes=2)  # one product: no array of the pattern's size is made
    return _ratio(far, longest), _ratio((mass * even).sum(-1), longest)


def locality(pattern: Pattern, window: int, seen: Seen | None = None) -> Numbers:
    """Share of attention within the last ``window`` tokens, the query's own included; and the share of visible keys that lie there.

    Only of queries that have more tokens than that behind them; 0 and 0 where no query has.
    """
    visible = _seen(pattern, seen)
    query, key = np.arange(pattern.shape[-2])[:, None], np.arange(pattern.shape[-1])[None, :]
    near = (query - key < window) & (key <= query)
    rows = np.arange(pattern.shape[-2]) >= window
    mass = pattern.sum(-1) * rows
    even = (visible & near).sum(-1) / np.maximum(visible.sum(-1), 1)
    within = ((pattern * near).sum(-1) * rows).sum(-1)
    return _ratio(within, mass.sum(-1)), _ratio((mass * even).sum(-1), mass.sum(-1))


def focus(pattern: Pattern, seen: Seen | None = None) -> Numbers:
    """One minus entropy over its largest possible value, the mean over queries that see two keys or more; and that of even attention, 0.

    Of the attention that goes to keys. A query that gives nothing to any key counts as even.
    """
    count = _seen(pattern, seen).sum(-1)
    mass = pattern.sum(-1)
    # Entropy of shares w / W from the weights: log W - sum of w log w / W. Only weights above 0 have a logarithm.
    logs = np.zeros_like(pattern)
    np.log(pattern, out=logs, where=pattern > 0)
    looks = mass > 0
    weighed = np.einsum("...k,...k->...", pattern, logs)
    entropy = np.log(np.where(looks, mass, 1.0)) - np.divide(weighed, mass, out=np.zeros_like(mass), where=looks)
    most = np.log(np.maximum(count, 2))
    rows = np.broadcast_to(count > 1, entropy.shape)
    values = np.where(looks, 1 - entropy / most, 0.0)
    return _mean(values, rows), np.zeros(entropy.shape[:-1])


def on_marked(pattern: Pattern, marked: Seen, seen: Seen | None = None) -> Numbers:
    """Share of attention that goes to marked keys, over queries that see marked and other keys; and the share of visible keys marked.

    Parameters
    ----------
    pattern : ndarray
        Weights.
    marked : ndarray of bool, shape (..., key)
        Broadcasts to the pattern without its query axis: which keys are of the kind.
    seen : ndarray of bool, optional
        Which keys each query can see.
    """
    visible = _seen(pattern, seen)
    kind = visible & marked[..., None, :]
    n_kind, n_all = kind.sum(-1), visible.sum(-1)
    mass = pattern.sum(-1) * ((n_kind > 0) & (n_kind < n_all))
    there = (pattern * kind).sum(-1) * (mass > 0)
    return _ratio(there.sum(-1), mass.sum(-1)), _ratio((mass * (n_kind / np.maximum(n_all, 1))).sum(-1), mass.sum(-1))


def received(pattern: Pattern, seen: Seen | None = None, *, gap: int = 4, rows: int = 16) -> Float[np.ndarray, "*lead column"]:
    """Mean attention that each token gets from tokens at least ``gap`` later: columns with ``rows`` such queries, without the first.

    The first token is left out because that is what `sink` measures, near ones because local attention is not broadcast.
    """
    visible = _late(pattern, seen, gap)
    last = max(1, pattern.shape[-1] - gap - rows + 1)
    count = visible.sum(-2)[..., 1:last]
    total = (pattern * visible).sum(-2)[..., 1:last]
    return np.asarray(total / np.maximum(count, 1))


def kurtosis(values: Float[np.ndarray, "*lead column"]) -> Float[np.ndarray, "*lead"]:
    """Excess kurtosis over the last axis, ``m4 / m2^2 - 3``; 0 where all values are the same."""
    if values.shape[-1] < 2:  # noqa: PLR2004 - nothing to compare
        return np.zeros(values.shape[:-1])
    mean = values.mean(-1, keepdims=True)
    away = values - mean
    spread = (away**2).mean(-1)
    varies = spread > _FLAT * mean[..., 0] ** 2
    return np.where(varies, (away**4).mean(-1) / np.where(varies, spread, 1.0) ** 2 - 3, 0.0)


def within_rows(pattern: Pattern, order: Float[np.ndarray, "query key"], seen: Seen | None = None, gap: int = 4) -> Pattern:
    """The pattern with each query's far keys (``gap`` tokens away or more, without the first) in another order.

    Parameters
    ----------
    pattern : ndarray
        Weights.
    order : ndarray, shape (query, key)
        Random numbers, whose order is the new one; the same for all heads.
    seen : ndarray of bool, optional
        Which keys each query can see.
    gap : int
        Nearer keys stay where they are.
    """
    movable = _late(pattern, seen, gap).copy()
    movable[..., 0] = False
    shuffled = np.argsort(np.where(movable, order, np.inf), axis=-1, kind="stable")
    place = np.maximum(np.cumsum(movable, axis=-1) - 1, 0)
    moved = np.take_along_axis(shuffled, np.broadcast_to(place, shuffled.shape), axis=-1)
    index = np.where(movable, moved, np.arange(pattern.shape[-1]))
    return np.take_along_axis(pattern, np.broadcast_to(index, pattern.shape), axis=-1)


def _late(pattern: Pattern, seen: Seen | None, gap: int) -> Seen:
    query, key = np.arange(pattern.shape[-2])[:, None], np.arange(pattern.shape[-1])[None, :]
    return _seen(pattern, seen) & (query - key >= gap)


def _seen(pattern: Pattern, seen: Seen | None) -> Seen:
    return triangle(pattern.shape[-1]) if seen is None else seen


def _mean(values: Float[np.ndarray, "*lead query"], rows: Seen) -> Float[np.ndarray, "*lead"]:
    return _ratio((values * rows).sum(-1), rows.sum(-1))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """0 where there is nothing to share."""
    return np.divide(part, whole, out=np.zeros(np.broadcast_shapes(part.shape, whole.shape)), where=np.asarray(whole) > 0)
