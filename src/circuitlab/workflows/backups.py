"""Backups: heads that stand in for each other, found by knocking out pairs of heads together.

Where either of two heads is enough (an OR), knocking out one changes nothing, and every method that acts on one node at a time scores
both near 0. Knocking out both does change something: the joint effect exceeds the sum of the single ones, and each single one.
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
"""Of the largest metric: what float32 leaves of an excess that is exactly 0, with room for three effects that are added."""

_TOGETHER = 512
"""Knock-outs that one sweep carries; more would only cost memory."""


@dataclass(frozen=True)
class BackupPair:
    """Two heads knocked out together.

    Parameters
    ----------
    heads : (Head, Head)
        In forward order.
    effect : Interval
        Of both together: ``metric(clean) - metric(both knocked out)``, mean and interval over pairs, in metric units.
    excess : Interval
        What that exceeds the sum of the single effects by.
    q : float
        P-value of the pair being no backup, corrected for all pairs of heads that were tested (Benjamini and Hochberg): the largest of
        those of the excess being 0 and of either head changing nothing once the other is gone.
    """

    heads: tuple[Head, Head]
    effect: Interval
    excess: Interval
    q: float


@dataclass(frozen=True)
class BackupGroup:
    """Heads that stand in for each other: backup pairs that hang together and are super-additive as a whole.

    Parameters
    ----------
    heads : tuple of Head
        In forward order.
    pairs : tuple of BackupPair
        The backup pairs that connect them, strongest excess first. Not every two heads of a larger group need be one.
    effect, excess : Interval
        Of all its heads knocked out together, as in `BackupPair`.
    """

    heads: tuple[Head, ...]
    pairs: tuple[BackupPair, ...]
    effect: Interval
    excess: Interval


@dataclass(frozen=True)
class Backups:
    """What a search found.

    Parameters
    ----------
    groups : tuple of BackupGroup
        Largest excess first.
    pairs : tuple of BackupPair
        Every pair of heads that was tested, largest mean excess first.
    single : mapping of Head to Interval
        Effect of each head knocked out alone.
    runs : int
        Edited runs: heads, pairs and larger groups, times prompt pairs.
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
    """Looks for heads that back each other up, starting from the heads of a circuit.

    Every head is knocked out alone and every candidate pair together: on the clean prompt its output at all positions is replaced by that
    of the corrupt prompt (noising), and everything downstream is recomputed. A pair is a backup pair if its joint effect exceeds the sum of
    its single effects and each of them: a head that hinders, and falls silent with the head it reads, is super-additive with that head,
    and no backup of it. Connected backup pairs are a group if the same holds of all its heads together: their joint effect exceeds the
    sum of the single ones, and that of the group without any one head. A set of pairs of which this is not true is taken apart at its
    weakest pair until it is; a pair lost on the way stays among the pairs tested.

    Parameters
    ----------
    others : tuple of Head, optional
        With which heads each seed is paired, besides the other seeds; every head of the seed's layer and of later ones otherwise, since
        a backup acts after what it replaces, or beside it.
    rate : float
        False-discovery rate over all pairs tested (Benjamini and Hochberg, two-sided t-tests over prompt pairs), and level at which larger
        groups are tested. Intervals have confidence ``1 - rate``, and that of the excess of every group found excludes 0.
    least : float
        By which share of the mean magnitude of the clean-corrupt gap a mean excess must exceed 0, and a joint effect each single one. Heads
        that share a norm interact a little whatever they do, and with enough prompts surely so; 0 asks only that it is no rounding.
    max_pairs : int
        Refuse searches with more pairs of heads than this, instead of running for hours.
    engine : {"exact", "hooks"}
        As in activation patching.

    Notes
    -----
    Cost: (heads + pairs of heads) x prompt pairs edited runs, each only from its earlier head's layer and the first differing token on;
    20 seeds in a model of 270 heads are up to 5,400 pairs of heads. Only positive excess is looked for: a negative one says that both
    heads are needed for the same thing (an AND), or share a bounded effect. Pairs see backups of two: three heads of which any one is
    enough are super-additive in no pair.

    Seeds from noising cannot hold a perfect OR pair, for neither head has an effect alone. Denoising holds it where each of the two
    restores the behaviour alone, and misses it where something else has to be restored too; then search without seeds, through all
    pairs, which is cheap in small models only. A saturating metric (a probability near 1) makes unrelated heads look like backups; use
    a logit difference.

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
            what = f"rate={self.rate} is no false-discovery rate."
            raise BadParameterError(what, "Use a rate between 0 and 1, such as 0.05.")
        if self.least < 0:
            what = f"least={self.least} is no share of the gap."
            raise BadParameterError(what, "Use 0 or more, such as 0.01.")

    def pairs(self, seeds: Iterable[Node] | None, universe: Universe) -> list[tuple[Head, Head]]:
        """The pairs of heads that a search from these seeds (every head for None) tests, in forward order.

        Nodes that are no query heads are passed over.

        Raises
        ------
        BadParameterError
            If a head lies outside the model, no pair is left, or there are more than ``max_pairs``.
        """
        given = [node for node in (universe.heads() if seeds is None else seeds) if isinstance(node, Head)]
        if outside := [head for head in (*given, *(self.others or ())) if head not in universe]:
            what = f"{', '.join(map(str, outside[:5]))} lie outside {universe}."
            raise BadParameterError(what, "Count layers and heads from 0.")
        found = set()
        for seed in given:
            later = [head for head in universe.heads() if head.layer >= seed.layer] if self.others is None else self.others
            found |= {(min(seed, head), max(seed, head)) for head in (*given, *later) if head != seed}
        if not 0 < len(found) <= self.max_pairs:
            what = f"{len(given)} seeds make {len(found)} pairs of heads; a search takes 1 to {self.max_pairs}."
            raise BadParameterError(what, "Give heads of a circuit as seeds, fewer where there are too many, or set others or max_pairs.")
        return sorted(found)

    def __call__(self, model: Model, batch: ContrastBatch, metric: Metric, seeds: Iterable[Node] | None = None) -> Backups:
        """Search from the heads of a circuit (or any nodes), or, without seeds, through all pairs of heads.

        Raises
        ------
        BadParameterError
            If there are fewer than two prompt pairs; see also `pairs`.
        """
        if batch.n_pairs <= 1:
            what = "One prompt pair cannot show that an excess is more than chance."
            raise BadParameterError(what, "Give at least two, better 16 or more.")
        pairs = self.pairs(seeds, Universe(model.spec.n_layers, model.spec.n_heads, model.spec.n_kv_heads))
        heads = sorted({head for pair in pairs for head in pair})
        batch, sweeps = with_reference(model, metric, batch), sweeps_on(model, metric, self.engine)
        sets = [*((head,) for head in heads), *pairs]
        effects, rounding, gap = _effects(sweeps, batch, sets, report=True)
        least = max(rounding, self.least * gap)
        known = KnockOuts(dict(zip(sets, effects.T, strict=True)), lambda more: _effects(sweeps, batch, more, report=False)[0], rounding)
        tested = self._tested(pairs, known)
        found = [pair for pair in tested if pair.q <= self.rate and known.least_change(pair.heads) > least]
        groups = [self._group(known, some) for some in held_groups(found, lambda group: known.holds(group, least, self.rate))]
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
        """Mean over pairs, (pair,)."""
        return mean_interval(values, confidence=1 - self.rate)


def _effects(sweeps: Sweeps, batch: ContrastBatch, targets: Sequence[tuple[Head, ...]], *, report: bool) -> tuple[np.ndarray, float, float]:
    """``metric(clean) - metric(heads knocked out)``, (pair, set of heads); what counts as rounding; the mean magnitude of the gap."""
    effects, gaps, largest, done = np.zeros((batch.n_pairs, len(targets))), np.zeros(batch.n_pairs), 0.0, 0
    for rows in batch_by_length(batch, unedited_together(batch), alike=False) if targets else ():
        few = batch.select(rows)
        clean, corrupt = sweeps.start(few, [Site.Z])
        gaps[rows] = np.abs(clean.metric - corrupt.metric)
        largest = max(largest, float(np.abs([clean.metric, corrupt.metric]).max()))
        for chunk in batch_by_length(few, pairs_together(few, min(len(targets), _TOGETHER))):
            together = few.select(chunk)
            first = int(together.first_difference().min())
            if first <= int(together.end.max()):
                found = _knocked_out(clean.select(chunk), corrupt.select(chunk), targets, first)
                effects[[rows[i] for i in chunk]] = found
        done += len(rows)
        if report:
            step(done, batch.n_pairs)
    return effects, _ROUNDING * max(largest, float(np.abs(effects).max(initial=0.0))), float(gaps.mean())


def _knocked_out(run: Run, source: Run, targets: Sequence[tuple[Head, ...]], first: int) -> np.ndarray:
    """Effect of each set of heads on pairs that go up together, (pair, set of heads)."""
    z, found = source.site(Site.Z), []
    for start in range(0, len(targets), _TOGETHER):
        edit_sets = [
            EditSet(tuple(Edit(Site.Z, head.layer, z[:, head.layer, :, head.head], head=head.head) for head in heads), first)
            for heads in targets[start : start + _TOGETHER]
        ]
        found.append((run.metric - run.sweep(edit_sets)).T)
    return np.concatenate(found, axis=1)
