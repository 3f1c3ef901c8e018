"""A head on natural text: measured for all heads of a model at once, and found in the store from then on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import numpy as np

from circuitlab.core.errors import BadParameterError
from circuitlab.core.files import require_writable
from circuitlab.core.nodes import Head
from circuitlab.core.provenance import digest
from circuitlab.execute.needs import require
from circuitlab.execute.text_rows import TextRowsLike, text_rows
from circuitlab.methods.roles.contract import running
from circuitlab.model.inside import head_in
from circuitlab.model.sites import Site
from circuitlab.model.token_text import texts_of
from circuitlab.scores.head_on_text import Decile, HeadOnText, TextSpot
from circuitlab.scores.intervals import mean_interval
from circuitlab.store import Cache
from circuitlab.store.codecs import Document, Documents
from circuitlab.workflows.score import as_cache
from circuitlab.workflows.terminal import CellProgress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from circuitlab.execute.on_text import TextValues
    from circuitlab.model.protocol import Model

__all__ = ["ON_TEXT", "head_on_text", "stored_on_text"]

ON_TEXT = Documents("on_text")
"""Where heads on text are kept: one JSON file for all heads of a model on one set of passages."""

_VERSION = 1
"""Counted up where other numbers or other positions are kept than before."""
_TENTHS, _EACH, _MOST, _BEFORE = 10, 3, 10, 12
"""Deciles, positions kept of each, positions kept of the largest, and tokens kept before each position."""
_LENGTH = 64
"""Tokens of a passage that are read."""
_FEWEST = 50
"""Positions: five in a decile."""


class _Asks:
    """What is asked of a model."""

    name: ClassVar[str] = "head_on_text"
    needs: ClassVar[tuple[str, ...]] = ("writes",)
    sites: ClassVar[tuple[Site, ...]] = (Site.Z, Site.ATTN_OUT, Site.RESID_POST, Site.PATTERN)


def head_on_text(
    model: Model, head: Head | str, texts: TextRowsLike = None, *, length: int = _LENGTH, store: Cache | str | Path | None = None
) -> HeadOnText:
    """What a head does on natural text: where it writes most and least, what it looks at, and what it does for the token that follows.

    A label from a narrow task can be held against it: positions come from every tenth of the head's activations, not from the top alone.

    Parameters
    ----------
    model : Model
        One whose attention patterns, and what heads write, can be read.
    head : Head or str
        A query head, ``"a20.h0"``.
    texts : str, Path, iterable of str, Passage or token ids, optional
        A file (see `circuitlab.texts.read_texts`) or passages; those that circuitlab ships otherwise.
    length : int
        Tokens of each passage that are read.
    store : Cache, str or Path, optional
        Where to look first. All heads of the model are measured at once and kept there, so that a second head costs nothing. Without it
        nothing is kept.

    Returns
    -------
    HeadOnText
        It says what activation and direct effect are.

    Raises
    ------
    ModelError
        If the model has no attention patterns, or what its heads write cannot be read as logits; before anything is run.
    BadParameterError
        If there is no such head, or the texts cannot be used: there must be 50 positions.
    TokenizationError
        If text is given to a model without a tokenizer.
    StoreError
        If the store cannot be written.

    Notes
    -----
    One forward pass per passage. The direct effect and winning cases are those of Gould et al. (2024), Successor Heads, arXiv:2312.09230,
    section on natural text, with logits (above their mean) in the place of losses.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> rows = [[3, 1, 5, 2, 4, 0, 1, 5, 2, 4, 0, 3], [0, 2, 1, 4, 3, 5, 2, 1, 4, 3, 5, 0]] * 3
    >>> read = cl.head_on_text(build_planted("induction-gqa").model, "a1.h2", rows)
    >>> read.wins > 20, read.winning[0].attended[0][1] == read.winning[0].following
    (True, True)
    >>> model = cl.load_model("smollm2-135m")  # doctest: +SKIP
    >>> cl.head_on_text(model, "a20.h0", store="runs")  # doctest: +SKIP
    """
    cache, wanted = as_cache(store), head_in(model.spec, head)
    if cache is not None:
        require_writable(cache.root)
    with running(model):
        require(_Asks, model)  # type: ignore[arg-type]
        rows = text_rows(model, texts, length)
        identity = _identity(model, rows)
        kept = _kept(cache, identity, wanted)
        if kept is not None:
            return kept
        started = time.perf_counter()
        heads = _measure(model, rows)
    if cache is not None:
        plain = {name: one.to_dict() for name, one in heads.items()}
        cache.put(identity, ON_TEXT, plain, seconds=time.perf_counter() - started)
    return heads[str(wanted)]


def stored_on_text(model: Model, head: Head, store: Cache | None) -> HeadOnText | None:
    """What is stored of a head on the passages that circuitlab ships; None where nothing is. Nothing is run.

    Raises
    ------
    ModelError
        If the model lacks what is measured.
    TokenizationError
        If it has no tokenizer.
    """
    require(_Asks, model)  # type: ignore[arg-type]
    identity = _identity(model, text_rows(model, None, _LENGTH))
    return _kept(store, identity, head)


def _kept(store: Cache | None, identity: Mapping[str, Any], head: Head) -> HeadOnText | None:
    def read(document: Document) -> HeadOnText:
        return msgspec.convert(document.result[str(head)], HeadOnText)

    kept = None if store is None else store.find(identity, ON_TEXT.checked(read))
    return None if kept is None else read(kept)


def _identity(model: Model, rows: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    """All that the numbers and the words depend on."""
    words = [texts_of(model.tokenizer, row) for row in rows]
    return {"model": model.spec.identity(), "tokens": digest(rows), "words": digest(words), "version": _VERSION}


def _measure(model: Model, rows: Sequence[tuple[int, ...]]) -> dict[str, HeadOnText]:
    from circuitlab.execute.on_text import text_values  # noqa: PLC0415 - torch

    places = sum(len(row) - 2 for row in rows)
    if places < _FEWEST:
        what = f"The texts have {places} positions that see an earlier token and have a next one; deciles need {_FEWEST}."
        raise BadParameterError(what, "Give more or longer texts.")
    with CellProgress(f"heads of {model.spec.name} on text"):
        values = text_values(model, rows)
    words = [texts_of(model.tokenizer, row) for row in rows]
    shape = values.effect.shape[1:]
    winner = values.effect.reshape(len(values.effect), -1).argmax(axis=1)
    picked = {Head(*map(int, at)): _Picked(model, words, values, at, winner) for at in np.ndindex(shape)}
    return {str(head): one.head_on_text() for head, one in picked.items()}


class _Picked:
    """The positions of one head that are kept."""

    def __init__(self, model: Model, words: Sequence[Sequence[str]], values: TextValues, at: tuple[int, ...], winner: np.ndarray) -> None:
        self.model, self.words, self.values, self.at = model, words, values, at
        layer, head = at
        self.activation, self.effect = values.activation[:, layer, head], values.effect[:, layer, head]
        self.order = np.argsort(self.activation, kind="stable")
        self.tenths = np.array_split(self.order, _TENTHS)
        self.decile = np.empty(len(self.order), dtype=int)
        for number, tenth in enumerate(self.tenths, start=1):
            self.decile[tenth] = number
        mine = np.flatnonzero((winner == np.ravel_multi_index(at, values.effect.shape[1:])) & (self.effect > 0))
        self.won = mine[np.argsort(-self.effect[mine], kind="stable")]

    def head_on_text(self) -> HeadOnText:
        """Everything about the head."""
        passages = np.unique(self.values.passage)
        interval = mean_interval(np.array([self.effect[self.values.passage == one].mean() for one in passages]))
        low, high = (None if np.isnan(limit) else float(limit) for limit in (interval.low, interval.high))
        return HeadOnText(
            head=str(Head(*map(int, self.at))),
            model=self.model.spec.name,
            n_passages=len(passages),
            n_positions=len(self.effect),
            n_heads=int(np.prod(self.values.effect.shape[1:])),
            effect=float(interval.mean),
            low=low,
            high=high,
            wins=len(self.won),
            top=self._spots(self.order[::-1][:_MOST]),
            deciles=tuple(self._decile(number) for number in range(1, _TENTHS + 1)),
            winning=self._spots(self.won[:_MOST]),
        )

    def _decile(self, number: int) -> Decile:
        """Positions at even steps, the first and the last of the tenth among them."""
        tenth = self.tenths[number - 1]
        steps = np.linspace(0, len(tenth) - 1, _EACH).round().astype(int)
        low, high = (float(self.activation[tenth[end]]) for end in (0, -1))
        return Decile(number, low, high, float(self.effect[tenth].mean()), self._spots(tenth[steps]))

    def _spots(self, places: np.ndarray) -> tuple[TextSpot, ...]:
        return tuple(self._spot(int(place)) for place in places)

    def _spot(self, place: int) -> TextSpot:
        values = self.values
        passage, position = int(values.passage[place]), int(values.position[place])
        words = self.words[passage]
        looked = zip(values.keys[place, *self.at].tolist(), values.weights[place, *self.at].tolist(), strict=True)
        return TextSpot(
            passage=passage,
            position=position,
            decile=int(self.decile[place]),
            activation=float(self.activation[place]),
            effect=float(self.effect[place]),
            before=tuple(words[max(0, position - _BEFORE) : position]),
            token=words[position],
            following=words[position + 1],
            attended=tuple((key, words[key], round(weight, 4)) for key, weight in looked if round(weight, 4) > 0),
        )
