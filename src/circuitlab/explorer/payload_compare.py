"""Comparisons of a payload: overlap of every two runs that can be compared, transfer and dissociation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.circuits import TopK
from circuitlab.comparison import Sampling, compare_methods, compare_models, compare_tasks
from circuitlab.core.errors import CircuitlabError
from circuitlab.core.nodes import Head
from circuitlab.core.provenance import digest
from circuitlab.explorer.names import score_id, task_key
from circuitlab.explorer.payload_scores import interval_of
from circuitlab.explorer.snippets import compare_code

if TYPE_CHECKING:
    from circuitlab.circuits.circuit import Circuit
    from circuitlab.comparison import OverlapTable
    from circuitlab.comparison.table import PairRow
    from circuitlab.explorer.names import Names
    from circuitlab.explorer.sources import Sources
    from circuitlab.scores.head_scores import HeadScores

__all__ = ["dissociations_of", "overlap_of", "transfer_of"]

_NULL = "sets of heads drawn at random with as many in each layer (hypergeometric)"
_COMPARE: dict[str, Callable[..., OverlapTable]] = {"tasks": compare_tasks, "methods": compare_methods, "models": compare_models}


def overlap_of(sources: Sources) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Overlap of tasks by one method, of methods on one task and of models, and why some cannot be compared.

    P-values are corrected over the pairs of one such family, as `circuitlab.compare` corrects them.
    """
    entries: list[dict[str, Any]] = []
    absent: dict[str, str] = {}
    for over, label, runs in _families(sources.runs):
        try:
            rule = TopK(min(sources.top_k, max(1, runs[0].mean("heads").size // 2)))  # of all heads every two lists share everything
            # The page shows p-values of the exact null alone; permuting scores would take most of the time.
            table = _COMPARE[over]({run.provenance.run_id(): run for run in runs}, rule, Sampling(n_null=1))
        except CircuitlabError as error:
            absent[f"overlap/{over} by {label}"] = str(error)
            continue
        by_id = {run.provenance.run_id(): run for run in runs}
        entries += [_row(row, table.circuits, by_id, rule.k) for row in table.rows]
    return entries, absent


def _families(runs: Sequence[HeadScores]) -> list[tuple[str, str, list[HeadScores]]]:
    """Runs that differ in one thing alone: the task, the method or the model."""
    usable = [run for run in runs if "heads" in run.parts and run.marks is None]
    keys: dict[str, Callable[[HeadScores], object]] = {
        "tasks": lambda run: task_key(run.provenance.task),
        "methods": lambda run: [run.provenance.method, run.provenance.params],
        "models": lambda run: run.provenance.model.identity(),
    }
    families = []
    for over, varies in keys.items():
        groups: dict[str, dict[str, HeadScores]] = {}
        for run in usable:
            if over == "tasks" and run.weights_only:
                continue
            same = digest([read(run) for name, read in keys.items() if name != over])
            groups.setdefault(same, {}).setdefault(digest(varies(run)), run)
        families += [(over, _label(over, next(iter(group.values()))), list(group.values())) for group in groups.values() if len(group) > 1]
    return families


def _label(over: str, run: HeadScores) -> str:
    return run.provenance.task.id if over == "methods" else run.provenance.method


def _row(row: PairRow, circuits: Mapping[str, Circuit], runs: Mapping[str, HeadScores], k: int) -> dict[str, Any]:
    first, second = runs[row.task_a], runs[row.task_b]
    entry: dict[str, Any] = {
        "a": score_id(row.task_a, None),
        "b": score_id(row.task_b, None),
        "k": k,
        "shared": row.shared,
        "count": len(row.shared),
        "expected": _expected(circuits[row.task_a], circuits[row.task_b], first),
        "null": _NULL,
        "null_high": round(2 * k * row.null_high / (1 + row.null_high)),  # the Jaccard index of two sets of k that share this many
        "jaccard": interval_of(row.jaccard),
        "rank_correlation": interval_of(row.spearman),
        "p": row.p,
        "p_corrected": row.q,
        "python": compare_code(first.provenance, second.provenance, k),
    }
    return entry


def _expected(first: Circuit, second: Circuit, run: HeadScores) -> float:
    """Heads shared by chance if each circuit keeps its number of heads in every layer: the sum of products over the layers' size."""
    layers, heads = run.mean("heads").shape
    counts = np.zeros((2, layers))
    for at, circuit in enumerate((first, second)):
        for layer in (node.layer for node in circuit.nodes if isinstance(node, Head)):
            counts[at, layer] += 1
    return float((counts[0] * counts[1]).sum() / heads)


def transfer_of(sources: Sources, names: Names) -> list[dict[str, Any]]:
    """Every task's circuit on every task."""
    entries = []
    for runs, table in sources.transfers:
        about = _abouts(sources, runs)
        for cell in table["cells"]:
            if cell["circuit"] not in about or cell["task"] not in about:
                continue
            source, target = about[cell["circuit"]], about[cell["task"]]
            entry: dict[str, Any] = {
                "model": names.model(source.model.identity()),
                "method": source.method,
                "from": names.task(source),
                "to": names.task(target),
                "size": int(cell["size"]),
                "faithfulness": interval_of(cell["faithfulness"]),
            }
            entry |= {} if cell["p"] is None else {"p": cell["p"]}
            entry |= {} if cell["q"] is None else {"p_corrected": cell["q"]}
            if cell["random"].get("n"):
                entry["random"] = {name: cell["random"][name] for name in ("mean", "low", "high")}
            entries.append(entry)
    return entries


def dissociations_of(sources: Sources, names: Names) -> list[dict[str, Any]]:
    """Whether every two tasks depend on heads of their own."""
    entries = []
    for runs, table in sources.transfers:
        about = _abouts(sources, runs)
        for row in table.get("dissociation", {}).get("pairs", ()):
            if row["task_a"] not in about or row["task_b"] not in about:
                continue
            first, second = about[row["task_a"]], about[row["task_b"]]
            a, b = str(names.task(first)), str(names.task(second))
            measures = {
                f"{which}_{part}": row[which][part]
                for which in ("contrast_a", "contrast_b", "interaction")
                for part in ("mean", "low", "high")
                if row[which][part] is not None
            }
            measures |= {name: row[name] for name in ("p", "q") if row[name] is not None}
            sentence = _SENTENCES[row["verdict"]].format(a=a, b=b)
            entries.append({"model": names.model(first.model.identity()), "a": a, "b": b, "sentence": sentence, "measures": measures})
    return entries


_SENTENCES = {
    "double": "Double dissociation: {a} and {b} each depend more on their own heads than on the other's.",
    "single": "Single dissociation: only one of {a} and {b} clearly depends more on its own heads.",
    "none": "No dissociation: neither {a} nor {b} clearly depends more on its own heads.",
    "same": "{a} and {b} cannot dissociate: one has no heads of its own.",
    "no gap": "{a} and {b} cannot be tested: the gap of one of them may be 0.",
}


def _abouts(sources: Sources, runs: Mapping[str, str]) -> dict[str, Any]:
    """Provenance by name in the table."""
    by_id = {run.provenance.run_id(): run.provenance for run in sources.runs}
    return {name: by_id[run_id] for name, run_id in runs.items() if run_id in by_id}
