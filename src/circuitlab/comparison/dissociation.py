"""Double dissociation: two tasks of which each depends on its own heads more than on the heads of the other."""

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
"""Sets of heads: those of the first circuit alone, of the second circuit alone, and of both."""

_CONVENTIONS = {
    "effect": "(mean m(full) - mean m(full without the set)) / (mean m(full) - mean m(empty)) on each task; positive: the heads help",
    "contrast": "effect of the task's own heads minus effect of the other task's, on the same pairs",
    "interaction": "sum of the two contrasts",
    "interval": "95 %, percentiles of a bootstrap over each task's pairs, tasks independent, given the circuits; raw: Student's t",
    "p_a, p_b": "one-sided sign-flip permutation of the per-pair contrast (null: own and other heads are exchangeable on every pair)",
    "p": "larger of p_a and p_b (intersection-union): both tasks must depend more on their own heads",
    "q": "Benjamini-Hochberg over pairs of tasks",
    "verdict": "double: q below alpha; single: one of p_a, p_b below alpha and q not; none: neither; same: no heads of its own; "
    "no gap: the 95 % interval (Student's t) of the gap of one of the tasks contains 0, so that shares of it have no meaning",
}


class KnockOut(msgspec.Struct, frozen=True, kw_only=True):
    """The effect of ablating one set of heads on one task.

    Parameters
    ----------
    set, task : str
        One of `SETS`, and the task that is measured.
    heads : list of str
        The heads of the set.
    effect, raw : dict
        ``{"mean", "low", "high"}`` of the loss, as a share of the task's gap and in units of the metric; positive if the heads help.
    """

    set: str
    task: str
    heads: list[str]
    effect: dict[str, float]
    raw: dict[str, float]


class Dissociation(msgspec.Struct, frozen=True, kw_only=True):
    """The test of two tasks.

    Parameters
    ----------
    task_a, task_b : str
        The tasks.
    knock_outs : list of KnockOut
        Effect of each set of heads on each task.
    contrast_a, contrast_b : dict
        ``{"mean", "low", "high"}`` of the effect of a task's own heads minus that of the other task's heads, as a share of its gap.
    interaction : dict
        ``{"mean", "low", "high"}`` of the sum of the two contrasts.
    p_a, p_b, p_interaction : float
        One-sided p-values of the contrasts and of their sum.
    p, q : float
        The larger of ``p_a`` and ``p_b``, and the same corrected over all pairs of tasks.
    verdict : {"double", "single", "none", "same", "no gap"}
        What the tests show; see ``DissociationTable.conventions``.
    """

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

    def knock_out(self, heads: str, task: str) -> KnockOut:
        """The effect of one set of heads (a name in `SETS`) on one task.

        Raises
        ------
        UnknownNameError
            If there is no such set or task.
        """
        for effect in self.knock_outs:
            if (effect.set, effect.task) == (heads, task):
                return effect
        raise UnknownNameError("set and task", f"{heads}, {task}", [f"{effect.set}, {effect.task}" for effect in self.knock_outs])


@dataclass(frozen=True, eq=False)
class DissociationTable:
    """The tests of every pair of tasks.

    Parameters
    ----------
    rows : tuple of Dissociation
        One for each unordered pair of tasks.
    values : dict
        Metric by task and by ``(task_a, task_b)``, (set, pair), with each set of heads ablated from the full model, in the order of `SETS`.
    left_out : dict of str to str
        Tasks that could not be evaluated, with the reason.
    conventions : dict of str to str
        How circuits were run and the numbers defined.
    """

    rows: tuple[Dissociation, ...]
    values: dict[str, dict[tuple[str, str], np.ndarray]]
    left_out: dict[str, str] = field(default_factory=dict)
    conventions: dict[str, str] = field(default_factory=dict)

    def row(self, first: str, second: str) -> Dissociation:
        """The row of two tasks, in either order.

        Raises
        ------
        UnknownNameError
            If there is no such row.
        """
        for row in self.rows:
            if {row.task_a, row.task_b} == {first, second}:
                return row
        raise UnknownNameError("pair of tasks", f"{first}, {second}", [f"{r.task_a}, {r.task_b}" for r in self.rows])

    def to_dict(self) -> dict[str, Any]:
        """Plain data; ``per_pair`` has the metric of every prompt pair with each set ablated."""
        return {
            "pairs": [msgspec.to_builtins(row) for row in self.rows],
            "left_out": self.left_out,
            "conventions": self.conventions,
            "per_pair": {
                task: {f"{a}~{b}": dict(zip(SETS, value.tolist(), strict=True)) for (a, b), value in by_tasks.items()}
                for task, by_tasks in self.values.items()
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DissociationTable:
        """Make a table from the data that `to_dict` wrote."""
        rows = tuple(msgspec.convert(row, Dissociation) for row in with_nan(list(data["pairs"])))
        couples = {f"{row.task_a}~{row.task_b}": (row.task_a, row.task_b) for row in rows}
        values = {
            task: {couples[name]: np.array([value[heads] for heads in SETS]) for name, value in by_tasks.items() if name in couples}
            for task, by_tasks in data["per_pair"].items()
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
    """For every two tasks, ablate the heads of one circuit alone, of the other alone, and of both, and measure the effect on each task.

    Parameters
    ----------
    runners : mapping of str to CircuitRunner
        Runs circuits on the pairs of each task; preferably on pairs that no circuit was selected from.
    circuits : mapping of str to Circuit
        Circuit of heads of each task.
    alpha : float
        Significance level of the verdicts.
    n_permutations : int
        Number of random sign flips; all sign patterns are used if there are no more than this.
    seed : int
        Seed of permutations and bootstraps.
    conventions : mapping of str to str, optional
        How the runners run circuits, in words; kept with the table.

    Returns
    -------
    DissociationTable
        A task on which ablating all heads changes nothing is left out, with the reason.

    Raises
    ------
    BadParameterError
        If there are fewer than two circuits, a circuit has nodes other than heads, or ``alpha`` or ``n_permutations`` allow no test.
    IncompatibleError
        If circuits belong to models of different shapes.
    UnknownNameError
        If a task has no runner.

    Notes
    -----
    Circuits of equal size have equally many heads of their own, so that the contrast compares sets of equal size. Cost: three runs per
    task and pair of tasks.
    """
    if not 0 < alpha < 1 or n_permutations < 1:
        what = f"alpha={alpha}, n_permutations={n_permutations} give no test."
        raise BadParameterError(what, "Use alpha=0.05 and 9999 permutations.")
    universe = common_universe(circuits)
    masks = {name: head_mask(circuit) for name, circuit in circuits.items()}
    couples = list(itertools.combinations(masks, 2))
    sets = {(a, b): np.stack([masks[a] & ~masks[b], masks[b] & ~masks[a], masks[a] & masks[b]]) for a, b in couples}
    results: dict[str, tuple[FaithfulnessScale, dict[tuple[str, str], np.ndarray]]] = {}
    left_out: dict[str, str] = {}
    for number, task in enumerate(masks):
        if task not in runners:
            raise UnknownNameError("task with runs", task, runners)
        try:
            results[task] = _run(runners[task], {tasks: masks for tasks, masks in sets.items() if task in tasks}, seed + number)
        except EmptyGapError as error:
            left_out[task] = str(error)
    names = [str(head) for head in universe.heads()]
    tests = _Tests(alpha, n_permutations, seed)
    rows = [tests.row(tasks, sets[tasks], results, names) for tasks in couples if set(tasks) <= set(results)]
    settings = {"alpha": str(alpha), "permutations": str(n_permutations), "seed": str(seed)}
    values = {task: by_tasks for task, (_, by_tasks) in results.items()}
    return DissociationTable(tests.corrected(rows), values, left_out, {**_CONVENTIONS, **settings, **(conventions or {})})


def sign_flip_p(contrast: np.ndarray, *, n_permutations: int = 9999, seed: int = 0) -> float:
    """One-sided p-value of the sum of per-pair contrasts, by flipping the sign of each pair's contrast.

    All sign patterns are used if there are no more than ``n_permutations``; otherwise the p-value is ``(r + 1) / (n + 1)`` from random
    ones.

    Parameters
    ----------
    contrast : ndarray, shape (pair,)
        Contrast of each pair, which is symmetric around 0 under the null hypothesis.
    n_permutations, seed : int
        Number of sign patterns, and their seed.

    Raises
    ------
    BadParameterError
        If there are no pairs.

    References
    ----------
    Fisher (1935), The Design of Experiments. Phipson and Smyth (2010), Permutation P-values Should Never Be Zero.
    """
    from scipy import stats  # noqa: PLC0415 - scipy.stats is slow to import

    def total(x: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(x.sum(axis))

    if not len(contrast):
        raise BadParameterError("A contrast without pairs cannot be tested.", "Evaluate at least one pair.")
    if len(contrast) == 1:  # scipy needs two observations; one pair has two sign patterns
        return 0.5 if contrast[0] > 0 else 1.0
    rng = np.random.default_rng(seed)
    test = stats.permutation_test(
        (np.asarray(contrast, dtype=np.float64),),
        total,
        permutation_type="samples",
        vectorized=True,
        n_resamples=n_permutations,
        alternative="greater",
        rng=rng,
    )
    return float(test.pvalue)


def _run(
    runner: CircuitRunner, sets: dict[tuple[str, str], np.ndarray], seed: int
) -> tuple[FaithfulnessScale, dict[tuple[str, str], np.ndarray]]:
    width = next(iter(sets.values())).shape[1]
    full_and_empty = np.array([[True], [False]]).repeat(width, 1)
    values = run_named(runner, {"full and empty": full_and_empty} | {f"{a}~{b}": ~masks for (a, b), masks in sets.items()})
    full, empty = values["full and empty"]
    return FaithfulnessScale(full, empty, seed=seed), {(a, b): values[f"{a}~{b}"] for a, b in sets}


@dataclass(frozen=True)
class _Tests:
    """The tests of pairs of tasks at one level, with one number of permutations and one seed."""

    alpha: float
    n_permutations: int
    seed: int

    def row(
        self,
        tasks: tuple[str, str],
        sets: np.ndarray,
        results: Mapping[str, tuple[FaithfulnessScale, dict[tuple[str, str], np.ndarray]]],
        names: list[str],
    ) -> dict[str, Any]:
        """Everything about a pair of tasks except q and the verdict, with both gaps."""
        knock_outs: list[KnockOut] = []
        draws, contrasts = [], []
        for side, task in enumerate(tasks):
            scale, values = results[task][0], results[task][1][tasks]
            losses = scale.full - values
            shares = scale.share(losses)
            for i, (name, loss, mask) in enumerate(zip(SETS, losses, sets, strict=True)):
                knock_outs.append(
                    KnockOut(
                        set=name,
                        task=task,
                        heads=[names[head] for head in np.flatnonzero(mask)],
                        effect=_scalar(scale, shares[:, i]),
                        raw=mean_interval(loss).as_dict(),
                    )
                )
            own, other = (losses[0], losses[1]) if side == 0 else (losses[1], losses[0])
            draws.append(scale.share((own - other)[None])[:, 0])
            contrasts.append((own - other) / (scale.full - scale.empty).mean())
        p_values = [self._p(contrast) for contrast in contrasts]
        joint = np.concatenate([contrast / len(contrast) for contrast in contrasts])
        first_scale, second_scale = (results[task][0] for task in tasks)
        return {
            "task_a": tasks[0],
            "task_b": tasks[1],
            "knock_outs": knock_outs,
            "contrast_a": _scalar(first_scale, draws[0]),
            "contrast_b": _scalar(second_scale, draws[1]),
            "interaction": _scalar(first_scale, draws[0] + draws[1]),
            "p_a": p_values[0],
            "p_b": p_values[1],
            "p_interaction": self._p(joint),
            "p": max(p_values),
            "gaps": [mean_interval(scale.full - scale.empty) for scale in (first_scale, second_scale)],
        }

    def _p(self, contrast: np.ndarray) -> float:
        return sign_flip_p(contrast, n_permutations=self.n_permutations, seed=self.seed)

    def corrected(self, rows: list[dict[str, Any]]) -> tuple[Dissociation, ...]:
        """The rows with q and a verdict, without the gaps."""
        from scipy import stats  # noqa: PLC0415 - scipy.stats is slow to import

        q: np.ndarray = stats.false_discovery_control([row["p"] for row in rows]) if rows else np.empty(0)
        verdicts = [self._verdict(row, float(value)) for row, value in zip(rows, q, strict=True)]
        plain = [{name: value for name, value in row.items() if name != "gaps"} for row in rows]
        return tuple(Dissociation(**row, q=float(value), verdict=verdict) for row, value, verdict in zip(plain, q, verdicts, strict=True))

    def _verdict(self, row: dict[str, Any], q: float) -> str:
        if any(not effect.heads for effect in row["knock_outs"] if effect.set != "shared"):
            return "same"
        if not all(gap.excludes_zero() for gap in row["gaps"]):
            return "no gap"
        if q < self.alpha:
            return "double"
        return "single" if min(row["p_a"], row["p_b"]) < self.alpha else "none"


def _scalar(scale: FaithfulnessScale, draws: np.ndarray) -> dict[str, float]:
    interval = scale.interval(draws[:, None])
    return Interval(*(np.float64(np.asarray(limit)[0]) for limit in interval)).as_dict()
