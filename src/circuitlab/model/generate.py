"""Text that a model writes: greedy or sampled, under its edits, with a key/value cache wherever that is exact."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch

from circuitlab.core.errors import BadParameterError, ModelError, TokenizationError
from circuitlab.core.provenance import digest
from circuitlab.model.hooks import HookedRun, own_modes
from circuitlab.model.places import Places
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from circuitlab.core.provenance import ModelSpec
    from circuitlab.model.interventions import Standing
    from circuitlab.model.prompts import Prompts

__all__ = ["Decoding", "Generation", "Stopped", "Writer", "cache_is_exact"]

Stopped: TypeAlias = Literal["length", "eos", "stop"]

_TOGETHER = 16  # prompts of one length in one run; their caches are in memory at the same time
_PROBE = 12  # tokens that the cache is tried on


@dataclass(frozen=True)
class Generation:
    """What a model wrote after one prompt.

    Parameters
    ----------
    text : str or None
        The new text only, without special tokens, up to the stop string if it was reached; None for a model without a tokenizer.
    ids : tuple of int
        The new tokens, as the model chose them: the token that ended the text is the last one (an EOS, or the one that completed the stop
        string), although ``text`` does not show it.
    logprobs : tuple of float
        Log-probability of each new token under the model's own distribution, at temperature 1 and with its edits.
    stopped : {"length", "eos", "stop"}
        Why it ended: ``max_new_tokens`` were written, an EOS token, or a stop string.
    """

    text: str | None
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: Stopped

    def __str__(self) -> str:
        return "" if self.text is None else self.text


@dataclass(frozen=True)
class Decoding:
    """How the next token is chosen, and when to stop.

    Parameters
    ----------
    max_new_tokens : int
        At most this many tokens for each prompt.
    temperature : float
        0 takes the likeliest token each time (greedy).
    seed : int
        Of sampling. A prompt's draws depend on the seed and its tokens alone; a prompt that is given twice is drawn twice.
    stop : str or sequence of str, optional
        Writing stops once the new text holds one of them. EOS tokens always stop.

    Raises
    ------
    BadParameterError
        For values that cannot be meant.
    """

    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0
    stop: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not _whole(self.max_new_tokens) or self.max_new_tokens < 1:
            raise BadParameterError(f"max_new_tokens is {self.max_new_tokens!r}.", "Give a whole number from 1 on.")
        number = isinstance(self.temperature, int | float) and not isinstance(self.temperature, bool)
        if not number or not math.isfinite(self.temperature) or self.temperature < 0:
            raise BadParameterError(f"temperature is {self.temperature!r}.", "Give 0 for the likeliest token, or a finite number above it.")
        if not _whole(self.seed):
            raise BadParameterError(f"seed is {self.seed!r}.", "Give a whole number.")
        if wrong := [one for one in self.stops if not isinstance(one, str) or not one]:
            raise BadParameterError(f"{wrong[0]!r} was given as a stop string.", "Give text of at least one character, or a list of texts.")

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def cache_is_exact(run: HookedRun, spec: ModelSpec, targets: Collection[tuple[Site, int]] = ()) -> bool:
    """Whether a model with cached keys and values says what it says when the whole prompt is run, tried on a few tokens.

    False for models that keep no such cache, keep a state of another kind, or turn positions by the length of the prompt; and where a value
    that is to be edited is not met position by position (DeepSeek caches what keys and values are computed from, and computes all of them
    anew for every token).

    Parameters
    ----------
    run : HookedRun
    spec : ModelSpec
    targets : collection of (Site, int)
        Sites and layers that are to be edited.
    """
    from transformers import DynamicCache  # noqa: PLC0415 - loads much of transformers

    if run.parts.length_dependent:
        return False
    length = _PROBE if spec.n_ctx is None else min(_PROBE, spec.n_ctx)
    tokens = (torch.arange(2 * length).view(2, length) * 7 + 1) % spec.d_vocab
    cuts = [0, *range(max(1, length // 2), length + 1)]
    with own_modes(run.root):
        whole = _Seen.in_run(run, tokens, targets)
        past = DynamicCache()
        try:
            pieces = [_Seen.in_run(run, tokens[:, start:stop], targets, past) for start, stop in pairwise(cuts)]
            past.batch_select_indices(torch.tensor([1]))
        except (RuntimeError, AttributeError, ValueError, KeyError, TypeError, IndexError, NotImplementedError):
            return False  # a model of another kind; the whole prompt is run each time
    kept = len(past.layers) > 0 and all(layer.keys is not None and layer.keys.shape[-2] == length for layer in past.layers)
    return kept and all(piece.fits(whole, start, stop) for piece, (start, stop) in zip(pieces, pairwise(cuts), strict=True))


@dataclass(frozen=True, eq=False)
class _Seen:
    """Logits at every position of a run, and the values that its tap met."""

    logits: Float[Tensor, "row pos vocab"]
    values: dict[tuple[Site, int], Float[Tensor, ...]]

    @classmethod
    def in_run(cls, run: HookedRun, tokens: Tensor, targets: Collection[tuple[Site, int]], past: Any = None) -> _Seen:
        values: dict[tuple[Site, int], Tensor] = {}

        def read(site: Site, layer: int, value: Tensor) -> Tensor:
            values[site, layer] = value.detach().clone()
            return value

        return cls(run.logits(tokens, None, targets, read if targets else None, past), values)

    def fits(self, whole: _Seen, start: int, stop: int) -> bool:
        """Whether this run of some positions met what the run of the whole text has there."""
        pairs = [(self.logits, whole.logits[:, start:stop])]
        for key, other in whole.values.items():
            there = other[:, :, start:stop, :stop] if key[0] is Site.PATTERN else other[:, start:stop]
            pairs.append((self.values.get(key, there[:0]), there))
        return all(one.shape == there.shape and _close(one, there) for one, there in pairs)


def _close(one: Tensor, other: Tensor) -> bool:
    off = (one - other).abs().max() / other.abs().max().clamp(min=1)
    return bool(off <= {torch.float64: 1e-8, torch.float32: 1e-4}.get(other.dtype, 5e-2))


@dataclass(eq=False)
class _Row:
    """A prompt, and what has been written after it."""

    number: int
    prompt: tuple[int, ...]
    draws: torch.Generator
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str | None = None
    stopped: Stopped = "length"
    done: bool = False


@dataclass(frozen=True, eq=False)
class Writer:
    """Writes after prompts.

    Parameters
    ----------
    run : HookedRun
        The model.
    spec : ModelSpec
    tokenizer : PreTrainedTokenizerBase or None
    standing : Standing or None
        Its edits. They act at each position with the values that it has there, in the run that first computes it: keys and values of the
        prompt are cached as edited.
    cached : bool
        Whether keys and values are cached (`cache_is_exact`); the whole text so far is run for every token otherwise.
    """

    run: HookedRun
    spec: ModelSpec
    tokenizer: PreTrainedTokenizerBase | None
    standing: Standing | None
    cached: bool

    def write(self, prompts: Prompts, how: Decoding) -> tuple[Generation, ...]:
        """Go on from every prompt; those of one length are run together, and none is padded.

        Raises
        ------
        BadParameterError
            If a prompt and what is to be written do not fit into the model's context.
        TokenizationError
            If a stop string is given to a model without a tokenizer.
        ModelError
            If the model's logits are not finite.
        EditDidNotFireError
            If an edit never met its site.
        """
        self._check(prompts, how)
        rows = _rows(prompts, how.seed)
        watched = nullcontext() if self.standing is None else self.standing.watched()
        with torch.inference_mode(mode=False), torch.no_grad(), watched:
            for few in _of_one_length(rows):
                marks = {name: torch.tensor([at[row.number] for row in few]) for name, at in prompts.marks.items()}
                self._together(few, marks, how)
        return tuple(Generation(row.text, tuple(row.ids), tuple(row.logprobs), row.stopped) for row in rows)

    def _check(self, prompts: Prompts, how: Decoding) -> None:
        if how.stops and self.tokenizer is None:
            what = f"Model {self.spec.name!r} has no tokenizer, and a stop string was given."
            raise TokenizationError(what, "Pass tokenizer=... to load_model, or leave stop out.")
        longest = max(map(len, prompts.ids))
        if self.spec.n_ctx is not None and longest + how.max_new_tokens > self.spec.n_ctx:
            what = f"{self.spec.name} has {self.spec.n_ctx} positions, for a prompt of {longest} tokens and {how.max_new_tokens} new ones."
            raise BadParameterError(what, f"Give max_new_tokens={max(0, self.spec.n_ctx - longest)} at most, or a shorter prompt.")

    def _together(self, rows: Sequence[_Row], marks: dict[str, Tensor], how: Decoding) -> None:
        """Go on from prompts of one length; a row that is done leaves."""
        from transformers import DynamicCache  # noqa: PLC0415

        past = DynamicCache() if self.cached else None
        tokens = torch.tensor([row.prompt for row in rows])
        places = Places(tokens, torch.full((len(rows),), tokens.shape[1] - 1), marks)
        ends = _eos_ids(self.run.root, self.tokenizer)
        for _ in range(how.max_new_tokens):
            for row, logits in zip(rows, self._logits(places, past), strict=True):
                self._take(row, logits, how, ends)
            going = [i for i, row in enumerate(rows) if not row.done]
            if not going:
                return
            if len(going) < len(rows):
                rows, places = [rows[i] for i in going], places.select(going)
                if past is not None:
                    past.batch_select_indices(torch.tensor(going))
            tokens = torch.cat([places.tokens, torch.tensor([row.ids[-1:] for row in rows])], dim=1)
            places = replace(places, tokens=tokens, start=0 if past is None else tokens.shape[1] - 1)

    def _logits(self, places: Places, past: Any) -> Float[Tensor, "row vocab"]:
        """Logits after the last position, from one run of what is not cached."""
        new = places.tokens[:, places.start :]
        last = torch.full((len(new),), new.shape[1] - 1)
        tap = None if self.standing is None else self.standing(places)
        sites = [] if self.standing is None else sorted(self.standing.targets, key=str)
        with own_modes(self.run.root):
            logits = self.run.logits(new, last, sites, tap, past).cpu()
        if bool((logits.isnan() | (logits == math.inf)).any()):
            edited = "" if self.standing is None else f", edited ({self.standing.describe()}),"
            what = f"{self.spec.name}{edited} gives logits that are not finite after {places.tokens.shape[1]} tokens."
            raise ModelError(what, "Check its weights, and the size of what edits put in place.")
        return logits

    def _take(self, row: _Row, logits: Float[Tensor, " vocab"], how: Decoding, ends: frozenset[int]) -> None:
        """Choose a row's next token, and see whether that ends it."""
        token = _choice(logits, how.temperature, row.draws)
        row.ids.append(token)
        row.logprobs.append(float(logits.double().log_softmax(-1)[token]))
        row.stopped = "eos" if token in ends else "length"
        row.done = token in ends or len(row.ids) == how.max_new_tokens
        if self.tokenizer is None or not (row.done or how.stops):
            return
        row.text = _new_text(self.tokenizer, row.prompt, row.ids)
        if found := [row.text.index(one) for one in how.stops if one in row.text]:
            row.text, row.stopped, row.done = row.text[: min(found)], "stop", True


def _rows(prompts: Prompts, seed: int) -> list[_Row]:
    rows, seen = [], dict[tuple[int, ...], int]()
    for number, ids in enumerate(prompts.ids):
        copy = seen[ids] = seen.get(ids, -1) + 1
        # Drawn from the prompt's own tokens and not from its place in the list, so that neighbours do not matter.
        draws = torch.Generator().manual_seed(int(digest([seed, list(ids), copy])[:15], 16))
        rows.append(_Row(number, ids, draws))
    return rows


def _of_one_length(rows: Sequence[_Row]) -> Iterator[list[_Row]]:
    for length in sorted({len(row.prompt) for row in rows}):
        same = [row for row in rows if len(row.prompt) == length]
        yield from (same[start : start + _TOGETHER] for start in range(0, len(same), _TOGETHER))


def _choice(logits: Float[Tensor, " vocab"], temperature: float, draws: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    spread = (logits.double() - logits.max()) / temperature
    return int(torch.multinomial(spread.softmax(-1), 1, generator=draws))


def _eos_ids(root: Any, tokenizer: PreTrainedTokenizerBase | None) -> frozenset[int]:
    """Tokens that end a text: those of the generation settings that came with the model, or else the tokenizer's own."""
    named = getattr(getattr(root, "generation_config", None), "eos_token_id", None)
    if named is None:
        named = None if tokenizer is None else tokenizer.eos_token_id
    return frozenset() if named is None else frozenset([named] if isinstance(named, int) else named)


def _new_text(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], ids: Sequence[int]) -> str:
    """What the new tokens add to the text; many tokenizers leave out the first space of what they decode alone."""
    before, whole, alone = (
        str(tokenizer.decode(list(some), skip_special_tokens=True, clean_up_tokenization_spaces=False))
        for some in (prompt, [*prompt, *ids], ids)
    )
    return whole[len(before) :] if whole.startswith(before) else alone
