"""OverlapTable, the result of a comparison: one row for each pair of tasks (or methods, models, seeds), and notes on their limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from circuitlab.circuits.circuit import Circuit
from circuitlab.core.errors import UnknownNameError
from circuitlab.core.html import html_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["OverlapTable", "PairRow"]

_ZERO_ON_THE_DIAGONAL = {"p", "q", "spearman_p"}


class PairRow(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison of two tasks (or of two methods, models or seeds: see ``OverlapTable.over``).

    Parameters
    ----------
    task_a, task_b : str
        Names of the two.
    jaccard, spearman : dict
        ``{"mean", "low", "high"}``: the value as computed, and 95 % limits of the true value from resampled prompt pairs, with circuits
        selected again in every resample. ``spearman`` is the rank correlation of the magnitudes of mean scores.
    containment, containment_b : float
        Share of the first circuit that is in the second, and the reverse.
    overlap_coefficient, rbo : float
        Overlap coefficient of the circuits, and rank-biased overlap of the scores.
    spearman_p : float
        Two-sided p-value of ``spearman``, with heads permuted within their layer.
    shared : list of str
        Names of the shared elements.
    null : str
        Null model of the next four.
    null_mean, null_high, p, q : float
        Mean and 95 % quantile of the Jaccard index by chance, its one-sided p-value, and the p-value corrected over all rows
        (Benjamini-Hochberg).
    ready : bool
        False if the model cannot do one of the tasks.
    intervals : dict
        ``{"mean", "low", "high"}`` for every measure except ``rbo``; limits are NaN where scores come from weights alone.
    corrected : dict
        The measures corrected for noise, which the limits are around; NaN where scores come from weights alone.
    nulls : dict
        ``{"mean", "high", "p"}`` by measure and null model.

    Examples
    --------
    >>> import numpy as np
    >>> from circuitlab.circuits import TopK
    >>> from circuitlab.comparison import compare_tasks
    >>> from circuitlab.testing.fakes import fake_scores
    >>> effects = np.random.default_rng(0).normal(size=(16, 3, 4))
    >>> row: PairRow = compare_tasks({name: fake_scores(effects, task=name) for name in ["a", "b"]}, TopK(4)).row("a", "b")
    >>> row.jaccard["mean"], row.null
    (1.0, 'layer_stratified')
    """

    task_a: str
    task_b: str
    jaccard: dict[str, float]
    containment: float
    containment_b: float
    overlap_coefficient: float
    rbo: float
    spearman: dict[str, float]
    spearman_p: float
    shared: list[str]
    null: str
    null_mean: float
    null_high: float
    p: float
    q: float
    ready: bool
    intervals: dict[str, dict[str, float]]
    corrected: dict[str, float]
    nulls: dict[str, dict[str, dict[str, float]]]


def _limits_text(interval: Mapping[str, float]) -> str:
    """The limits of an interval: ``[0.12, 0.34]``."""
    return "(no interval)" if np.isnan(interval["low"]) else f"[{interval['low']:.2f}, {interval['high']:.2f}]"


@dataclass(frozen=True, repr=False)
class OverlapTable:
    """The comparisons of all pairs of tasks, methods or models.

    Parameters
    ----------
    tasks : tuple of str
        Names of the tasks (or methods, or models), in the order of the input.
    rows : tuple of PairRow
        One for each unordered pair.
    circuits : dict of str to Circuit
        Circuit of each task.
    stability : dict of str to dict
        Split-half Jaccard index of each task's circuit with itself, ``{"mean", "low", "high"}``, NaN where scores come from weights alone;
        see `top_k_stability`.
    rule : str
        How the circuits were selected.
    method, model : str
        Method and model of the scores; several names, separated by commas, if these are compared.
    notes : tuple of str
        What weakens the comparison: tasks that the model cannot do, metrics that differ, tasks that mix mechanisms.
    over : {"task", "method", "model"}
        What is compared.
    level : {"nodes", "edges"}
        Elements of the circuits that are compared.

    Examples
    --------
    >>> import numpy as np
    >>> from circuitlab.circuits import TopK
    >>> from circuitlab.comparison import compare_tasks
    >>> from circuitlab.testing.fakes import fake_scores
    >>> effects = np.random.default_rng(0).normal(size=(16, 3, 4))
    >>> table: OverlapTable = compare_tasks({name: fake_scores(effects, task=name) for name in ["a", "b"]}, TopK(4))
    >>> table.matrix("jaccard").tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """

    tasks: tuple[str, ...]
    rows: tuple[PairRow, ...]
    circuits: dict[str, Circuit]
    stability: dict[str, dict[str, float]]
    rule: str
    method: str
    model: str
    notes: tuple[str, ...] = ()
    over: str = "task"
    level: str = "nodes"

    def __repr__(self) -> str:
        lines = [f"  {name}: Jaccard {shared}, by chance {chance}, q = {q}" for name, shared, chance, q in self._lines()]
        return "\n".join([f"{len(self.tasks)} {self.over}s compared, {self.rule}, {self.method} on {self.model}", *lines, *self.notes])

    def _repr_html_(self) -> str:
        headings = [f"{self.over}s", "Jaccard", "by chance", "q"]
        return html_table(f"{self.rule}, {self.method} on {self.model}", headings, self._lines(), notes=self.notes)

    def _lines(self) -> list[list[str]]:
        return [
            [
                f"{row.task_a} ~ {row.task_b}",
                f"{row.jaccard['mean']:.2f} " + _limits_text(row.jaccard),
                f"{row.null_mean:.2f}",
                f"{row.q:.2g}",
            ]
            for row in self.rows
        ]

    def row(self, first: str, second: str) -> PairRow:
        """The row of two tasks, in either order.

        Raises
        ------
        UnknownNameError
            If there is no such row.
        """
        for row in self.rows:
            if {row.task_a, row.task_b} == {first, second}:
                return row
        raise UnknownNameError(f"pair of {self.over}s", f"{first}, {second}", [f"{r.task_a}, {r.task_b}" for r in self.rows])

    def matrix(self, quantity: str = "jaccard") -> np.ndarray:
        """One quantity of all rows as an array (task, task), with 1 on the diagonal (0 for p-values).

        The array is symmetric, except for ``containment``: entry (i, j) is the share of circuit i that is in circuit j.

        Raises
        ------
        UnknownNameError
            If rows have no such quantity, or it is not a number.
        """
        numbers = [name for name in PairRow.__struct_fields__ if isinstance(getattr(self.rows[0], name), float | dict)]
        numbers = [name for name in numbers if name not in {"intervals", "corrected", "nulls"}]
        if quantity not in numbers:
            raise UnknownNameError("quantity", quantity, numbers)
        matrix = np.full((len(self.tasks), len(self.tasks)), float(quantity not in _ZERO_ON_THE_DIAGONAL))
        for row in self.rows:
            value = getattr(row, quantity)
            i, j = self.tasks.index(row.task_a), self.tasks.index(row.task_b)
            matrix[i, j] = matrix[j, i] = value["mean"] if isinstance(value, dict) else value
            if quantity == "containment":
                matrix[j, i] = row.containment_b
        return matrix

    def to_dict(self) -> dict[str, Any]:
        """Plain data in the shape of ``circuitlab compare --json``; ``transfer`` is null because no model was run."""
        return {
            "pairs": [msgspec.to_builtins(row) for row in self.rows],
            "transfer": None,
            "rule": self.rule,
            "method": self.method,
            "model": self.model,
            "over": self.over,
            "level": self.level,
            "stability": self.stability,
            "notes": list(self.notes),
            "circuits": {task: circuit.to_dict() for task, circuit in self.circuits.items()},
        }

    def to_frame(self) -> pd.DataFrame:
        """One row per pair of tasks. Intervals have columns ending in ``_low`` and ``_high``, null models columns ending in ``_p``."""
        import pandas as pd  # noqa: PLC0415

        flat = []
        for row in self.rows:
            plain = msgspec.to_builtins(row)
            plain["shared"] = " ".join(plain["shared"])
            limits, nulls, corrected = (plain.pop(name) for name in ("intervals", "nulls", "corrected"))
            plain |= {name: limits[name]["mean"] for name in ("jaccard", "spearman")}
            plain |= {f"{name}_{end}": interval[end] for name, interval in limits.items() for end in ("low", "high")}
            plain |= {f"{name}_corrected": value for name, value in corrected.items()}
            plain |= {f"{name}_{model}_p": summary["p"] for name, models in nulls.items() for model, summary in models.items()}
            flat.append(plain)
        return pd.DataFrame(flat)
