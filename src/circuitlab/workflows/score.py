"""Score one task with one method: draw pairs, judge fitness, run or find the run, attach where it comes from."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from circuitlab.core.provenance import FitnessFlag, capture_environment
from circuitlab.execute.checkpoint import keeping_rows
from circuitlab.execute.contract import Method, provenance_of
from circuitlab.methods import get_method
from circuitlab.metrics import get_metric
from circuitlab.model.inside import require_fit
from circuitlab.model.prepare import prepare_batch
from circuitlab.store import RunStore
from circuitlab.workflows.fitness import check_task

if TYPE_CHECKING:
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model
    from circuitlab.scores.head_scores import HeadScores
    from circuitlab.tasks.spec import TaskSpec

__all__ = ["FITNESS_PAIRS", "Scored", "run_checks", "score_batch", "score_task"]

_INVARIANT, _INVARIANT_REDUCED = {"float64": 1e-9, "float32": 1e-4}, 5e-2
"""Rounding that the parts of a decomposition may leave, by dtype; the last for dtypes of 16 bits."""

FITNESS_PAIRS = 64
"""Pairs that fitness is judged on: forward passes are cheap beside patching, and a verdict needs more than 16 pairs."""


@dataclass(frozen=True)
class Scored:
    """Scores, and whether they were found in the store."""

    scores: HeadScores
    cached: bool
    seconds: float


def score_task(
    model: Model,
    task: str | Path | TaskSpec,
    method: str | Method = "activation_patching",
    *,
    n: int = 16,
    variant: str | None = None,
    seed: int = 0,
    metric: str | Metric | None = None,
    store: RunStore | None = None,
) -> Scored:
    """Score a task on a model.

    Parameters
    ----------
    model : Model
        From `circuitlab.load_model`.
    task : str, Path or TaskSpec
        Task id, file or spec.
    method : str or Method
        Name, or an instance with its parameters set.
    n : int
        Prompt pairs.
    variant, seed
        Corruption, and seed of the stream of pairs.
    metric : str or Metric, optional
        The task's own otherwise.
    store : RunStore, optional
        Where to look for the run first and to keep it after.

    Returns
    -------
    Scored
        The scores carry the fitness verdict of model and task (judged on at least 64 pairs where the task has them).

    Raises
    ------
    CircuitlabError
        Any of the errors of tasks, models, methods and stores; each says what to do.
    """
    built = get_method(method) if isinstance(method, str) else method
    batch = prepare_batch(model, task, n, variant=variant, seed=seed)
    asked = metric or batch.metric
    chosen = get_metric(asked) if isinstance(asked, str) else asked

    def fitness() -> FitnessFlag:
        return check_task(model, task, max(n, FITNESS_PAIRS), variant=variant, seed=seed, least=n).flag()

    return score_batch(model, batch, built, chosen, store=store, fitness=fitness)


def score_batch(
    model: Model,
    batch: ContrastBatch,
    method: Method,
    metric: Metric,
    *,
    store: RunStore | None = None,
    fitness: Any = None,
) -> Scored:
    """Score a batch that is ready; ``fitness`` is a function giving a `FitnessFlag`, called only if the run is not stored."""
    require_fit(model, batch)
    run_id = provenance_of(method, model, batch, metric).run_id()
    started = time.perf_counter()

    def compute() -> HeadScores:
        flag = fitness() if fitness is not None else None
        scores = method(model, batch, metric)
        environment = capture_environment(time.perf_counter() - started)
        return replace(scores, provenance=msgspec.structs.replace(scores.provenance, fitness=flag, environment=environment))

    if store is None:
        return Scored(compute(), False, time.perf_counter() - started)
    partial = store.partial(run_id)
    with keeping_rows(partial):
        scores, cached = store.get_or_compute(run_id, compute)
    partial.clear()
    return Scored(scores, cached, time.perf_counter() - started)


def run_checks(scores: HeadScores) -> dict[str, dict[str, Any]]:
    """Self-checks of a run: each with ``ok`` and ``value``.

    ``finite``: share of values of all parts that are finite. ``residual`` (additive methods): largest deviation of the parts' sum from
    the total, relative to the mean size of the total. ``precision`` (reduced precision): its error on a sample, relative to the effects.
    ``invariant`` (contextual decomposition): largest deviation of relevant + irrelevant from the activation in any layer, relative to the
    activation. ``norms_held`` (contextual decomposition): share of values whose parts stayed in the range of the activation, so that norms
    did not have to be bounded. ``dictionary`` (SAE codes): share of the variance of node outputs that the autoencoders explain.
    ``task_ready``: 1 if the model can do the task.
    """
    share = float(np.concatenate([np.isfinite(scores.values(part)).ravel() for part in scores.parts]).mean())
    checks: dict[str, dict[str, Any]] = {"finite": {"ok": share == 1.0, "value": share}}
    if scores.provenance.additive:
        size = max(float(np.abs(scores.dataset["total"].values).mean()), 1e-12)
        worst = float(np.abs(scores.residual()).max()) / size
        checks["residual"] = {"ok": worst < 1e-3, "value": worst}  # noqa: PLR2004 - a thousandth of the metric
    measured = scores.provenance.measured
    if "precision_error_rms" in measured:
        share = measured["precision_error_rms"] / max(measured["precision_effect_rms"], 1e-12)
        checks["precision"] = {"ok": share < 0.01, "value": share}  # noqa: PLR2004 - a hundredth of the effects
    if "invariant_error" in measured:
        worst = measured["invariant_error"]
        checks["invariant"] = {"ok": worst <= _INVARIANT.get(scores.provenance.model.dtype, _INVARIANT_REDUCED), "value": worst}
    if "bounded_share" in measured:
        share = 1 - measured["bounded_share"]
        checks["norms_held"] = {"ok": share > 0.99, "value": share}  # noqa: PLR2004 - the rest answers another question
    if "explained_variance" in measured:
        share = measured["explained_variance"]
        checks["dictionary"] = {"ok": share > 0.5, "value": share}  # noqa: PLR2004 - codes of an untrained one mean nothing
    if (flag := scores.provenance.fitness) is not None:
        checks["task_ready"] = {"ok": flag.ready, "value": flag.accuracy["mean"]}
    return checks
