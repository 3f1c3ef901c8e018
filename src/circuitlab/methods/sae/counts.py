"""Scores from integer codes: codes unique to positives, pairs of codes that occur together, permutation p-values. Only numpy is imported.

All functions take codes as integer arrays (prompt, node), with positives and negatives separate. No array of size codes x codes is built:
the work is over prompts, of which there are few.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from circuitlab.core.errors import BadParameterError

__all__ = ["code_agreement", "edge_counts", "label_p_values", "listed_edges", "pair_codes", "pair_shares", "unique_counts"]

_ROUNDING = 1e-12
_CELLS = 1 << 24
"""Most entries of an array while labels are permuted."""


def pair_shares(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Each positive prompt's share of the number of codes unique to positives, shape (positive, node).

    A code that no negative prompt has counts 1, split evenly among the positive prompts that have it, so that shares sum over prompts to
    `unique_counts`. This is the Shapley value of the prompt in the game where the value of a set of positive prompts is its number of
    unique codes (Shapley 1953): each code is a separate game whose holders are interchangeable.

    Raises
    ------
    BadParameterError
        If either side has no prompt, or the nodes differ.
    """
    positive, negative = _checked(positive, negative)
    shares = np.zeros(positive.shape)
    for i, row in enumerate(positive):
        shares[i] = ~(negative == row).any(0) / (positive == row).sum(0)
    return shares


def unique_counts(positive: np.ndarray, negative: np.ndarray, *, normalise: bool = False) -> np.ndarray:
    """Number of codes of each node that occur on positive prompts and on no negative prompt, shape (node,).

    With ``normalise``, it is divided by the number of codes that occur on any prompt.
    """
    counts = np.rint(pair_shares(positive, negative).sum(0))
    return counts / _distinct(np.concatenate([positive, negative])) if normalise else counts


def code_agreement(trials: Iterable[np.ndarray], node: int) -> np.ndarray:
    """How alike the codes of one node and of every node sort the prompts, beyond chance: the adjusted Rand index, shape (node,).

    Two prompts are in one group of a node if it has the same code on both; which code that is does not matter. 1: the same groups; 0: no
    more alike than with the prompts of one node dealt out anew. NaN where both nodes have one code on all prompts: nothing is sorted.

    Parameters
    ----------
    trials : iterable of ndarray of int, shape (prompt, node)
        Codes by one dictionary for all nodes. The index is that of all arrays together, each of which weighs the same; prompts are
        compared within an array.
    node : int
        The node that all are compared with.

    References
    ----------
    Hubert and Arabie (1985), Comparing partitions.

    Examples
    --------
    >>> codes = np.array([[3, 7, 3, 3, 5], [3, 7, 3, 4, 5], [4, 9, 4, 3, 5], [4, 9, 3, 4, 5]])
    >>> code_agreement([codes], 0)
    array([ 1. ,  1. ,  0. , -0.5,  0. ])
    """
    gained, possible = 0.0, 0.0
    for codes in trials:
        both, each = np.zeros(codes.shape[1]), np.zeros(codes.shape[1])
        for row in range(len(codes) - 1):
            same = codes[row + 1 :] == codes[row]
            both += (same & same[:, [node]]).sum(0)
            each += same.sum(0)
        pairs = len(codes) * (len(codes) - 1) / 2
        both, each = both / pairs, each / pairs
        gained, possible = gained + both - each * each[node], possible + (each + each[node]) / 2 - each * each[node]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(possible) > _ROUNDING, gained / np.asarray(possible), np.nan)


def edge_counts(positive: np.ndarray, negative: np.ndarray, *, normalise: bool = False) -> np.ndarray:
    """Number of code pairs that occur together in a positive prompt and in no negative prompt, shape (node, node).

    Entry (g, h) counts pairs (code of g, code of h). The matrix is symmetric; its diagonal is 0, because a node has no edge to itself.

    Parameters
    ----------
    positive, negative : ndarray of int, shape (prompt, node)
        Codes of both sides.
    normalise : bool
        Whether to divide by the number of code pairs that occur among positives plus the number among negatives, as published.

    Notes
    -----
    For one positive prompt, let S (positive, node) mark where other positives share its codes, and D (negative, node) where negatives do.
    ``S.T @ S`` counts, for every two nodes, the positives that share the pair, and ``D.T @ D`` the negatives. The pair is unique where the
    latter is 0, and each of its holders adds one over their number. This takes prompts^2 x nodes^2 operations and nodes^2 memory, instead
    of an array of nodes^2 x codes^2 counts.
    """
    positive, negative = _checked(positive, negative)
    unique, ours = _pairs(positive, positive, negative)
    if normalise:
        _, theirs = _pairs(negative, negative, positive)
        unique = unique / (ours + theirs)
    np.fill_diagonal(unique, 0.0)
    return unique


def _pairs(prompts: np.ndarray, same: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of code pairs of ``prompts`` that no prompt in ``other`` has, and of all their code pairs; both (node, node)."""
    unique, total = (np.zeros((prompts.shape[1],) * 2) for _ in range(2))
    for row in prompts:
        holders, others = ((rows == row).astype(np.float32) for rows in (same, other))
        part = 1.0 / (holders.T @ holders)
        total += part
        unique += part * (others.T @ others == 0)
    return np.rint(unique), np.rint(total)  # sums of n terms 1 / n, rounded to integers


def pair_codes(codes: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """One integer per prompt and edge for the pair of codes at its two nodes, shape (prompt, edge); edges are (edge, 2) node numbers."""
    first, second = (codes[:, edges[:, i]].astype(np.int64) + 1 for i in (0, 1))  # codes start at -1
    return (first << 32) + second


def listed_edges(edges: np.ndarray, entries: int) -> np.ndarray:
    """Share of each edge in the list of the strongest edges, shape (node, node): 1, 0, or a fraction for ties at the end of the list.

    As published, edges are listed by decreasing score, each in both directions and as two nodes, and the list is cut after a number of
    entries. Counts of codes are often equal, and the published list then follows the numbering of heads. Here edges that tie for the last
    places share them evenly, which is the expected list for ties in random order. Edges without a unique code pair are never listed.

    Parameters
    ----------
    edges : ndarray, shape (node, node)
        Symmetric scores, 0 or more.
    entries : int
        Length of the list; an edge takes four.
    """
    strengths = edges[np.triu_indices(len(edges), 1)]
    places, levels = entries / 4, np.sort(strengths)[::-1]
    last = levels[min(int(np.ceil(places)), len(levels)) - 1]
    above, tied = int((strengths > last).sum()), int((strengths == last).sum())
    listed = np.where(edges > last, 1.0, np.where(edges == last, min(1.0, (places - above) / tied), 0.0)) * (edges > 0)
    np.fill_diagonal(listed, 0.0)
    return listed


def label_p_values(
    positive: np.ndarray,
    negative: np.ndarray,
    *,
    permutations: int = 2000,
    paired: bool = True,
    seed: int = 0,
) -> np.ndarray:
    """One-sided p-values of `unique_counts` by shuffling which prompts are positive, shape (node,).

    Parameters
    ----------
    positive, negative : ndarray of int, shape (trial, prompt, node)
        Codes of the same prompts by several dictionaries; the statistic is the mean count over trials. Training does not use the labels,
        so the dictionaries are not trained again.
    permutations : int
        Number of random relabellings.
    paired : bool
        Whether only the two prompts of a pair are swapped (null hypothesis: it does not matter which of them is clean). Otherwise any
        prompt may become positive, which is valid only if all prompts are independent.
    seed : int
        Seed of the relabellings, which are the same for all nodes.

    Returns
    -------
    ndarray
        ``(1 + number of relabellings with at least this count) / (1 + permutations)``: never 0, and at most ``alpha`` with probability
        at most ``alpha`` under the null hypothesis. Counts are small numbers, so with few prompts the test is conservative.

    References
    ----------
    Phipson and Smyth (2010), Permutation P-values should never be zero.
    """
    if positive.ndim != 3 or (paired and positive.shape != negative.shape) or permutations < 1:  # noqa: PLR2004 - trial, prompt, node
        what = f"Codes of shapes {positive.shape} and {negative.shape} cannot be shuffled {permutations} times."
        raise BadParameterError(what, "Give (trial, prompt, node) codes (equally many on both sides if paired) and at least 1 permutation.")
    n = positive.shape[1]
    labels = _labels(n, negative.shape[1], permutations, np.random.default_rng(seed), paired=paired)
    observed = np.zeros(positive.shape[2])
    shuffled = np.zeros((permutations, positive.shape[2]))
    truth = np.arange(labels.shape[1])[None] < n
    for codes in np.concatenate([positive, negative], axis=1):
        observed += _counts_of(codes, truth)[0]
        shuffled += _counts_of(codes, labels)
    return (1 + (shuffled >= observed - 1e-9).sum(0)) / (1 + permutations)


def _labels(n: int, m: int, permutations: int, rng: np.random.Generator, *, paired: bool) -> np.ndarray:
    """Random relabellings, (permutation, prompt): True is positive."""
    if paired:
        unswapped = rng.random((permutations, n)) < 0.5  # noqa: PLR2004 - a fair coin
        return np.concatenate([unswapped, ~unswapped], axis=1)
    return rng.permuted(np.tile(np.arange(n + m) < n, (permutations, 1)), axis=1)


def _counts_of(codes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Unique codes of every node under every labelling, (labelling, node): codes whose holders are all positive."""
    counts = np.zeros((len(labels), codes.shape[1]))
    wide = labels.astype(np.float32)
    for node in range(codes.shape[1]):
        _, which = np.unique(codes[:, node], return_inverse=True)
        member = np.eye(which.max() + 1, dtype=np.float32)[which]
        size = member.sum(0)
        for start in range(0, len(labels), step := max(1, _CELLS // len(size))):
            counts[start : start + step, node] = (wide[start : start + step] @ member == size).sum(1)
    return counts


def _distinct(codes: np.ndarray) -> np.ndarray:
    """Number of different codes of each node, (node,)."""
    ordered = np.sort(codes, axis=0)
    return 1 + (np.diff(ordered, axis=0) != 0).sum(0)


def _checked(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    positive, negative = np.asarray(positive), np.asarray(negative)
    if positive.ndim != 2 or not len(positive) or not len(negative) or positive.shape[1:] != negative.shape[1:]:  # noqa: PLR2004
        what = f"Codes of shapes {positive.shape} and {negative.shape} cannot be compared."
        raise BadParameterError(what, "Give (prompt, node) codes of the same nodes, with at least one positive and one negative prompt.")
    return positive, negative
