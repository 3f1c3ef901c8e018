"""Laws of methods that read weights alone: no pair axis, no part for prompts, one identity, and a refusal where weights cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch

from circuitlab.core.errors import ModelError
from circuitlab.execute.contract import provenance_of
from circuitlab.execute.needs import refusal
from circuitlab.metrics import LogitDiff
from circuitlab.model import load_model
from circuitlab.store import Cache
from circuitlab.testing.laws import LawResult, distance, law_on_family, scores_apart
from circuitlab.testing.repeat_laws import RELABELLED, determinism, in_every_mode, relabelling, round_trip
from circuitlab.testing.tiny import tiny_batch, tiny_hf
from circuitlab.workflows.score import score_batch

if TYPE_CHECKING:
    from circuitlab.execute.contract import Method
    from circuitlab.model.protocol import Model
    from circuitlab.scores.head_scores import HeadScores

__all__ = ["weights_laws"]

_METRIC = LogitDiff()
_DROPOUT = ("gpt2", "llama")
_HOOKS_ALONE = ("gptj", "deepseek_v3")
"""Families that no functional decoder serves, so that some of their weights cannot be read."""


def weights_laws(method: Method, families: tuple[str, ...]) -> Iterator[LawResult]:
    """Every law on tiny random models of some families, and the refusal of what cannot be read on others."""
    for family in families:
        model = load_model(tiny_hf(family))
        batch = tiny_batch(model)
        scores = method(model, batch, _METRIC)
        yield from _no_pairs(model, scores, family)
        yield from _no_part_for_prompts(method, model, scores, family)
        yield from _identity(method, model, scores, family)
        yield _purity(method, model, family)
        for law in (determinism, round_trip):
            yield from law(method, model, batch, scores, family)
        if family in _DROPOUT:
            yield from in_every_mode(method, family, scores)
        if family in RELABELLED:
            yield relabelling(method, family, scores)
    for family in _HOOKS_ALONE:
        yield _refusal(method, load_model(tiny_hf(family)), family)


def _no_pairs(model: Model, scores: HeadScores, family: str) -> Iterator[LawResult]:
    shape = (model.spec.n_layers, model.spec.n_heads)
    actual = scores.values("heads").shape
    wrong = float(actual != shape) + float(scores.n_pairs != 0) + float("pair" in scores.dataset.sizes)
    yield law_on_family("no pair axis", family, wrong, 0.0, f"heads have shape {actual}, of {scores.n_pairs} pairs")
    lost = sum(int((~np.isfinite(scores.values(part))).sum()) for part in scores.parts)
    yield law_on_family("scores are finite", family, float(lost), 0.0)
    made_up = sum(int(np.isfinite([entry.low, entry.high]).sum()) for part in scores.parts for entry in scores.nodes(part))
    yield law_on_family("no interval", family, float(made_up), 0.0)


def _no_part_for_prompts(method: Method, model: Model, scores: HeadScores, family: str) -> Iterator[LawResult]:
    others = [method(model, tiny_batch(model, 2, seed=5), _METRIC), method(model)]  # type: ignore[call-arg]
    worst = max(scores_apart(other, scores) for other in others)
    names = {other.provenance.run_id() for other in (scores, *others)}
    yield law_on_family("other prompts, and none, leave the scores", family, worst + len(names) - 1, 0.0)


def _identity(method: Method, model: Model, scores: HeadScores, family: str) -> Iterator[LawResult]:
    known = provenance_of(method, model, None, None).run_id()
    yield law_on_family("identity known before the run", family, float(known != scores.provenance.run_id()), 0.0)
    with TemporaryDirectory() as folder:
        first, again = (score_batch(model, None, method, None, store=Cache(folder)) for _ in range(2))
    apart = scores_apart(again.scores, scores) + float(first.cached) + float(not again.cached)
    yield law_on_family("stored and found", family, apart, 0.0)
    other = provenance_of(method, load_model(tiny_hf(family, seed=1)), None, None).run_id()
    yield law_on_family("other weights are another run", family, float(other == known), 0.0)


def _purity(method: Method, model: Model, family: str) -> LawResult:
    batch = tiny_batch(model)
    before, state, grad = model.logits(batch.clean, batch.end), torch.get_rng_state(), torch.is_grad_enabled()
    method(model)  # type: ignore[call-arg]
    changed = distance(before.numpy(), model.logits(batch.clean, batch.end).numpy())
    changed += float(not torch.equal(state, torch.get_rng_state())) + float(grad != torch.is_grad_enabled())
    return law_on_family("purity: model, RNG and grad mode as before", family, changed, 0.0)


def _refusal(method: Method, model: Model, family: str) -> LawResult:
    """What `needs` says is what the method does: it refuses by its name, or it runs."""
    reason = refusal(method, model)
    try:
        method(model)  # type: ignore[call-arg]
    except ModelError as error:
        said = method.name in str(error) and bool(reason) and reason in str(error)
        return law_on_family("refuses what it cannot read, and says so", family, float(not said), 0.0, str(error))
    return law_on_family("runs where nothing it needs is lacking", family, float(bool(reason)), 0.0, reason)
