"""Made-up but realistic scores, and a store that holds them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from circuitlab.provenance import FitnessFlag, ModelSpec, Provenance, TaskRef, digest
from circuitlab.scores.head_scores import HeadScores


@pytest.fixture
def made_up() -> Callable[..., HeadScores]:
    return make_scores


def make_scores(
    task: str = "ioi",
    *,
    method: str = "activation_patching",
    shape: tuple[int, int, int] = (12, 4, 3),
    ready: bool = True,
    marks: tuple[str, ...] | None = None,
    seed: int = 0,
) -> HeadScores:
    """Mostly noise, with a few strong heads late in the model; (pair, layer, head) is ``shape``."""
    rng = np.random.default_rng([seed, *map(ord, task + method)])
    n, layers, heads = shape
    shared, own = np.random.default_rng(7), rng
    truth = np.zeros((layers, heads))
    for generator, count in ((shared, 4), (own, 6)):
        places = generator.integers(layers // 3, layers, count), generator.integers(0, heads, count)
        truth[places] = generator.normal(0.5, 0.6, count)
    axes = (len(marks),) if marks else ()
    values = truth * rng.gamma(3, 1 / 3, (n, *axes, 1, 1)) + rng.normal(0, 0.08, (n, *axes, layers, heads))
    mlps = rng.normal(0.3, 0.6, (layers,)) * rng.gamma(3, 1 / 3, (n, *axes, 1)) + rng.normal(0, 0.1, (n, *axes, layers))
    total = 3 + rng.normal(0, 0.8, n)
    arrays = {"heads": values, "mlps": mlps, "total": total, "clean": total + 0.1, "corrupt": np.full(n, 0.1)}
    additive = method == "logit_attribution" and not marks
    if additive:
        arrays["bias"] = total - values.sum((1, 2)) - mlps.sum(1)
    return HeadScores.build(arrays, _provenance(task, method, shape, ready=ready, additive=additive), marks)


def _provenance(task: str, method: str, shape: tuple[int, int, int], *, ready: bool, additive: bool) -> Provenance:
    n, layers, heads = shape
    accuracy = {"mean": 0.91, "low": 0.82, "high": 0.95} if ready else {"mean": 0.34, "low": 0.24, "high": 0.46}
    said = f"m on {task} can do the task." if ready else f"m on {task} is at chance: a circuit for it would describe noise."
    flag = FitnessFlag(
        accuracy=accuracy,
        gap={"mean": 3.1, "low": 2.6, "high": 3.6} if ready else {"mean": 0.1, "low": -0.2, "high": 0.4},
        chance=0.5 if ready else 1 / 3,
        gate=0.75,
        ready=ready,
        reason=said,
    )
    sizes = {"d_model": 24, "d_head": 8, "d_vocab": 100, "norm": "rms", "post_norm": False, "parallel": False, "dtype": "float32"}
    return Provenance(
        method=method,
        params={"direction": "denoising", "positions": ["all"]} if method == "activation_patching" else {},
        estimand="what one head's output does to the metric",
        additive=additive,
        metric="logit_diff",
        metric_params={"reduce": "mean"},
        units="logits",
        model=ModelSpec(name="made-up-1M", family="llama", n_layers=layers, n_heads=heads, n_kv_heads=1, weights="ab" * 32, **sizes),
        task=TaskRef(id=task, variant="default", version=1, n_pairs=n, seed=0, digest=digest([task, n]), dropped={"multi_token": 2}),
        fitness=flag,
        cite=("heimersheim2024", "zhang2024"),
    )
