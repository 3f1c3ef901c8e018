"""check_method: the laws that every method must obey, on tiny random models and on a model with a planted circuit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from circuitlab.execute.contract import weights_only
from circuitlab.metrics import LogitDiff
from circuitlab.model import load_model
from circuitlab.model.toy import planted_model
from circuitlab.testing.laws import LawResult, distance, law_on_family, raise_on_failure, scores_apart, unit
from circuitlab.testing.repeat_laws import RELABELLED, after_and_beside_others, determinism, in_every_mode, relabelling, round_trip
from circuitlab.testing.surgery import kill_head, scale_readout
from circuitlab.testing.tiny import FAMILIES, kept_model, tiny_batch, tiny_hf, tiny_model
from circuitlab.testing.weights_laws import weights_laws

if TYPE_CHECKING:
    from circuitlab.execute.contract import Method
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model
    from circuitlab.model.toy import PlantedModel
    from circuitlab.scores.head_scores import HeadScores

__all__ = ["LAW_FAMILIES", "check_method", "method_laws"]

LAW_FAMILIES = (*FAMILIES, "llama_dynamic")
"""Families on which the laws run. In the last one, rotary angles depend on the length of the prompt."""

_DROPOUT = ("gpt2", "llama")
_METRIC = LogitDiff()


def check_method(method: Method, *, families: tuple[str, ...] = LAW_FAMILIES) -> list[LawResult]:
    """Run every law on a method.

    A method that declares itself ``pooled``, not ``causal`` or not ``in_metric_units`` (see `Method`) must obey other laws in place of
    those on batch size, planted signs and scale. One that is ``weights_only`` must obey the laws of `circuitlab.testing.weights_laws`.

    Parameters
    ----------
    method : Method
        A method with its parameters; it must score the part ``"heads"``.
    families : tuple of str
        Families of the tiny random models.

    Returns
    -------
    list of LawResult
        One entry per law and model.

    Raises
    ------
    LawError
        If a law fails; the message lists each failed law with its value and tolerance.

    Examples
    --------
    >>> from circuitlab.methods.logit_attribution import LogitAttribution
    >>> all(law.ok for law in check_method(LogitAttribution(), families=("llama",)))
    True
    """
    return raise_on_failure(f"method {method.name!r}", list(method_laws(method, families)))


def method_laws(method: Method, families: tuple[str, ...] = LAW_FAMILIES) -> Iterator[LawResult]:
    """Yield the result of each law, without raising."""
    if weights_only(method):
        yield from weights_laws(method, families)
        return
    for family in families:
        model = kept_model((family,), partial(tiny_model, family))
        batch = tiny_batch(model)
        scores = method(model, batch, _METRIC)
        for law in (_shape, _null, _pair_order, _batch_size, _purity, determinism, after_and_beside_others, round_trip, _completeness):
            yield from law(method, model, batch, scores, family)
        if family in _DROPOUT:
            yield from in_every_mode(method, family, scores)
        yield _dead_head(method, family)
        if family in RELABELLED:
            yield relabelling(method, family, scores)
        if family != "gemma2":  # with a softcap, logits are not linear in the unembedding
            yield _scale(method, family, scores)
    yield from _planted(method)


Law = Callable[["Method", "Model", "ContrastBatch", "HeadScores", str], Iterator[LawResult]]


def _shape(_m: Method, model: Model, batch: ContrastBatch, scores: HeadScores, family: str) -> Iterator[LawResult]:
    spec = model.spec
    sizes = scores.dataset["heads"].sizes
    expected = {"pair": batch.n_pairs, "layer": spec.n_layers, "head": spec.n_heads}
    wrong = [axis for axis, size in expected.items() if sizes.get(axis) != size]
    yield law_on_family("shape", family, float(len(wrong)), 0.0, f"axes {wrong} differ from {expected}")


def _null(method: Method, model: Model, batch: ContrastBatch, scores: HeadScores, family: str) -> Iterator[LawResult]:
    if not method.contrastive:
        return
    same = method(model, replace(batch, corrupt=batch.clean), _METRIC)
    worst = max(float(np.abs(same.values(part)).max()) for part in same.parts)
    yield law_on_family("null: clean = corrupt scores 0", family, worst, 1e-5 * unit(scores))


def _pair_order(method: Method, model: Model, batch: ContrastBatch, scores: HeadScores, family: str) -> Iterator[LawResult]:
    order = list(reversed(range(batch.n_pairs)))
    reversed_scores = method(model, batch.select(order), _METRIC)
    yield law_on_family("pair order", family, scores_apart(scores, reversed_scores, order), 1e-5 * unit(scores))


def _batch_size(method: Method, model: Model, batch: ContrastBatch, scores: HeadScores, family: str) -> Iterator[LawResult]:
    if getattr(method, "pooled", False):
        twice = method(model, batch.select([*range(batch.n_pairs)] * 2), _METRIC)
        worst = max(distance(twice.mean(part), scores.mean(part)) for part in scores.parts)
        yield law_on_family("batch size: every pair twice leaves the means", family, worst, 1e-4 * unit(scores))
        return
    singles = [method(model, batch.select([i]), _METRIC) for i in range(batch.n_pairs)]
    worst = max(scores_apart(scores, single, [i]) for i, single in enumerate(singles))
    yield law_on_family("batch size: one by one = together", family, worst, 1e-5 * unit(scores))


def _purity(method: Method, model: Model, batch: ContrastBatch, _s: HeadScores, family: str) -> Iterator[LawResult]:
    before = model.logits(batch.clean, batch.end)
    state, grad = torch.get_rng_state(), torch.is_grad_enabled()

    def broken(_logits: torch.Tensor, _batch: ContrastBatch) -> torch.Tensor:
        raise _DeliberateError

    broken_metric = _Metric(broken)
    raised = 0.0
    for metric in (_METRIC, broken_metric):
        try:
            method(model, batch, metric)  # type: ignore[arg-type]
        except _DeliberateError:
            raised = 1.0
    changed = distance(before.numpy(), model.logits(batch.clean, batch.end).numpy())
    changed += float(not torch.equal(state, torch.get_rng_state())) + float(grad != torch.is_grad_enabled())
    yield law_on_family("purity: model, RNG and grad mode as before", family, changed, 0.0)
    yield law_on_family("purity: an exception in the metric is raised", family, 1.0 - raised, 0.0)


class _DeliberateError(Exception):
    """Raised on purpose inside a method."""


class _Metric(LogitDiff):
    """A linear metric whose value a function computes."""

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        object.__setattr__(self, "function", function)
        object.__setattr__(self, "reduce", "mean")

    def __call__(self, logits: torch.Tensor, batch: ContrastBatch) -> torch.Tensor:
        """Call the function."""
        value: torch.Tensor = self.function(logits, batch)  # type: ignore[attr-defined]
        return value


def _completeness(method: Method, _model: Model, _b: ContrastBatch, scores: HeadScores, family: str) -> Iterator[LawResult]:
    if method.additive:
        yield law_on_family("completeness: parts + bias = total", family, float(np.abs(scores.residual()).max()), 1e-4 * unit(scores))


def _dead_head(method: Method, family: str) -> LawResult:
    layer, head = 1, 2
    model = kept_model((family, "dead head"), lambda: load_model(kill_head(tiny_hf(family), layer, head)))
    scores = method(model, tiny_batch(model), _METRIC)
    value = float(np.abs(scores.values("heads")[:, layer, head]).max())
    return law_on_family("dead head: W_O = 0 scores 0", family, value, 1e-5 * unit(scores))


def _scale(method: Method, family: str, scores: HeadScores) -> LawResult:
    doubled = kept_model((family, "doubled logits"), lambda: load_model(scale_readout(tiny_hf(family), 2.0)))
    doubled_scores = method(doubled, tiny_batch(doubled), _METRIC)
    if not getattr(method, "in_metric_units", True):
        value = distance(doubled_scores.values("heads"), scores.values("heads"))
        return law_on_family("scale: doubled logits leave the scores", family, value, 2e-4 * unit(scores))
    value = distance(doubled_scores.values("heads"), 2.0 * scores.values("heads"))
    return law_on_family("scale: doubled logits double the scores", family, value, 2e-4 * unit(scores))


def _planted(method: Method) -> Iterator[LawResult]:
    planted = planted_model()
    scores = method(planted.model, planted.batch(), _METRIC)
    best = scores.top(1, by="positive")[0]
    if not getattr(method, "causal", True):
        yield from _planted_outputs(scores, planted)
        return
    worst = scores.top(1, by="negative")[0]
    misplaced = float(best.node not in planted.helpers) + float(best.mean <= 0)
    yield law_on_family("planted helper is positive and first", "toy", misplaced, 0.0, f"first is {best}")
    misplaced = float(worst.node not in planted.hinderers) + float(worst.mean >= 0)
    yield law_on_family("planted hinderer is negative and last", "toy", misplaced, 0.0, f"last is {worst}")


def _planted_outputs(scores: HeadScores, planted: PlantedModel) -> Iterator[LawResult]:
    """For methods that depend on what a head writes and not on its effect: heads that write have positive scores, dead ones 0."""
    alive = planted.nodes | planted.distractors
    wrong = [str(entry.node) for entry in scores.nodes() if (entry.mean > 0) != (entry.node in alive)]
    yield law_on_family("planted: heads that write have positive scores, dead ones 0", "toy", float(len(wrong)), 0.0, f"wrong are {wrong}")
    lowest = min(float(scores.values(part).min()) for part in scores.parts)
    yield law_on_family("planted: no score is negative", "toy", -lowest, 0.0)
