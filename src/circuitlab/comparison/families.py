"""Do the prompts of one task share one mechanism? Clustering of per-pair score vectors, and a test for two families."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from circuitlab.circuits.select import top_mask
from circuitlab.comparison.overlap import set_overlaps
from circuitlab.comparison.score_map import score_map
from circuitlab.core.errors import BadParameterError
from circuitlab.scores.head_scores import HeadScores

__all__ = ["Families", "prompt_families"]

_LEVEL = 0.01  # of the warning: every task of a comparison is tested
_FEWEST = 8  # pairs below which two families cannot be told from noise
_MOST_NAMED = 0.8  # share of a family from which on a label names it


@dataclass(frozen=True, eq=False)
class Families:
    """Two families of prompts, the best split there is, and whether it is more than chance.

    Parameters
    ----------
    family : ndarray of int, shape (pair,)
        0 for the larger family, 1 for the other.
    order : ndarray of int, shape (pair,)
        Pairs in the order of the dendrogram's leaves.
    p : float
        Of the split: how often prompts of one mechanism, with the same covariance between heads, split as clearly.
    label_p : float
        Of the labels given: how often shuffled labels would differ as much; NaN without labels.
    overlap : float
        Jaccard index of the top k of the two families.
    overlap_by_chance : float
        Its mean over random splits of the same sizes.
    warning : str
        What to say where the task mixes mechanisms; empty where nothing shows it.

    Examples
    --------
    >>> import numpy as np
    >>> from circuitlab.testing.fakes import fake_scores
    >>> families: Families = prompt_families(fake_scores(np.ones((12, 2, 3))), k=2)
    >>> families.family.tolist(), families.warning
    ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], '')
    """

    family: np.ndarray
    order: np.ndarray
    p: float
    label_p: float
    overlap: float
    overlap_by_chance: float
    warning: str


def prompt_families(
    scores: HeadScores,
    labels: Sequence[str] | None = None,
    k: int = 20,
    *,
    mark: str | None = None,
    n: int = 400,
    seed: int = 0,
) -> Families:
    """Split the pairs of a task in two by their score vectors, and test whether they mix mechanisms.

    Parameters
    ----------
    scores : HeadScores
        One run of one task.
    labels : sequence of str, optional
        A name for each pair, such as its template or its order of names (ABBA, BABA).
    k, mark : int, str
        How each family's heads are picked, by magnitude.
    n, seed : int
        Random draws for each test, and the seed.

    Returns
    -------
    Families

    Raises
    ------
    BadParameterError
        If labels are given and there is not one for each pair, or all are the same; or if the scores come from weights alone.

    Notes
    -----
    Vectors are scaled to length 1, so that a family is a pattern of heads and not a size of effect; Ward linkage, cut in two. The split
    is tested as in SigClust: its within-cluster sum of squares against that of normal vectors with the same covariance, which is
    conservative because that covariance includes a true split. Labels are tested by permutation of the between-group sum of squares
    (PERMANOVA), which sees what a blind split misses. With fewer than 8 pairs the split is not tested (p = 1).

    References
    ----------
    Ward (1963), JASA 58. Liu, Hayes, Nobel and Marron (2008), Statistical Significance of Clustering, JASA 103. Anderson (2001), A new
    method for non-parametric multivariate analysis of variance, Austral Ecology 26.

    Examples
    --------
    >>> import numpy as np
    >>> from circuitlab.testing.fakes import fake_scores
    >>> effects = np.random.default_rng(0).normal(size=(16, 2, 4)) * 0.1
    >>> effects[:10, 0, 1] += 3.0  # ten prompts use one head,
    >>> effects[10:, 1, 2] += 3.0  # and six another
    >>> found = prompt_families(fake_scores(effects), k=2)
    >>> found.family.tolist(), found.p < 0.01
    ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1], True)
    """
    one = score_map(scores, mark)
    one.require_pairs("family of prompts")
    pairs = len(one.values)
    if labels is not None and (len(labels) != pairs or len(set(labels)) <= 1):
        what = f"{len(labels)} labels, {len(set(labels))} of them different, do not divide {pairs} pairs."
        raise BadParameterError(what, "Give every pair a label, with at least two different ones.")
    generator = np.random.default_rng(seed)
    size = np.linalg.norm(one.values, axis=1, keepdims=True)
    shape = np.divide(one.values, size, out=np.zeros_like(one.values), where=size > 0)
    family, order = _split(shape)
    tested = pairs >= _FEWEST and np.ptp(shape, axis=0).any()
    p = _split_p(shape, family, n, generator) if tested else 1.0
    label_p = float("nan") if labels is None else _label_p(shape, np.unique(list(labels), return_inverse=True)[1], n, generator)
    overlaps = [_family_overlap(one.values, family, k)]
    overlaps += [_family_overlap(one.values, generator.permutation(family), k) for _ in range(n // 4)]
    found = overlaps[0], float(np.mean(overlaps[1:]))
    warning = _warning(family, labels, p, label_p, found, k)
    return Families(family, order, p, label_p, *found, warning)


def _split(shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Family of each row, 0 the larger, and the rows in the order of the dendrogram."""
    from scipy.cluster import hierarchy  # noqa: PLC0415 - scipy is slow to import

    if len(shape) <= 1:
        return np.zeros(len(shape), dtype=int), np.arange(len(shape))
    tree = hierarchy.linkage(shape, "ward")
    family = hierarchy.fcluster(tree, 2, "maxclust") - 1
    return (family if 2 * family.sum() <= family.size else 1 - family), hierarchy.leaves_list(tree)


def _within(values: np.ndarray, group: np.ndarray) -> float:
    """Share of the sum of squares that lies within groups."""
    total = float(((values - values.mean(axis=0)) ** 2).sum())
    parts = (values[group == one] for one in np.unique(group))
    return sum(float(((part - part.mean(axis=0)) ** 2).sum()) for part in parts) / total if total > 0 else 1.0


def _split_p(shape: np.ndarray, family: np.ndarray, n: int, generator: np.random.Generator) -> float:
    pairs = len(shape)
    centred = shape - shape.mean(axis=0)
    # Rows of noise times the data have the data's covariance; in its own coordinates they are as short as there are pairs.
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    coordinates = left * size
    spread = coordinates.std(axis=0, ddof=1)
    observed = _within(coordinates, family)
    beyond = 0
    for _ in range(n):
        drawn = generator.normal(size=coordinates.shape) * spread
        beyond += _within(drawn, _split(drawn)[0]) <= observed
    return (1 + beyond) / (1 + n) if pairs > 1 else 1.0


def _label_p(shape: np.ndarray, group: np.ndarray, n: int, generator: np.random.Generator) -> float:
    observed = _within(shape, group)
    beyond = sum(_within(shape, generator.permutation(group)) <= observed + 1e-12 for _ in range(n))
    return float((1 + beyond) / (1 + n))


def _family_overlap(values: np.ndarray, family: np.ndarray, k: int) -> float:
    if np.ptp(family) == 0:
        return 1.0
    first, second = (top_mask(values[family == side].mean(axis=0), k) for side in (0, 1))
    return float(set_overlaps(first, second)["jaccard"])


def _warning(
    family: np.ndarray,
    labels: Sequence[str] | None,
    p: float,
    label_p: float,
    overlap: tuple[float, float],
    k: int,
) -> str:
    told = []
    if p <= _LEVEL:
        named = _named(family, labels)
        told.append(f"its pairs fall into two families of {np.sum(family == 0)} and {np.sum(family == 1)}{named} (p = {p:.2g})")
    if label_p <= _LEVEL:
        told.append(f"its scores differ between the labels given (p = {label_p:.2g})")
    if not told:
        return ""
    lists = f"the families' top {k} lists have a Jaccard index of {overlap[0]:.2f}, random halves one of {overlap[1]:.2f}"
    return f"The task may mix mechanisms: {', and '.join(told)}; {lists}. Compare the families one by one."


def _named(family: np.ndarray, labels: Sequence[str] | None) -> str:
    """What a family mostly is, where the labels say so."""
    if labels is None:
        return ""
    said = []
    for side in (0, 1):
        own = [label for label, of in zip(labels, family, strict=True) if of == side]
        most = max(set(own), key=own.count)
        share = own.count(most) / len(own)
        said.append(f"{share:.0%} {most}" if share >= _MOST_NAMED else "mixed labels")
    return f", {said[0]} against {said[1]},"
