"""What a comparison returns: one row for each pair of tasks (or of methods, models, seeds), and what a reader must know."""

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
    """Two tasks compared (or two methods, models or seeds: whatever the table is over).

    ``jaccard`` and ``spearman`` are ``{"mean", "low", "high"}``: the value as computed, and limits of the true one by resampling prompt
    pairs, selection included; ``intervals`` has them for every measure but ``rbo``, and ``corrected`` the values without noise that the
    limits lie around. Limits and corrected values are NaN where scores come from weights alone. ``containment`` is the share of the first
    circuit in the second, ``containment_b`` the reverse; ``spearman`` is of mean magnitudes. ``null_mean`` and ``null_high`` are the mean
    and the 95 % quantile of the Jaccard index by chance under the null model ``null``, ``p`` its one-sided p-value and ``q`` that
    corrected over all rows (Benjamini-Hochberg); ``nulls`` has ``{"mean", "high", "p"}`` by measure and null model. ``ready`` is false if
    the model cannot do one of the tasks.

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


def _limits(found: Mapping[str, float]) -> str:
    """``[0.12, 0.34]``."""
    return "(no interval)" if np.isnan(found["low"]) else f"[{found['low']:.2f}, {found['high']:.2f}]"


@dataclass(frozen=True, repr=False)
class OverlapTable:
    """All pairs of tasks, or of whatever ``over`` names.

    Parameters
    ----------
    tasks : tuple of str
        Names in the order given.
    rows : tuple of PairRow
        One for each unordered pair.
    circuits : dict of str to Circuit
        Each task's circuit.
    stability : dict of str to dict
        Split-half Jaccard of each task's own list, ``{"mean", "low", "high"}``; NaN where scores come from weights alone.
    rule : str
        How circuits were picked.
    method, model : str
        What was compared; all names where ``over`` is one of these.
    notes : tuple of str
        What a reader must know: tasks that the model cannot do, metrics that differ, tasks that mix mechanisms.
    over : {"task", "method", "model"}
        What the names of the table name.
    level : {"nodes", "edges"}
        What overlaps.

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
                f"{row.jaccard['mean']:.2f} " + _limits(row.jaccard),
                f"{row.null_mean:.2f}",
                f"{row.q:.2g}",
            ]
            for row in self.rows
        ]

    def row(self, first: str, second: str) -> PairRow:
        """The row of two tasks, in either order."""
        for row in self.rows:
            if {row.task_a, row.task_b} == {first, second}:
                return row
        raise UnknownNameError(f"pair of {self.over}s", f"{first}, {second}", [f"{r.task_a}, {r.task_b}" for r in self.rows])

    def matrix(self, quantity: str = "jaccard") -> np.ndarray:
        """(task, task) array of a row's quantity; the diagonal is 1 (0 for p-values).

        Symmetric, but for ``containment``: entry (i, j) is the share of circuit i that lies in circuit j.
        """
        numbers = [name for name in PairRow.__struct_fields__ if isinstance(getattr(self.rows[0], name), float | dict)]
        numbers = [name for name in numbers if name not in {"intervals", "corrected", "nulls"}]
        if quantity not in numbers:
            raise UnknownNameError("quantity", quantity, numbers)
        out = np.full((len(self.tasks), len(self.tasks)), float(quantity not in _ZERO_ON_THE_DIAGONAL))
        for row in self.rows:
            value = getattr(row, quantity)
            i, j = self.tasks.index(row.task_a), self.tasks.index(row.task_b)
            out[i, j] = out[j, i] = value["mean"] if isinstance(value, dict) else value
            if quantity == "containment":
                out[j, i] = row.containment_b
        return out

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
        """One row per pair of tasks; intervals spread over ``_low`` and ``_high`` columns, null models over theirs."""
        import pandas as pd  # noqa: PLC0415

        flat = []
        for row in self.rows:
            plain = msgspec.to_builtins(row)
            plain["shared"] = " ".join(plain["shared"])
            limits, nulls, corrected = (plain.pop(name) for name in ("intervals", "nulls", "corrected"))
            plain |= {name: limits[name]["mean"] for name in ("jaccard", "spearman")}
            plain |= {f"{name}_{end}": found[end] for name, found in limits.items() for end in ("low", "high")}
            plain |= {f"{name}_corrected": value for name, value in corrected.items()}
            plain |= {f"{name}_{model}_p": found["p"] for name, models in nulls.items() for model, found in models.items()}
            flat.append(plain)
        return pd.DataFrame(flat)
