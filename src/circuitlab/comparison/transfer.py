"""Transfer: the circuit of one task run on the prompts of another, everything else ablated."""

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
    "core": "heads that both circuits hold, run alone on the evaluated task",
    "p": "(r + 1) / (n + 1), r of n random circuits of the transferred circuit's size at least as faithful",
    "q": "Benjamini-Hochberg over all pairs of different tasks; for a task's own circuit over all own circuits",
}


class TransferCell(msgspec.Struct, frozen=True, kw_only=True):
    """The circuit of one task on the prompts of another (or its own).

    ``faithfulness``, ``loss``, ``relative`` and ``core`` are ``{"mean", "low", "high"}``; ``size`` and ``core_size`` count heads.
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
    """Every circuit on every task.

    Parameters
    ----------
    tasks : tuple of str
        Tasks that were evaluated, in the order given; each has a circuit.
    cells : tuple of TransferCell
        One per circuit and task, a task's own included.
    shared : dict of str to Interval
        Faithfulness on each task of the heads that all circuits hold.
    shared_heads : tuple of str
        Those heads; often there are none.
    ends : dict of str to FaithfulnessScale
        Full model and empty circuit on each task's pairs.
    values : dict of str to dict of str to ndarray
        Per-pair metric on each task, by group of circuits: ``"circuits"`` (circuit, pair), ``"cores"``, ``"shared"`` and one of random
        circuits for each size.
    left_out : dict of str to str
        Tasks that could not be evaluated, with the reason.
    conventions : dict of str to str
        How circuits were run and numbers made.
    """

    tasks: tuple[str, ...]
    cells: tuple[TransferCell, ...]
    shared: dict[str, Interval]
    shared_heads: tuple[str, ...]
    ends: dict[str, FaithfulnessScale]
    values: dict[str, dict[str, np.ndarray]]
    left_out: dict[str, str] = field(default_factory=dict)
    conventions: dict[str, str] = field(default_factory=dict)

    def cell(self, circuit: str, task: str) -> TransferCell:
        """The cell of a circuit and a task."""
        for cell in self.cells:
            if (cell.circuit, cell.task) == (circuit, task):
                return cell
        raise UnknownNameError("cell of circuit and task", f"{circuit}, {task}", [f"{c.circuit}, {c.task}" for c in self.cells])

    def matrix(self, quantity: Literal["faithfulness", "loss", "core"] = "faithfulness") -> np.ndarray:
        """(circuit, task) array of an interval's mean."""
        if quantity not in {"faithfulness", "loss", "core"}:
            raise UnknownNameError("quantity", quantity, ["faithfulness", "loss", "core"])
        return np.array([[getattr(self.cell(row, task), quantity)["mean"] for task in self.tasks] for row in self.tasks])

    def to_dict(self, *, pairs: bool = True) -> dict[str, Any]:
        """Plain data; ``pairs`` adds the metric of every pair for the full model, the empty circuit and each circuit."""
        ends = {
            task: {
                "full": float(one.full.mean()),
                "empty": float(one.empty.mean()),
                "gap": mean_interval(one.full - one.empty).as_dict(),
                "n_pairs": len(one.full),
            }
            for task, one in self.ends.items()
        }
        found: dict[str, Any] = {
            "tasks": list(self.tasks),
            "cells": [msgspec.to_builtins(cell) for cell in self.cells],
            "shared_by_all": {"heads": list(self.shared_heads), "faithfulness": {k: v.as_dict() for k, v in self.shared.items()}},
            "ends": ends,
            "left_out": self.left_out,
            "conventions": self.conventions,
        }
        if pairs:
            found["per_pair"] = {
                task: {
                    "full": ends_of.full.tolist(),
                    "empty": ends_of.empty.tolist(),
                    "circuits": dict(zip(self.tasks, self.values[task]["circuits"].tolist(), strict=True)),
                }
                for task, ends_of in self.ends.items()
            }
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TransferTable:
        """Read what `to_dict` wrote, per-pair values included; those of random circuits are not stored."""
        if "per_pair" not in data:
            what = "A transfer table was stored without its values by pair."
            raise BadParameterError(what, "Store it with to_dict(pairs=True).")
        plain, tasks = with_nan(dict(data)), tuple(data["tasks"])
        pairs = {task: data["per_pair"][task] for task in tasks}
        return cls(
            tasks=tasks,
            cells=tuple(msgspec.convert(cell, TransferCell) for cell in plain["cells"]),
            shared={
                task: Interval(*(np.float64(found[name]) for name in ("mean", "low", "high")))
                for task, found in plain["shared_by_all"]["faithfulness"].items()
            },
            shared_heads=tuple(data["shared_by_all"]["heads"]),
            ends={task: FaithfulnessScale(np.array(found["full"]), np.array(found["empty"])) for task, found in pairs.items()},
            values={task: {"circuits": np.array([found["circuits"][name] for name in tasks])} for task, found in pairs.items()},
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
    """Run every task's circuit on every task, and compare it with the task's own, with random circuits and with what both share.

    Parameters
    ----------
    runners : mapping of str to CircuitRunner
        Runs circuits on each task's pairs; best on pairs that no circuit was found on.
    circuits : mapping of str to Circuit
        Circuit of heads of each task.
    n_random : int
        Random circuits for each size, drawn uniformly over all heads; circuits of equal size share them.
    seed : int
        Of random circuits and bootstraps.
    conventions : mapping of str to str, optional
        How the runners run circuits, in words; kept with the table.

    Returns
    -------
    TransferTable
        A task on which ablating everything changes nothing is left out, with the reason.

    Raises
    ------
    BadParameterError, IncompatibleError
        If there are fewer than two circuits, one holds other nodes than heads, or they belong to models of different shape.
    UnknownNameError
        If a circuit has no runner.

    Notes
    -----
    Cost: ``2 + 2 x tasks + n_random x sizes`` runs per task and pair; equal circuits are run once where the runner sees to it.
    """
    universe = common_universe(circuits)
    for name in circuits:
        if name not in runners:
            raise UnknownNameError("task with runs", name, runners)
    masks = {name: head_mask(circuit) for name, circuit in circuits.items()}
    shared = np.logical_and.reduce(list(masks.values()))
    heads = list(universe.heads())
    plan = _Plan(masks, shared, n_random, seed)
    found: dict[str, _OneTask] = {}
    left_out: dict[str, str] = {}
    for number, task in enumerate(masks):
        try:
            found[task] = plan.run(task, runners[task], number)
        except EmptyGapError as error:
            left_out[task] = str(error)
    tasks = tuple(found)
    cells = _corrected([found[task].cell(task, source, plan) for source in tasks for task in tasks])
    said = {"random_circuits": f"{n_random} of each size, uniform over all heads", "seed": str(seed)}
    return TransferTable(
        tasks=tasks,
        cells=cells,
        shared={task: one.shared for task, one in found.items()},
        shared_heads=tuple(str(heads[i]) for i in np.flatnonzero(shared)),
        ends={task: one.ends for task, one in found.items()},
        values={task: one.values | {"circuits": one.of(tasks, plan)} for task, one in found.items()},
        left_out=left_out,
        conventions={**_CONVENTIONS, **said, **(conventions or {})},
    )


@dataclass(frozen=True, eq=False)
class _Plan:
    """Which circuits every task runs."""

    masks: dict[str, np.ndarray]
    shared: np.ndarray
    n_random: int
    seed: int

    def run(self, task: str, runner: CircuitRunner, number: int) -> _OneTask:
        """Run them on one task."""
        every = np.stack(list(self.masks.values()))
        groups = {"ends": np.array([[True], [False]]).repeat(every.shape[1], 1), "circuits": every, "cores": every & self.masks[task]}
        groups["shared"] = self.shared[None]
        strata = np.zeros(every.shape[1], dtype=int)
        for mask in self.masks.values():
            size = int(mask.sum())
            groups.setdefault(f"random {size}", random_masks(mask, strata, self.n_random, seed=self.seed + size))
        values = run_named(runner, groups)
        full, empty = values.pop("ends")
        # Tasks have pairs of their own: equal seeds would tie their resamples together.
        return _OneTask(FaithfulnessScale(full, empty, seed=self.seed + number), values)


@dataclass(frozen=True, eq=False)
class _OneTask:
    ends: FaithfulnessScale
    values: dict[str, np.ndarray]

    @property
    def shared(self) -> Interval:
        return _at(self.ends.faithfulness(self.values["shared"]), 0)

    def of(self, tasks: tuple[str, ...], plan: _Plan) -> np.ndarray:
        """Values of these tasks' circuits, (circuit, pair)."""
        names = list(plan.masks)
        return self.values["circuits"][[names.index(name) for name in tasks]]

    def cell(self, task: str, source: str, plan: _Plan) -> dict[str, Any]:
        """Everything about a circuit on this task but the corrected p-value."""
        names = list(plan.masks)
        own, other = names.index(task), names.index(source)
        draws = self.ends.draws(self.values["circuits"][[own, other]])
        chance = [self.ends.draws(self.values[f"random {int(plan.masks[name].sum())}"]) for name in (task, source)]
        lost = self.ends.interval(draws[:, :1] - draws[:, 1:])
        spread = chance[1][0]
        low, high = np.quantile(spread, [0.025, 0.975]) if spread.size else (np.nan, np.nan)
        return {
            "circuit": source,
            "task": task,
            "size": int(plan.masks[source].sum()),
            "faithfulness": _at(self.ends.interval(draws), 1).as_dict(),
            "loss": _at(lost, 0).as_dict(),
            "relative": self._relative(draws, chance),
            "random": {"n": len(spread), "mean": float(spread.mean()) if spread.size else np.nan, "low": float(low), "high": float(high)},
            "p": p_value(float(draws[0, 1]), spread) if spread.size else None,
            "core": _at(self.ends.faithfulness(self.values["cores"][[other]]), 0).as_dict(),
            "core_size": int((plan.masks[source] & plan.masks[task]).sum()),
        }

    def _relative(self, draws: np.ndarray, chance: list[np.ndarray]) -> dict[str, float] | None:
        if not chance[0].shape[1] or len(self.ends.full) == 1:
            return None
        above = draws - np.stack([one.mean(1) for one in chance], axis=1)
        if not np.nanquantile(above[1:, 0], 0.025) > 0:
            return None
        return _at(self.ends.interval((above[:, 1] / above[:, 0])[:, None]), 0).as_dict()


def _at(interval: Interval, index: int) -> Interval:
    return Interval(*(np.float64(np.asarray(part)[index]) for part in interval))


def _corrected(cells: list[dict[str, Any]]) -> tuple[TransferCell, ...]:
    """Cells with q: own circuits are one family, all others another."""
    from scipy import stats  # noqa: PLC0415 - scipy.stats is slow to import

    q: list[float | None] = [None] * len(cells)
    for own in (True, False):
        family = [i for i, cell in enumerate(cells) if (cell["circuit"] == cell["task"]) == own and cell["p"] is not None]
        if family:
            for i, value in zip(family, stats.false_discovery_control([cells[i]["p"] for i in family]), strict=True):
                q[i] = float(value)
    return tuple(TransferCell(**cell, q=value) for cell, value in zip(cells, q, strict=True))
