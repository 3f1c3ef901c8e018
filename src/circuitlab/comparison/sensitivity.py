"""Ablation sensitivity: whether the verdict on a circuit changes with what everything outside it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from circuitlab.circuits.chance import p_value, random_masks
from circuitlab.circuits.circuit import Circuit
from circuitlab.circuits.curves import FaithfulnessScale
from circuitlab.comparison.runner import CircuitRunner, head_mask, run_named
from circuitlab.comparison.stored import with_nan
from circuitlab.core.errors import BadParameterError, EmptyGapError, UnknownNameError

__all__ = ["SensitivityCard", "SensitivityRow", "sensitivity_card"]

_CONVENTIONS = {
    "faithfulness": "(mean m(C) - mean m(empty)) / (mean m(full) - mean m(empty)): a ratio of means over pairs, never clamped",
    "interval": "95 %, percentiles of a bootstrap over pairs",
    "recovery": "recovers: the whole interval lies above the threshold; fails: below it; unclear: it holds the threshold; "
    "no gap: ablating everything changes nothing",
    "chance": "p = (r + 1) / (n + 1), r of n random circuits of the same size at least as faithful; better than chance: p below alpha",
    "verdict": "flips: one ablation says recovers and another fails, or better than chance under one and not under another; "
    "unclear: no such contradiction, but not the same under all; stable: the same under all",
}


class SensitivityRow(msgspec.Struct, frozen=True, kw_only=True):
    """One circuit on one task under one ablation; ``faithfulness`` is ``{"mean", "low", "high"}``, None where there is no gap."""

    task: str
    ablation: str
    size: int
    faithfulness: dict[str, float] | None
    full: float
    empty: float
    random_mean: float | None
    p: float | None
    recovery: str
    beats_chance: bool | None


@dataclass(frozen=True, eq=False)
class SensitivityCard:
    """Every task's circuit under every ablation.

    Parameters
    ----------
    ablations : tuple of str
        Columns.
    rows : tuple of SensitivityRow
        Task by task, ablations in order.
    verdicts : dict of str to str
        ``"stable"``, ``"unclear"`` or ``"flips"`` for each task.
    values : dict
        Per-pair metric by (task, ablation), (circuit, pair): full, empty, the circuit, then random circuits.
    threshold : float
        Faithfulness above which a circuit is said to recover the task.
    conventions : dict of str to str
    """

    ablations: tuple[str, ...]
    rows: tuple[SensitivityRow, ...]
    verdicts: dict[str, str]
    values: dict[tuple[str, str], np.ndarray]
    threshold: float
    conventions: dict[str, str] = field(default_factory=dict)

    def row(self, task: str, ablation: str) -> SensitivityRow:
        """The row of a task and an ablation."""
        for row in self.rows:
            if (row.task, row.ablation) == (task, ablation):
                return row
        raise UnknownNameError("task and ablation", f"{task}, {ablation}", [f"{r.task}, {r.ablation}" for r in self.rows])

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "ablations": list(self.ablations),
            "rows": [msgspec.to_builtins(row) for row in self.rows],
            "verdicts": self.verdicts,
            "threshold": self.threshold,
            "conventions": self.conventions,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SensitivityCard:
        """Read what `to_dict` wrote; per-pair values are not part of it."""
        rows = tuple(msgspec.convert(row, SensitivityRow) for row in with_nan(list(data["rows"])))
        return cls(tuple(data["ablations"]), rows, dict(data["verdicts"]), {}, data["threshold"], dict(data["conventions"]))


def sensitivity_card(
    runners: Mapping[str, Mapping[str, CircuitRunner]],
    circuits: Mapping[str, Circuit],
    *,
    threshold: float = 0.5,
    alpha: float = 0.05,
    n_random: int = 40,
    seed: int = 0,
) -> SensitivityCard:
    """Evaluate every task's own circuit under several ablations, with one verdict each and one over all.

    Parameters
    ----------
    runners : mapping of str to mapping of str to CircuitRunner
        Ablation to task to what runs circuits.
    circuits : mapping of str to Circuit
        Circuit of heads of each task.
    threshold : float
        Share of the gap above which a circuit is said to recover the task.
    alpha : float
        Level at which it is better than random circuits of its size.
    n_random : int
        Random circuits; the same ones under every ablation.
    seed : int
        Of random circuits and the bootstrap; the same for all ablations, so that they differ in nothing else.

    Raises
    ------
    BadParameterError
        If there are fewer than two ablations, or too few random circuits for the level.
    UnknownNameError
        If a task lacks runs.

    Notes
    -----
    Ablation matters: Miller, Chughtai and Saunders (2024), Transformer Circuit Faithfulness Metrics are not Robust, arXiv:2407.08734.
    Cost: ``3 + n_random`` runs per task, ablation and pair; other ablations than resampling run whole prompts.
    """
    if len(runners) < 2 or not 0 < alpha < 1 or not 1 / (n_random + 1) < alpha:  # noqa: PLR2004 - a comparison
        what = (
            f"{len(runners)} ablations, alpha={alpha} and n_random={n_random} decide nothing: the smallest p is {1 / (n_random + 1):.3g}."
        )
        raise BadParameterError(what, "Give at least two ablations, alpha=0.05 and 40 random circuits.")
    rows: list[SensitivityRow] = []
    values: dict[tuple[str, str], np.ndarray] = {}
    for task, circuit in circuits.items():
        mask = head_mask(circuit)
        ends = np.array([[True], [False]]).repeat(mask.size, 1)
        masks = {"ends": ends, "circuit": mask[None], "random": random_masks(mask, np.zeros(mask.size, dtype=int), n_random, seed=seed)}
        for ablation, by_task in runners.items():
            if task not in by_task:
                raise UnknownNameError(f"task with runs under {ablation} ablation", task, by_task)
            found = run_named(by_task[task], masks)
            values[task, ablation] = np.concatenate(list(found.values()))
            measured = _measure(found, threshold, alpha, seed)
            rows.append(SensitivityRow(task=task, ablation=ablation, size=int(mask.sum()), **measured))
    verdicts = {task: _verdict([row for row in rows if row.task == task]) for task in circuits}
    said = {"threshold": str(threshold), "alpha": str(alpha), "random_circuits": f"{n_random}, uniform over all heads", "seed": str(seed)}
    return SensitivityCard(tuple(runners), tuple(rows), verdicts, values, threshold, _CONVENTIONS | said)


def _measure(found: Mapping[str, np.ndarray], threshold: float, alpha: float, seed: int) -> dict[str, Any]:
    full, empty = found["ends"]
    sizes = {"full": float(full.mean()), "empty": float(empty.mean())}
    try:
        ends = FaithfulnessScale(full, empty, seed=seed)
    except EmptyGapError:
        return sizes | {"faithfulness": None, "random_mean": None, "p": None, "recovery": "no gap", "beats_chance": None}
    one = {key: float(value[0]) for key, value in ends.faithfulness(found["circuit"])._asdict().items()}
    chance = ends.draws(found["random"])[0]
    p = p_value(one["mean"], chance)
    recovery = "recovers" if one["low"] > threshold else "fails" if one["high"] < threshold else "unclear"
    return sizes | {"faithfulness": one, "random_mean": float(chance.mean()), "p": p, "recovery": recovery, "beats_chance": p < alpha}


def _verdict(rows: list[SensitivityRow]) -> str:
    recoveries, chances = {row.recovery for row in rows}, {row.beats_chance for row in rows}
    if {"recovers", "fails"} <= recoveries or {True, False} <= chances:
        return "flips"
    return "stable" if len(recoveries) == 1 and len(chances) == 1 else "unclear"
