"""Cards, circuits and comparisons of the made-up payload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.explorer.packed import pack

if TYPE_CHECKING:
    from circuitlab.explorer.example_shape import Example

__all__ = ["example_cards", "example_circuit", "example_comparison"]

_K = 20


def example_cards(asked: Example, heads: Sequence[str]) -> list[dict[str, Any]]:
    """Cards of some heads."""
    return [_card(asked, head) for head in heads]


def _card(asked: Example, head: str) -> dict[str, Any]:
    written = {"token": asked.words(1)[0], "token_id": 5, "promoted": asked.words(8), "suppressed": asked.words(8), "rank": 3}
    written |= {"vocabulary": 49152, "null_low": 900.0, "null_median": 24000.0, "null_high": 47000.0, "n_null": 499, "p": 0.004, "q": 0.012}
    terms = [{"query_writer": "m3", "key_writer": "embed", "term": 1.2}, {"query_writer": "a0.h1", "key_writer": "m1", "term": -0.4}]
    why = {
        "task": asked.tasks[0],
        "pair": 0,
        "query": asked.length - 1,
        "query_token": asked.words(1)[0],
        "key": 2,
        "key_token": asked.words(1)[0],
    }
    why |= {"against": "others", "weight": 0.61, "score": 4.2, "residual": 1e-6, "terms": terms}
    why |= {"query_loadings": [{"writer": "m3", "share": 2.5}], "key_loadings": [{"writer": "embed", "share": 3.0}]}
    change = {"mean": -0.8, "low": -1.0, "high": -0.6}
    knockout = {"task": asked.tasks[0], "how": "mean", "metric": "logit_diff", "units": "logits", "n_pairs": asked.pairs}
    knockout |= {"clean": {"mean": 3.0, "low": 2.8, "high": 3.2}, "without": {"mean": 2.2, "low": 2.0, "high": 2.4}, "change": change}
    continuation: dict[str, Any] = {"source": asked.tasks[0], "how": "mean_over_positions", "prompt": "".join(asked.words(6))}
    continuation |= {"with_head": "".join(asked.words(4)), "without": "".join(asked.words(4)), "same": False}
    similar = [
        {"by": by, "head": f"a{asked.layers - 1}.h0", "similarity": 0.7, "rank": 1, "heads": asked.layers * asked.heads - 1}
        for by in ("roles", "ov")
    ]
    return {
        "model": "main",
        "head": head,
        "tokens": {"entries": [written], "absent": {}},
        "why": {"entries": [why], "absent": {asked.tasks[-1]: "The model has no rotary angles that can be read."}},
        "knockout": {"entries": [knockout], "absent": {}},
        "continuations": {"entries": [continuation], "absent": {}},
        "similar": {"entries": similar, "absent": {}},
        "on_text": _on_text(asked),
    }


def _on_text(asked: Example) -> dict[str, Any]:
    def spot(decile: int) -> dict[str, Any]:
        attended = [[2, asked.words(1)[0], 0.6], [0, asked.words(1)[0], 0.2]]
        about = {"passage": 1, "position": 9, "decile": decile, "activation": decile / 2, "effect": 0.02 * decile}
        return about | {"before": asked.words(8), "token": asked.words(1)[0], "following": asked.words(1)[0], "attended": attended}

    deciles = [{"number": at, "low": at / 2 - 0.4, "high": at / 2 + 0.1, "effect": 0.01 * at, "spots": [spot(at)]} for at in range(1, 11)]
    about = {"n_passages": 64, "n_positions": 4000, "n_heads": asked.layers * asked.heads, "effect": 0.05, "low": 0.03, "high": 0.07}
    return about | {"wins": 12, "top": [spot(10), spot(10)], "winning": [spot(10)], "deciles": deciles}


def example_circuit(asked: Example, score: Mapping[str, Any], means: np.ndarray) -> dict[str, Any]:
    """The circuit of one run, with a curve, and edges between its heads."""
    universe = asked.layers * asked.heads
    names = asked.top(means, universe)
    ranked = np.array([means[_at(name)] for name in names])
    sizes = sorted({max(1, int(universe * share)) for share in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)})
    shares = [1 - np.exp(-6 * size / universe) if size < universe else 1.0 for size in sizes]
    points = [
        {"fraction": size / universe, "size": size, "mean": float(f), "low": float(f) - 0.05, "high": float(f) + 0.05}
        for size, f in zip(sizes, shares, strict=True)
    ]
    size = min(_K, universe)
    return {
        "id": f"{score['id']}-circuit",
        "model": "main",
        "task": score["task"],
        "method": score["method"],
        "rule": f"top {size} attention heads by absolute mean score",
        "kind": "nodes",
        "score": score["id"],
        "universe": universe,
        "size": size,
        "elements": names,
        "weights": pack(ranked),
        "low": pack(ranked - 0.08),
        "high": pack(ranked + 0.08),
        "edges": _edges(asked, names[: 2 * size]),
        "edges_method": "eap_ig",
        "edges_total": 80 * universe,
        "faithfulness": {"mean": 0.71, "low": 0.63, "high": 0.78},
        "curves": [
            {
                "ranking": "absolute",
                "points": points,
                "cpr": {"mean": 0.8, "low": 0.7, "high": 0.9},
                "cmd": {"mean": 0.2, "low": 0.1, "high": 0.3},
            },
            {"ranking": "signed", "points": [one | {"mean": one["mean"] + 0.1} for one in points]},
        ],
        "random": [{"size": size, "n": 40, "mean": 0.1, "low": -0.05, "high": 0.3, "p": 0.024}],
        "n_pairs": asked.pairs,
        "prompts": f"pairs {asked.pairs} to {2 * asked.pairs}, which were not scored",
        "conventions": {"ablated_value": "activations of the corrupt prompt", "clamped": "never"},
        "python": f"import circuitlab as cl\n\ncl.find_circuit(cl.load_model('example'), {score['task']!r}, rule={size})",
    }


def _at(name: str) -> tuple[int, int]:
    layer, head = name[1:].split(".h")
    return int(layer), int(head)


def _edges(asked: Example, names: Sequence[str]) -> list[dict[str, Any]]:
    """Edges from earlier heads to later ones and to the logits, by magnitude."""
    edges: list[dict[str, Any]] = []
    for sender, receiver in combinations(sorted(names, key=_at), 2):
        if _at(sender)[0] < _at(receiver)[0] and asked.rng.random() < 0.3:  # noqa: PLR2004 - about a third of them
            port = ("q", "k", "v")[int(asked.rng.integers(3))]
            group = asked.heads // asked.kv_heads
            layer, head = _at(receiver)
            to = receiver if port == "q" else f"a{layer}.kv{head // group}"
            edges.append({"from": sender, "to": to, "port": port, "weight": float(asked.rng.normal(0, 0.2))})
    edges += [{"from": name, "to": "logits", "port": "in", "weight": float(asked.rng.normal(0.2, 0.3))} for name in names[::2]]
    edges += [
        {"from": "embed", "to": "m0", "port": "in", "weight": 0.4},
        {"from": "m0", "to": sorted(names, key=_at)[-1], "port": "q", "weight": 0.3},
    ]
    strongest = sorted(edges, key=lambda one: -abs(one["weight"]))
    return [one | {"low": one["weight"] - 0.05, "high": one["weight"] + 0.05} for one in strongest]


def example_comparison(asked: Example, scores: Sequence[Mapping[str, Any]], means: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Overlap of all runs, transfer between tasks, and one dissociation."""
    k, universe = min(_K, asked.layers * asked.heads), asked.layers * asked.heads
    overlap = []
    for a, b in combinations(scores, 2):
        shared = sorted(set(asked.top(means[a["id"]], k)) & set(asked.top(means[b["id"]], k)), key=_at)
        entry = {"a": a["id"], "b": b["id"], "k": k, "shared": shared, "count": len(shared), "expected": k * k / universe}
        entry |= {"null": "sets of heads drawn at random from all heads", "null_low": 0.0, "null_high": 4.0, "p": 0.01, "p_corrected": 0.03}
        entry |= {"jaccard": {"mean": len(shared) / (2 * k - len(shared)), "low": 0.02, "high": 0.4}}
        overlap.append(
            entry | {"rank_correlation": {"mean": 0.2, "low": 0.1, "high": 0.3}, "python": "import circuitlab as cl\n\ncl.compare([a, b])"}
        )
    method, tasks = asked.methods[0], asked.tasks
    cells = [(one, other) for one in tasks for other in tasks]
    transfer = [
        {"model": "main", "method": method, "from": one, "to": other, "size": k, "p": 0.02, "p_corrected": 0.04}
        | {
            "faithfulness": {"mean": 0.7 if one == other else 0.3, "low": 0.2, "high": 0.8},
            "random": {"mean": 0.1, "low": 0.0, "high": 0.2},
        }
        for one, other in cells
    ]
    dissociation = [
        {"model": "main", "a": tasks[0], "b": tasks[-1], "sentence": "No double dissociation.", "measures": {"index": 0.1, "p": 0.4}}
    ]
    return {"overlap": overlap, "transfer": transfer, "dissociation": dissociation if len(tasks) > 1 else []}
