"""Transfer: the circuit of one task is run on the prompts of another, with everything else ablated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import numpy as np

from circuitlab.circuits.chance import p_value, random_masks
from circuitlab.circuits.circuit import Circuit
from circuitlab.circuits.curves import FaithfulnessScale
from circuitlab.comparison.runner import CircuitRunner, common_universe, head_mask, run_named
from circuitlab.comparison.stored import with_nan
from circuitlab.core.errors import BadParameterError, EmptyGapError, UnknownNameError
from circuitlab.scores.intervals import Interval, mean_interval

__all__ = ["TransferCell", "TransferTable", "transfer_table"]

_CONVENTIONS = {
    "faithfulness": "(mean m(C) - mean m(empty)) / (mean m(full) - mean m(empty)) on the evaluated task: a ratio of means, never clamped",
    "interval": "95 %, percentiles of a bootstrap over the evaluated task's pairs (given the circuits: selection is not resampled)",
    "loss": "faithfulness of the task's own circuit minus that of the transferred one, on the same resamples of pairs",
    "relative": "(f - r) / (own f - r), r the mean faithfulness of random circuits of the same size; null unless own f exceeds its r "
    "in 97.5 % of resamples",
    "core": "the heads in both circuits, run alone on the evaluated task",
    "p": "(r + 1) / (n + 1), r of n random circuits of the transferred circuit's size at least as faithful",
    "q": "Benjamini-Hochberg over all pairs of different tasks; for a task's own circuit over all own circuits",
}


class TransferCell(msgspec.Struct, frozen=True, kw_only=True):
    """The circuit of one task on the prompts of another task, or of its own.

    Parameters
    ----------
    circuit, task : str
        Task of the circuit, and task that it is run on.
    size : int
        Number of heads in the circuit.
    faithfulness : dict
        ``{"mean", "low", "high"}`` of the circuit's faithfulness on the task.
    loss : dict
        ``{"mean", "low", "high"}`` of the faithfulness of the task's own circuit minus that of this one.
    relative : dict or None
        ``{"mean", "low", "high"}`` of the faithfulness above random circuits, relative to that of the task's own circuit; None if the own
        circuit is not clearly better than random.
    random : dict
        ``{"n", "mean", "low", "high"}``: random circuits of the same size, their number, mean faithfulness and 95 % range.
    p, q : float or None
        p-value against random circuits, and the same corrected; None without random circuits.
    core : dict
        ``{"mean", "low", "high"}`` of the faithfulness of the heads in both circuits.
    core_size : int
        Number of these heads.
    """

    circuit: str
    task: str
    size: int
    faithfulness: dict[str, float]
    loss: dict[str, float]
    relative: dict[str, float] | None
    random: dict[str, float]
    p: float | None
    q: float | None
    core: dict[str, float]
    core_size: int


@dataclass(frozen=True, eq=False)
class TransferTable:
    """The circuit of every task on every task.

    Parameters
    ----------
    tasks : tuple of str
        Tasks that were evaluated, in the order of the input; each has a circuit.
    cells : tuple of TransferCell
        One for each circuit and task, a task's own circuit included.
    shared : dict of str to Interval
        Faithfulness on each task of the heads that are in all circuits.
    shared_heads : tuple of str
        Names of those heads; often there are none.
    scales : dict of str to FaithfulnessScale
        Metric of the full model and of the empty circuit on the pairs of each task.
    values : dict of str to dict of str to ndarray
        Metric on each task by group of circuits, each (circuit, pair): ``"circuits"``, ``"cores"``, ``"shared"``, and random circuits of
        each size.
    left_out : dict of str to str
        Tasks that could not be evaluated, with the reason.
    conventions : dict of str to str
        How circuits were run and the numbers defined.
    """

    tasks: tuple[str, ...]
    cells: tuple[TransferCell, ...]
    shared: dict[str, Interval]
    shared_heads: tuple[str, ...]
    scales: dict[str, FaithfulnessScale]
    values: dict[str, dict[str, np.ndarray]]
    left_out: dict[str, str] = field(default_factory=dict)
    conventions: dict[str, str] = field(default_factory=dict)

    def cell(self, circuit: str, task: str) -> TransferCell:
        """The cell of a circuit, named by its task, and a task that it is run on.

        Raises
        ------
        UnknownNameError
            If there is no such cell.
        """
        for cell in self.cells:
            if (cell.circuit, cell.task) == (circuit, task):
                return cell
        raise UnknownNameError("cell of circuit and task", f"{circuit}, {task}", [f"{c.circuit}, {c.task}" for c in self.cells])

    def matrix(self, quantity: Literal["faithfulness", "loss", "core"] = "faithfulness") -> np.ndarray:
        """The means of one quantity as an array (circuit, task).

        Raises
        ------
        UnknownNameError
            If there is no such quantity.
        """
        if quantity not in {"faithfulness", "loss", "core"}:
            raise UnknownNameError("quantity", quantity, ["faithfulness", "loss", "core"])
        return np.array([[getattr(self.cell(row, task), quantity)["mean"] for task in self.tasks] for row in self.tasks])

    def to_dict(self, *, pairs: bool = True) -> dict[str, Any]:
        """Plain data; with ``pairs``, also the metric of every pair for the full model, the empty circuit and each circuit."""
        scales = {
            task: {
                "full": float(scale.full.mean()),
                "empty": float(scale.empty.mean()),
                "gap": mean_interval(scale.full - scale.empty).as_dict(),
                "n_pairs": len(scale.full),
            }
            for task, scale in self.scales.items()
        }
        data: dict[str, Any] = {
            "tasks": list(self.tasks),
            "cells": [msgspec.to_builtins(cell) for cell in self.cells],
            "shared_by_all": {"heads": list(self.shared_heads), "faithfulness": {k: v.as_dict() for k, v in self.shared.items()}},
            "ends": scales,
            "left_out": self.left_out,
            "conventions": self.conventions,
        }
        if pairs:
            data["per_pair"] = {
                task: {
                    "full": scale.full.tolist(),
                    "empty": scale.empty.tolist(),
                    "circuits": dict(zip(self.tasks, self.values[task]["circuits"].tolist(), strict=True)),
                }
                for task, scale in self.scales.items()
            }
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TransferTable:
        """Make a table from the data that `to_dict` wrote; values of random circuits are not stored.

        Raises
        ------
        BadParameterError
            If the data lack the values of every pair.
        """
        if "per_pair" not in data:
            what = "A transfer table was stored without its values by pair."
            raise BadParameterError(what, "Store it with to_dict(pairs=True).")
        plain, tasks = with_nan(dict(data)), tuple(data["tasks"])
        pairs = {task: data["per_pair"][task] for task in tasks}
        return cls(
            tasks=tasks,
            cells=tuple(msgspec.convert(cell, TransferCell) for cell in plain["cells"]),
            shared={
                task: Interval(*(np.float64(limits[name]) for name in ("mean", "low", "high")))
                for task, limits in plain["shared_by_all"]["faithfulness"].items()
            },
            shared_heads=tuple(data["shared_by_all"]["heads"]),
            scales={task: FaithfulnessScale(np.array(values["full"]), np.array(values["empty"])) for task, values in pairs.items()},
            values={task: {"circuits": np.array([values["circuits"][name] for name in tasks])} for task, values in pairs.items()},
            left_out=dict(data["left_out"]),
            conventions=dict(data["conventions"]),
        )


def transfer_table(
    runners: Mapping[str, CircuitRunner],
    circuits: Mapping[str, Circuit],
    *,
    n_random: int = 50,
    seed: int = 0,
    conventions: Mapping[str, str] | None = None,
) -> TransferTable:
    """Run every circuit on every task, and compare it with the task's own circuit, with random circuits, and with the heads they share.

    Parameters
    ----------
    runners : mapping of str to CircuitRunner
        Runs circuits on the pairs of each task; preferably on pairs that no circuit was selected from.
    circuits : mapping of str to Circuit
        Circuit of heads of each task.
    n_random : int
        Number of random circuits of each size, drawn uniformly over all heads; circuits of equal size share them.
    seed : int
        Seed of random circuits and bootstraps.
    conventions : mapping of str to str, optional
        How the runners run circuits, in words; kept with the table.

    Returns
    -------
    TransferTable
        A task on which ablating all heads changes nothing is left out, with the reason.

    Raises
    ------
    BadParameterError
        If there are fewer than two circuits, or one has nodes other than heads.
    IncompatibleError
        If the circuits belong to models of different shapes.
    UnknownNameError
        If a task has no runner.

    Notes
    -----
    Cost: ``2 + 2 x tasks + n_random x sizes`` runs per task and pair; some runners run equal circuits only once.
    """
    universe = common_universe(circuits)
    for name in circuits:
        if name not in runners:
            raise UnknownNameError("task with runs", name, runners)
    masks = {name: head_mask(circuit) for name, circuit in circuits.items()}
    shared = np.logical_and.reduce(list(masks.values()))
    heads = list(universe.heads())
    plan = _Plan(masks, shared, n_random, seed)
    results: dict[str, _TaskValues] = {}
    left_out: dict[str, str] = {}
    for number, task in enumerate(masks):
        try:
            results[task] = plan.run(task, runners[task], number)
        except EmptyGapError as error:
            left_out[task] = str(error)
    tasks = tuple(results)
    cells = _corrected([results[task].cell(task, source, plan) for source in tasks for task in tasks])
    settings = {"random_circuits": f"{n_random} of each size, uniform over all heads", "seed": str(seed)}
    return TransferTable(
        tasks=tasks,
        cells=cells,
        shared={task: result.shared for task, result in results.items()},
        shared_heads=tuple(str(heads[i]) for i in np.flatnonzero(shared)),
        scales={task: result.scale for task, result in results.items()},
        values={task: result.values | {"circuits": result.circuit_values(tasks, plan)} for task, result in results.items()},
        left_out=left_out,
        conventions={**_CONVENTIONS, **settings, **(conventions or {})},
    )


@dataclass(frozen=True, eq=False)
class _Plan:
    """The circuits that are run on every task, as masks over all heads."""

    masks: dict[str, np.ndarray]
    shared: np.ndarray
    n_random: int
    seed: int

    def run(self, task: str, runner: CircuitRunner, number: int) -> _TaskValues:
        """Run them on one task."""
        circuits = np.stack(list(self.masks.values()))
        groups = {"full and empty": np.array([[True], [False]]).repeat(circuits.shape[1], 1)}
        groups |= {"circuits": circuits, "cores": circuits & self.masks[task], "shared": self.shared[None]}
        strata = np.zeros(circuits.shape[1], dtype=int)
        for mask in self.masks.values():
            size = int(mask.sum())
            groups.setdefault(f"random {size}", random_masks(mask, strata, self.n_random, seed=self.seed + size))
        values = run_named(runner, groups)
        full, empty = values.pop("full and empty")
        # Tasks have different pairs, so they get different seeds: with equal ones their resamples would be correlated.
        return _TaskValues(FaithfulnessScale(full, empty, seed=self.seed + number), values)


@dataclass(frozen=True, eq=False)
class _TaskValues:
    """The metric of every group of circuits on one task, (circuit, pair), and the scale of its faithfulness."""

    scale: FaithfulnessScale
    values: dict[str, np.ndarray]

    @property
    def shared(self) -> Interval:
        return _at(self.scale.faithfulness(self.values["shared"]), 0)

    def circuit_values(self, tasks: tuple[str, ...], plan: _Plan) -> np.ndarray:
        """Metric of the circuits of these tasks, (circuit, pair)."""
        names = list(plan.masks)
        return self.values["circuits"][[names.index(name) for name in tasks]]

    def cell(self, task: str, source: str, plan: _Plan) -> dict[str, Any]:
        """The fields of the cell of a circuit on this task, except the corrected p-value."""
        names = list(plan.masks)
        own, other = names.index(task), names.index(source)
        draws = self.scale.draws(self.values["circuits"][[own, other]])
        chance = [self.scale.draws(self.values[f"random {int(plan.masks[name].sum())}"]) for name in (task, source)]
        loss = self.scale.interval(draws[:, :1] - draws[:, 1:])
        random = chance[1][0]
        low, high = np.quantile(random, [0.025, 0.975]) if random.size else (np.nan, np.nan)
        return {
            "circuit": source,
            "task": task,
            "size": int(plan.masks[source].sum()),
            "faithfulness": _at(self.scale.interval(draws), 1).as_dict(),
            "loss": _at(loss, 0).as_dict(),
            "relative": self._relative(draws, chance),
            "random": {"n": len(random), "mean": float(random.mean()) if random.size else np.nan, "low": float(low), "high": float(high)},
            "p": p_value(float(draws[0, 1]), random) if random.size else None,
            "core": _at(self.scale.faithfulness(self.values["cores"][[other]]), 0).as_dict(),
            "core_size": int((plan.masks[source] & plan.masks[task]).sum()),
        }

    def _relative(self, draws: np.ndarray, chance: list[np.ndarray]) -> dict[str, float] | None:
        if not chance[0].shape[1] or len(self.scale.full) == 1:
            return None
        above = draws - np.stack([random.mean(1) for random in chance], axis=1)
        if not np.nanquantile(above[1:, 0], 0.025) > 0:
            return None
        return _at(self.scale.interval((above[:, 1] / above[:, 0])[:, None]), 0).as_dict()


def _at(interval: Interval, index: int) -> Interval:
    return Interval(*(np.float64(np.asarray(limit)[index]) for limit in interval))


def _corrected(cells: list[dict[str, Any]]) -> tuple[TransferCell, ...]:
    """The cells with q: own circuits are one family of tests, all others another."""
    from scipy import stats  # noqa: PLC0415 - scipy.stats is slow to import

    q: list[float | None] = [None] * len(cells)
    for own in (True, False):
        family = [i for i, cell in enumerate(cells) if (cell["circuit"] == cell["task"]) == own and cell["p"] is not None]
        if family:
            for i, value in zip(family, stats.false_discovery_control([cells[i]["p"] for i in family]), strict=True):
                q[i] = float(value)
    return tuple(TransferCell(**cell, q=value) for cell, value in zip(cells, q, strict=True))
