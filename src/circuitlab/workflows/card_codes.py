"""Heads that are like one by their codes: discrete codes that are stored, or learned where they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.core.errors import BadParameterError
from circuitlab.execute.contract import effective_params
from circuitlab.execute.cost import forward_passes, size_of
from circuitlab.execute.needs import refusal
from circuitlab.methods.code_overlap import CodeOverlap
from circuitlab.methods.sae.counts import code_agreement
from circuitlab.scores.head_card import Section, SimilarHead
from circuitlab.store.codecs import Documents
from circuitlab.workflows.card_parts import NO_TASK, REFUSALS, Asked
from circuitlab.workflows.card_weights import nearest_heads
from circuitlab.workflows.fitness import judge_batch
from circuitlab.workflows.terminal import CellProgress, announce

if TYPE_CHECKING:
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.store import Cache

__all__ = ["CODES", "heads_by_code"]

CODES = Documents("codes", check=lambda document: _read(document.result))
"""Where codes are kept: one JSON file for each model and set of prompts."""

_VERSION = 1
"""Counted up where codes are learned or stored otherwise than before."""
_METHOD = CodeOverlap()
_LEAST_EXPLAINED = 0.5
"""Share of variance below which autoencoders are badly trained, as in `circuitlab.workflows.score.run_checks`."""


def heads_by_code(asked: Asked, cache: Cache | None, *, learn: bool) -> Section[SimilarHead]:
    """The heads whose codes sort the prompts of the card's tasks into the most similar groups.

    Parameters
    ----------
    asked : Asked
        The head, and pairs of every task; clean and corrupt prompts are read.
    cache : Cache or None
        Where codes are looked up, and kept.
    learn : bool
        Whether codes that are not stored are learned, which takes most of a card's time; otherwise the card says that there are none.
    """
    if not asked.batches:
        return Section((), {f"codes, {name}": reason for name, reason in asked.absent.items()} or {"codes": NO_TASK})
    known: list[np.ndarray] = []
    absent: dict[str, str] = {}
    reason = refusal(_METHOD, asked.model)
    for name, batch in asked.batches.items():
        try:
            codes = None if reason else _codes(asked, name, batch, cache, learn=learn)
        except REFUSALS as error:
            absent[f"codes, {name}"] = str(error)
            continue
        if codes is None:
            absent[f"codes, {name}"] = reason or _how_to(asked, name)
        else:
            known += list(codes)
    if not known:
        return Section((), absent)
    spec = asked.model.spec
    agreement = code_agreement(known, asked.head.layer * spec.n_heads + asked.head.head)
    entries = nearest_heads(asked.head, "codes", agreement.reshape(spec.n_layers, spec.n_heads))
    if not entries:
        absent["codes"] = f"{asked.head} has one code on all prompts, so that its codes sort nothing."
    return Section(tuple(entries), absent)


def _how_to(asked: Asked, name: str) -> str:
    return (
        f"No codes of these prompts are stored. `circuitlab heads card {asked.head} --task {name} --codes` (codes=True) learns them, once "
        f"for all heads, by {_METHOD.trials} small autoencoders: that takes longer than the rest of a card."
    )


def _codes(asked: Asked, name: str, batch: ContrastBatch, cache: Cache | None, *, learn: bool) -> np.ndarray | None:
    """Codes of clean and corrupt prompts, shape (trial, prompt, head); None where they are neither stored nor to be learned."""
    asked.model.refresh()
    identity = {"version": _VERSION, "model": asked.model.spec.identity(), "prompts": batch.task.digest}
    identity |= {"params": effective_params(_METHOD)}

    def compute() -> dict[str, Any]:
        passes = forward_passes(_METHOD, size_of(asked.model, batch))
        announce(f"Codes of {name}", judge_batch(asked.model, batch).seconds_per_pass * passes)
        with CellProgress(f"codes of {name}"):
            sample = _METHOD.sample(asked.model, batch)
        codes = np.concatenate([sample.positive, sample.negative], axis=1)[:, :, 0]
        return {"codes": codes.tolist(), "explained": float(np.mean(sample.explained))}

    if cache is None:
        result = compute() if learn else None
    elif learn:
        result = cache.get_or_compute(identity, CODES, compute)[0].result
    else:
        kept = cache.find(identity, CODES)
        result = None if kept is None else kept.result
    if result is None:
        return None
    if result["explained"] < _LEAST_EXPLAINED:
        what = f"The autoencoders explain {result['explained']:.0%} of what heads write on these prompts"
        raise BadParameterError(f"{what}: their codes mean little.", "Look at heads by what they write.")
    return _read(result)


def _read(result: Mapping[str, Any]) -> np.ndarray:
    """Codes as an array; data of another form raise."""
    codes, explained = np.array(result["codes"]), result["explained"]
    if codes.ndim != 3 or codes.dtype.kind not in "if" or not isinstance(explained, int | float):  # noqa: PLR2004 - trial, prompt, head
        raise ValueError(f"codes of shape {codes.shape}, of which {explained!r} is explained")
    return codes
