"""compare_tasks: every pair of tasks, with the overlap of their circuits, the rank agreement, and what chance would give."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from circuitlab.circuits.circuit import Circuit
from circuitlab.circuits.select import TopK, mean_of, ranked, top_mask
from circuitlab.compare.bootstrap import bootstrap
from circuitlab.compare.nulls import overlap_null, spearman_null
from circuitlab.compare.overlap import containment, jaccard
from circuitlab.compare.ranks import rank_biased_overlap, spearman
from circuitlab.compare.stability import top_k_stability
from circuitlab.errors import BadParameterError, IncompatibleError, UnknownNameError

if TYPE_CHECKING:
    import pandas as pd

    from circuitlab.scores.head_scores import HeadScores

__all__ = ["OverlapTable", "PairRow", "compare_tasks"]


class PairRow(msgspec.Struct, frozen=True, kw_only=True):
    """Two tasks compared.

    ``jaccard`` and ``spearman`` are ``{"mean", "low", "high"}`` with bootstrap limits over prompt pairs; ``spearman`` is of mean
    magnitudes; ``null_mean`` and ``null_high`` are the mean and the 95 % quantile of the Jaccard index by chance
    (layer-stratified); ``p`` is one-sided and exact, ``q`` corrected over all pairs of tasks (Benjamini-Hochberg). ``ready`` is
    false if the model cannot do one of the tasks.
    """

    task_a: str
    task_b: str
    jaccard: dict[str, float]
    containment: float
    rbo: float
    spearman: dict[str, float]
    spearman_p: float
    shared: list[str]
    null_mean: float
    null_high: float
    p: float
    q: float
    ready: bool


@dataclass(frozen=True)
class OverlapTable:
    """All pairs of tasks.

    Parameters
    ----------
    tasks : tuple of str
        Names in the order given.
    rows : tuple of PairRow
        One for each unordered pair.
    circuits : dict of str to Circuit
        Each task's circuit.
    stability : dict of str to dict
        Split-half Jaccard of each task's own list, ``{"mean", "low", "high"}``.
    rule : str
        How circuits were picked.
    method, model : str
        What was compared.
    notes : tuple of str
        What a reader must know: tasks that the model cannot do, metrics that differ.
    """

    tasks: tuple[str, ...]
    rows: tuple[PairRow, ...]
    circuits: dict[str, Circuit]
    stability: dict[str, dict[str, float]]
    rule: str
    method: str
    model: str
    notes: tuple[str, ...] = ()

    def row(self, first: str, second: str) -> PairRow:
        """The row of two tasks, in either order."""
        for row in self.rows:
            if {row.task_a, row.task_b} == {first, second}:
                return row
        raise UnknownNameError("pair of tasks", f"{first}, {second}", [f"{r.task_a}, {r.task_b}" for r in self.rows])

    def matrix(self, quantity: str = "jaccard") -> np.ndarray:
        """Symmetric (task, task) array of a row's quantity; the diagonal is 1 (0 for p and q)."""
        if quantity not in PairRow.__struct_fields__:
            raise UnknownNameError("quantity", quantity, PairRow.__struct_fields__)
        out = np.full((len(self.tasks), len(self.tasks)), 0.0 if quantity in {"p", "q", "spearman_p"} else 1.0)
        for row in self.rows:
            value = getattr(row, quantity)
            i, j = self.tasks.index(row.task_a), self.tasks.index(row.task_b)
            out[i, j] = out[j, i] = value["mean"] if isinstance(value, dict) else value
        return out

    def to_dict(self) -> dict[str, Any]:
        """Plain data in the shape of ``circuitlab compare --json``; ``transfer`` is null because no model was run."""
        return {
            "pairs": [msgspec.to_builtins(row) for row in self.rows],
            "transfer": None,
            "rule": self.rule,
            "method": self.method,
            "model": self.model,
            "stability": self.stability,
            "notes": list(self.notes),
            "circuits": {task: circuit.to_dict() for task, circuit in self.circuits.items()},
        }

    def to_frame(self) -> pd.DataFrame:
        """One row per pair of tasks, intervals spread over ``_low`` and ``_high`` columns."""
        import pandas as pd  # noqa: PLC0415

        flat = []
        for row in self.rows:
            plain = msgspec.to_builtins(row)
            plain["shared"] = " ".join(plain["shared"])
            for name in ("jaccard", "spearman"):
                interval = plain.pop(name)
                plain |= {name: interval["mean"], f"{name}_low": interval["low"], f"{name}_high": interval["high"]}
            flat.append(plain)
        return pd.DataFrame(flat)


def compare_tasks(
    scores: Mapping[str, HeadScores],
    rule: TopK | None = None,
    *,
    n_boot: int = 1000,
    seed: int = 0,
) -> OverlapTable:
    """Compare the circuits of several tasks on one model.

    Parameters
    ----------
    scores : mapping of str to HeadScores
        Task name to scores of one method.
    rule : TopK, optional
        How circuits are picked; the top 20 heads by magnitude otherwise.
    n_boot : int
        Bootstrap resamples.
    seed : int
        Seed of bootstraps and permutations.

    Returns
    -------
    OverlapTable
        Jaccard, containment, rank-biased overlap and Spearman correlation for every pair, with the layer-stratified null.

    Raises
    ------
    IncompatibleError
        If the scores come from different weights, methods or method parameters. Different metrics are allowed, because only
        ranks are compared, and noted in the table.
    BadParameterError
        If there are fewer than two tasks, or a task has fewer than two pairs.
    """
    rule = rule or TopK()
    names = tuple(scores)
    if len(names) <= 1:
        what = f"Comparing needs at least two tasks; got {list(names)}."
        raise BadParameterError(what, "Name another task.")
    if rule.part != "heads":
        what = f"Tasks are compared by their heads; the rule picks {rule.part!r}."
        raise BadParameterError(what, "Use TopK(part='heads').")
    _same_kind(scores)
    circuits = {name: rule(one) for name, one in scores.items()}
    partial = [_compare(a, b, scores, circuits, rule, (n_boot, seed)) for a, b in itertools.combinations(names, 2)]
    corrected = _corrected([row["p"] for row in partial])
    rows = tuple(PairRow(**row, q=float(q)) for row, q in zip(partial, corrected, strict=True))
    about = next(iter(scores.values())).provenance
    return OverlapTable(
        tasks=names,
        rows=rows,
        circuits=circuits,
        stability={k: top_k_stability(s, rule.k, by=rule.by, mark=rule.mark, seed=seed).as_dict() for k, s in scores.items()},
        rule=next(iter(circuits.values())).rule,
        method=about.method,
        model=about.model.name,
        notes=_notes(scores, circuits),
    )


def _compare(
    first: str,
    second: str,
    scores: Mapping[str, HeadScores],
    circuits: Mapping[str, Circuit],
    rule: TopK,
    sampling: tuple[int, int],
) -> dict[str, Any]:
    """Everything about one pair but the corrected p-value."""
    a, b = scores[first], scores[second]
    one, two = circuits[first], circuits[second]
    values = a.values("heads", mark=rule.mark), b.values("heads", mark=rule.mark)
    means = [mean_of(s, "heads", rule.mark) for s in (a, b)]
    masks = [top_mask(mean.reshape(-1), rule.k, rule.by).reshape(mean.shape) for mean in means]
    null = overlap_null(*masks)
    n_boot, seed = sampling

    def shared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        p, q = top_mask(x, rule.k, rule.by), top_mask(y, rule.k, rule.by)
        return (p & q).sum(-1) / (p | q).sum(-1)

    overlap = bootstrap(values[0], values[1], shared, n=n_boot, seed=seed).extrapolated()
    agreement = bootstrap(values[0], values[1], lambda x, y: spearman(np.abs(x), np.abs(y)), n=n_boot, seed=seed).reflected()
    orders = [np.argsort(-ranked(mean.ravel(), rule.by), kind="stable") for mean in means]
    return {
        "task_a": first,
        "task_b": second,
        "jaccard": overlap.as_dict() | {"mean": jaccard(one, two)},
        "containment": containment(one, two),
        "rbo": rank_biased_overlap(*orders, p=1 - 1 / max(2, rule.k)),
        "spearman": agreement.as_dict(),
        "spearman_p": spearman_null(*(np.abs(mean) for mean in means), seed=seed)[0],
        "shared": [str(node) for node in one & two],
        "null_mean": null.mean_jaccard,
        "null_high": null.quantile(0.95),
        "p": null.p_value,
        "ready": one.ready and two.ready,
    }


def _corrected(p_values: list[float]) -> np.ndarray:
    from scipy import stats  # noqa: PLC0415

    return stats.false_discovery_control(p_values)


def _notes(scores: Mapping[str, HeadScores], circuits: Mapping[str, Circuit]) -> tuple[str, ...]:
    """One sentence for each thing that weakens the comparison."""
    flags = {name: scores[name].provenance.fitness for name, circuit in circuits.items() if not circuit.ready}
    notes = [f"{name} is not ready: {flag.reason}" for name, flag in flags.items() if flag is not None]
    metrics = {name: one.provenance.metric for name, one in scores.items()}
    if len(set(metrics.values())) > 1:
        listed = ", ".join(f"{name}: {metric}" for name, metric in metrics.items())
        notes.append(f"Metrics differ ({listed}); ranks are compared.")
    return tuple(notes)


def _same_kind(scores: Mapping[str, HeadScores]) -> None:
    first_name, first = next(iter(scores.items()))
    for name, one in scores.items():
        for label, mine, theirs in (
            ("weights", first.provenance.model.identity(), one.provenance.model.identity()),
            ("methods", first.provenance.method, one.provenance.method),
            ("method parameters", first.provenance.params, one.provenance.params),
        ):
            if mine != theirs:
                what = f"{first_name!r} and {name!r} were scored with different {label}: {mine} and {theirs}."
                raise IncompatibleError(what, "Score both tasks the same way on one model.")
