"""Prepare a batch from a task: draw pairs, encode them, filter them, and count the rows that were dropped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from circuitlab.core.errors import BadParameterError
from circuitlab.core.provenance import TaskRef
from circuitlab.model.batch import ContrastBatch
from circuitlab.model.encode import EncodedPair, RejectedRow, count_reasons, encode_pair, need_tokenizer
from circuitlab.tasks.pairs import Sampler

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model
    from circuitlab.tasks.spec import Task

__all__ = ["Draw", "draw_pairs", "prepare_batch", "to_batch"]

_MOST_DRAWS_PER_PAIR = 60
_BLOCK = 32


@dataclass(frozen=True)
class Draw:
    """Usable pairs of a task for one tokenizer, and the rows that were rejected."""

    pairs: list[EncodedPair]
    rejected: list[RejectedRow]
    task: Task
    variant: str
    seed: int


def prepare_batch(
    model: Model,
    task: str | Path | Task,
    n: int,
    *,
    variant: str | None = None,
    seed: int = 0,
    strict: bool = False,
) -> ContrastBatch:
    """The first ``n`` usable pairs of a task for a model.

    Parameters
    ----------
    model : Model
        Its tokenizer encodes the prompts. The model itself is run only for tasks that keep only pairs it answers correctly.
    task : str, Path or Task
        Task id, file or spec.
    n : int
        Number of pairs.
    variant : str, optional
        Corruption; the task's default if omitted.
    seed : int
        Seed of the stream of pairs.
    strict : bool
        Raise at the first unusable row instead of dropping it.

    Returns
    -------
    ContrastBatch
        ``task.dropped`` counts the rejected rows by reason (`circuitlab.model.encode.RejectedRow`, and ``unknown``).

    Raises
    ------
    BadParameterError
        If the task has fewer than ``n`` usable pairs for this model; the message gives their number and the reasons for dropping others.
    AlignmentError, TokenizationError
        With ``strict``, at the first unusable row.
    """
    draw = draw_pairs(model, Sampler(task, variant=variant), n, seed=seed, strict=strict)
    if not draw.task.checks.known:
        return to_batch(draw)
    known_pairs: list[EncodedPair] = []
    unknown = 0
    stream = iter(_known(model, draw, task, n))
    for pair, knows in stream:
        if knows:
            known_pairs.append(pair)
        else:
            unknown += 1
        if len(known_pairs) == n:
            break
    dropped = count_reasons(draw.rejected) | ({"unknown": unknown} if unknown else {})
    if len(known_pairs) < n:
        what = f"{n} pairs of task {draw.task.id!r} were requested; {model.spec.name} knows {len(known_pairs)} (dropped: {dropped})."
        raise BadParameterError(what, "Request fewer pairs, or use a model that knows more of them.")
    batch = to_batch(replace(draw, pairs=known_pairs))
    return replace(batch, task=_with_dropped(batch.task, dropped))


def draw_pairs(
    model: Model,
    sampler: Sampler,
    n: int,
    *,
    seed: int = 0,
    strict: bool = False,
    least: int | None = None,
) -> Draw:
    """Draw and encode rows until ``n`` are usable with the tokenizer; whether the model knows them is not checked.

    A task with fewer usable rows raises `BadParameterError`, unless there are at least ``least``.
    """
    if n < 1:
        what = f"n={n} pairs cannot be drawn."
        raise BadParameterError(what, "Request at least one pair.")
    spec = sampler.task
    pairs: list[EncodedPair] = []
    rejected: list[RejectedRow] = []
    for row in _encoded(model, sampler, seed, strict=strict):
        if isinstance(row, RejectedRow):
            rejected.append(row)
        else:
            pairs.append(row)
        if len(pairs) == n or len(pairs) + len(rejected) >= _MOST_DRAWS_PER_PAIR * n:
            break
    if len(pairs) < (n if least is None else least):
        first = {row.reason: row for row in reversed(rejected)}
        shown = "".join(f" First {reason}: {row.what} {row.fix}" for reason, row in sorted(first.items()))
        counts = count_reasons(rejected)
        what = f"{n} pairs of task {spec.id!r} were requested; it has {len(pairs)} usable ones (dropped: {counts}).{shown}"
        raise BadParameterError(what, "Request fewer pairs, or add words that are single tokens for this model.")
    return Draw(pairs, rejected, spec, sampler.variant_name, seed)


def to_batch(draw: Draw) -> ContrastBatch:
    """The batch of a draw; its identity is the digest of its token ids."""
    pairs = draw.pairs
    batch = ContrastBatch.from_tokens(
        [pair.clean for pair in pairs],
        [pair.corrupt for pair in pairs],
        [pair.answers for pair in pairs],
        [pair.foils for pair in pairs],
        marks={name: [pair.marks[name] for pair in pairs] for name in pairs[0].marks},
        distractors=[pair.distractors for pair in pairs],
    )
    task = TaskRef(
        id=draw.task.id,
        variant=draw.variant,
        version=draw.task.version,
        n_pairs=len(pairs),
        seed=draw.seed,
        digest=batch.task.digest,
        dropped=count_reasons(draw.rejected),
    )
    named = batch.with_templates([pair.template for pair in pairs])
    return replace(named, task=task, metric=draw.task.metric, text=tuple(pair.text for pair in pairs))


def _encoded(model: Model, sampler: Sampler, seed: int, *, strict: bool) -> Iterator[EncodedPair | RejectedRow]:
    tokenizer = need_tokenizer(model.tokenizer, model.spec.name)
    for example in sampler.draw(seed):
        try:
            yield encode_pair(tokenizer, example)
        except RejectedRow as rejected:
            if strict:
                raise
            yield rejected


def _known(model: Model, draw: Draw, task: str | Path | Task, n: int) -> Iterator[tuple[EncodedPair, bool]]:
    """Pairs in stream order, each with whether the model ranks the answer first; the model runs one block at a time."""
    sampler = Sampler(task, variant=draw.variant)
    block: list[EncodedPair] = []
    rows_read = 0
    for pair in _encoded(model, sampler, draw.seed, strict=False):
        rows_read += 1
        if isinstance(pair, RejectedRow):
            continue
        block.append(pair)
        if len(block) == _BLOCK or rows_read >= _MOST_DRAWS_PER_PAIR * n:
            yield from _ranked(model, draw, block)
            block = []
        if rows_read >= _MOST_DRAWS_PER_PAIR * n:
            return
    if block:
        yield from _ranked(model, draw, block)


def _ranked(model: Model, draw: Draw, block: list[EncodedPair]) -> Iterator[tuple[EncodedPair, bool]]:
    batch = to_batch(replace(draw, pairs=block))
    logits = model.logits(batch.clean, batch.end).float().cpu()
    for pair, row in zip(block, logits, strict=True):
        best = max(float(row[token]) for token in pair.answers)
        yield pair, best > max(float(row[token]) for token in (*pair.foils, *pair.distractors))


def _with_dropped(task: TaskRef, dropped: dict[str, int]) -> TaskRef:
    import msgspec  # noqa: PLC0415

    return msgspec.structs.replace(task, dropped=dropped)
