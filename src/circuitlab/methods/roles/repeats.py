"""Roles on repeated random tokens, where nothing but the repetition can be read: previous token, duplicate token, induction, echo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from circuitlab.core.errors import BadParameterError
from circuitlab.methods.roles.contract import RoleKind
from circuitlab.methods.roles.patterns import at_targets
from circuitlab.methods.roles.reading import Each, ReadsPatterns, RolePrompts

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["DuplicateToken", "Echo", "Induction", "PreviousToken", "previous_targets", "repeat_targets", "repeated_tokens"]

_BLOCK, _COPIES, _ROWS = 4, 2, 2
"""The least of each: in blocks of 3 tokens even attention comes close to the threshold, one copy repeats nothing, one row has no spread."""
_OTHERS = "attention to as many other keys that the same queries see, drawn evenly"


def repeated_tokens(model: Model, length: int, copies: int, rows: int, seed: int) -> RolePrompts:
    """Rows of random tokens, all different, said several times over; a beginning-of-text token comes first where the tokenizer has one.

    Parameters
    ----------
    model : Model
    length : int
        Tokens of the block that is repeated; fewer where the model's positions or its vocabulary hold fewer.
    copies : int
        How often the block is said.
    rows : int
        Sequences.
    seed : int
        Of the tokens.

    Raises
    ------
    BadParameterError
        If the model cannot hold a block of four tokens.
    """
    spec, tokenizer = model.spec, model.tokenizer
    first = None if tokenizer is None else tokenizer.bos_token_id
    special = set() if tokenizer is None else set(tokenizer.all_special_ids)
    usable = np.array([one for one in range(spec.d_vocab) if one not in special])
    room = spec.n_ctx or np.inf
    fits = int(min(length, len(usable), (room - (first is not None)) // copies))
    if fits < _BLOCK:
        what = f"{spec.name} has {len(usable)} tokens and {spec.n_ctx} positions: too few to repeat {_BLOCK} tokens {copies} times."
        raise BadParameterError(what, "Measure this role on a larger model.")
    rng = np.random.default_rng(seed)
    block = np.stack([rng.choice(usable, fits, replace=False) for _ in range(rows)])
    start = np.full((rows, int(first is not None)), 0 if first is None else first)
    tokens = np.concatenate([start, *[block] * copies], axis=1)
    return RolePrompts(tokens, f"random sequences of {tokens.shape[1]} tokens")


def previous_targets(length: int) -> np.ndarray:
    """The token before each, (query, key)."""
    return np.eye(length, k=-1, dtype=bool)


def repeat_targets(length: int, period: int, start: int, after: int) -> np.ndarray:
    """Keys that hold an earlier copy of the query's token (``after=0``), or what followed it (``after=1``), (query, key).

    Parameters
    ----------
    length : int
        Tokens of the sequence.
    period : int
        Tokens of the block.
    start : int
        Tokens before the first block.
    after : int
        How far behind the copy.
    """
    query, key = np.arange(length)[:, None], np.arange(length)[None, :] - after
    return (query - key > 0) & ((query - key) % period == 0) & (key >= start) & (query >= start + period)


@dataclass(frozen=True)
class _OnRepeats(ReadsPatterns):
    """What roles on repeated random tokens share: their prompts, and what values are compared with."""

    units: ClassVar[str] = "share of attention"
    within: ClassVar[tuple[float, float]] = (0.0, 1.0)
    threshold: ClassVar[float] = 0.3
    null: ClassVar[str] = _OTHERS
    kind: ClassVar[RoleKind] = "attention"
    needs: ClassVar[tuple[str, ...]] = ("hooks",)

    length: int = 40
    copies: int = 2
    rows: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.length < _BLOCK or self.copies < _COPIES or self.rows < _ROWS:
            what = f"length={self.length}, copies={self.copies}, rows={self.rows} leave nothing to repeat, or nothing to compare."
            raise BadParameterError(what, f"Use at least {_BLOCK} tokens, {_COPIES} copies, {_ROWS} rows; 40 tokens twice in 16 rows.")

    def prompts(self, model: Model) -> RolePrompts:
        """Random sequences, see `repeated_tokens`."""
        return repeated_tokens(model, self.length, self.copies, self.rows, self.seed)

    def reader(self: Any, prompts: RolePrompts) -> Each:
        """Attention to the role's targets, which lie in the same places of every sequence."""
        targets: np.ndarray = self.targets(prompts.tokens.shape[1])
        return Each(lambda _rows, pattern, seen: at_targets(pattern, targets, seen))

    def _block(self, length: int) -> tuple[int, int]:
        """Tokens of the block, and what comes before the first one, of a sequence of so many tokens."""
        return length // self.copies, length % self.copies


@dataclass(frozen=True)
class PreviousToken(_OnRepeats):
    """Attention to the token before, on random tokens: what a head does by position and not by meaning.

    Parameters
    ----------
    length : int
        Random tokens of a block; fewer where the model's positions or vocabulary hold fewer.
    copies : int
        How often the block is said. Not needed for this role; the prompts are those of `DuplicateToken` and `Induction`, read in one run.
    rows : int
        Random sequences.
    seed : int
        Of the tokens.

    Notes
    -----
    The value is the mean over all tokens but the first of ``A[t, t - 1]``. A layer with a window of two tokens or more can play the role.
    The threshold of 0.3 is that of `circuitlab.experiments.circuit_reuse`, fixed before any model was measured.

    References
    ----------
    Elhage et al. (2021), A Mathematical Framework for Transformer Circuits. Olsson et al. (2022), arXiv:2209.11895.

    Examples
    --------
    >>> from circuitlab.methods.roles.repeats import PreviousToken
    >>> from circuitlab.model.toy import build_planted
    >>> scores = PreviousToken(length=4, rows=4)(build_planted("induction-mha").model)
    >>> scores.value.argmax(), bool(scores.earned()[0, 1])  # a0.h1 was planted
    (np.int64(1), True)
    """

    name: ClassVar[str] = "previous_token"
    estimand: ClassVar[str] = "mean attention to the token before, on random tokens"
    cost: ClassVar[str] = "1 forward pass per row of 81 tokens, shared with duplicate_token and induction"
    cite: ClassVar[tuple[str, ...]] = ("elhage2021", "olsson2022")

    def targets(self, length: int) -> np.ndarray:
        """The token before each."""
        return previous_targets(length)


@dataclass(frozen=True)
class DuplicateToken(_OnRepeats):
    """Attention to the same token where it stood before, on repeated random tokens.

    Parameters
    ----------
    length, copies, rows, seed : int
        As for `PreviousToken`.

    Notes
    -----
    The value is the mean over the second block of ``A[t, t - n]``. A layer whose window is shorter than the block cannot see the copy:
    its heads have 0, which is what they do, and no more. The threshold of 0.3 is that of `circuitlab.experiments.circuit_reuse`.

    References
    ----------
    Wang et al. (2022), Interpretability in the Wild, arXiv:2211.00593.

    Examples
    --------
    >>> from circuitlab.methods.roles.repeats import DuplicateToken
    >>> from circuitlab.testing.tiny import tiny_model
    >>> DuplicateToken(length=10)(tiny_model("llama"))
    RoleScores(duplicate_token, tiny-llama, 16 random sequences of 20 tokens: 0 of 12 heads earn it)
    """

    name: ClassVar[str] = "duplicate_token"
    estimand: ClassVar[str] = "mean attention to the earlier copy of the same token, on repeated random tokens"
    cost: ClassVar[str] = "1 forward pass per row of 81 tokens, shared with previous_token and induction"
    cite: ClassVar[tuple[str, ...]] = ("wang2022",)

    def targets(self, length: int) -> np.ndarray:
        """Earlier copies of each token."""
        period, start = self._block(length)
        return repeat_targets(length, period, start, after=0)


@dataclass(frozen=True)
class Induction(_OnRepeats):
    """Attention to the token that followed the same token before, on repeated random tokens (prefix matching).

    Parameters
    ----------
    length, copies, rows, seed : int
        As for `PreviousToken`. With ``copies=4`` it is RazorAttention's induction score, over all earlier copies.

    Notes
    -----
    The value is the mean over the second block of ``A[t, t - n + 1]``. Windows as for `DuplicateToken`. The threshold of 0.3 is that of
    `circuitlab.experiments.circuit_reuse`.

    References
    ----------
    Olsson et al. (2022), In-context Learning and Induction Heads, arXiv:2209.11895.

    Examples
    --------
    >>> from circuitlab.methods.roles.repeats import Induction
    >>> from circuitlab.model.toy import build_planted
    >>> scores = Induction(length=4, rows=4)(build_planted("induction-mha").model)
    >>> scores.value.argmax() == 4 + 2, bool(scores.earned()[1, 2])  # a1.h2 was planted
    (np.True_, True)
    """

    name: ClassVar[str] = "induction"
    estimand: ClassVar[str] = "mean attention to the token after the earlier copy of the same token, on repeated random tokens"
    cost: ClassVar[str] = "1 forward pass per row of 81 tokens, shared with previous_token and duplicate_token"
    cite: ClassVar[tuple[str, ...]] = ("olsson2022",)

    def targets(self, length: int) -> np.ndarray:
        """What followed earlier copies of each token."""
        period, start = self._block(length)
        return repeat_targets(length, period, start, after=1)


@dataclass(frozen=True)
class Echo(_OnRepeats):
    """Attention to all earlier copies of the same token, on random tokens said four times (RazorAttention's echo heads).

    Parameters
    ----------
    length, copies, rows, seed : int
        As for `PreviousToken`; 24 tokens four times. RazorAttention says 2500 tokens four times, which takes a long context and hours.

    Notes
    -----
    The value is the attention to ``j < t, j = t (mod n)``, summed over copies, mean over the tokens that have a copy. RazorAttention's own
    number is the mean of the same weights over all T x T entries of the pattern: this one times a constant, ``(copies - 1) n / T^2``, so
    that heads come in the same order. It takes the largest of a group for a key/value head and keeps the top 1 % of heads; here query heads
    are kept apart, and the threshold of 0.3 is that of the other roles on repeated tokens. An induction head looks at the token *after* the
    copy, which is not echo.

    References
    ----------
    Tang et al. (2024), RazorAttention, arXiv:2407.15891.

    Examples
    --------
    >>> from circuitlab.methods.roles.repeats import Echo
    >>> from circuitlab.testing.tiny import tiny_model
    >>> Echo(length=10)(tiny_model("llama"))
    RoleScores(echo, tiny-llama, 16 random sequences of 40 tokens: 0 of 12 heads earn it)
    """

    name: ClassVar[str] = "echo"
    estimand: ClassVar[str] = "attention to all earlier copies of the same token, on random tokens said four times"
    cost: ClassVar[str] = "1 forward pass per row of 97 tokens"
    cite: ClassVar[tuple[str, ...]] = ("tang2024",)

    length: int = 24
    copies: int = 4

    def targets(self, length: int) -> np.ndarray:
        """Earlier copies of each token."""
        period, start = self._block(length)
        return repeat_targets(length, period, start, after=0)
