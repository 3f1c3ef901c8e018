"""HeadCard: what one head is, with the uncertainty of every number, and the reason for everything that is not known."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from circuitlab.core.nodes import Head, KVHead
from circuitlab.scores.head_on_text import HeadOnText

__all__ = [
    "AttentionOnPair",
    "CausalScore",
    "Continuation",
    "HeadCard",
    "HeadRole",
    "KnockedOut",
    "Loading",
    "LookedAt",
    "Section",
    "SimilarHead",
    "Term",
    "WhyThere",
    "WrittenToken",
]

_Entry = TypeVar("_Entry")


@dataclass(frozen=True)
class CausalScore:
    """The head in one scored run.

    Parameters
    ----------
    task, method : str
        ``"weights alone"`` for a method that runs no prompts.
    mark : str or None
        Where scores are resolved by mark, which one.
    mean, low, high : float
        Mean over pairs with its 95 % interval, in ``units``; limits are NaN without pairs.
    q : float
        That the mean is 0: a t-test over pairs, corrected over all heads of the map (Benjamini-Hochberg); NaN with fewer than two pairs.
    rank, heads : int
        Place by magnitude among all heads of the map.
    units, estimand, run_id : str
    n_pairs : int
    warning : str
        Why the task is not ready, if so.
    """

    task: str
    method: str
    mark: str | None
    mean: float
    low: float
    high: float
    q: float
    rank: int
    heads: int
    units: str
    estimand: str
    n_pairs: int
    warning: str
    run_id: str


@dataclass(frozen=True)
class HeadRole:
    """One role of the head, or of the key/value head that it shares; see `circuitlab.scores.role_table.RoleEntry`.

    ``threshold`` is the least value that earns the role, ``rank`` the place among the ``heads`` of the role by value, and
    ``tied`` how many others have the same value, such as 0.
    """

    role: str
    node: str
    value: float
    low: float
    high: float
    chance: float
    q: float
    earned: bool
    threshold: float
    rank: int
    tied: int
    heads: int
    estimand: str
    null: str


@dataclass(frozen=True)
class WrittenToken:
    """What the head writes for one token that it might read, from the weights alone (`circuitlab.execute.effective_ov.EffectiveOV`).

    Heads of layer 0 read the token's embedding, later ones that and what the first MLP makes of it.

    Parameters
    ----------
    token : str
    token_id : int
    promoted, suppressed : tuple of str
        Tokens of the vocabulary whose logits it raises and lowers most, strongest first.
    rank, vocabulary : int
        Place of the token itself, 1 for the most raised.
    null_low, null_median, null_high : float
        5th, 50th and 95th percentile of the same token's rank in what the head writes for ``n_null`` other tokens.
    n_null : int
    p, q : float
        Two-sided: that reading the token raises or lowers it no more than reading others does; q over the tokens of the card.
    """

    token: str
    token_id: int
    promoted: tuple[str, ...]
    suppressed: tuple[str, ...]
    rank: int
    vocabulary: int
    null_low: float
    null_median: float
    null_high: float
    n_null: int
    p: float
    q: float


@dataclass(frozen=True)
class Term:
    """One writer at the query times one writer at the key."""

    query_writer: str
    key_writer: str
    term: float


@dataclass(frozen=True)
class Loading:
    """One writer's share of a score through one side, summed over the writers of the other side."""

    writer: str
    share: float


@dataclass(frozen=True)
class WhyThere:
    """The largest terms and loadings of one attention score; see `circuitlab.scores.query_key_attribution.QueryKeyAttribution`."""

    task: str
    pair: int
    query: int
    query_token: str
    key: int
    key_token: str
    against: str | None
    weight: float
    score: float
    residual: float
    query_loadings: tuple[Loading, ...]
    key_loadings: tuple[Loading, ...]
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class LookedAt:
    """Attention of the last position to one key, in the clean and in the corrupt prompt."""

    position: int
    clean_token: str
    corrupt_token: str
    clean: float
    corrupt: float
    difference: float


@dataclass(frozen=True)
class AttentionOnPair:
    """The keys that the last position of a pair attends to most, strongest (in either prompt) first."""

    task: str
    pair: int
    query: int
    query_token: str
    keys: tuple[LookedAt, ...]


@dataclass(frozen=True)
class KnockedOut:
    """The task's metric with and without the head.

    ``clean``, ``without`` and ``change`` (without minus clean, pair by pair) each hold ``mean``, ``low`` and ``high``: 95 % intervals
    over pairs. ``how`` is the kind of `circuitlab.interventions.Knockout`.
    """

    task: str
    how: str
    metric: str
    units: str
    n_pairs: int
    clean: Mapping[str, float]
    without: Mapping[str, float]
    change: Mapping[str, float]


@dataclass(frozen=True)
class Continuation:
    """Greedy text after a prompt, with the head and with the head knocked out."""

    source: str
    how: str
    prompt: str
    with_head: str
    without: str
    same: bool


@dataclass(frozen=True)
class SimilarHead:
    """A head that is like this one.

    ``by`` is ``"roles"`` (cosine of role values, each standardised over heads), ``"ov"`` (cosine of what the two heads write for the
    same tokens, the mean over tokens taken out) or ``"codes"`` (how alike their codes sort the prompts, beyond chance: the adjusted
    Rand index of the codes of `circuitlab.methods.CodeOverlap`). ``rank`` is its place among the ``heads`` others that can be compared.
    """

    by: str
    head: str
    similarity: float
    rank: int
    heads: int


@dataclass(frozen=True)
class Section(Generic[_Entry]):
    """One part of a card: what is known, and the reason for what is not, by what it is about (a task, a method, a role)."""

    entries: tuple[_Entry, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, repr=False)
class HeadCard:
    """Everything that is known of one head.

    Every number is that of the call it comes from (`circuitlab.score`, `circuitlab.roles`, `circuitlab.why_attends`, `Model.attention`,
    a `Knockout`), and what a model or the prompts cannot give is absent, with the reason.

    Parameters
    ----------
    head, kv_head : Head, KVHead
        The query head, and the key/value head that it shares.
    model, weights : str
        Name of the model, and hash of its weights.
    tasks : tuple of str
        Names of the tasks.
    causal, roles, tokens, why, attention, text, knockout, continuations, similar : Section
        The parts.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("copy-gqa")
    >>> card = cl.head_card(planted.model, "a1.h1", [planted.batch(4)], roles=["induction"])
    >>> [(one.method, one.rank, one.heads) for one in card.causal.entries]
    [('activation_patching', 1, 8), ('logit_attribution', 1, 8)]
    """

    head: Head
    kv_head: KVHead
    model: str
    weights: str
    tasks: tuple[str, ...]
    causal: Section[CausalScore]
    roles: Section[HeadRole]
    tokens: Section[WrittenToken]
    why: Section[WhyThere]
    attention: Section[AttentionOnPair]
    text: Section[HeadOnText]
    knockout: Section[KnockedOut]
    continuations: Section[Continuation]
    similar: Section[SimilarHead]

    def to_dict(self) -> dict[str, Any]:
        """Plain data: every part as ``{"entries": [...], "absent": {...}}``; numbers that are not known are None."""
        parts = {one.name: _plain(getattr(self, one.name)) for one in dataclasses.fields(self)}
        return parts | {"head": str(self.head), "kv_head": str(self.kv_head)}

    def earned(self) -> list[str]:
        """Roles that the head, or its key/value head, earns."""
        return [one.role for one in self.roles.entries if one.earned]

    def page(self) -> str:
        """The card as one HTML page that needs no network."""
        from circuitlab.scores.card_page import cards_page  # noqa: PLC0415 - a template engine, for pages only

        return cards_page([self])

    def save(self, path: str | Path) -> Path:
        """Write the page and return its path; `circuitlab.scores.card_page.save_cards` writes several cards as one page."""
        from circuitlab.scores.card_page import save_cards  # noqa: PLC0415

        return save_cards([self], path)

    def _repr_html_(self) -> str:
        from circuitlab.scores.card_page import card_block  # noqa: PLC0415

        return card_block(self)

    def __repr__(self) -> str:
        lines = [f"HeadCard of {self.head} ({self.model})"]
        for one in self.causal.entries:
            limits = "" if math.isnan(one.low) else f" [{one.low:+.3g}, {one.high:+.3g}]"
            lines.append(f"  {one.task}, {one.method}: {one.mean:+.3g}{limits} {one.units}, rank {one.rank} of {one.heads}")
        if n := len(self.roles.entries):
            lines.append(f"  earns {', '.join(self.earned()) or 'none'}, of {n} role{'s' * (n != 1)} measured")
        lines += [f"  without it, {one.task}: {one.metric} {one.change['mean']:+.3g} {one.units}" for one in self.knockout.entries]
        return "\n".join(lines)


def _plain(value: Any) -> Any:
    """Dataclasses as mappings, tuples as lists, NaN as None."""
    if dataclasses.is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
