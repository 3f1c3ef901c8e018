"""Singular values of heads' OV and QK matrices, and of random ones of the same shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch

from circuitlab.execute.head_matrices import HeadMatrices, singular_values

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["Circuit", "head_singular_values", "random_singular_values"]

Circuit: TypeAlias = Literal["ov", "qk"]
_CHUNK = 256


@torch.no_grad()
def head_singular_values(model: Model, circuit: Circuit) -> np.ndarray:
    """Singular values of every head's W_V W_O or W_Q W_K, largest first, (layer, head, d_head)."""
    values = []
    for layer in range(model.spec.n_layers):
        heads = HeadMatrices.of(model, layer)
        left, right = (heads.shared(heads.v), heads.o) if circuit == "ov" else (heads.q, heads.shared(heads.k).transpose(-1, -2))
        values.append(singular_values(left, right).double().cpu().numpy())
    return np.stack(values)


def random_singular_values(model: Model, draws: int, seed: int) -> np.ndarray:
    """Singular values of products of Gaussian matrices, d_model by d_head and d_head by d_model; (draw, d_head).

    The triangles of their QR decompositions are drawn directly: Gaussian above the diagonal, roots of chi-square numbers on it.
    """
    random, size = np.random.default_rng(seed), model.spec.d_head
    freedom = model.spec.d_model - np.arange(size)
    values = []
    for start in range(0, draws, _CHUNK):
        shape = (2, min(_CHUNK, draws - start), size, size)
        both = np.triu(random.standard_normal(shape), 1)
        both[..., np.arange(size), np.arange(size)] = np.sqrt(random.chisquare(freedom, shape[:-1]))
        values.append(np.linalg.svd(both[0] @ both[1].swapaxes(-1, -2), compute_uv=False))
    return np.concatenate(values)
