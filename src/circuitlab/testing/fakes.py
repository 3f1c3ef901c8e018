"""Made-up scores, for testing what works on scores without a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from circuitlab.core.provenance import NO_METRIC, WEIGHTS_ALONE, FitnessFlag, ModelSpec, Provenance, TaskRef, digest
from circuitlab.scores.head_scores import HeadScores

__all__ = ["fake_provenance", "fake_scores", "fake_weights_scores"]


def fake_provenance(n_layers: int, n_heads: int, changes: Mapping[str, Any] | None = None) -> Provenance:
    """Provenance with a model of this shape; ``changes`` replaces fields of `Provenance`."""
    model = ModelSpec(
        name="fake",
        family="llama",
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=1,
        d_model=8 * n_heads,
        d_head=8,
        d_vocab=50,
        norm="rms",
        post_norm=False,
        parallel=False,
        dtype="float32",
        weights=digest(["fake", n_layers, n_heads]),
    )
    fields: dict[str, Any] = {
        "method": "activation_patching",
        "params": {"direction": "denoising"},
        "estimand": "a fake effect",
        "additive": False,
        "metric": "logit_diff",
        "metric_params": {"reduce": "mean"},
        "units": "logits",
        "model": model,
        "task": TaskRef(id="a", variant="none", version=1, n_pairs=1, seed=0, digest="0"),
        "cite": ("wang2022",),
    }
    return Provenance(**(fields | dict(changes or {})))


def fake_scores(
    heads: np.ndarray,
    *,
    task: str = "a",
    mlps: np.ndarray | None = None,
    ready: bool | None = True,
    additive: bool = False,
) -> HeadScores:
    """Scores with the given values.

    Parameters
    ----------
    heads : ndarray, shape (pair, layer, head)
        Per-pair head scores.
    task : str
        Task id; the digest of the prompts is made from it.
    mlps : ndarray, shape (pair, layer), optional
        Per-pair MLP scores.
    ready : bool or None
        Whether the model is said to be able to do the task; None leaves that out of the provenance.
    additive : bool
        Whether the scores are said to be additive; if so, the total is the sum of the parts.
    """
    heads = np.asarray(heads, dtype=float)
    n = heads.shape[0]
    arrays = {"heads": heads} | ({} if mlps is None else {"mlps": np.asarray(mlps, dtype=float)})
    total = sum(values.reshape(n, -1).sum(1) for values in arrays.values()) if additive else np.full(n, 3.0) + np.arange(n) * 0.01
    arrays |= {"total": total, "clean": total, "corrupt": np.zeros(n)}
    interval = {"mean": 0.9 if ready else 0.5, "low": 0.8 if ready else 0.4, "high": 0.95 if ready else 0.6}
    reason = "fake can do it." if ready else f"fake on {task} is at chance: there is no ability that a circuit could carry."
    gap = {"mean": 3.0, "low": 2.9, "high": 3.1}
    flag = None
    if ready is not None:
        flag = FitnessFlag(accuracy=interval, gap=gap, chance=0.5, gate=0.75, ready=ready, reason=reason)
    reference = TaskRef(id=task, variant="none", version=1, n_pairs=n, seed=0, digest=digest([task, n]))
    changes = {"task": reference, "fitness": flag, "additive": additive}
    return HeadScores.build(arrays, fake_provenance(heads.shape[1], heads.shape[2], changes))


def fake_weights_scores(heads: np.ndarray) -> HeadScores:
    """Scores from weights alone with the given values, shape (layer, head)."""
    heads = np.asarray(heads, dtype=float)
    changes = {"method": "fake_weights", "params": {}, "metric": NO_METRIC, "metric_params": {}, "units": "of 1", "task": WEIGHTS_ALONE}
    n_layers, n_heads = heads.shape
    return HeadScores.build({"heads": heads}, fake_provenance(n_layers, n_heads, changes))
