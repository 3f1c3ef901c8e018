"""Circuits of a payload: what they consist of, how faithful they are at every size that was run, and their edges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.core.nodes import parse_edge
from circuitlab.explorer.names import score_id
from circuitlab.explorer.packed import pack
from circuitlab.explorer.payload_scores import interval_of
from circuitlab.explorer.snippets import circuit_code, positions_code

if TYPE_CHECKING:
    from circuitlab.explorer.names import Names
    from circuitlab.explorer.sources import Sources, StoredCircuit
    from circuitlab.scores.edge_scores import EdgeScore, EdgeScores
    from circuitlab.scores.head_scores import HeadScores

__all__ = ["circuits_of"]

_EDGES = 600
"""Edges listed with a circuit, strongest first."""
_NO_CURVE_AT_POSITIONS = (
    "Faithfulness of heads that are kept at single positions is not stored; `circuitlab.evaluation.Evaluate(keep_at=...)` measures it."
)


def circuits_of(sources: Sources, names: Names) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Circuits of every run that scored heads, and why the faithfulness of some is not known."""
    entries, absent = [], {}
    for run in sources.runs:
        if "heads" not in run.parts or run.weights_only:
            continue
        about = run.provenance
        if run.marks is not None:
            entries.append(_at_positions(run, run.marks, sources, names))
            absent[f"circuits/{entries[-1]['id']}"] = _NO_CURVE_AT_POSITIONS
            continue
        evaluated = [one for one in sources.circuits if one.run_id == about.run_id()]
        usable = [one for one in evaluated if one.edges is None or about.run_id() in sources.edges]
        for number, one in enumerate(usable):
            entries.append(_entry(run, one, number, sources, names))
        if not usable:
            entries.append(_entry(run, None, 0, sources, names))
            command = f"circuitlab circuit {about.task.id} --method {about.method} --model {about.model.name} -n {run.n_pairs}"
            absent[f"circuits/{entries[-1]['id']}"] = f"Faithfulness was not stored; run `{command}`."
    return entries, absent


def _at_positions(run: HeadScores, marks: Sequence[str], sources: Sources, names: Names) -> dict[str, Any]:
    """Heads at positions, ranked by magnitude over all positions together, where scores are resolved by position."""
    about = run.provenance
    scored = [(f"{node.node}@{mark}", node) for mark in marks for node in run.nodes("heads", mark=mark)]
    ranked = sorted(scored, key=lambda entry: -abs(entry[1].mean))
    size = min(sources.top_k, len(ranked))
    entry: dict[str, Any] = {
        "id": f"{about.run_id()}-circuit",
        "model": names.model(about.model.identity()),
        "task": names.task(about),
        "method": about.method,
        "rule": f"top {size} attention heads at one position each, by absolute mean score",
        "kind": "nodes",
        "universe": len(ranked),
        "size": size,
        "elements": [name for name, _ in ranked],
        "marks": _in_order(marks, sources, names, names.task(about)),
        "weights": pack(np.array([node.mean for _, node in ranked])),
        "curves": [],
        "random": [],
        "conventions": {},
        "python": positions_code(about),
    }
    if run.n_pairs > 1:
        entry |= {name: pack(np.array([getattr(node, name) for _, node in ranked])) for name in ("low", "high")}
    return entry


def _in_order(marks: Sequence[str], sources: Sources, names: Names, task: str | None) -> list[str]:
    """Positions as the first stored prompt has them from left to right, or as the scores list them."""
    stored = next((one.pairs for one in sources.prompts if one.pairs and names.task_of_prompts(one.task) == task), None)
    place = {} if stored is None else stored[0]["marks"]
    return sorted(marks, key=lambda mark: place[mark]) if set(marks) <= set(place) else list(marks)


def _entry(run: HeadScores, one: StoredCircuit | None, number: int, sources: Sources, names: Names) -> dict[str, Any]:
    about = run.provenance
    size = min(sources.top_k, run.mean("heads").size) if one is None else int(one.measures["size"]["elements"])
    of_edges = one is not None and one.edges is not None
    own = sources.edges.get(about.run_id())
    entry: dict[str, Any] = {
        "id": f"{about.run_id()}-circuit" + (f"-{number + 1}" if number else ""),
        "model": names.model(about.model.identity()),
        "task": names.task(about),
        "method": about.method,
        "rule": _rule(one, size),
        "kind": "edges" if of_edges else "nodes",
        "score": score_id(about.run_id(), None),
        "size": size,
        "curves": [] if one is None else _curves(one.measures),
        "random": [] if one is None else _random(one),
        "conventions": {} if one is None else dict(one.measures["conventions"]),
        "python": circuit_code(about, size),
    }
    entry |= _edge_elements(own, one) if of_edges and own is not None and one is not None else _node_elements(run, one)
    if one is not None:
        entry |= {"faithfulness": interval_of(one.measures["faithfulness"]), "n_pairs": int(one.measures["n_pairs"])}
        entry |= {"prompts": prompts} if (prompts := entry["conventions"].get("prompts")) else {}
    return entry | _edges(run, sources)


def _rule(one: StoredCircuit | None, size: int) -> str:
    if one is not None and one.rule:
        return one.rule
    kind = "edges" if one is not None and one.edges is not None else "nodes"
    return f"top {size} attention heads by absolute mean score" if one is None else f"{size} {kind}, as they were evaluated"


def _node_elements(run: HeadScores, one: StoredCircuit | None) -> dict[str, Any]:
    """Heads, or heads and MLPs, ranked as the curve ranks them: by magnitude over all parts together, ties to the earlier."""
    heads = run.mean("heads").size
    universe = heads if one is None else int(one.measures["size"]["universe"])
    parts = ["heads"] if universe == heads or "mlps" not in run.parts else ["heads", "mlps"]
    scored = [node for part in parts for node in run.nodes(part)]
    order = sorted(range(len(scored)), key=lambda at: -abs(scored[at].mean))
    ranked = [scored[at] for at in order]
    packed = {"elements": [str(node.node) for node in ranked], "weights": pack(np.array([node.mean for node in ranked]))}
    if run.n_pairs > 1:
        packed |= {name: pack(np.array([getattr(node, name) for node in ranked])) for name in ("low", "high")}
    return packed | {"universe": universe}


def _edge_elements(scores: EdgeScores, one: StoredCircuit) -> dict[str, Any]:
    """The strongest edges, at least as many as the circuit has."""
    ranked = scores.top(max(_EDGES, int(one.measures["size"]["elements"])))
    packed = {"elements": [str(edge.edge) for edge in ranked], "weights": pack(np.array([edge.mean for edge in ranked]))}
    if scores.n_pairs > 1:
        packed |= {name: pack(np.array([getattr(edge, name) for edge in ranked])) for name in ("low", "high")}
    return packed | {"universe": int(one.measures["size"]["universe"])}


def _edges(run: HeadScores, sources: Sources) -> dict[str, Any]:
    """Stored edges of this run, or else of another run of the same model on the same prompts."""
    about = run.provenance
    same = [
        scores
        for scores in sources.edges.values()
        if scores.provenance.model.identity() == about.model.identity() and scores.provenance.task.digest == about.task.digest
    ]
    own = sources.edges.get(about.run_id()) or next(iter(same), None)
    if own is None:
        return {}
    listed = [_edge(edge) for edge in own.top(_EDGES)]
    return {"edges": listed, "edges_method": own.provenance.method, "edges_total": own.layout.n_edges}


def _edge(scored: EdgeScore) -> dict[str, Any]:
    edge = parse_edge(str(scored.edge))
    about = {"from": str(edge.sender), "to": str(edge.receiver), "port": edge.port or "in", "weight": scored.mean}
    return about | {name: limit for name, limit in (("low", scored.low), ("high", scored.high)) if not math.isnan(limit)}


def _curves(measures: Mapping[str, Any]) -> list[dict[str, Any]]:
    curves = []
    for ranking, rows in (measures["curve"] or {}).items():
        curve: dict[str, Any] = {"ranking": ranking, "points": _points(rows)}
        for area in ("cpr", "cmd"):
            if measures[area] and ranking in measures[area]:
                curve[area] = interval_of(measures[area][ranking]["linear"])
        curves.append(curve)
    return curves


def _points(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One point per size: in a small model several fractions keep the same number of elements. A point without a mean is left out."""
    by_size = {int(row["size"]): row for row in rows if row["mean"] is not None}
    return [{"fraction": row["fraction"], "size": size} | interval_of(row) for size, row in sorted(by_size.items())]


def _random(one: StoredCircuit) -> list[dict[str, Any]]:
    own = one.measures["random"]
    rows = {int(row["size"]): dict(row) for row in one.band}
    if own["n"]:
        size = int(one.measures["size"]["elements"])
        p = {} if own["p"] is None else {"p": own["p"]}
        rows[size] = {"size": size, "n": own["n"], "mean": own["mean"], "low": own["low"], "high": own["high"]} | p
    return [row for _, row in sorted(rows.items())]
