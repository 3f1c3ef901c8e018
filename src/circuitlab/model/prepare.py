"""From a task to a batch a model can run: draw, encode, filter, count what was dropped."""

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
    """Usable pairs of a task for one tokenizer, and the rows that were turned away."""

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
        Its tokenizer encodes; it is run only for tasks that keep what the model knows.
    task : str, Path or Task
        Task id, file or spec.
    n : int
        Pairs wanted.
    variant : str, optional
        Corruption; the task's default otherwise.
    seed : int
        Seed of the stream of pairs.
    strict : bool
        Raise at the first row that does not fit instead of dropping it.

    Returns
    -------
    ContrastBatch
        ``task.dropped`` counts the rows turned away, by reason (`circuitlab.model.encode.RejectedRow`, and ``unknown``).

    Raises
    ------
    BadParameterError
        If the task does not hold ``n`` usable pairs for this model; the message says how many it has and why others fell out.
    AlignmentError, TokenizationError
        With ``strict``, on the first row that does not fit.
    """
    found = draw_pairs(model, Sampler(task, variant=variant), n, seed=seed, strict=strict)
    if not found.task.checks.known:
        return to_batch(found)
    kept: list[EncodedPair] = []
    unknown = 0
    stream = iter(_known(model, found, task, n))
    for pair, knows in stream:
        if knows:
            kept.append(pair)
        else:
            unknown += 1
        if len(kept) == n:
            break
    dropped = count_reasons(found.rejected) | ({"unknown": unknown} if unknown else {})
    if len(kept) < n:
        what = f"Task {found.task.id!r} has {len(kept)} pairs that {model.spec.name} knows, {n} were asked for (dropped: {dropped})."
        raise BadParameterError(what, "Ask for fewer pairs, or use a model that knows more.")
    batch = to_batch(replace(found, pairs=kept))
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
    """Draw and encode until ``n`` rows fit the tokenizer, before any filter by what the model knows.

    A task that has fewer raises, unless it has ``least`` of them.
    """
    if n < 1:
        what = f"n={n} pairs cannot be drawn."
        raise BadParameterError(what, "Ask for at least one.")
    spec = sampler.task
    pairs: list[EncodedPair] = []
    rejected: list[RejectedRow] = []
    for found in _encoded(model, sampler, seed, strict=strict):
        if isinstance(found, RejectedRow):
            rejected.append(found)
        else:
            pairs.append(found)
        if len(pairs) == n or len(pairs) + len(rejected) >= _MOST_DRAWS_PER_PAIR * n:
            break
    if len(pairs) < (n if least is None else least):
        first = {row.reason: row for row in reversed(rejected)}
        shown = "".join(f" First {reason}: {row.what} {row.fix}" for reason, row in sorted(first.items()))
        what = f"Task {spec.id!r} gave {len(pairs)} usable pairs, {n} were asked for (dropped: {count_reasons(rejected)}).{shown}"
        raise BadParameterError(what, "Ask for fewer pairs, or add words that are single tokens for this model.")
    return Draw(pairs, rejected, spec, sampler.variant_name, seed)


def to_batch(draw: Draw) -> ContrastBatch:
    """The batch of a draw; its identity is the digest of what will be run."""
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


def _known(model: Model, found: Draw, task: str | Path | Task, n: int) -> Iterator[tuple[EncodedPair, bool]]:
    """Pairs in stream order, each with whether the model ranks the answer first; drawn a block at a time."""
    sampler = Sampler(task, variant=found.variant)
    block: list[EncodedPair] = []
    seen = 0
    for pair in _encoded(model, sampler, found.seed, strict=False):
        seen += 1
        if isinstance(pair, RejectedRow):
            continue
        block.append(pair)
        if len(block) == _BLOCK or seen >= _MOST_DRAWS_PER_PAIR * n:
            yield from _ranked(model, found, block)
            block = []
        if seen >= _MOST_DRAWS_PER_PAIR * n:
            return
    if block:
        yield from _ranked(model, found, block)


def _ranked(model: Model, found: Draw, block: list[EncodedPair]) -> Iterator[tuple[EncodedPair, bool]]:
    batch = to_batch(replace(found, pairs=block))
    logits = model.logits(batch.clean, batch.end).float().cpu()
    for pair, row in zip(block, logits, strict=True):
        best = max(float(row[token]) for token in pair.answers)
        yield pair, best > max(float(row[token]) for token in (*pair.foils, *pair.distractors))


def _with_dropped(task: TaskRef, dropped: dict[str, int]) -> TaskRef:
    import msgspec  # noqa: PLC0415

    return msgspec.structs.replace(task, dropped=dropped)
