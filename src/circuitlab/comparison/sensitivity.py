"""Ablation sensitivity: whether the verdict on a circuit depends on how everything outside it is ablated."""

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
    "recovery": "recovers: the interval is above the threshold; fails: below it; unclear: it contains the threshold; "
    "no gap: ablating everything changes nothing",
    "chance": "p = (r + 1) / (n + 1), r of n random circuits of the same size at least as faithful; better than chance: p below alpha",
    "verdict": "flips: one ablation says recovers and another fails, or better than chance under one and not under another; "
    "unclear: no such contradiction, but not the same under all; stable: the same under all",
}


class SensitivityRow(msgspec.Struct, frozen=True, kw_only=True):
    """The circuit of one task under one ablation.

    Parameters
    ----------
    task, ablation : str
        The task and the ablation.
    size : int
        Number of heads in the circuit.
    faithfulness : dict or None
        ``{"mean", "low", "high"}``; None if ablating everything changes nothing, so that there is no gap.
    full, empty : float
        Mean metric of the full model and of the empty circuit, in units of the metric.
    random_mean, p : float or None
        Mean faithfulness of random circuits of the same size, and the p-value against them.
    recovery : {"recovers", "fails", "unclear", "no gap"}
        Where the interval of the faithfulness is relative to the threshold.
    beats_chance : bool or None
        Whether the p-value is below the level.
    """

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
    """The circuit of every task under every ablation.

    Parameters
    ----------
    ablations : tuple of str
        The ablations.
    rows : tuple of SensitivityRow
        Task by task, ablations in order.
    verdicts : dict of str to str
        ``"stable"``, ``"unclear"`` or ``"flips"`` for each task.
    values : dict
        Metric by (task, ablation), each (circuit, pair): the full model, the empty circuit, the circuit, then the random circuits.
    threshold : float
        Faithfulness above which a circuit counts as recovering the task.
    conventions : dict of str to str
        How circuits were run and the numbers defined.
    """

    ablations: tuple[str, ...]
    rows: tuple[SensitivityRow, ...]
    verdicts: dict[str, str]
    values: dict[tuple[str, str], np.ndarray]
    threshold: float
    conventions: dict[str, str] = field(default_factory=dict)

    def row(self, task: str, ablation: str) -> SensitivityRow:
        """The row of a task and an ablation.

        Raises
        ------
        UnknownNameError
            If there is no such row.
        """
        for row in self.rows:
            if (row.task, row.ablation) == (task, ablation):
                return row
        raise UnknownNameError("task and ablation", f"{task}, {ablation}", [f"{r.task}, {r.ablation}" for r in self.rows])

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without the values per pair."""
        return {
            "ablations": list(self.ablations),
            "rows": [msgspec.to_builtins(row) for row in self.rows],
            "verdicts": self.verdicts,
            "threshold": self.threshold,
            "conventions": self.conventions,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SensitivityCard:
        """Make a card from the data that `to_dict` wrote; it has no values per pair."""
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
    """Evaluate the circuit of every task under several ablations, with a verdict for each ablation and one over all.

    Parameters
    ----------
    runners : mapping of str to mapping of str to CircuitRunner
        What runs circuits, by ablation and then by task.
    circuits : mapping of str to Circuit
        Circuit of heads of each task.
    threshold : float
        Share of the gap above which a circuit counts as recovering the task.
    alpha : float
        Significance level of the comparison with random circuits of the same size.
    n_random : int
        Number of random circuits; the same ones are used under every ablation.
    seed : int
        Seed of the random circuits and of the bootstrap; the same for all ablations, so that nothing else differs between them.

    Returns
    -------
    SensitivityCard
        The rows and the verdicts.

    Raises
    ------
    BadParameterError
        If there are fewer than two ablations, too few random circuits for the level, or a circuit has nodes other than heads.
    UnknownNameError
        If a task has no runner under one of the ablations.

    Notes
    -----
    Cost: ``3 + n_random`` runs per task, ablation and pair; ablations other than resampling run whole prompts.

    References
    ----------
    Miller, Chughtai and Saunders (2024), Transformer Circuit Faithfulness Metrics are not Robust, arXiv:2407.08734.
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
        full_and_empty = np.array([[True], [False]]).repeat(mask.size, 1)
        chance = random_masks(mask, np.zeros(mask.size, dtype=int), n_random, seed=seed)
        masks = {"full and empty": full_and_empty, "circuit": mask[None], "random": chance}
        for ablation, by_task in runners.items():
            if task not in by_task:
                raise UnknownNameError(f"task with runs under {ablation} ablation", task, by_task)
            groups = run_named(by_task[task], masks)
            values[task, ablation] = np.concatenate(list(groups.values()))
            measures = _measure(groups, threshold, alpha, seed)
            rows.append(SensitivityRow(task=task, ablation=ablation, size=int(mask.sum()), **measures))
    verdicts = {task: _verdict([row for row in rows if row.task == task]) for task in circuits}
    settings = {"threshold": str(threshold), "alpha": str(alpha)}
    settings |= {"random_circuits": f"{n_random}, uniform over all heads", "seed": str(seed)}
    return SensitivityCard(tuple(runners), tuple(rows), verdicts, values, threshold, _CONVENTIONS | settings)


def _measure(values: Mapping[str, np.ndarray], threshold: float, alpha: float, seed: int) -> dict[str, Any]:
    """The fields of a row that come from the metric of each group of circuits, (circuit, pair)."""
    full, empty = values["full and empty"]
    means = {"full": float(full.mean()), "empty": float(empty.mean())}
    try:
        scale = FaithfulnessScale(full, empty, seed=seed)
    except EmptyGapError:
        return means | {"faithfulness": None, "random_mean": None, "p": None, "recovery": "no gap", "beats_chance": None}
    own = {key: float(value[0]) for key, value in scale.faithfulness(values["circuit"])._asdict().items()}
    chance = scale.draws(values["random"])[0]
    p = p_value(own["mean"], chance)
    recovery = "recovers" if own["low"] > threshold else "fails" if own["high"] < threshold else "unclear"
    return means | {"faithfulness": own, "random_mean": float(chance.mean()), "p": p, "recovery": recovery, "beats_chance": p < alpha}


def _verdict(rows: list[SensitivityRow]) -> str:
    recoveries, chances = {row.recovery for row in rows}, {row.beats_chance for row in rows}
    if {"recovers", "fails"} <= recoveries or {True, False} <= chances:
        return "flips"
    return "stable" if len(recoveries) == 1 and len(chances) == 1 else "unclear"
