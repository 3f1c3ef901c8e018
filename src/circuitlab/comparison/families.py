"""Whether the prompts of one task share a mechanism: clustering of the pairs by their scores, and a test for two families."""

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

_LEVEL = 0.01  # significance level of the warning; low, since every task of a comparison is tested
_FEWEST = 8  # number of pairs below which two families cannot be distinguished from noise
_MOST_NAMED = 0.8  # share of a family above which it is named by its most frequent label


@dataclass(frozen=True, eq=False)
class Families:
    """A split of a task's prompts into two families, and whether the split is more than chance.

    Parameters
    ----------
    family : ndarray of int, shape (pair,)
        0 for pairs of the larger family, 1 for the others.
    order : ndarray of int, shape (pair,)
        Pairs in the order of the dendrogram's leaves.
    p : float
        p-value of the split: the probability that prompts of one mechanism, with the same covariance between heads, split as clearly.
    label_p : float
        p-value of the labels: the probability that shuffled labels separate the scores as well; NaN without labels.
    overlap : float
        Jaccard index of the top k heads of the two families.
    overlap_by_chance : float
        Its mean over random splits of the same sizes.
    warning : str
        Warning that the task mixes mechanisms; empty if neither test is significant at 0.01.

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
    """Split the pairs of a task in two by their scores, and test whether they use different mechanisms.

    Parameters
    ----------
    scores : HeadScores
        Scores of one task.
    labels : sequence of str, optional
        A label for each pair, such as its template or its order of names (ABBA, BABA).
    k : int
        Number of heads that are selected for each family, by magnitude.
    mark : str, optional
        The mark; needed if scores are resolved by mark.
    n, seed : int
        Number of random draws for each test, and their seed.

    Returns
    -------
    Families
        The split and its tests.

    Raises
    ------
    BadParameterError
        If there are labels, but not one for each pair, or all of them are equal; or if the scores come from weights alone.

    Notes
    -----
    The score vectors of the pairs are scaled to length 1, so that a family is a pattern of heads and not a size of effect, and clustered by
    Ward linkage, cut in two. The split is tested as in SigClust: its within-cluster sum of squares is compared with that of normal vectors
    with the same covariance. This is conservative, because the covariance includes a true split. Labels are tested by permutation of the
    between-group sum of squares (PERMANOVA), which can detect differences that the clustering misses. With fewer than 8 pairs the split is
    not tested (p = 1).

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
    >>> families = prompt_families(fake_scores(effects), k=2)
    >>> families.family.tolist(), families.p < 0.01
    ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1], True)
    """
    elements = score_map(scores, mark)
    elements.require_pairs("family of prompts")
    values = elements.values
    pairs = len(values)
    if labels is not None and (len(labels) != pairs or len(set(labels)) <= 1):
        what = f"{len(labels)} labels, {len(set(labels))} of them different, do not divide {pairs} pairs."
        raise BadParameterError(what, "Give every pair a label, with at least two different ones.")
    generator = np.random.default_rng(seed)
    size = np.linalg.norm(values, axis=1, keepdims=True)
    patterns = np.divide(values, size, out=np.zeros_like(values), where=size > 0)
    family, order = _split(patterns)
    tested = pairs >= _FEWEST and np.ptp(patterns, axis=0).any()
    p = _split_p(patterns, family, n, generator) if tested else 1.0
    label_p = float("nan") if labels is None else _label_p(patterns, np.unique(list(labels), return_inverse=True)[1], n, generator)
    observed = _family_overlap(values, family, k)
    overlap = observed, float(np.mean([_family_overlap(values, generator.permutation(family), k) for _ in range(n // 4)]))
    warning = _warning(family, labels, p, label_p, overlap, k)
    return Families(family, order, p, label_p, *overlap, warning)


def _split(patterns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Family of each row, 0 for the larger family, and the rows in the order of the dendrogram's leaves."""
    from scipy.cluster import hierarchy  # noqa: PLC0415 - scipy is slow to import

    if len(patterns) <= 1:
        return np.zeros(len(patterns), dtype=int), np.arange(len(patterns))
    tree = hierarchy.linkage(patterns, "ward")
    family = hierarchy.fcluster(tree, 2, "maxclust") - 1
    return (family if 2 * family.sum() <= family.size else 1 - family), hierarchy.leaves_list(tree)


def _halves(patterns: np.ndarray) -> np.ndarray:
    """The split of `_split` without its order: which rows are under the second branch of the dendrogram's last merge.

    Checking a tree and cutting it at a height, as scipy does, takes several times as long as growing it.
    """
    from scipy.cluster import hierarchy  # noqa: PLC0415 - scipy is slow to import

    rows = len(patterns)
    tree = hierarchy.linkage(patterns, "ward")
    if rows <= 2 or tree[-1, 2] == tree[-2, 2]:  # noqa: PLR2004 - no merge before the last, or two at one height: not cut in two
        return _split(patterns)[0]
    family, below = np.zeros(rows, dtype=int), [int(tree[-1, 1])]
    while below:
        node = below.pop()
        if node < rows:
            family[node] = 1
        else:
            below += [int(child) for child in tree[node - rows, :2]]
    return family


def _within(values: np.ndarray, group: np.ndarray) -> float:
    """Share of the sum of squares that is within groups."""
    total = float(((values - values.mean(axis=0)) ** 2).sum())
    parts = (values[group == label] for label in np.unique(group))
    return sum(float(((part - part.mean(axis=0)) ** 2).sum()) for part in parts) / total if total > 0 else 1.0


def _split_p(patterns: np.ndarray, family: np.ndarray, n: int, generator: np.random.Generator) -> float:
    pairs = len(patterns)
    centred = patterns - patterns.mean(axis=0)
    # Principal components: noise with their spread has the covariance of the data, in no more dimensions than there are pairs.
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    coordinates = left * size
    spread = coordinates.std(axis=0, ddof=1)
    observed = _within(coordinates, family)
    beyond = 0
    for _ in range(n):
        drawn = generator.normal(size=coordinates.shape) * spread
        beyond += _within(drawn, _halves(drawn)) <= observed
    return (1 + beyond) / (1 + n) if pairs > 1 else 1.0


def _label_p(patterns: np.ndarray, group: np.ndarray, n: int, generator: np.random.Generator) -> float:
    observed = _within(patterns, group)
    beyond = sum(_within(patterns, generator.permutation(group)) <= observed + 1e-12 for _ in range(n))
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
    reasons = []
    if p <= _LEVEL:
        names = _family_names(family, labels)
        reasons.append(f"its pairs fall into two families of {np.sum(family == 0)} and {np.sum(family == 1)}{names} (p = {p:.2g})")
    if label_p <= _LEVEL:
        reasons.append(f"its scores differ between the labels given (p = {label_p:.2g})")
    if not reasons:
        return ""
    lists = f"the families' top {k} lists have a Jaccard index of {overlap[0]:.2f}, random halves one of {overlap[1]:.2f}"
    return f"The task may mix mechanisms: {', and '.join(reasons)}; {lists}. Compare the families one by one."


def _family_names(family: np.ndarray, labels: Sequence[str] | None) -> str:
    """The most frequent label of each family, if there are labels and it is frequent enough."""
    if labels is None:
        return ""
    names = []
    for side in (0, 1):
        members = [label for label, of in zip(labels, family, strict=True) if of == side]
        most = max(set(members), key=members.count)
        share = members.count(most) / len(members)
        names.append(f"{share:.0%} {most}" if share >= _MOST_NAMED else "mixed labels")
    return f", {names[0]} against {names[1]},"
