"""Heads whose queries prefer the key of their own token: what a duplicate-token head needs of its weights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from circuitlab.execute.single_tokens import Word, sample_tokens, tokens_of
from circuitlab.methods.roles.contract import RoleKind, measured
from circuitlab.methods.roles.permutation import permutation_null, scores_from_weights, share_of_hits

if TYPE_CHECKING:
    from circuitlab.execute.effective_ov import Reads
    from circuitlab.model.protocol import Model
    from circuitlab.scores.role_scores import RoleScores

__all__ = ["TokenPreference", "same_position_scores"]


@dataclass(frozen=True)
class TokenPreference:
    """Share of words whose query scores their own word's key above the keys of all other words of a sample.

    Query and key read the word's embedding and first MLP, through the layer's norm, biases and norms of queries and keys as the model
    applies them, so that the score is the model's own for a query and a key at *the same position* of streams that hold nothing else.
    Rotary positions then cancel, and biases of position (ALiBi) and learned positions are left out: a head may prefer the same token here
    and still look only at near ones, or at none, in a prompt.

    Parameters
    ----------
    n : int
        At most this many words, drawn from the vocabulary; see `circuitlab.execute.single_tokens.sample_tokens`.
    words : tuple of str or int, optional
        Words of one's own in their place, exactly as they stand in a prompt, or token ids.
    reads : {"stream", "mlp0", "mlp0_unnormed", "embedding"}
        What heads after layer 0 are given of a word; see `circuitlab.execute.effective_ov.READS`.
    seed : int
        Of the sample and of the permutations.

    Notes
    -----
    Threshold 0.5: more words prefer themselves than not, where chance is one in ``n``. No paper gives a number.

    Examples
    --------
    >>> TokenPreference(words=(" Mary", " John")).n
    64
    """

    name: ClassVar[str] = "token_preference"
    estimand: ClassVar[str] = "share of words whose query scores the key of the same word above those of all other words of a sample"
    units: ClassVar[str] = "share of words"
    within: ClassVar[tuple[float, float]] = (0.0, 1.0)
    threshold: ClassVar[float] = 0.5
    null: ClassVar[str] = "words permuted: each query's best key is compared with another word"
    kind: ClassVar[RoleKind] = "weights"
    needs: ClassVar[tuple[str, ...]] = ("token_vectors", "unedited")
    cost: ClassVar[str] = "weights alone"
    cite: ClassVar[tuple[str, ...]] = ("elhage2021",)

    n: int = 64
    words: tuple[Word, ...] = ()
    reads: Reads = "stream"
    seed: int = 0

    @measured
    def __call__(self, model: Model) -> RoleScores:
        """Measure every head; raises `TokenizationError` where too few words are one token."""
        tokens = tokens_of(model, self.words, self.n, self.seed) if self.words else sample_tokens(model, self.n, self.seed)
        scores = same_position_scores(model, tokens, self.reads)
        best = np.sort(scores, axis=-1)
        hits = (scores == best[..., -1:]) & (best[..., -1:] > best[..., -2:-1])
        null = permutation_null(hits, np.zeros(len(tokens), dtype=int), self.seed)
        return scores_from_weights(self, model, share_of_hits(hits), null, tokens=tokens)


def same_position_scores(model: Model, tokens: list[int], reads: Reads = "stream") -> np.ndarray:
    """Attention scores of tokens' queries and keys at one position, before mask and biases of position; (layer, head, query, key)."""
    import torch  # noqa: PLC0415 - listing roles must not load torch

    from circuitlab.execute.effective_ov import TokenStreams  # noqa: PLC0415
    from circuitlab.execute.head_matrices import at_least_float32  # noqa: PLC0415

    streams = TokenStreams.of(model, torch.tensor(tokens), reads)
    scores_by_layer = []
    for layer, block in enumerate(model.decoder.blocks):
        normed = block.norm_attn.apply(streams.at(layer)).to(block.q.weight.dtype)
        q, k = block.rotated_q(block.split(block.q(normed)), None), block.rotated_k(block.split(block.k(normed)), None)
        scores = dataclasses.replace(block, softcap=None).scores(q, k)  # a softcap keeps their order, and rounds large ones to ties
        scores_by_layer.append(at_least_float32(scores).cpu().numpy())
    return np.stack(scores_by_layer)
