"""Generate text from a model, greedily or by sampling, under its edits, with a key/value cache where that is exact."""

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

_TOGETHER = 16  # most prompts in one run; their caches are in memory at the same time
_PROBE = 12  # tokens in the test of the cache


@dataclass(frozen=True)
class Generation:
    """What a model generated after one prompt.

    Parameters
    ----------
    text : str or None
        The new text only, without special tokens and up to the stop string, if one was reached; None for a model without a tokenizer.
    ids : tuple of int
        The new tokens. The last one may be the token that ended the text (an EOS, or the one that completed a stop string), which
        ``text`` leaves out.
    logprobs : tuple of float
        Log-probability of each new token in the model's distribution, at temperature 1 and with its edits.
    stopped : {"length", "eos", "stop"}
        Why generation ended: ``max_new_tokens`` reached, an EOS token, or a stop string.
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
        Softmax temperature of sampling; 0 takes the likeliest token each time (greedy).
    seed : int
        Seed of sampling. A prompt's samples depend on the seed and its tokens only; a prompt that occurs twice is sampled twice.
    stop : str or sequence of str, optional
        Generation stops once the new text contains one of them. EOS tokens always stop it.

    Raises
    ------
    BadParameterError
        For invalid values.
    """

    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0
    stop: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not _whole(self.max_new_tokens) or self.max_new_tokens < 1:
            raise BadParameterError(f"max_new_tokens is {self.max_new_tokens!r}.", "Give an integer of at least 1.")
        is_number = isinstance(self.temperature, int | float) and not isinstance(self.temperature, bool)
        if not is_number or not math.isfinite(self.temperature) or self.temperature < 0:
            raise BadParameterError(f"temperature is {self.temperature!r}.", "Give 0 for the likeliest token, or a finite positive number.")
        if not _whole(self.seed):
            raise BadParameterError(f"seed is {self.seed!r}.", "Give an integer.")
        if invalid := [text for text in self.stops if not isinstance(text, str) or not text]:
            raise BadParameterError(
                f"{invalid[0]!r} was given as a stop string.", "Give text of at least one character, or a list of texts."
            )

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def cache_is_exact(run: HookedRun, spec: ModelSpec, targets: Collection[tuple[Site, int]] = ()) -> bool:
    """Whether a model gives the same logits with cached keys and values as without, tested on a few tokens.

    False for models without such a cache, with a state of another kind, or with rotary angles that depend on the length of the prompt.
    Also False if a value to be edited is not computed position by position: DeepSeek caches the input of keys and values, and computes all
    of them again for every token.

    Parameters
    ----------
    run : HookedRun
        The model.
    spec : ModelSpec
        Its vocabulary and context size.
    targets : collection of (Site, int)
        Sites and layers that will be edited.
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
            return False  # this model has no such cache, so the whole text is run for every token
    complete = len(past.layers) > 0 and all(layer.keys is not None and layer.keys.shape[-2] == length for layer in past.layers)
    return complete and all(piece.fits(whole, start, stop) for piece, (start, stop) in zip(pieces, pairwise(cuts), strict=True))


@dataclass(frozen=True, eq=False)
class _Seen:
    """Logits at every position of a run, and the values at the sites that were read."""

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
        """Whether this run of positions ``start`` to ``stop - 1`` has the values that the run of the whole text has there."""
        pairs = [(self.logits, whole.logits[:, start:stop])]
        for key, value in whole.values.items():
            expected = value[:, :, start:stop, :stop] if key[0] is Site.PATTERN else value[:, start:stop]
            pairs.append((self.values.get(key, expected[:0]), expected))
        return all(actual.shape == expected.shape and _close(actual, expected) for actual, expected in pairs)


def _close(actual: Tensor, expected: Tensor) -> bool:
    off = (actual - expected).abs().max() / expected.abs().max().clamp(min=1)
    return bool(off <= {torch.float64: 1e-8, torch.float32: 1e-4}.get(expected.dtype, 5e-2))


@dataclass(eq=False)
class _Row:
    """A prompt, and what has been generated after it so far."""

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
    """Generates text after prompts.

    Parameters
    ----------
    run : HookedRun
        The model.
    spec : ModelSpec
        Its shape and identity.
    tokenizer : PreTrainedTokenizerBase or None
        Its tokenizer.
    standing : Standing or None
        Its edits. They act at each position in the run that first computes it, so that edited keys and values are cached.
    cached : bool
        Whether keys and values are cached (`cache_is_exact`); otherwise the whole text so far is run for every token.
    """

    run: HookedRun
    spec: ModelSpec
    tokenizer: PreTrainedTokenizerBase | None
    standing: Standing | None
    cached: bool

    def write(self, prompts: Prompts, how: Decoding) -> tuple[Generation, ...]:
        """Generate after every prompt; prompts of the same length are run together, and none is padded.

        Raises
        ------
        BadParameterError
            If a prompt and its new tokens do not fit into the model's context.
        TokenizationError
            If a stop string is given to a model without a tokenizer.
        ModelError
            If the model's logits are not finite.
        EditDidNotFireError
            If an edit was never applied.
        """
        self._check(prompts, how)
        rows = _rows(prompts, how.seed)
        watched = nullcontext() if self.standing is None else self.standing.watched()
        with torch.inference_mode(mode=False), torch.no_grad(), watched:
            for group in _of_one_length(rows):
                marks = {name: torch.tensor([at[row.number] for row in group]) for name, at in prompts.marks.items()}
                self._together(group, marks, how)
        return tuple(Generation(row.text, tuple(row.ids), tuple(row.logprobs), row.stopped) for row in rows)

    def _check(self, prompts: Prompts, how: Decoding) -> None:
        if how.stops and self.tokenizer is None:
            what = f"Model {self.spec.name!r} has no tokenizer, and a stop string was given."
            raise TokenizationError(what, "Pass tokenizer=... to load_model, or leave out stop.")
        longest = max(map(len, prompts.ids))
        if self.spec.n_ctx is not None and longest + how.max_new_tokens > self.spec.n_ctx:
            what = f"{self.spec.name} has {self.spec.n_ctx} positions, for a prompt of {longest} tokens and {how.max_new_tokens} new ones."
            raise BadParameterError(what, f"Give max_new_tokens={max(0, self.spec.n_ctx - longest)} at most, or a shorter prompt.")

    def _together(self, rows: Sequence[_Row], marks: dict[str, Tensor], how: Decoding) -> None:
        """Generate after prompts of the same length; finished rows are dropped."""
        from transformers import DynamicCache  # noqa: PLC0415

        past = DynamicCache() if self.cached else None
        tokens = torch.tensor([row.prompt for row in rows])
        places = Places(tokens, torch.full((len(rows),), tokens.shape[1] - 1), marks)
        ends = _eos_ids(self.run.root, self.tokenizer)
        for _ in range(how.max_new_tokens):
            for row, logits in zip(rows, self._logits(places, past), strict=True):
                self._take(row, logits, how, ends)
            unfinished = [i for i, row in enumerate(rows) if not row.done]
            if not unfinished:
                return
            if len(unfinished) < len(rows):
                rows, places = [rows[i] for i in unfinished], places.select(unfinished)
                if past is not None:
                    past.batch_select_indices(torch.tensor(unfinished))
            tokens = torch.cat([places.tokens, torch.tensor([row.ids[-1:] for row in rows])], dim=1)
            places = replace(places, tokens=tokens, start=0 if past is None else tokens.shape[1] - 1)

    def _logits(self, places: Places, past: Any) -> Float[Tensor, "row vocab"]:
        """Next-token logits after the last position, from one run of the positions that are not cached."""
        new = places.tokens[:, places.start :]
        last = torch.full((len(new),), new.shape[1] - 1)
        tap = None if self.standing is None else self.standing(places)
        sites = [] if self.standing is None else sorted(self.standing.targets, key=str)
        with own_modes(self.run.root):
            logits = self.run.logits(new, last, sites, tap, past).cpu()
        if bool((logits.isnan() | (logits == math.inf)).any()):
            edited = "" if self.standing is None else f", edited ({self.standing.describe()}),"
            what = f"{self.spec.name}{edited} gives logits that are not finite after {places.tokens.shape[1]} tokens."
            raise ModelError(what, "Check its weights, and the size of the values that its edits write.")
        return logits

    def _take(self, row: _Row, logits: Float[Tensor, " vocab"], how: Decoding, ends: frozenset[int]) -> None:
        """Append a row's next token, and finish the row if it ends there."""
        token = _choice(logits, how.temperature, row.draws)
        row.ids.append(token)
        row.logprobs.append(float(logits.double().log_softmax(-1)[token]))
        row.stopped = "eos" if token in ends else "length"
        row.done = token in ends or len(row.ids) == how.max_new_tokens
        if self.tokenizer is None or not (row.done or how.stops):
            return
        row.text = _new_text(self.tokenizer, row.prompt, row.ids)
        if ends_at := [row.text.index(stop) for stop in how.stops if stop in row.text]:
            row.text, row.stopped, row.done = row.text[: min(ends_at)], "stop", True


def _rows(prompts: Prompts, seed: int) -> list[_Row]:
    rows, seen = [], dict[tuple[int, ...], int]()
    for number, ids in enumerate(prompts.ids):
        copy = seen[ids] = seen.get(ids, -1) + 1
        # Seeded by the prompt's tokens and not by its index in the list, so that samples do not depend on the other prompts.
        draws = torch.Generator().manual_seed(int(digest([seed, list(ids), copy])[:15], 16))
        rows.append(_Row(number, ids, draws))
    return rows


def _of_one_length(rows: Sequence[_Row]) -> Iterator[list[_Row]]:
    for length in sorted({len(row.prompt) for row in rows}):
        of_length = [row for row in rows if len(row.prompt) == length]
        yield from (of_length[start : start + _TOGETHER] for start in range(0, len(of_length), _TOGETHER))


def _choice(logits: Float[Tensor, " vocab"], temperature: float, draws: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    spread = (logits.double() - logits.max()) / temperature
    return int(torch.multinomial(spread.softmax(-1), 1, generator=draws))


def _eos_ids(root: Any, tokenizer: PreTrainedTokenizerBase | None) -> frozenset[int]:
    """Tokens that end a text: those of the model's generation config, or else the tokenizer's."""
    eos = getattr(getattr(root, "generation_config", None), "eos_token_id", None)
    if eos is None:
        eos = None if tokenizer is None else tokenizer.eos_token_id
    return frozenset() if eos is None else frozenset([eos] if isinstance(eos, int) else eos)


def _new_text(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], ids: Sequence[int]) -> str:
    """The text of the new tokens. They are decoded after the prompt, because many tokenizers drop a leading space."""
    before, whole, alone = (
        str(tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))
        for tokens in (prompt, [*prompt, *ids], ids)
    )
    return whole[len(before) :] if whole.startswith(before) else alone
