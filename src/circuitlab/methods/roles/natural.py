"""Roles on natural text: first-token sink, span, locality, focus, receiver, delimiter, and what position alone explains."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from circuitlab.core.errors import BadParameterError
from circuitlab.methods.roles import patterns
from circuitlab.methods.roles.contract import RoleKind
from circuitlab.methods.roles.reading import Each, ReadsPatterns, RolePrompts
from circuitlab.model.prompts import read_prompts
from circuitlab.texts import load_texts

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["Delimiter", "Focus", "Locality", "OnText", "Receiver", "Sink", "Span", "is_delimiter", "passages"]

_LEAST = 16
"""Tokens of a passage below which even attention is close to every threshold."""
_COST = "1 forward pass per passage of 64 tokens, shared by all roles on natural text"


def passages(model: Model, texts: tuple[str, ...], length: int) -> RolePrompts:
    """The first tokens of each text that is long enough, as the tokenizer begins a text.

    Parameters
    ----------
    model : Model
        With a tokenizer.
    texts : tuple of str
        The passages that circuitlab ships, where it is empty.
    length : int
        Tokens of each; fewer where the model has fewer positions. Shorter texts are left out.

    Raises
    ------
    BadParameterError
        If fewer than two texts are long enough, or the model has too few positions.
    """
    spec, given = model.spec, texts or tuple(one.text for one in load_texts())
    fits = min(length, spec.n_ctx or length)
    if fits < _LEAST:
        what = f"{spec.name} has {spec.n_ctx} positions, too few for a passage."
        raise BadParameterError(what, "Measure this role on a larger model.")
    rows = [ids[:fits] for ids in read_prompts(list(given), model.tokenizer, spec).ids if len(ids) >= fits]
    if len(rows) < 2:  # noqa: PLR2004 - an interval
        what = f"{len(rows)} of {len(given)} texts have {fits} tokens or more."
        raise BadParameterError(what, "Give longer texts, at least two, or a smaller length.")
    return RolePrompts(np.array(rows), f"passages of {fits} tokens")


def is_delimiter(text: str) -> bool:
    r"""Whether a token is punctuation alone, or a line break.

    Examples
    --------
    >>> [is_delimiter(text) for text in (".", " (", "\n\n", " ", "don't", "...", "=")]
    [True, True, True, False, False, True, False]
    """
    inside = text.strip()
    return all(unicodedata.category(one).startswith("P") for one in inside) if inside else "\n" in text


@dataclass(frozen=True)
class OnText(ReadsPatterns):
    """What roles on natural text share: their passages, identified by the tokens that are run and not among the parameters."""

    kind: ClassVar[RoleKind] = "attention"
    needs: ClassVar[tuple[str, ...]] = ("tokenizer",)
    cost: ClassVar[str] = _COST

    texts: tuple[str, ...] = field(default=(), repr=False, metadata={"identity": False})
    length: int = 64

    def __post_init__(self) -> None:
        object.__setattr__(self, "texts", (self.texts,) if isinstance(self.texts, str) else tuple(self.texts))
        if self.length < _LEAST:
            what = f"length={self.length} tokens of a passage are too few: even attention is close to every threshold."
            raise BadParameterError(what, f"Use {_LEAST} or more, such as 64.")

    def prompts(self, model: Model) -> RolePrompts:
        """Passages, see `passages`."""
        return passages(model, self.texts, self.length)


@dataclass(frozen=True)
class Sink(OnText):
    """Attention to the first token, whatever it is: where heads rest that have nothing to do.

    Parameters
    ----------
    texts : tuple of str
        Passages of one's own; those that circuitlab ships otherwise.
    length : int
        Tokens of each passage; shorter passages are left out.

    Notes
    -----
    The value is ``r_0 = sum_t A[t, 0] / T``, the sink mass of ACT and the importance score of Gu et al., whose length of 64 tokens and
    threshold of 0.3 are taken over; even attention gives 0.07 there. What goes to a sink outside the keys (gpt-oss) is not counted: such
    heads need no first token. A window that is shorter than the passage leaves most queries without the first token, and its heads with
    little or no sink mass.

    References
    ----------
    Gu et al. (2025), When Attention Sink Emerges in Language Models, arXiv:2410.10781. Yu et al. (2024), Unveiling and Harnessing Hidden
    Attention Sinks (ACT), arXiv:2406.15765.
    """

    name: ClassVar[str] = "sink"
    estimand: ClassVar[str] = "mean attention of all queries to the first token"
    units: ClassVar[str] = "share of attention"
    within: ClassVar[tuple[float, float]] = (0.0, 1.0)
    threshold: ClassVar[float] = 0.3
    null: ClassVar[str] = "attention of the same queries to the other of the first 8 tokens, their mean"
    cite: ClassVar[tuple[str, ...]] = ("gu2025", "yu2024act")

    def reader(self, prompts: RolePrompts) -> Each:  # noqa: ARG002 - whatever the tokens are
        """Attention to the first token."""
        return Each(lambda _rows, pattern, seen: patterns.sink(pattern, seen))


@dataclass(frozen=True)
class Span(OnText):
    """Mean distance of attention: heads that look far back.

    Parameters
    ----------
    texts, length
        As for `Sink`.

    Notes
    -----
    The value is the distance ``d = mean_t sum_s A[t, s] (t - s)`` of the WAAD paper, divided by that to the first token: 0 looks at itself
    and 1 at the first token only; even attention gives 0.5. Sinks look far by this measure; read it beside `Sink`. The paper takes the 30 %
    of heads with the largest distance; the threshold here, 0.75, is half way from even attention to the first token. A layer with a window
    of w tokens cannot look further than w - 1, and is compared with even attention to what it sees. Where rows sum to less than 1 (sinks
    outside the keys) the distance is that of the attention which goes to keys.

    References
    ----------
    Li et al. (2025), Attention Illuminates LLM Reasoning, arXiv:2510.13554.
    """

    name: ClassVar[str] = "span"
    estimand: ClassVar[str] = "mean distance of attention, as a share of the distance to the first token"
    units: ClassVar[str] = "share of the longest distance"
    within: ClassVar[tuple[float, float]] = (0.0, 1.0)
    threshold: ClassVar[float] = 0.75
    null: ClassVar[str] = "the distance of even attention to the keys that the same queries see"
    cite: ClassVar[tuple[str, ...]] = ("li2025waad",)

    def reader(self, prompts: RolePrompts) -> Each:  # noqa: ARG002 - whatever the tokens are
        """Distance of attention."""
        return Each(lambda _rows, pattern, seen: patterns.span(pattern, seen))


@dataclass(frozen=True)
class Locality(OnText):
    """Attention within the last few tokens: heads that look near.

    Parameters
    ----------
    texts, length
        As for `Sink`.
    window : int
        Tokens that count as near, the query's own included; 10 as in the WAAD paper.

    Notes
    -----
    Of queries with more tokens than that behind them. The threshold is 0.75, as for `Span`. A layer whose own window is not longer can do
    nothing else: even attention gives 1 there, too, and no head of it earns the role.

    References
    ----------
    Li et al. (2025), Attention Illuminates LLM Reasoning, arXiv:2510.13554.
    """

    name: ClassVar[str] = "locality"
    estimand: ClassVar[str] = "share of attention within the last few tokens (window)"
    units: ClassVar[str] = "share of attention"
    within: ClassVar[tuple[float, float]] = (0.0, 1.0)
    threshold: ClassVar[float] = 0.75
    null: ClassVar[str] = "the share of the keys seen by the same queries that lie there"
    cite: ClassVar[tuple[str, ...]] = ("li2025waad",)

    window: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.window < self.length:
            what = f"window={self.window} of {self.length} tokens tells nothing near from far."
            raise BadParameterError(what, "Use 10 of 64.")

    def reader(self, prompts: RolePrompts) -> Each:  # noqa: ARG002 - whatever the tokens are
        """Attention to near tokens."""
        return Each(lambda _rows, pattern, seen: patterns.locality(pattern, self.window, seen))


@dataclass(frozen=True)
class Focus(OnText):
    """How few tokens a head looks at: one minus its entropy, as a share of the largest possible entropy.

    Parameters
    ----------
    texts, length
        As for `Sink`.

    Notes
    -----
    0 is even attention to all n visible keys (entropy ``log n``), 1 attention to a single one. Sinks are focused, too; read it beside
    `Sink`. Of the attention that goes to keys, of queries that see two keys or more; in a layer with a window, n is what the window shows.
    Every head differs from even attention, and random weights with large scores reach 0.6, so that the threshold decides: at 0.75 a head
    looks as if at the fourth root of n keys, at 3 of 64.

    References
    ----------
    Clark et al. (2019), What Does BERT Look At?, arXiv:1906.04341, for the entropy of heads.
    """

    name: ClassVar[str] = "focus"
    estimand: ClassVar[str] = "1 - entropy of attention / log of the number of visible keys"
    units: ClassVar[str] = "share of the largest entropy"
    within: ClassVar[tuple[float, float]] = (0.0, 1.0)
    threshold: ClassVar[float] = 0.75
    null: ClassVar[str] = "even attention to the keys that the same queries see, which gives 0"
    cite: ClassVar[tuple[str, ...]] = ("clark2019",)

    def reader(self, prompts: RolePrompts) -> Each:  # noqa: ARG002 - whatever the tokens are
        """Entropy of attention."""
        return Each(lambda _rows, pattern, seen: patterns.focus(pattern, seen))


@dataclass(frozen=True)
class Receiver(OnText):
    """Heads for which a few tokens receive the attention of all later ones: kurtosis of what each token receives.

    Parameters
    ----------
    texts, length
        As for `Sink`.
    gap : int
        Nearer tokens do not count; 4, as the paper leaves out the nearest 4 sentences.
    seed : int
        Of the orders of the control.

    Notes
    -----
    What a token receives is the mean attention of tokens at least ``gap`` later; the first token is left out (`Sink` measures it), and so
    are tokens with fewer than 16 such followers. The value is the excess kurtosis over tokens, 0 for a normal spread; with n tokens the
    largest possible is about ``n - 5``, 39 of 64 tokens. The paper works on sentences of long reasoning and takes the heads of largest
    kurtosis; the threshold here, 20, is half of the largest possible, and twice what random weights reach. Layers with a window not longer
    than ``gap`` receive nothing from there, and have 0.

    References
    ----------
    Bogdan et al. (2025), Thought Anchors: Which LLM Reasoning Steps Matter?, arXiv:2506.19143.
    """

    name: ClassVar[str] = "receiver"
    estimand: ClassVar[str] = "excess kurtosis, over tokens, of the mean attention that a token receives from later ones"
    units: ClassVar[str] = "excess kurtosis"
    threshold: ClassVar[float] = 20.0
    null: ClassVar[str] = "the same weights with the far keys of each query in random order"
    cite: ClassVar[tuple[str, ...]] = ("bogdan2025",)

    gap: int = 4
    seed: int = 0

    def reader(self, prompts: RolePrompts) -> Each:
        """What tokens receive, in the pattern and with its rows shuffled."""
        length = prompts.tokens.shape[1]

        def measure(rows: slice, pattern: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            orders = [np.random.default_rng([self.seed, row]).random((length, length)) for row in range(rows.start, rows.stop)]
            shuffled = patterns.within_rows(pattern, np.stack(orders)[:, None, None], seen, self.gap)
            values, control = (patterns.kurtosis(patterns.received(one, seen, gap=self.gap)) for one in (pattern, shuffled))
            return values, control

        return Each(measure)


@dataclass(frozen=True)
class Delimiter(OnText):
    """Attention to punctuation and line breaks.

    Parameters
    ----------
    texts, length
        As for `Sink`.

    Notes
    -----
    A delimiter is a token of punctuation alone (Unicode categories P) or a line break, see `is_delimiter`; special tokens are none. Of
    queries that see delimiters and other tokens; the value is the share of what goes to keys. The threshold, 0.5, is most of it.

    References
    ----------
    Clark et al. (2019), What Does BERT Look At?, arXiv:1906.04341.
    """

    name: ClassVar[str] = "delimiter"
    estimand: ClassVar[str] = "share of attention that goes to punctuation and line breaks"
    units: ClassVar[str] = "share of attention"
    within: ClassVar[tuple[float, float]] = (0.0, 1.0)
    threshold: ClassVar[float] = 0.5
    null: ClassVar[str] = "attention to as many keys drawn evenly from those that the same queries see"
    cite: ClassVar[tuple[str, ...]] = ("clark2019",)

    def prompts(self, model: Model) -> RolePrompts:
        """Passages, with their delimiters marked."""
        read, tokenizer = super().prompts(model), model.tokenizer
        assert tokenizer is not None, "asked for by needs"  # noqa: S101
        special = set(tokenizer.all_special_ids)
        used = np.unique(read.tokens).tolist()
        kind: dict[int, bool] = {one: one not in special and is_delimiter(_decoded(tokenizer, one)) for one in used}
        return RolePrompts(read.tokens, read.sample, np.vectorize(kind.__getitem__, otypes=[bool])(read.tokens))

    def reader(self, prompts: RolePrompts) -> Each:
        """Attention to delimiters."""
        marked = prompts.marked
        assert marked is not None  # noqa: S101 - these are its own prompts
        return Each(lambda rows, pattern, seen: patterns.on_marked(pattern, marked[rows, None, None], seen))


def _decoded(tokenizer: Any, token: int) -> str:
    return str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
