"""Double dissociation: heads of one task that matter for it and not for the other, and the other way round."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from circuitlab.circuits.circuit import Circuit
from circuitlab.circuits.curves import FaithfulnessScale
from circuitlab.comparison.runner import CircuitRunner, common_universe, head_mask, run_named
from circuitlab.comparison.stored import with_nan
from circuitlab.core.errors import BadParameterError, EmptyGapError, UnknownNameError
from circuitlab.scores.intervals import Interval, mean_interval

__all__ = ["Dissociation", "DissociationTable", "KnockOut", "dissociation_table", "sign_flip_p"]

SETS = ("only_a", "only_b", "shared")
"""Heads of the first circuit alone, of the second alone, of both."""

_CONVENTIONS = {
    "effect": "(mean m(full) - mean m(full without the set)) / (mean m(full) - mean m(empty)) on each task; positive: the heads help",
    "contrast": "effect of the task's own heads minus effect of the other task's, on the same pairs",
    "interaction": "sum of the two contrasts",
    "interval": "95 %, percentiles of a bootstrap over each task's pairs, tasks independent, given the circuits; raw: Student's t",
    "p_a, p_b": "one-sided sign-flip permutation of the per-pair contrast (null: own and other heads are exchangeable on every pair)",
    "p": "larger of p_a and p_b (intersection-union): both tasks must depend more on their own heads",
    "q": "Benjamini-Hochberg over pairs of tasks",
    "verdict": "double: q below alpha; single: one of p_a, p_b below alpha and q not; none: neither; same: no heads of its own; "
    "no gap: the 95 % interval (Student's t) of some task's gap holds 0, so that shares of it mean nothing",
}


class KnockOut(msgspec.Struct, frozen=True, kw_only=True):
    """What ablating one set of heads does to one task: share of the gap, and metric units; ``{"mean", "low", "high"}``."""

    set: str
    task: str
    heads: list[str]
    effect: dict[str, float]
    raw: dict[str, float]


class Dissociation(msgspec.Struct, frozen=True, kw_only=True):
    """Two tasks. ``contrast_a``, ``contrast_b`` and ``interaction`` are ``{"mean", "low", "high"}``, in shares of the gaps."""

    task_a: str
    task_b: str
    knock_outs: list[KnockOut]
    contrast_a: dict[str, float]
    contrast_b: dict[str, float]
    interaction: dict[str, float]
    p_a: float
    p_b: float
    p_interaction: float
    p: float
    q: float
    verdict: str

    def knock_out(self, which: str, task: str) -> KnockOut:
        """The effect of one set on one task."""
        for one in self.knock_outs:
            if (one.set, one.task) == (which, task):
                return one
        raise UnknownNameError("set and task", f"{which}, {task}", [f"{one.set}, {one.task}" for one in self.knock_outs])


@dataclass(frozen=True, eq=False)
class DissociationTable:
    """Every pair of tasks.

    Parameters
    ----------
    rows : tuple of Dissociation
        One for each unordered pair.
    values : dict
        Per-pair metric by task and by ``(task_a, task_b)``: (set, pair), sets in the order of `SETS`, each ablated from the full model.
    left_out : dict of str to str
        Tasks that could not be evaluated, with the reason.
    conventions : dict of str to str
    """

    rows: tuple[Dissociation, ...]
    values: dict[str, dict[tuple[str, str], np.ndarray]]
    left_out: dict[str, str] = field(default_factory=dict)
    conventions: dict[str, str] = field(default_factory=dict)

    def row(self, first: str, second: str) -> Dissociation:
        """The row of two tasks, in either order."""
        for row in self.rows:
            if {row.task_a, row.task_b} == {first, second}:
                return row
        raise UnknownNameError("pair of tasks", f"{first}, {second}", [f"{r.task_a}, {r.task_b}" for r in self.rows])

    def to_dict(self) -> dict[str, Any]:
        """Plain data; ``per_pair`` holds the metric of every pair without each set."""
        return {
            "pairs": [msgspec.to_builtins(row) for row in self.rows],
            "left_out": self.left_out,
            "conventions": self.conventions,
            "per_pair": {
                task: {f"{a}~{b}": dict(zip(SETS, value.tolist(), strict=True)) for (a, b), value in found.items()}
                for task, found in self.values.items()
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DissociationTable:
        """Read what `to_dict` wrote."""
        rows = tuple(msgspec.convert(row, Dissociation) for row in with_nan(list(data["pairs"])))
        couples = {f"{row.task_a}~{row.task_b}": (row.task_a, row.task_b) for row in rows}
        values = {
            task: {couples[pair]: np.array([value[which] for which in SETS]) for pair, value in found.items() if pair in couples}
            for task, found in data["per_pair"].items()
        }
        return cls(rows, values, dict(data["left_out"]), dict(data["conventions"]))


def dissociation_table(
    runners: Mapping[str, CircuitRunner],
    circuits: Mapping[str, Circuit],
    *,
    alpha: float = 0.05,
    n_permutations: int = 9999,
    seed: int = 0,
    conventions: Mapping[str, str] | None = None,
) -> DissociationTable:
    """Ablate the heads that one task has alone, that the other has alone, and that both share, and measure both tasks.

    Parameters
    ----------
    runners : mapping of str to CircuitRunner
        Runs circuits on each task's pairs; best on pairs that no circuit was found on.
    circuits : mapping of str to Circuit
        Circuit of heads of each task.
    alpha : float
        Level of the verdicts.
    n_permutations : int
        Sign flips; all of them where there are fewer.
    seed : int
        Of permutations and bootstraps.
    conventions : mapping of str to str, optional
        How the runners run circuits, in words.

    Notes
    -----
    Circuits of equal size have equally many heads of their own, so that the contrast compares sets of equal size. Cost: three runs per
    task and pair of tasks.

    Raises
    ------
    BadParameterError, IncompatibleError, UnknownNameError
        As `transfer_table`.
    """
    if not 0 < alpha < 1 or n_permutations < 1:
        what = f"alpha={alpha}, n_permutations={n_permutations} give no test."
        raise BadParameterError(what, "Use alpha=0.05 and 9999 permutations.")
    universe = common_universe(circuits)
    masks = {name: head_mask(circuit) for name, circuit in circuits.items()}
    couples = list(itertools.combinations(masks, 2))
    sets = {(a, b): np.stack([masks[a] & ~masks[b], masks[b] & ~masks[a], masks[a] & masks[b]]) for a, b in couples}
    found: dict[str, tuple[FaithfulnessScale, dict[tuple[str, str], np.ndarray]]] = {}
    left_out: dict[str, str] = {}
    for number, task in enumerate(masks):
        if task not in runners:
            raise UnknownNameError("task with runs", task, runners)
        try:
            found[task] = _run(runners[task], {pair: some for pair, some in sets.items() if task in pair}, seed + number)
        except EmptyGapError as error:
            left_out[task] = str(error)
    names = [str(head) for head in universe.heads()]
    tests = _Tests(alpha, n_permutations, seed)
    rows = [tests.row(pair, sets[pair], found, names) for pair in couples if set(pair) <= set(found)]
    said = {"alpha": str(alpha), "permutations": str(n_permutations), "seed": str(seed)}
    values = {task: some for task, (_, some) in found.items()}
    return DissociationTable(tests.corrected(rows), values, left_out, {**_CONVENTIONS, **said, **(conventions or {})})


def sign_flip_p(contrast: np.ndarray, *, n_permutations: int = 9999, seed: int = 0) -> float:
    """One-sided p-value that the sum of per-pair contrasts is larger than chance: signs are flipped at random, pair by pair.

    Exact enumeration where there are no more than ``n_permutations`` sign patterns, else ``(r + 1) / (n + 1)``.

    References
    ----------
    Fisher (1935), The Design of Experiments. Phipson and Smyth (2010), Permutation P-values Should Never Be Zero.
    """
    from scipy import stats  # noqa: PLC0415 - scipy.stats is slow to import

    def total(x: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(x.sum(axis))

    if not len(contrast):
        raise BadParameterError("A contrast without pairs cannot be tested.", "Evaluate at least one pair.")
    if len(contrast) == 1:  # scipy wants two observations; one pair has two sign patterns
        return 0.5 if contrast[0] > 0 else 1.0
    rng = np.random.default_rng(seed)
    found = stats.permutation_test(
        (np.asarray(contrast, dtype=np.float64),),
        total,
        permutation_type="samples",
        vectorized=True,
        n_resamples=n_permutations,
        alternative="greater",
        rng=rng,
    )
    return float(found.pvalue)


def _run(
    runner: CircuitRunner, sets: dict[tuple[str, str], np.ndarray], seed: int
) -> tuple[FaithfulnessScale, dict[tuple[str, str], np.ndarray]]:
    width = next(iter(sets.values())).shape[1]
    groups = {"ends": np.array([[True], [False]]).repeat(width, 1)} | {f"{a}~{b}": ~some for (a, b), some in sets.items()}
    values = run_named(runner, groups)
    full, empty = values["ends"]
    return FaithfulnessScale(full, empty, seed=seed), {(a, b): values[f"{a}~{b}"] for a, b in sets}


@dataclass(frozen=True)
class _Tests:
    alpha: float
    n_permutations: int
    seed: int

    def row(
        self,
        pair: tuple[str, str],
        sets: np.ndarray,
        found: Mapping[str, tuple[FaithfulnessScale, dict[tuple[str, str], np.ndarray]]],
        names: list[str],
    ) -> dict[str, Any]:
        """Everything about a pair of tasks but q and the verdict."""
        knock_outs: list[KnockOut] = []
        draws, parts = [], []
        for side, task in enumerate(pair):
            ends, values = found[task][0], found[task][1][pair]
            lost = ends.full - values
            shares = ends.share(lost)
            for which, share, raw, mask in zip(SETS, range(len(SETS)), lost, sets, strict=True):
                knock_outs.append(
                    KnockOut(
                        set=which,
                        task=task,
                        heads=[names[i] for i in np.flatnonzero(mask)],
                        effect=_scalar(ends, shares[:, share]),
                        raw=mean_interval(raw).as_dict(),
                    )
                )
            own, other = (lost[0], lost[1]) if side == 0 else (lost[1], lost[0])
            draws.append(ends.share((own - other)[None])[:, 0])
            parts.append((own - other) / (ends.full - ends.empty).mean())
        p_values = [self._p(part) for part in parts]
        joint = np.concatenate([part / len(part) for part in parts])
        first = found[pair[0]][0]
        return {
            "task_a": pair[0],
            "task_b": pair[1],
            "knock_outs": knock_outs,
            "contrast_a": _scalar(first, draws[0]),
            "contrast_b": _scalar(found[pair[1]][0], draws[1]),
            "interaction": _scalar(first, draws[0] + draws[1]),
            "p_a": p_values[0],
            "p_b": p_values[1],
            "p_interaction": self._p(joint),
            "p": max(p_values),
            "gaps": [mean_interval(found[task][0].full - found[task][0].empty) for task in pair],
        }

    def _p(self, contrast: np.ndarray) -> float:
        return sign_flip_p(contrast, n_permutations=self.n_permutations, seed=self.seed)

    def corrected(self, rows: list[dict[str, Any]]) -> tuple[Dissociation, ...]:
        """Rows with q and a verdict."""
        from scipy import stats  # noqa: PLC0415 - scipy.stats is slow to import

        q: np.ndarray = stats.false_discovery_control([row["p"] for row in rows]) if rows else np.empty(0)
        verdicts = [self._verdict(row, float(value)) for row, value in zip(rows, q, strict=True)]
        plain = [{name: value for name, value in row.items() if name != "gaps"} for row in rows]
        return tuple(Dissociation(**row, q=float(value), verdict=said) for row, value, said in zip(plain, q, verdicts, strict=True))

    def _verdict(self, row: dict[str, Any], q: float) -> str:
        if any(not one.heads for one in row["knock_outs"] if one.set != "shared"):
            return "same"
        if not all(gap.excludes_zero() for gap in row["gaps"]):
            return "no gap"
        if q < self.alpha:
            return "double"
        return "single" if min(row["p_a"], row["p_b"]) < self.alpha else "none"


def _scalar(ends: FaithfulnessScale, draws: np.ndarray) -> dict[str, float]:
    interval = ends.interval(draws[:, None])
    return Interval(*(np.float64(np.asarray(part)[0]) for part in interval)).as_dict()
