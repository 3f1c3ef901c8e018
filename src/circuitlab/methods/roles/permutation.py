"""What permuted targets give: the null of roles that count how often a head writes the right token."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from circuitlab.methods.roles.contract import Role, role_provenance
from circuitlab.scores.role_scores import LEVEL, Null, RoleScores

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model
    from circuitlab.scores.role_scores import Per

__all__ = ["draws_for", "permutation_null", "scores_from_weights", "share_of_hits"]

_FEWEST, _MOST = 999, 50_000


def draws_for(n_heads: int) -> int:
    """Draws with which a single head that stands out can pass Benjamini-Hochberg: its p-value must reach 0.05 over the number of heads.

    At most 50,000, which is enough for 2,500 heads; with more heads, several must stand out together.
    """
    return min(max(_FEWEST, math.ceil(n_heads / LEVEL)), _MOST)


def share_of_hits(hits: np.ndarray) -> np.ndarray:
    """Share of sources whose own target is hit, (layer, head), from hits (layer, head, source, target)."""
    return _share(np.diagonal(hits, axis1=-2, axis2=-1).sum(-1), hits.shape[-1])


def permutation_null(hits: np.ndarray, blocks: np.ndarray, seed: int) -> np.ndarray:
    """The share of hits when targets are dealt out anew among the sources of each block, shape (draw, layer, head).

    Parameters
    ----------
    hits : ndarray of bool, shape (layer, head, source, target)
        Whether a head writes target j for source i; the right target of source i is target i.
    blocks : ndarray of int, shape (source,)
        Targets move only among sources of the same number.
    seed : int
        Of the permutations, which are the same for all heads.
    """
    *heads, n, _ = hits.shape
    draws, random = draws_for(int(np.prod(heads))), np.random.default_rng(seed)
    dealt = np.empty((draws, n), dtype=np.int64)
    for block in np.unique(blocks):
        members = np.flatnonzero(blocks == block)
        dealt[:, members] = random.permuted(np.tile(members, (draws, 1)), axis=1)
    by_source = np.ascontiguousarray(np.moveaxis(hits.reshape(-1, n, n), 0, -1))  # source, target, head
    total = np.zeros((draws, by_source.shape[-1]), dtype=np.int32)
    for source in range(n):
        total += by_source[source][dealt[:, source]]
    return _share(total, n).reshape(draws, *heads)


def _share(hits: np.ndarray, n: int) -> np.ndarray:
    """Values and draws are rounded alike, so that equal counts are ties."""
    return np.asarray((hits / n).astype(np.float32))


def scores_from_weights(
    role: Role, model: Model, value: np.ndarray, null: np.ndarray, *, per: Per = "head", tokens: object = None
) -> RoleScores:
    """Scores of a role that is read off the weights, with the draws of its null; ``tokens`` are the ids that it looked at."""
    return RoleScores(value[None], role_provenance(role, model, "", tokens), Null.of(null, value), per)
