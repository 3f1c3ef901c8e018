"""Score prompts with a method: draw pairs, judge fitness, run the method or load a stored run, and attach provenance."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from circuitlab.core.errors import BadParameterError
from circuitlab.core.files import require_writable
from circuitlab.core.provenance import Provenance, capture_environment
from circuitlab.execute.checkpoint import keeping_rows
from circuitlab.execute.contract import Method, provenance_of, require_prompts, weights_only
from circuitlab.execute.cost import forward_passes, size_of
from circuitlab.execute.needs import require
from circuitlab.execute.plan import plan_of, within_memory
from circuitlab.methods import MethodLike, get_method, method_classes
from circuitlab.metrics import get_metric
from circuitlab.model.inside import require_fit
from circuitlab.store import EDGE_SCORES, HEAD_SCORES, Cache
from circuitlab.workflows.fitness import Judged
from circuitlab.workflows.prompts import Draws, Prompts, prompts_with_fitness
from circuitlab.workflows.terminal import CellProgress, announce, say

if TYPE_CHECKING:
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model
    from circuitlab.scores.edge_scores import EdgeScores
    from circuitlab.scores.head_scores import HeadScores

__all__ = [
    "Scored",
    "as_cache",
    "edge_method",
    "edges_of_batch",
    "planned",
    "run_checks",
    "score",
    "score_batch",
    "score_edges",
    "score_task",
]

_INVARIANT, _INVARIANT_REDUCED = {"float64": 1e-9, "float32": 1e-4}, 5e-2
"""Largest accepted deviation of the parts' sum in a decomposition, by dtype; the last value is for 16-bit dtypes."""


@dataclass(frozen=True)
class Scored:
    """Scores, whether they were found in the cache, and the seconds that it took."""

    scores: HeadScores
    cached: bool
    seconds: float


def score(
    model: Model,
    prompts: Prompts | None = None,
    method: MethodLike = "activation_patching",
    *,
    n: int = 16,
    variant: str | None = None,
    seed: int = 0,
    metric: str | Metric | None = None,
    store: Cache | str | Path | None = None,
    memory: str | float | None = None,
) -> HeadScores:
    """Score every head of a model on a task, with intervals over prompt pairs; or from its weights alone.

    Parameters
    ----------
    model : Model
        From `circuitlab.load_model`.
    prompts : str, Path, Task or ContrastBatch, optional
        Task id or file, a table of pairs (CSV or JSON lines), a `Task`, or prompts as token ids. A method that reads weights alone
        (``copying_score``) runs none: its scores depend neither on them nor on ``n``, ``variant`` and ``seed``.
    method : str, Method or type
        Name, class, or an instance with its parameters set.
    n : int
        Number of prompt pairs; a ``ContrastBatch`` is scored whole.
    variant : str, optional
        Corruption; the task's default if omitted.
    seed : int
        Seed of the stream of pairs.
    metric : str or Metric, optional
        The metric; the task's own by default.
    store : Cache, str or Path, optional
        Cache in which the run is looked up and stored; by default nothing is stored.
    memory : str or float, optional
        Most memory of the whole process, such as ``"4GiB"``, for methods that plan theirs (patching, attribution patching, path
        patching): pairs are divided so that the run stays inside it, or it is refused before work starts. The plan is printed.

    Returns
    -------
    HeadScores
        Scores of every pair. Their provenance says whether the model can do the task, judged on at least 64 pairs if the task has them.
        From weights alone they have no pair axis, no such verdict and no intervals.

    Raises
    ------
    CircuitlabError
        Any error of tasks, models, methods and stores; each says what to do.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("copy-gqa")  # a small model whose circuit is known
    >>> scores = cl.score(planted.model, planted.batch(4), cl.methods.AttributionPatching())
    >>> str(scores.top(1)[0].node)
    'a1.h1'
    >>> model = cl.load_model("smollm2-135m")  # doctest: +SKIP
    >>> cl.score(model, "ioi", cl.methods.AttributionPatching())  # doctest: +SKIP
    """
    built_method, cache = get_method(method), as_cache(store)
    if cache is not None:
        require_writable(cache.root)
    given = _inputs(model, prompts, built_method, Draws(n, variant, seed), metric)
    label = built_method.name if given.batch is None else f"{given.batch.task.id} x {built_method.name}"
    with CellProgress(label), planned(model, given.batch, built_method, memory):
        return score_batch(model, given.batch, built_method, given.metric, store=cache, fitness=given.fitness).scores


@contextmanager
def planned(model: Model, batch: ContrastBatch | None, method: Method, memory: str | float | None) -> Iterator[None]:
    """Keep the process within an amount of memory inside the ``with`` block, and print what the run will take; nothing without one."""
    if memory is None or batch is None:
        yield
        return
    require(method, model)
    with within_memory(memory, model, method):
        say(f"{method.name}: {plan_of(method, model, batch)}.")
        yield


def score_task(
    model: Model,
    task: Prompts | None,
    method: MethodLike = "activation_patching",
    draws: Draws | None = None,
    *,
    metric: str | Metric | None = None,
    store: Cache | None = None,
    memory: str | float | None = None,
) -> Scored:
    """Score a task as `score` does, and return also whether the scores were found in the cache and how long it took."""
    built = get_method(method)
    given = _inputs(model, task, built, draws or Draws(), metric)
    with planned(model, given.batch, built, memory):
        return score_batch(model, given.batch, built, given.metric, store=store, fitness=given.fitness)


@dataclass(frozen=True, eq=False)
class _Inputs:
    """What a method is run on; nothing for one that reads weights alone."""

    batch: ContrastBatch | None = None
    metric: Metric | None = None
    fitness: Callable[[], Judged] | None = None


def _inputs(model: Model, prompts: Prompts | None, method: Method, draws: Draws, metric: str | Metric | None) -> _Inputs:
    """Prompts, metric and what judges fitness; a metric for weights alone is refused, and so are prompts that are missing."""
    chosen = None if metric is None else get_metric(metric)
    if weights_only(method):
        if chosen is not None:
            require_prompts(method, f"answer that {chosen.name} could read")
        return _Inputs()
    if prompts is None:
        alone = ", ".join(name for name, cls in method_classes().items() if weights_only(cls))
        what = f"{method.name!r} runs prompts, and none are given."
        raise BadParameterError(what, f"Give a task, such as 'ioi'; of weights alone there is {alone}.")
    batch, fitness = prompts_with_fitness(model, prompts, draws)
    return _Inputs(batch, chosen or get_metric(batch.metric), fitness)


def score_batch(
    model: Model,
    batch: ContrastBatch | None,
    method: Method,
    metric: Metric | None,
    *,
    store: Cache | None = None,
    fitness: Callable[[], Judged] | None = None,
) -> Scored:
    """Score a prepared batch, or weights alone; ``fitness`` is called only if prompts are scored and the run is not stored."""
    if weights_only(method):
        batch = metric = fitness = None
    if batch is not None:
        require_fit(model, batch)
    run_id = provenance_of(method, model, batch, metric).run_id()
    started = time.perf_counter()

    def compute() -> HeadScores:
        require(method, model)  # before fitness is judged, which runs whole prompts
        judged, flag = fitness() if fitness is not None else None, None
        if judged is not None and batch is not None:  # judging runs whole prompts, which measures the time of a forward pass here
            flag = judged.report.flag()
            announce(f"{batch.task.id} x {method.name}", judged.seconds_per_pass * forward_passes(method, size_of(model, batch)))
        scores = method(model, batch, metric)  # type: ignore[arg-type]
        environment = capture_environment(time.perf_counter() - started)
        return replace(scores, provenance=msgspec.structs.replace(scores.provenance, fitness=flag, environment=environment))

    if store is None:
        return Scored(compute(), False, time.perf_counter() - started)
    checkpoint = store.checkpoint(run_id)
    with keeping_rows(checkpoint):
        scores, cached = store.get_or_compute(run_id, HEAD_SCORES, compute)
    checkpoint.clear()
    return Scored(scores, cached, time.perf_counter() - started)


def score_edges(
    model: Model,
    prompts: Prompts,
    method: MethodLike = "eap",
    *,
    n: int = 16,
    variant: str | None = None,
    seed: int = 0,
    metric: str | Metric | None = None,
    store: Cache | str | Path | None = None,
) -> EdgeScores:
    """Score every edge of a model on a task; parameters as in `score`, for methods that score edges (``eap``, ``eap_ig``).

    Raises
    ------
    BadParameterError
        If the method scores only nodes; the message names the methods that score edges.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("copy-gqa")
    >>> edges = cl.score_edges(planted.model, planted.batch(4), cl.methods.EdgeAttributionPatching())
    >>> str(edges.top(1)[0].edge)
    'a1.h1->logits'
    """
    built_method, cache = edge_method(method), as_cache(store)
    batch, fitness = prompts_with_fitness(model, prompts, Draws(n, variant, seed))
    chosen = get_metric(metric or batch.metric)
    with CellProgress(f"{batch.task.id} x {built_method.name}, edges"):
        provenance = score_batch(model, batch, built_method, chosen, store=cache, fitness=fitness).scores.provenance
        return edges_of_batch(model, batch, built_method, chosen, provenance, store=cache)


def edges_of_batch(
    model: Model, batch: ContrastBatch, method: Any, metric: Metric, provenance: Provenance, *, store: Cache | None = None
) -> EdgeScores:
    """Scores of every edge on the pairs whose nodes were scored, with the same provenance; loaded from the cache if stored."""

    def compute() -> EdgeScores:
        return replace(method.edges(model, batch, metric), provenance=provenance)

    return compute() if store is None else store.get_or_compute(provenance.run_id(), EDGE_SCORES, compute)[0]


def edge_method(method: MethodLike) -> Any:
    """Get a method that scores edges.

    Raises
    ------
    BadParameterError
        If it scores only nodes; the message names the methods that score edges.
    """
    built_method = get_method(method)
    if not hasattr(built_method, "edges"):
        able = ", ".join(known for known, cls in method_classes().items() if hasattr(cls, "edges"))
        what = f"{built_method.name!r} scores nodes, but scores of edges were requested."
        raise BadParameterError(what, f"Use one of {able}.")
    return built_method


def as_cache(store: Cache | str | Path | None) -> Cache | None:
    """A cache from the name of its folder; None stays None."""
    return store if store is None or isinstance(store, Cache) else Cache(store)


def run_checks(scores: HeadScores) -> dict[str, dict[str, Any]]:
    """Self-checks of a run, each with ``ok`` and ``value``.

    ``finite``: share of values in all parts that are finite. ``residual`` (additive methods): largest deviation of the parts' sum from
    the total, relative to the mean size of the total. ``precision`` (reduced precision): error on a sample, relative to the effects.
    ``invariant`` (contextual decomposition): largest deviation of relevant + irrelevant from the activation in any layer, relative to the
    activation. ``norms_held`` (contextual decomposition): share of values whose parts stayed in the range of the activation, so that norms
    were not bounded. ``dictionary`` (SAE codes): share of the variance of node outputs that the autoencoders explain. ``task_ready``: the
    accuracy, ok if the model can do the task.
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
        checks["norms_held"] = {"ok": share > 0.99, "value": share}  # noqa: PLR2004 - the rest were computed with bounded norms
    if "explained_variance" in measured:
        share = measured["explained_variance"]
        checks["dictionary"] = {"ok": share > 0.5, "value": share}  # noqa: PLR2004 - codes of a badly trained one mean nothing
    if (flag := scores.provenance.fitness) is not None:
        checks["task_ready"] = {"ok": flag.ready, "value": flag.accuracy["mean"]}
    return checks
