"""Local importance: the part of the metric that is due to each word or phrase of a prompt."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Embed
from circuitlab.methods.decomposition.relevance import Invariant, relevance_to_metric
from circuitlab.methods.decomposition.rule import Rule
from circuitlab.methods.decomposition.source import Options, Source

if TYPE_CHECKING:
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["Phrase", "PhraseScores", "phrase_relevance", "spans_of", "words_of"]


@dataclass(frozen=True)
class Phrase:
    """Consecutive tokens of a prompt.

    Parameters
    ----------
    text : str
        Their text.
    start, stop : int
        Index of the first token, and of the one after the last.
    """

    text: str
    start: int
    stop: int


@dataclass(frozen=True)
class PhraseScores:
    """Relevance of the phrases of one prompt.

    Parameters
    ----------
    phrases : tuple of Phrase
        The phrases.
    values : tuple of float
        Relevance of each phrase in metric units; positive means that it helps the answer.
    total : float
        The metric of the prompt. The values need not sum to it.
    invariant : Invariant
        How well the parts sum to the activations.
    """

    phrases: tuple[Phrase, ...]
    values: tuple[float, ...]
    total: float
    invariant: Invariant


def phrase_relevance(
    model: Model,
    batch: ContrastBatch,
    metric: Metric,
    *,
    pair: int = 0,
    phrases: Sequence[Phrase] | None = None,
    rule: str | Rule = "exact",
) -> PhraseScores:
    """Relevance of the phrases of a clean prompt: the embeddings of a phrase are relevant as a whole (Hsu et al. 2024, version 1).

    Parameters
    ----------
    model, batch, metric : Model, ContrastBatch, Metric
        The model, the prompts and the metric, which contrasts answers and foils (for example a label and its closest alternative).
    pair : int
        Index of the prompt in the batch.
    phrases : sequence of Phrase, optional
        From `words_of` or `spans_of`; by default every token is a phrase.
    rule : str or Rule
        How activations are split.

    Raises
    ------
    BadParameterError
        If there is no such pair, or a phrase is empty or lies outside the prompt.

    Notes
    -----
    Learned position embeddings (GPT-2) count as part of the phrase. Cost: two to four forward passes per phrase.
    """
    if not 0 <= pair < batch.n_pairs:
        what = f"There is no pair {pair} among {batch.n_pairs}."
        raise BadParameterError(what, "Count from 0.")
    single = batch.select([pair])
    length = int(single.end[0]) + 1
    selected = tuple(phrases) if phrases is not None else _tokens(model, single)
    for phrase in selected:
        if not 0 <= phrase.start < phrase.stop <= length:
            what = f"{phrase.text!r} spans tokens {phrase.start} to {phrase.stop} of a prompt of {length}."
            raise BadParameterError(what, "Give at least one token inside the prompt.")
    sources = [Source((Embed(),), tuple(range(phrase.start, phrase.stop))) for phrase in selected]
    options = Options(Rule.parse(rule) if isinstance(rule, str) else rule, "zero")
    relevance = relevance_to_metric(model, single, metric, sources, options)
    return PhraseScores(selected, tuple(relevance.values[:, 0].tolist()), float(relevance.clean[0]), relevance.invariant)


def _tokens(model: Model, batch: ContrastBatch) -> tuple[Phrase, ...]:
    ids = batch.clean[0].tolist()
    texts = list(map(str, ids)) if model.tokenizer is None else [str(model.tokenizer.decode([i])) for i in ids]
    return tuple(Phrase(text, i, i + 1) for i, text in enumerate(texts))


def words_of(tokens: Sequence[str]) -> tuple[Phrase, ...]:
    """Tokens grouped into words: a word begins at the first token, and at every token with leading whitespace.

    Examples
    --------
    >>> [word.text for word in words_of(["Un", "related", " news", ",", " Mary"])]
    ['Unrelated', ' news,', ' Mary']
    """
    starts = [i for i, token in enumerate(tokens) if i == 0 or token[:1].isspace()]
    ends = [*starts, len(tokens)]
    return tuple(Phrase("".join(tokens[start:stop]), start, stop) for start, stop in itertools.pairwise(ends))


def spans_of(tokens: Sequence[str], phrases: Sequence[str]) -> tuple[Phrase, ...]:
    """Find phrases in a prompt. Each one is the first match after the previous phrase, with every token that it overlaps.

    Raises
    ------
    BadParameterError
        If a phrase is empty, or does not occur in the prompt after the previous one.

    Examples
    --------
    >>> spans_of(["a", " very", " good", " film"], ["very good"])
    (Phrase(text=' very good', start=1, stop=3),)
    """
    ends = [0]
    for token in tokens:
        ends.append(ends[-1] + len(token))
    whole, spans, after = "".join(tokens), [], 0
    for phrase in phrases:
        offset = whole.find(phrase, after) if phrase else -1
        if offset < 0:
            what = f"The phrase {phrase!r} does not occur in {whole[after:]!r}."
            raise BadParameterError(what, "Give phrases in the order of the prompt, with the same letters and spaces.")
        after = offset + len(phrase)
        start = max(i for i in range(len(tokens)) if ends[i] <= offset)
        stop = min(i for i in range(len(ends)) if ends[i] >= after)
        spans.append(Phrase("".join(tokens[start:stop]), start, stop))
    return tuple(spans)
