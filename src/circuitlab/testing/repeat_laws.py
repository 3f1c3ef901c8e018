"""Laws on scoring again: repeated, from a file, after longer prompts, beside other pairs, in every mode, with heads relabelled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitlab.core.errors import CircuitlabError
from circuitlab.metrics import LogitDiff
from circuitlab.model import load_model
from circuitlab.scores.head_scores import HeadScores
from circuitlab.testing.laws import LawResult, distance, law_on_family, scores_apart, unit
from circuitlab.testing.surgery import relabel_heads
from circuitlab.testing.tiny import joined, kept_model, tiny_batch, tiny_hf

if TYPE_CHECKING:
    from circuitlab.execute.contract import Method
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["RELABELLED", "after_and_beside_others", "determinism", "in_every_mode", "relabelling", "round_trip"]

RELABELLED = ("llama", "qwen3", "gemma3")
"""Families whose heads can be relabelled row by row."""

_METRIC = LogitDiff()
_CLOSE = 1e-5
_OTHERS = (14, 8)
"""Lengths, in tokens, of the other prompts: one longer and one shorter than those of the batch. Below 8 tokens the dynamic rotary table of
a tiny model is reset in any case, which would hide that it had kept the state of a longer prompt."""

_MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "gradients on": nullcontext,
    "gradients off": lambda: torch.set_grad_enabled(False),
    "inference mode": torch.inference_mode,
}


def determinism(method: Method, model: Model, batch: ContrastBatch, scores: HeadScores, family: str) -> Iterator[LawResult]:
    """The same call gives the same numbers, bit for bit."""
    again = method(model, batch, _METRIC)
    worst = max(distance(again.values(part), scores.values(part)) for part in scores.parts)
    yield law_on_family("determinism", family, worst, 0.0)


def round_trip(_m: Method, _model: Model, _b: ContrastBatch, scores: HeadScores, family: str) -> Iterator[LawResult]:
    """Scores come back from their file with their values and their provenance."""
    with TemporaryDirectory() as folder:
        back = HeadScores.load(scores.save(f"{folder}/scores.nc"))
    worst = max(distance(back.values(part), scores.values(part)) for part in scores.parts)
    same = back.provenance == scores.provenance and back.provenance.run_id() == scores.provenance.run_id()
    yield law_on_family("provenance round trip", family, worst + float(not same), 0.0)


def relabelling(method: Method, family: str, scores: HeadScores) -> LawResult:
    """Heads keep their scores, those of the tiny batch, where their key/value groups change places."""
    turned = kept_model((family, "relabelled"), lambda: load_model(relabel_heads(tiny_hf(family), [1, 0])))
    heads, other = scores.values("heads"), method(turned, tiny_batch(turned), _METRIC)
    size = turned.spec.n_heads // turned.spec.n_kv_heads
    moved = np.concatenate([heads[..., size:], heads[..., :size]], axis=-1)
    return law_on_family("head relabelling", family, distance(other.values("heads"), moved), 1e-4 * unit(scores))


def after_and_beside_others(method: Method, model: Model, batch: ContrastBatch, scores: HeadScores, family: str) -> Iterator[LawResult]:
    """Score two pairs of a batch again beside pairs of other lengths, and then the whole batch after them.

    A method may refuse prompts of different lengths, but must say that this is the reason. If the score of a pair is ``pooled`` over the
    batch, means must stay the same when every pair occurs twice, and metric values of a pair must not depend on other pairs.
    """
    others = tiny_batch(model, seed=1, lengths=_OTHERS)
    mixed, positions = joined(others.select([0]), batch.select([0, 1]), others.select([1])), [1, 2]
    try:
        together = method(model, mixed, _METRIC)
    except CircuitlabError as error:
        says_length = "length" in str(error)
        yield law_on_family("pairs of other lengths are refused, and the message says why", family, float(not says_length), 0.0, str(error))
        method(model, others.select([0]), _METRIC)
    else:
        pooled = getattr(method, "pooled", False)
        worst = scores_apart(together, scores.sel([0, 1]), positions, parts=not pooled)
        yield law_on_family("pairs of other lengths in the batch change nothing", family, worst, _CLOSE * unit(scores))
        if pooled:
            order = [*range(mixed.n_pairs)]
            twice = method(model, mixed.select([*order, *reversed(order)]), _METRIC)
            worst = max(distance(twice.mean(part), together.mean(part)) for part in together.parts)
            yield law_on_family("every pair twice leaves the means, with pairs of other lengths", family, worst, _CLOSE * unit(together))
    again = method(model, batch, _METRIC)
    yield law_on_family("longer prompts before change nothing", family, scores_apart(again, scores), _CLOSE * unit(scores))


def in_every_mode(method: Method, family: str, scores: HeadScores) -> Iterator[LawResult]:
    """Score the tiny batch again on a model with dropout, in training mode, with and without gradients.

    One module is in evaluation mode and one parameter is frozen, so that a method that restores one setting for all of them fails.
    """
    hf = tiny_hf(family, dropout=0.5)
    model = load_model(hf)
    hf.train()
    hf.get_output_embeddings().eval()
    next(hf.parameters()).requires_grad_(False)
    for name, mode in _MODES.items():
        with mode():
            before = _modes_of(hf)
            again = method(model, tiny_batch(model), _METRIC)
            changed = sum(new != old for new, old in zip(_modes_of(hf), before, strict=True))
        yield law_on_family(f"training mode, {name}: the scores are the same", family, scores_apart(again, scores), _CLOSE * unit(scores))
        yield law_on_family(
            f"training mode, {name}: the model is left as it was", family, float(changed), 0.0, "modes, gradients or hooks changed"
        )


def _modes_of(hf: Any) -> list[Any]:
    """The state that a user can have set: modes of modules and of torch, parameters that require gradients, and hooks."""
    modules = [(module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for module in hf.modules()]  # noqa: SLF001 - counted only
    grads = [(parameter.requires_grad, parameter.grad is None) for parameter in hf.parameters()]
    return [*modules, *grads, torch.is_grad_enabled(), torch.is_inference_mode_enabled()]
