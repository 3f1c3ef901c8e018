"""What one head writes for single tokens, from the weights alone: which tokens it raises, where the token itself stands, who does alike."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from circuitlab.execute.effective_ov import EffectiveOV
from circuitlab.execute.head_matrices import at_least_float32

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.core.nodes import Head
    from circuitlab.execute.effective_ov import Reads
    from circuitlab.model.protocol import Model

__all__ = ["TokenWrites", "other_tokens", "ov_similarity", "token_writes"]

_READS: Reads = "stream"
"""A token's embedding with what the first MLP makes of it: all that later heads read of a token by itself."""


class TokenWrites(NamedTuple):
    """What a head writes for some tokens.

    Parameters
    ----------
    raised, lowered : Tensor of int, shape (token, k)
        Tokens of the vocabulary, strongest first.
    rank : ndarray, shape (token,)
        Place of the token itself among the vocabulary when the head reads it, 1 for the most raised; NaN where the head writes nothing.
    null : ndarray, shape (token, other)
        Place of the same token when the head reads each of some other tokens; NaN likewise.
    """

    raised: Int[Tensor, "token k"]
    lowered: Int[Tensor, "token k"]
    rank: np.ndarray
    null: np.ndarray


def other_tokens(model: Model, ids: list[int], n: int, seed: int = 0) -> list[int]:
    """Tokens drawn from the whole vocabulary without those of ``ids``; all the others where there are no more."""
    rest = sorted(set(range(model.spec.d_vocab)) - set(ids))
    return sorted(random.Random(seed).sample(rest, min(n, len(rest))))  # noqa: S311


@torch.no_grad()
def token_writes(model: Model, head: Head, ids: list[int], others: list[int], k: int) -> TokenWrites:
    """Tokens that a head raises and lowers most for each of ``ids``, and the rank of the token itself against that for ``others``."""
    circuit = EffectiveOV.of(model, torch.tensor([*ids, *others]), _READS)
    written, n = circuit.written(head.layer)[head.head], len(ids)
    own = written @ at_least_float32(model.weights.unembed(torch.tensor(ids))).T.to(written)
    above = torch.zeros_like(own)
    raised, lowered = _Best(k), _Best(k)
    for start, logits in circuit.by_block(written):
        raised.add(start, logits[:n])
        lowered.add(start, -logits[:n])
        for column, token in enumerate(ids):
            higher = logits > own[:, column, None]
            if start <= token < start + logits.shape[-1]:
                higher[:, token - start] = False  # the token itself, whose logit was formed apart and may be rounded otherwise
            above[:, column] += higher.sum(-1)
    rank = (above + 1).double().cpu().numpy()
    rank[~(written != 0).any(-1).cpu().numpy()] = np.nan
    return TokenWrites(raised.ids, lowered.ids, np.diagonal(rank[:n]).copy(), rank[n:].T)


class _Best:
    """The largest logits so far, and the tokens that have them."""

    def __init__(self, k: int) -> None:
        self._k, self._values, self._ids = k, torch.empty(0), torch.empty(0)

    @property
    def ids(self) -> Int[Tensor, "token k"]:
        return self._ids.cpu()

    def add(self, start: int, logits: Float[Tensor, "token some"]) -> None:
        here = torch.arange(start, start + logits.shape[-1], device=logits.device).expand(logits.shape)
        values, ids = (torch.cat(both, -1) for both in ((self._values, logits), (self._ids, here))) if start else (logits, here)
        self._values, places = values.topk(min(self._k, values.shape[-1]), dim=-1)
        self._ids = ids.gather(-1, places)


@torch.no_grad()
def ov_similarity(model: Model, head: Head, tokens: list[int]) -> Float[np.ndarray, "layer head"]:
    """Cosine of what each head writes for some tokens with what this head writes, the mean over tokens taken out; NaN where one is 0."""
    circuit = EffectiveOV.of(model, torch.tensor(tokens), _READS)
    own = _varying(circuit.written(head.layer))[head.head]
    rows = []
    for layer in range(model.spec.n_layers):
        written = _varying(circuit.written(layer)).to(own.device)
        sizes = written.flatten(1).norm(dim=-1) * own.norm()
        met = (written * own).flatten(1).sum(-1)
        rows.append(torch.where(sizes > 0, met / sizes, torch.full_like(met, float("nan"))).cpu().numpy())
    return np.stack(rows).astype(float)


def _varying(written: Float[Tensor, "head token d_model"]) -> Float[Tensor, "head token d_model"]:
    return written - written.mean(1, keepdim=True)
