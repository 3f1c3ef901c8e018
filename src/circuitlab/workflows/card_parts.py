"""Parts of a head's card that run prompts: where it looks and why, and what is different without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from circuitlab.core.errors import AdditivityError, AlignmentError, BadParameterError, EmptyGapError, ModelError, TokenizationError
from circuitlab.scores.head_card import AttentionOnPair, Continuation, KnockedOut, Loading, LookedAt, Section, Term, WhyThere
from circuitlab.scores.intervals import mean_interval
from circuitlab.workflows.card_runs import CardRuns
from circuitlab.workflows.why import why_on

if TYPE_CHECKING:
    from circuitlab.core.nodes import Head
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model
    from circuitlab.scores.attention import AttentionPattern

__all__ = ["REFUSALS", "Asked", "attention_of", "continuations_of", "knockouts_of", "why_of"]

REFUSALS = (ModelError, BadParameterError, TokenizationError, AlignmentError, AdditivityError, EmptyGapError)
"""Errors that say why a model or its prompts cannot give something."""

_Entry = TypeVar("_Entry")
_KEYS, _TERMS, _NEW_TOKENS = 8, 6, 16
NO_TASK = "No task was given."


@dataclass(frozen=True, eq=False)
class Asked:
    """A head, and the prompts that its card is about.

    Parameters
    ----------
    model : Model
    head : Head
    batches : mapping of str to ContrastBatch
        Pairs of each task.
    absent : mapping of str to str
        Tasks without pairs, with the reason.
    pairs : int
        For how many pairs of each task attention is shown.
    shared : CardRuns, optional
        Runs that this card shares with those of other heads; by default its own.
    """

    model: Model
    head: Head
    batches: Mapping[str, ContrastBatch]
    absent: Mapping[str, str]
    pairs: int
    shared: CardRuns | None = None

    @cached_property
    def runs(self) -> CardRuns:
        """The runs of this card."""
        return self.shared or CardRuns(self.model, (self.head,))

    def section(self, gather: Callable[[str, ContrastBatch], Iterator[_Entry]]) -> Section[_Entry]:
        """What is gathered of each task, and the reasons for what cannot be."""
        entries: list[_Entry] = []
        absent = dict(self.absent) if self.batches or self.absent else {"tasks": NO_TASK}
        for name, batch in self.batches.items():
            try:
                entries += list(gather(name, batch))
            except REFUSALS as error:
                absent[name] = str(error)
        return Section(tuple(entries), absent)

    def shown(self, batch: ContrastBatch) -> Iterator[tuple[int, ContrastBatch]]:
        """The first pairs of a batch, one by one."""
        return ((pair, batch.select([pair])) for pair in range(min(self.pairs, batch.n_pairs)))


def attention_of(asked: Asked) -> Section[AttentionOnPair]:
    """Where the last position looks on the first pairs of each task, in the clean and in the corrupt prompt."""

    def gather(name: str, batch: ContrastBatch) -> Iterator[AttentionOnPair]:
        for pair, one in asked.shown(batch):
            clean = asked.runs.pattern(asked.head, one)
            corrupt = asked.runs.pattern(asked.head, replace(one, clean=one.corrupt))
            last = len(clean.tokens) - 1
            rows = clean.values[last], corrupt.values[last]
            order = np.argsort(-np.maximum(*rows), kind="stable")[:_KEYS]
            keys = tuple(_looked_at(int(key), clean, corrupt) for key in order if max(rows[0][key], rows[1][key]) > 0)
            yield AttentionOnPair(name, pair, last, clean.tokens[last], keys)

    return asked.section(gather)


def _looked_at(key: int, clean: AttentionPattern, corrupt: AttentionPattern) -> LookedAt:
    there, other = (float(pattern.values[-1, key]) for pattern in (clean, corrupt))
    return LookedAt(key, clean.tokens[key], corrupt.tokens[key], there, other, there - other)


def why_of(asked: Asked) -> Section[WhyThere]:
    """Why the last position looks at the key that it attends to most; where that is the first token, also at the next one."""

    def gather(name: str, batch: ContrastBatch) -> Iterator[WhyThere]:
        for pair, one in asked.shown(batch):
            row = asked.runs.pattern(asked.head, one).values[-1]
            keys = [int(key) for key in np.argsort(-row, kind="stable")[:2] if row[key] > 0]
            for key in keys if keys and keys[0] == 0 else keys[:1]:
                yield _why(asked, name, pair, one, key)

    return asked.section(gather)


def _why(asked: Asked, name: str, pair: int, one: ContrastBatch, key: int) -> WhyThere:
    against = "others" if int(one.end[0]) > 0 else None
    split = why_on(asked.model, asked.runs.prompt(asked.head, one.clean[0, : int(one.end[0]) + 1].tolist()), asked.head, key, against)
    return WhyThere(
        task=name,
        pair=pair,
        query=split.query,
        query_token=split.tokens[split.query],
        key=split.key,
        key_token=split.tokens[split.key],
        against=against,
        weight=split.weight,
        score=split.score,
        residual=split.residual,
        query_loadings=_largest(split.loadings("q")),
        key_loadings=_largest(split.loadings("k")),
        terms=tuple(Term(*term) for term in split.top(min(_TERMS, len(split.writers)))),
    )


def _largest(loadings: Mapping[str, float]) -> tuple[Loading, ...]:
    order = sorted(loadings, key=lambda writer: -abs(loadings[writer]))
    return tuple(Loading(writer, loadings[writer]) for writer in order[:_TERMS])


def knockouts_of(asked: Asked) -> Section[KnockedOut]:
    """The metric of each task with the head replaced by its mean over the corrupt prompts, pair by pair."""
    return asked.section(lambda name, batch: iter([_knocked_out(asked, name, batch)]))


def _knocked_out(asked: Asked, name: str, batch: ContrastBatch) -> KnockedOut:
    from circuitlab.metrics import get_metric  # noqa: PLC0415 - torch

    clean, knocked = asked.runs.knocked_out(asked.head, batch)
    metric = get_metric(batch.metric)
    intervals = (mean_interval(one).as_dict() for one in (clean, knocked, knocked - clean))
    return KnockedOut(name, "mean", metric.name, metric.units, batch.n_pairs, *intervals)


def continuations_of(asked: Asked, prompt: str | Sequence[int] | None) -> Section[Continuation]:
    """Greedy text with and without the head, after a prompt or after the first clean prompt of each task."""
    if prompt is not None:
        batch = next(iter(asked.batches.values()), None)
        try:
            return Section((_continued(asked, "your own", prompt, batch),))
        except REFUSALS as error:
            return Section((), {"prompt": str(error)})

    def gather(name: str, batch: ContrastBatch) -> Iterator[Continuation]:
        yield _continued(asked, name, batch.clean[0, : int(batch.end[0]) + 1].tolist(), batch)

    return asked.section(gather)


def _continued(asked: Asked, source: str, prompt: str | Sequence[int], batch: ContrastBatch | None) -> Continuation:
    """Knocked out by its mean over all positions of a task's corrupt prompts, which new positions have too; by zero without a task."""
    from circuitlab.model.interventions import Knockout  # noqa: PLC0415 - torch
    from circuitlab.model.prompts import read_prompts  # noqa: PLC0415
    from circuitlab.model.token_text import texts_of  # noqa: PLC0415

    model = asked.model
    ids = read_prompts(prompt, model.tokenizer, model.spec).ids[0]
    fits = _NEW_TOKENS if model.spec.n_ctx is None else min(_NEW_TOKENS, model.spec.n_ctx - len(ids))
    if fits < 1:
        what = f"The prompt has {len(ids)} tokens, and {model.spec.name} has {model.spec.n_ctx} positions."
        raise BadParameterError(what, "Give a shorter prompt.")
    node, how = str(asked.head), "zero" if batch is None else "mean_over_positions"
    edit = Knockout(node) if batch is None else Knockout(node, "mean_over_positions", values={node: asked.runs.mean(asked.head, batch)})
    texts = [asked.runs.continued(ids, fits), asked.runs.continued_on(model.edited(edit), ids, fits)]
    space = " " if model.tokenizer is None else ""
    read, with_head, without = (space.join(texts_of(model.tokenizer, new)) for new in (ids, *texts))
    return Continuation(source, how, read, with_head, without, same=texts[0] == texts[1])
