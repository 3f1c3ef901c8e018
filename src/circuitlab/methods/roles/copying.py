"""Heads that write the token that they attend to, or its opposite: by the top tokens they write, and by eigenvalues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from circuitlab.core.errors import BadParameterError
from circuitlab.execute.random_frames import bases_for
from circuitlab.execute.single_tokens import Word, sample_tokens, tokens_of
from circuitlab.methods.roles.contract import RoleKind, measured
from circuitlab.methods.roles.permutation import draws_for, permutation_null, scores_from_weights, share_of_hits
from circuitlab.methods.roles.top_tokens import written_among_top
from circuitlab.tasks.load import word_list

if TYPE_CHECKING:
    from circuitlab.execute.effective_ov import Reads
    from circuitlab.model.protocol import Model
    from circuitlab.scores.role_scores import RoleScores

__all__ = ["VOCABULARY", "Copying", "CopyingEigenvalues", "NegativeCopying"]

VOCABULARY = "vocabulary"
"""In place of a word list: words among the model's own tokens."""


@dataclass(frozen=True)
class Copying:
    """Share of words that a head writes back: attending to the word, its top tokens hold the word itself (Wang et al. 2022).

    The effective OV circuit of the head reads the word's embedding and first MLP (``reads="stream"``, as in the paper, without attention
    0), and the whole vocabulary is ranked by what it writes.

    Parameters
    ----------
    top : int
        How many tokens count as written most. The paper takes 5.
    pool : str
        A word list of ``tasks/pools.toml``, taken with leading spaces; or ``"vocabulary"``: words among the model's tokens, most of them
        rare (`circuitlab.execute.single_tokens.sample_tokens`). The paper takes names, and so does its threshold.
    n : int
        At most this many words, drawn from the list.
    words : tuple of str or int, optional
        Words of one's own in place of a list, exactly as they stand in a prompt (``" Mary"``), or token ids. Words of several tokens are
        left out.
    reads : {"stream", "mlp0", "mlp0_unnormed", "embedding"}
        What heads after layer 0 are given of a word; see `circuitlab.execute.effective_ov.READS`.
    seed : int
        Of the sample and of the permutations.

    Notes
    -----
    Threshold 0.5: Wang et al. report over 95 % for name movers and under 20 % for the average head; a half lies between, and means that the
    head writes back more names than not. A head that copies names need not copy other words.

    Examples
    --------
    >>> Copying(words=(" Mary", " John")).top
    5
    """

    name: ClassVar[str] = "copying"
    estimand: ClassVar[str] = "share of words that are among the top tokens of what the head writes when it attends to the word alone"
    units: ClassVar[str] = "share of words"
    within: ClassVar[tuple[float, float]] = (0.0, 1.0)
    threshold: ClassVar[float] = 0.5
    null: ClassVar[str] = "words permuted: each word is looked for in what the head writes for another"
    kind: ClassVar[RoleKind] = "weights"
    needs: ClassVar[tuple[str, ...]] = ("token_vectors", "unedited")
    cost: ClassVar[str] = "weights alone"
    cite: ClassVar[tuple[str, ...]] = ("wang2022",)
    sign: ClassVar[int] = 1

    top: int = 5
    pool: str = "names"
    n: int = 64
    words: tuple[Word, ...] = ()
    reads: Reads = "stream"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a top that holds nothing."""
        if self.top < 1:
            what = f"top={self.top} leaves nothing to count."
            raise BadParameterError(what, "Use top=5.")

    @measured
    def __call__(self, model: Model) -> RoleScores:
        """Measure every head; raises `TokenizationError` where too few words are one token."""
        tokens = self.inputs(model)
        hits = written_among_top(model, tokens, tokens, self)
        null = permutation_null(hits, np.zeros(len(tokens), dtype=int), self.seed)
        return scores_from_weights(self, model, share_of_hits(hits), null, tokens=tokens)

    def work(self, model: Model) -> float:
        """Multiplications: what each head writes for each word, times the unembedding."""
        spec = model.spec
        return float(spec.n_layers * spec.n_heads * min(self.n, len(self.words) or self.n) * spec.d_model * spec.d_vocab)

    def inputs(self, model: Model) -> list[int]:
        """The words as tokens."""
        if not self.words and self.pool == VOCABULARY:
            return sample_tokens(model, self.n, self.seed)
        return tokens_of(model, self.words or [f" {word}" for word in word_list(self.pool)], self.n, self.seed)


@dataclass(frozen=True)
class NegativeCopying(Copying):
    """Share of words that a head writes against: with the opposite sign, its top tokens hold the word itself (Wang et al. 2022).

    As `Copying`, for the tokens that the head lowers most.

    Notes
    -----
    Threshold 0.5, as for `Copying`: the paper finds about 98 % for its negative name movers.

    Examples
    --------
    >>> NegativeCopying.sign
    -1
    """

    name: ClassVar[str] = "negative_copying"
    estimand: ClassVar[str] = "share of words that are among the tokens the head lowers most when it attends to the word alone"
    sign: ClassVar[int] = -1


@dataclass(frozen=True)
class CopyingEigenvalues:
    """How positive the eigenvalues of a head's token-to-token OV map are: their sum over the sum of their sizes (Elhage et al. 2021).

    The map takes the tokens of a sample to the logits of the same tokens. It has at most d_head eigenvalues that are not 0, which are those
    of a d_head by d_head matrix. 1: every eigenvalue is positive, the head raises what it attends to; -1: every one is negative.

    Parameters
    ----------
    n : int
        Tokens drawn from the whole vocabulary.
    reads : {"stream", "mlp0", "mlp0_unnormed", "embedding"}
        What heads after layer 0 are given of a token; see `circuitlab.execute.effective_ov.READS`.
    seed : int
        Of the sample and of the rotations.

    Notes
    -----
    The null turns the reading side of W_V at random. It is drawn for the sum of eigenvalues alone, a trace, and divided by the head's own
    sum of sizes (eigenvalues of thousands of rotated heads would take hours), so that its draws may lie outside -1 to 1.

    On all tokens of the vocabulary the value is that of `circuitlab.methods.CopyingScore`, which has no null and no verdict.

    Threshold 0.5: real eigenvalues are then positive by three quarters of their total size. The paper gives no number.

    Examples
    --------
    >>> CopyingEigenvalues(n=1000).units
    'share of eigenvalues'
    """

    name: ClassVar[str] = "copying_eigenvalues"
    estimand: ClassVar[str] = "sum of the real parts of the eigenvalues of the head's token-to-token OV map over the sum of their sizes"
    units: ClassVar[str] = "share of eigenvalues"
    threshold: ClassVar[float] = 0.5
    null: ClassVar[str] = "random rotations of what the value matrix reads: sum of eigenvalues over the head's own sum of sizes"
    kind: ClassVar[RoleKind] = "weights"
    needs: ClassVar[tuple[str, ...]] = ("token_vectors", "unedited")
    cost: ClassVar[str] = "weights alone"
    cite: ClassVar[tuple[str, ...]] = ("elhage2021",)

    n: int = 8192
    reads: Reads = "stream"
    seed: int = 0

    def work(self, model: Model) -> float:
        """Multiplications: products of the tokens' streams and logits, and of heads and random bases."""
        spec = model.spec
        turned = bases_for(spec.d_model, draws_for(spec.n_layers * spec.n_heads)) * spec.n_heads * spec.d_head
        return float(spec.n_layers * spec.d_model**2 * (min(self.n, spec.d_vocab) + turned))

    @measured
    def __call__(self, model: Model) -> RoleScores:
        """Measure every head."""
        from circuitlab.execute.ov_eigenvalues import ov_eigenvalues  # noqa: PLC0415 - loads torch

        draws = draws_for(model.spec.n_layers * model.spec.n_heads)
        value, null = ov_eigenvalues(model, self.n, self.reads, draws, self.seed)
        return scores_from_weights(self, model, value, null)
