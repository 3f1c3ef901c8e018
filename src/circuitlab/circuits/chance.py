"""Random circuits of the same size, and what they say about a found one. numpy only."""

from __future__ import annotations

import numpy as np

from circuitlab.core.errors import BadParameterError

__all__ = ["p_value", "random_masks", "random_subsets"]


def random_masks(mask: np.ndarray, strata: np.ndarray, n: int, *, seed: int = 0) -> np.ndarray:
    """Random circuits that match a circuit in size, drawn independently and uniformly.

    Parameters
    ----------
    mask : ndarray of bool, shape (element,)
        The circuit.
    strata : ndarray of int, shape (element,)
        Each random circuit has as many elements of every stratum as the circuit has.
    n, seed : int
        How many, and the seed.

    Returns
    -------
    ndarray of bool, shape (n, element)
    """
    if mask.shape != strata.shape or n < 0:
        what = f"{n} random circuits cannot match {mask.shape} elements in strata of shape {strata.shape}."
        raise BadParameterError(what, "Give one stratum per element.")
    rng = np.random.default_rng(seed)
    out = np.zeros((n, mask.size), dtype=bool)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        wanted = int(mask[members].sum())
        order = rng.random((n, members.size)).argsort(axis=1)[:, :wanted]
        np.put_along_axis(out, members[order], values=True, axis=1)
    return out


def random_subsets(mask: np.ndarray, n: int, *, seed: int = 0) -> np.ndarray:
    """Random subsets K of a circuit, every element in or out with probability one half, (n, element); never empty."""
    inside = np.flatnonzero(mask)
    out = np.zeros((n, mask.size), dtype=bool)
    if not inside.size:
        return out
    rng = np.random.default_rng(seed)
    out[:, inside] = rng.random((n, inside.size)) < 0.5  # noqa: PLR2004 - in or out
    bare = np.flatnonzero(~out.any(axis=1))
    out[bare, rng.choice(inside, size=bare.size)] = True
    return out


def p_value(observed: float, reference: np.ndarray) -> float:
    """Share of random circuits that reach the observed value, the observed one counted among them: ``(r + 1) / (n + 1)``.

    Valid for any ``n``: under the null hypothesis, that the circuit is itself a random one, it is at most p with probability p at most.

    References
    ----------
    Phipson and Smyth (2010), Permutation P-values Should Never Be Zero. Shi et al. (2024), Hypothesis Testing the Circuit Hypothesis in
    LLMs, arXiv:2410.13032.
    """
    return float((1 + np.sum(np.asarray(reference) >= observed)) / (1 + np.size(reference)))
