"""A made-up payload of any size: for tests and sizes of the explorer, never for results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from circuitlab.explorer.example_parts import example_cards, example_circuit, example_comparison
from circuitlab.explorer.example_shape import HOSTILE, Example
from circuitlab.explorer.packed import pack, pack_byte, pack_rounded
from circuitlab.explorer.sparse import sparse_attention

__all__ = ["HOSTILE", "Example", "example_payload"]

_STRONG = 0.05
"""Share of nodes with an effect."""


def example_payload(example: Example | None = None) -> dict[str, Any]:
    """A payload with every part, of random numbers.

    Examples
    --------
    >>> payload = example_payload(Example(layers=2, heads=4, kv_heads=2))
    >>> payload["schema"], len(payload["scores"])
    ('circuitlab.explorer/1', 4)
    """
    asked = example or Example()
    scores = [_score(asked, task, method) for task in asked.tasks for method in asked.methods]
    means = {one["id"]: one.pop("_means") for one in scores}
    circuits = [example_circuit(asked, one, means[one["id"]]) for one in scores]
    return {
        "schema": "circuitlab.explorer/1",
        "title": asked.title("Example of random numbers"),
        "level": 0.05,
        "models": [_model(asked)],
        "tasks": [_task(asked, number, task) for number, task in enumerate(asked.tasks)],
        "methods": [_method(asked, method) for method in asked.methods],
        "scores": scores,
        "prompts": [_prompts(asked, task) for task in asked.tasks],
        "roles": [_role(asked, "induction", "head"), _role(asked, "previous_token", "head"), _role(asked, "sink", "kv_head")],
        "attention": [
            _attention(asked, task, at, side) for task in asked.tasks for at in range(asked.shown) for side in ("clean", "corrupt")
        ],
        "cards": example_cards(asked, asked.top(next(iter(means.values())), 4)),
        "circuits": circuits,
        **example_comparison(asked, scores, means),
        "absent": {"roles/retrieval": "It takes minutes and was not named; run `circuitlab heads roles --roles retrieval`."},
        "provenance": {
            "versions": {"circuitlab": "0.1.0", "numpy": "2.3.0"},
            "runs": [one["run"] for one in scores],
            "python": "import circuitlab as cl\n\ncl.explore('runs', tasks=['ioi', 'successor'])",
            "command": "circuitlab explore --tasks ioi,successor --model example -o page.html",
        },
        "citations": {
            "circuitlab": "@software{circuitlab, title = {circuitlab}}",
            "wang2022": f"@article{{wang2022, title = {{{asked.title('IOI')}}}}}",
        },
    }


def _model(asked: Example) -> dict[str, Any]:
    return {
        "id": "main",
        "name": asked.title("example"),
        "family": "llama",
        "n_layers": asked.layers,
        "n_heads": asked.heads,
        "n_kv_heads": asked.kv_heads,
        "d_model": 64 * asked.heads,
        "d_head": 64,
        "d_vocab": 49152,
        "dtype": "float32",
        "identity": {"weights": "0" * 64, "config": "1" * 64, "processing": "none", "dtype": "float32", "edits": ""},
        "edited": False,
        "python": "import circuitlab as cl\n\ncl.head_card(cl.load_model('example'), '{head}', ['ioi'])",
    }


def _task(asked: Example, number: int, task: str) -> dict[str, Any]:
    ready = number != 1
    sentence = f"example on {task}: {'ready' if ready else 'at chance, there is no ability that a circuit could carry'}."
    verdict = {"model": "main", "ready": ready, "sentence": sentence, "chance": 0.5, "gate": 0.75}
    verdict |= {"accuracy": {"mean": 0.95 if ready else 0.52, "low": 0.9 if ready else 0.4, "high": 0.98 if ready else 0.64}}
    verdict |= {"gap": {"mean": 3.1, "low": 2.8, "high": 3.4}}
    about = {"id": task, "name": asked.title(task), "title": asked.title(task), "description": asked.title("Made up."), "variant": "names"}
    return about | {"version": 1, "cite": ["wang2022"], "verdicts": [verdict]}


def _method(asked: Example, method: str) -> dict[str, Any]:
    return {
        "name": method,
        "title": asked.title(method),
        "estimand": "what the metric loses without the head",
        "sign": "positive helps the answer",
        "additive": method == "logit_attribution",
        "cite": ["wang2022"],
        "citation": "Wang et al. (2022)",
        "planted": {"grade": "Finds 14 of 15 planted heads.", "measures": {"auprc": 0.93, "models": 6}},
    }


def _part(asked: Example, shape: Sequence[int]) -> tuple[dict[str, Any], np.ndarray]:
    """A part with a few strong nodes, and its means."""
    true = asked.rng.normal(0, 0.02, shape) + asked.rng.normal(0, 1.0, shape) * (asked.rng.random(shape) < _STRONG)
    pairs = true + asked.rng.normal(0, 0.15, (asked.pairs, *shape))
    mean, error = pairs.mean(0), pairs.std(0, ddof=1) / np.sqrt(asked.pairs)
    q = np.clip(np.exp(-np.abs(mean / error)) * 4, 0, 1)
    part = {"mean": pack(mean), "low": pack(mean - 2.1 * error), "high": pack(mean + 2.1 * error), "q": pack_rounded(q)}
    return part | {"pairs": pack_rounded(pairs)}, mean


def _score(asked: Example, task: str, method: str) -> dict[str, Any]:
    heads, means = _part(asked, (asked.layers, asked.heads))
    mlps, _ = _part(asked, (asked.layers,))
    clean = asked.rng.normal(3, 0.5, asked.pairs)
    warning = {"warning": f"example on {task} is at chance."} if asked.tasks.index(task) == 1 else {}
    run = f"{_number(task, method):016x}"
    return warning | {
        "id": run,
        "run": run,
        "model": "main",
        "task": task,
        "method": method,
        "metric": "logit_diff",
        "units": "logits",
        "params": {"direction": "denoising"},
        "n_pairs": asked.pairs,
        "parts": {"heads": heads, "mlps": mlps},
        "clean": pack(clean),
        "corrupt": pack(-clean),
        "total": pack(2 * clean),
        "checks": [
            {"name": "finite", "ok": True, "value": 1.0, "sentence": "All values are finite."},
            {"name": "task_ready", "ok": not warning, "value": 0.52 if warning else 0.95, "sentence": "Accuracy on the task."},
        ],
        "provenance": {
            "created": "2026-01-01T00:00:00+00:00",
            "seconds": 12.5,
            "packages": {"torch": "2.9"},
            "prompts": "2" * 64,
            "seed": 0,
        },
        "python": f"import circuitlab as cl\n\nscores = cl.score(cl.load_model('example'), {task!r}, {method!r}, n={asked.pairs})",
        "_means": means,
    }


def _number(task: str, method: str) -> int:
    """A number that is the same in every process, unlike `hash`."""
    return int.from_bytes(f"{task}{method}".encode()[:8].ljust(8, b"0"), "big") ^ len(task + method)


def _prompts(asked: Example, task: str) -> dict[str, Any]:
    pairs = []
    for number in range(asked.pairs):
        clean = ["<|endoftext|>", *asked.words(asked.length - 1)]
        corrupt = [*clean[:3], *asked.words(2), *clean[5:]]
        marks = {"IO": 2, "S1": 4, "END": asked.length - 1}
        pair = {
            "clean": clean,
            "corrupt": corrupt,
            "answer": asked.words(1)[0],
            "foil": asked.words(1)[0],
            "end": asked.length - 1,
            "marks": marks,
        }
        pairs.append(pair | ({"answer": f" Mary{number}"} if not asked.hostile else {}))
    python = f"import circuitlab as cl\n\ncl.load_model('example').attention('{{head}}', {task!r})"
    return {"model": "main", "task": task, "pairs": pairs, "python": python}


def _role(asked: Example, name: str, per: str) -> dict[str, Any]:
    shape = (asked.layers, asked.heads if per == "head" else asked.kv_heads)
    value = asked.rng.beta(0.4, 4, shape)
    q = np.clip(1 - 3 * value, 0.0001, 1)
    return {
        "model": "main",
        "name": name,
        "title": asked.title(name),
        "kind": "attention",
        "estimand": "share of attention to the token that the role names",
        "units": "share of attention",
        "threshold": 0.4,
        "reason": "Earned from 0.4 on if q is at most 0.05.",
        "null": "the same share at other positions",
        "sample": "random sequences",
        "n_samples": 32,
        "per": per,
        "value": pack(value),
        "low": pack(value - 0.02),
        "high": pack(value + 0.02),
        "chance": pack(np.full(shape, 0.08)),
        "q": pack_rounded(q),
        "earned": pack((value >= 0.4) & (q <= 0.05), "uint8"),  # noqa: PLR2004 - the threshold above
        "cite": ["wang2022"],
    }


def _attention(asked: Example, task: str, pair: int, side: str) -> dict[str, Any]:
    n, names = asked.length, asked.listed
    logits = asked.rng.normal(0, 2, (len(names), n, n)) + np.where(np.arange(n) == 0, 2.0, 0.0)
    logits = np.where(np.tril(np.ones((n, n), dtype=bool)), logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    norms = asked.rng.gamma(4, 0.3, (len(names), n))
    about = {"model": "main", "task": task, "pair": pair, "side": side, "heads": names}
    return about | sparse_attention(weights / weights.sum(-1, keepdims=True)) | {"value_norms": pack_byte(norms)}
