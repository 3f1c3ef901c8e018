"""Random circuits of a given size, and p-values from them. numpy only."""

from __future__ import annotations

import numpy as np

from circuitlab.core.errors import BadParameterError

__all__ = ["p_value", "random_masks", "random_subsets"]


def random_masks(mask: np.ndarray, strata: np.ndarray, n: int, *, seed: int = 0) -> np.ndarray:
    """Random circuits of the same size as a circuit, drawn independently and uniformly.

    Parameters
    ----------
    mask : ndarray of bool, shape (element,)
        The circuit.
    strata : ndarray of int, shape (element,)
        Stratum of every element, such as its layer. Each random circuit has as many elements of every stratum as the circuit.
    n, seed : int
        Number of random circuits, and the seed.

    Returns
    -------
    ndarray of bool, shape (n, element)
        One random circuit per row.

    Raises
    ------
    BadParameterError
        If the shapes differ or ``n`` is negative.
    """
    if mask.shape != strata.shape or n < 0:
        what = f"{n} random circuits cannot match {mask.shape} elements in strata of shape {strata.shape}."
        raise BadParameterError(what, "Give one stratum per element.")
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, mask.size), dtype=bool)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        size = int(mask[members].sum())
        order = rng.random((n, members.size)).argsort(axis=1)[:, :size]
        np.put_along_axis(masks, members[order], values=True, axis=1)
    return masks


def random_subsets(mask: np.ndarray, n: int, *, seed: int = 0) -> np.ndarray:
    """Random subsets of a circuit, bool, shape (n, element).

    Every element is in a subset with probability one half; a subset that would be empty gets one random element instead. An empty circuit
    has empty subsets only.
    """
    inside = np.flatnonzero(mask)
    masks = np.zeros((n, mask.size), dtype=bool)
    if not inside.size:
        return masks
    rng = np.random.default_rng(seed)
    masks[:, inside] = rng.random((n, inside.size)) < 0.5  # noqa: PLR2004 - in or out
    empty = np.flatnonzero(~masks.any(axis=1))
    masks[empty, rng.choice(inside, size=empty.size)] = True
    return masks


def p_value(observed: float, reference: np.ndarray) -> float:
    """Share of circuits whose value is at least the observed one, among the random circuits and the observed one: ``(r + 1) / (n + 1)``.

    Valid for any ``n``: under the null hypothesis that the circuit is itself a random one, the p-value is at most p with a probability of
    at most p.

    Parameters
    ----------
    observed : float
        Value of the circuit; larger is more extreme.
    reference : ndarray, shape (n,)
        Values of the random circuits.

    References
    ----------
    Phipson and Smyth (2010), Permutation P-values Should Never Be Zero. Shi et al. (2024), Hypothesis Testing the Circuit Hypothesis in
    LLMs, arXiv:2410.13032.
    """
    return float((1 + np.sum(np.asarray(reference) >= observed)) / (1 + np.size(reference)))
