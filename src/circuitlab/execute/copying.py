"""Copying, from weights alone: read off the eigenvalues of a head's OV circuit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from circuitlab.core.progress import step
from circuitlab.model.token_vectors import token_vectors

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.norms import FrozenNorm
    from circuitlab.model.protocol import Model

__all__ = ["copying_scores"]

_TOGETHER = 2048
"""Tokens whose vectors are held in memory."""

_ROUNDING = {torch.float64: 1e-12}
"""Share of what a head's matrices could make of each other below which its eigenvalues are rounding; 1e-6 for other dtypes."""


class _Reading(NamedTuple):
    """How the heads of a layer see a token: after the first MLP or before, and by which kind of norm."""

    after_mlp: bool
    kind: str
    eps: float


@torch.no_grad()
def copying_scores(model: Model, *, after_mlp: bool = True) -> np.ndarray:
    r"""Sum of the eigenvalues of each head's OV circuit over the sum of their magnitudes, shape (layer, head), in [-1, 1].

    The circuit of a head takes every token of the vocabulary to the logits that the head adds where it attends to nothing else:
    :math:`M = E\,W_V W_O\,U^\top`, a matrix of vocabulary by vocabulary and of rank ``d_head`` at most. Its eigenvalues other than 0 are
    those of :math:`W_O U^\top E\,W_V`, which is ``d_head`` by ``d_head``, so that the vocabulary is summed over once and never squared.

    Parameters
    ----------
    model : Model
        That can be taken apart, with `token_vectors`.
    after_mlp : bool
        Whether layers from 1 on read a token as the first MLP leaves it, the attention of layer 0 left out, or by its embedding alone.
        Heads of layer 0 stand before that MLP and read the embedding.
    """
    norms = [block.norm_attn for block in model.decoder.blocks]
    readings = [_Reading(after_mlp and layer > 0, norm.kind, norm.eps) for layer, norm in enumerate(norms)]
    products = _products(model, dict(zip(readings, norms, strict=True)))
    group = model.spec.n_heads // model.spec.n_kv_heads
    scores = np.zeros((model.spec.n_layers, model.spec.n_heads))
    for layer, (block, reading) in enumerate(zip(model.decoder.blocks, readings, strict=True)):
        read_out = products[reading]
        if (post := model.weights.post_attention_norm(layer)) is not None:
            read_out = post.transposed(read_out.T).T
        values = block.split(read_out @ (block.norm_attn.gain[:, None] * block.v.weight).to(read_out))
        output = model.weights.output(layer).to(read_out)
        matrices = output @ values.repeat_interleave(group, dim=1).transpose(0, 1)
        possible = output.norm(dim=(1, 2)) * values.norm(dim=(0, 2)).repeat_interleave(group)
        scores[layer] = _shares(matrices, possible * _ROUNDING.get(block.v.weight.dtype, 1e-6))
    return scores


def _shares(matrices: Float[Tensor, "head d_head d_head"], least: Float[Tensor, " head"]) -> np.ndarray:
    """Sum of eigenvalues over sum of magnitudes; 0 where these are no more than rounding, as for a head that writes nothing."""
    sizes = torch.linalg.eigvals(matrices.cpu()).abs().sum(-1)
    sums = matrices.cpu().diagonal(dim1=-2, dim2=-1).sum(-1)
    return torch.where(sizes > least.cpu(), sums / sizes, 0.0).clamp(-1, 1).numpy()


def _products(model: Model, norms: dict[_Reading, FrozenNorm]) -> dict[_Reading, Float[Tensor, "d_model d_model"]]:
    """For each way of reading, the sum over tokens of the direction that raises their logit times their vector, in float64.

    The final norm counts with its gain and centring. Its scale would be one factor on all logits at a place, and what it is depends on
    everything else in the stream.
    """
    sums: dict[_Reading, Tensor] = {}
    for ids, before, after in _streams(model, any(reading.after_mlp for reading in norms)):
        raising = model.weights.final_norm.transposed(_wide(model.weights.unembed(ids)))
        for reading, norm in norms.items():
            seen = norm.unit(after if reading.after_mlp else before)
            product = (raising.to(seen).T @ seen).double()
            sums[reading] = product if reading not in sums else sums[reading] + product
    return sums


def _streams(model: Model, after_mlp: bool) -> Iterator[tuple[Int[Tensor, " token"], Tensor, Tensor]]:
    """Ids of some tokens, their vectors, and these after the first MLP, until the vocabulary is through."""
    vector, first = token_vectors(model), model.decoder.blocks[0]
    every = torch.arange(min(model.spec.d_vocab, len(model.weights.embedding)))
    for ids in every.split(_TOGETHER):
        before = vector(ids)
        after = before + first.mlp(first.norm_mlp.apply(before)) if after_mlp else before
        yield ids, _wide(before), _wide(after)
        step(int(ids[-1]) + 1, len(every))


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
