"""Backups: heads that replace each other, found by knocking out pairs of heads together.

If either of two heads is sufficient (an OR), knocking out one changes nothing, and every method that acts on one node at a time scores
both near 0. Knocking out both does have an effect: the joint effect exceeds the sum of the single effects, and each of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Head, Node, Universe
from circuitlab.core.progress import step
from circuitlab.execute.reference import with_reference
from circuitlab.execute.sweeps import EngineName, batch_by_length, pairs_together, require_engine, sweeps_on, unedited_together
from circuitlab.model.sites import Edit, EditSet, Site
from circuitlab.scores.intervals import Interval, mean_interval
from circuitlab.workflows.backup_groups import KnockOuts, held_groups

if TYPE_CHECKING:
    from circuitlab.execute.sweeps import Run, Sweeps
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["BackupFinder", "BackupGroup", "BackupPair", "Backups"]

_ROUNDING = 1e-5
"""Rounding error in float32 of an excess that is exactly 0, relative to the largest metric, with a margin for the sum of three effects."""

_TOGETHER = 512
"""Knock-outs in one sweep; more would only take more memory."""


@dataclass(frozen=True)
class BackupPair:
    """Two heads knocked out together.

    Parameters
    ----------
    heads : (Head, Head)
        The heads, in forward order.
    effect : Interval
        Joint effect: ``metric(clean) - metric(both knocked out)``, mean and interval over pairs, in metric units.
    excess : Interval
        Joint effect minus the sum of the single effects.
    q : float
        P-value corrected for all tested pairs of heads (Benjamini and Hochberg): the largest of those for a zero excess, and for either
        head having no effect once the other is knocked out.
    """

    heads: tuple[Head, Head]
    effect: Interval
    excess: Interval
    q: float


@dataclass(frozen=True)
class BackupGroup:
    """Heads that replace each other: connected backup pairs that are super-additive as a whole.

    Parameters
    ----------
    heads : tuple of Head
        The heads, in forward order.
    pairs : tuple of BackupPair
        The backup pairs that connect them, strongest excess first. In a larger group, not every two heads need be a backup pair.
    effect, excess : Interval
        Effect and excess of all its heads knocked out together, as in `BackupPair`.
    """

    heads: tuple[Head, ...]
    pairs: tuple[BackupPair, ...]
    effect: Interval
    excess: Interval


@dataclass(frozen=True)
class Backups:
    """The result of a search for backups.

    Parameters
    ----------
    groups : tuple of BackupGroup
        Groups, largest excess first.
    pairs : tuple of BackupPair
        Every tested pair of heads, largest mean excess first.
    single : mapping of Head to Interval
        Effect of each head knocked out by itself.
    runs : int
        Number of edited runs: heads, pairs and larger groups, times prompt pairs.
    """

    groups: tuple[BackupGroup, ...]
    pairs: tuple[BackupPair, ...]
    single: Mapping[Head, Interval]
    runs: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data: ``{"groups": [{"heads", "effect", "excess"}], "tested", "runs"}``; intervals are ``{"mean", "low", "high"}``."""
        groups = [
            {"heads": [str(head) for head in group.heads], "effect": group.effect.as_dict(), "excess": group.excess.as_dict()}
            for group in self.groups
        ]
        return {"groups": groups, "tested": len(self.pairs), "runs": self.runs}


@dataclass(frozen=True)
class BackupFinder:
    """Finds heads that back up each other, starting from the heads of a circuit.

    Every head is knocked out by itself, and every candidate pair together: on the clean prompt, outputs at all positions are replaced by
    those on the corrupt prompt (noising), and everything downstream is recomputed. A pair is a backup pair if its joint effect exceeds the
    sum of its single effects, and each of them. The second condition excludes a head that hinders and that loses its input when the other
    head is knocked out: it is super-additive with that head, but not its backup. Connected backup pairs form a group if the same holds for
    all of its heads: their joint effect exceeds the sum of the single effects, and the effect of the group without any one head. If this
    is not true, the weakest pair is removed until it is; removed pairs remain in the list of tested pairs.

    Parameters
    ----------
    others : tuple of Head, optional
        Heads with which each seed is paired, in addition to the other seeds. By default all heads of the seed's layer and later layers,
        because a backup acts after what it replaces, or in the same layer.
    rate : float
        False-discovery rate over all tested pairs (Benjamini and Hochberg, two-sided t-tests over prompt pairs), and level at which larger
        groups are tested. Intervals have confidence ``1 - rate``, and that of the excess of every group excludes 0.
    least : float
        Margin, as a share of the mean magnitude of the clean-corrupt gap, by which a mean excess must exceed 0, and a joint effect each
        single effect. Heads that share a norm always interact a little, and with enough prompts significantly; with 0, any change larger
        than rounding is accepted.
    max_pairs : int
        Searches with more pairs of heads are refused, because they would take hours.
    engine : {"exact", "hooks"}
        As in activation patching.

    Notes
    -----
    Cost: (heads + pairs of heads) x prompt pairs edited runs, each only from its earlier head's layer and the first differing token on;
    20 seeds in a model of 270 heads are up to 5,400 pairs of heads. Only positive excess counts: a negative excess means that both heads
    are needed for the same effect (an AND), or that the effect is bounded. Pairs reveal backups of two heads; if any one of three heads is
    sufficient, no pair is super-additive.

    Seeds from noising cannot contain a perfect OR pair, because neither head has an effect by itself. Seeds from denoising contain it if
    each of the two restores the behaviour by itself, but not if something else must be restored, too. In that case search without seeds,
    over all pairs, which is cheap only in small models. With a saturating metric (a probability near 1) unrelated heads look like backups;
    use a logit difference.

    References
    ----------
    Wang et al. (2022), arXiv:2211.00593, for backup name movers.
    """

    others: tuple[Head, ...] | None = None
    rate: float = 0.05
    least: float = 0.01
    max_pairs: int = 5000
    engine: EngineName = "exact"

    def __post_init__(self) -> None:
        require_engine(self.engine)
        if not 0 < self.rate < 1:
            what = f"rate={self.rate} is not a false-discovery rate."
            raise BadParameterError(what, "Use a rate between 0 and 1, such as 0.05.")
        if self.least < 0:
            what = f"least={self.least} is not a share of the gap."
            raise BadParameterError(what, "Use 0 or more, such as 0.01.")

    def pairs(self, seeds: Iterable[Node] | None, universe: Universe) -> list[tuple[Head, Head]]:
        """The pairs of heads that a search from these seeds (all heads for None) tests, in forward order.

        Nodes that are not query heads are ignored.

        Raises
        ------
        BadParameterError
            If a head lies outside the model, no pair is left, or there are more than ``max_pairs``.
        """
        seed_heads = [node for node in (universe.heads() if seeds is None else seeds) if isinstance(node, Head)]
        if outside := [head for head in (*seed_heads, *(self.others or ())) if head not in universe]:
            what = f"{', '.join(map(str, outside[:5]))} lie outside {universe}."
            raise BadParameterError(what, "Count layers and heads from 0.")
        pairs = set()
        for seed in seed_heads:
            later = [head for head in universe.heads() if head.layer >= seed.layer] if self.others is None else self.others
            pairs |= {(min(seed, head), max(seed, head)) for head in (*seed_heads, *later) if head != seed}
        if not 0 < len(pairs) <= self.max_pairs:
            what = f"{len(seed_heads)} seeds make {len(pairs)} pairs of heads; a search takes 1 to {self.max_pairs}."
            raise BadParameterError(what, "Use heads of a circuit as seeds, use fewer seeds, or set others or max_pairs.")
        return sorted(pairs)

    def __call__(self, model: Model, batch: ContrastBatch, metric: Metric, seeds: Iterable[Node] | None = None) -> Backups:
        """Search from the heads of a circuit (or any nodes) or, without seeds, over all pairs of heads.

        Raises
        ------
        BadParameterError
            If there are fewer than two prompt pairs; see also `pairs`.
        """
        if batch.n_pairs <= 1:
            what = "With one prompt pair an excess cannot be tested for significance."
            raise BadParameterError(what, "Give at least two pairs, better 16 or more.")
        pairs = self.pairs(seeds, Universe(model.spec.n_layers, model.spec.n_heads, model.spec.n_kv_heads))
        heads = sorted({head for pair in pairs for head in pair})
        batch, sweeps = with_reference(model, metric, batch), sweeps_on(model, metric, self.engine)
        sets = [*((head,) for head in heads), *pairs]
        effects, rounding, gap = _effects(sweeps, batch, sets, report=True)
        least = max(rounding, self.least * gap)
        known = KnockOuts(dict(zip(sets, effects.T, strict=True)), lambda more: _effects(sweeps, batch, more, report=False)[0], rounding)
        tested = self._tested(pairs, known)
        backups = [pair for pair in tested if pair.q <= self.rate and known.least_change(pair.heads) > least]
        groups = [self._group(known, group) for group in held_groups(backups, lambda group: known.holds(group, least, self.rate))]
        return Backups(
            groups=tuple(sorted(groups, key=lambda group: -float(group.excess.mean))),
            pairs=tuple(tested),
            single={head: self._interval(known.effect((head,))) for head in heads},
            runs=known.n_sets * batch.n_pairs,
        )

    def _tested(self, pairs: Sequence[tuple[Head, Head]], known: KnockOuts) -> list[BackupPair]:
        """Every pair with its intervals, largest mean excess first."""
        from scipy import stats  # noqa: PLC0415 - scipy.stats is slow to import

        q = stats.false_discovery_control([known.p(pair) for pair in pairs]).tolist()
        joint, excess = ([self._interval(of(pair)) for pair in pairs] for of in (known.effect, known.excess))
        return sorted(map(BackupPair, pairs, joint, excess, q), key=lambda pair: -float(pair.excess.mean))

    def _group(self, known: KnockOuts, pairs: Sequence[BackupPair]) -> BackupGroup:
        heads = tuple(sorted({head for pair in pairs for head in pair.heads}))
        return BackupGroup(heads, tuple(pairs), self._interval(known.effect(heads)), self._interval(known.excess(heads)))

    def _interval(self, values: np.ndarray) -> Interval:
        """Mean over pairs with its interval; values are (pair,)."""
        return mean_interval(values, confidence=1 - self.rate)


def _effects(sweeps: Sweeps, batch: ContrastBatch, targets: Sequence[tuple[Head, ...]], *, report: bool) -> tuple[np.ndarray, float, float]:
    """``metric(clean) - metric(heads knocked out)``, (pair, set of heads), the rounding error, and the mean magnitude of the gap."""
    effects, gaps, largest, done = np.zeros((batch.n_pairs, len(targets))), np.zeros(batch.n_pairs), 0.0, 0
    for rows in batch_by_length(batch, unedited_together(batch), alike=False) if targets else ():
        group = batch.select(rows)
        clean, corrupt = sweeps.start(group, [Site.Z])
        gaps[rows] = np.abs(clean.metric - corrupt.metric)
        largest = max(largest, float(np.abs([clean.metric, corrupt.metric]).max()))
        for chunk in batch_by_length(group, pairs_together(group, min(len(targets), _TOGETHER))):
            chunk_batch = group.select(chunk)
            first = int(chunk_batch.first_difference().min())
            if first <= int(chunk_batch.end.max()):
                chunk_effects = _knocked_out(clean.select(chunk), corrupt.select(chunk), targets, first)
                effects[[rows[i] for i in chunk]] = chunk_effects
        done += len(rows)
        if report:
            step(done, batch.n_pairs)
    return effects, _ROUNDING * max(largest, float(np.abs(effects).max(initial=0.0))), float(gaps.mean())


def _knocked_out(run: Run, source: Run, targets: Sequence[tuple[Head, ...]], first: int) -> np.ndarray:
    """Effect of each set of heads on the pairs of one sweep, (pair, set of heads)."""
    z, effects = source.site(Site.Z), []
    for start in range(0, len(targets), _TOGETHER):
        edit_sets = [
            EditSet(tuple(Edit(Site.Z, head.layer, z[:, head.layer, :, head.head], head=head.head) for head in heads), first)
            for heads in targets[start : start + _TOGETHER]
        ]
        effects.append((run.metric - run.sweep(edit_sets)).T)
    return np.concatenate(effects, axis=1)
