"""Eigenvalues of heads' token-to-token OV maps, and what random rotations of their reading side give."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import torch

from circuitlab.execute.effective_ov import EffectiveOV
from circuitlab.execute.head_matrices import HeadMatrices, at_least_float32
from circuitlab.execute.random_frames import Frames, random_frames

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from circuitlab.execute.effective_ov import Reads
    from circuitlab.model.protocol import Model

__all__ = ["ov_eigenvalues"]


@torch.no_grad()
def ov_eigenvalues(model: Model, n: int, reads: Reads, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sum of eigenvalues over the sum of their sizes (layer, head), and the same sum of rotated heads over those sizes (draw, layer, head).

    Parameters
    ----------
    model : Model
    n : int
        Tokens of the map, drawn from the whole vocabulary; all of them where it has no more.
    reads : {"stream", "mlp0", "mlp0_unnormed", "embedding"}
    draws, seed : int
        Rotations, and the seed of tokens and rotations.
    """
    size = model.spec.d_vocab
    tokens = torch.tensor(sorted(random.Random(seed).sample(range(size), min(n, size))))  # noqa: S311
    circuit = EffectiveOV.of(model, tokens, reads)
    columns = at_least_float32(model.weights.unembed(tokens))
    shape = (model.spec.n_layers, model.spec.n_heads)
    frames = list(random_frames(model.spec.d_model, model.decoder.blocks[0].d_head, draws, seed))
    value, null = np.zeros(shape, np.float32), np.zeros((draws, *shape), np.float32)
    read: torch.Tensor | None = None
    for layer in range(model.spec.n_layers):
        heads, before = HeadMatrices.of(model, layer), read
        read = circuit.normed(layer)
        if before is None or not torch.equal(read, before):  # later layers read the same, unless their norms scale it differently
            met = read.T @ columns  # what is read, times what is written, summed over tokens
        written = model.weights.final_norm.linear(heads.o)
        values, wanted = heads.shared(heads.v), met @ written.transpose(-1, -2)
        eigenvalues = torch.linalg.eigvals(values.transpose(-1, -2) @ wanted)
        sizes = eigenvalues.abs().sum(-1)
        sizes = torch.where(sizes == 0, torch.ones_like(sizes), sizes)  # a head that writes nothing has no eigenvalues: 0
        value[layer] = (eigenvalues.real.sum(-1) / sizes).cpu().numpy()
        scales, right = torch.linalg.svd(values, full_matrices=False)[1:]
        by_column = wanted @ right.transpose(-1, -2) * (scales / sizes[:, None])[:, None]
        for some in frames:
            null[some.draws, layer] = _rotated_traces(by_column, some).T.cpu().numpy()
    return value, null


def _rotated_traces(by_column: Float[Tensor, "head d_model d_head"], frames: Frames) -> Float[Tensor, "head draw"]:
    """Traces of ``(Q values).T @ wanted`` for random rotations Q, from ``wanted`` in the right singular vectors of the values.

    The left singular vectors, turned at random, are a random frame.
    """
    met = frames.basis.to(by_column) @ by_column
    picked, signs = frames.picked.to(met.device), frames.signs.to(met)
    return (met[:, picked, torch.arange(picked.shape[1], device=met.device)] * signs).sum(-1)
