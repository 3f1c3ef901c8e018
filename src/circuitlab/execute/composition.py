"""How much of what a head reads was written by an earlier head, from the weights alone: Q-, K- and V-composition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch

from circuitlab.execute.head_matrices import HeadMatrices, triangle
from circuitlab.execute.random_frames import random_frames

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from circuitlab.model.protocol import Model

__all__ = ["Port", "composition_scores", "rotated_strongest", "strongest"]

Port: TypeAlias = Literal["q", "k", "v"]

_CHUNK = 32
"""Random frames whose compositions of all pairs are held at once."""


@dataclass(frozen=True, eq=False)
class _Sides:
    """Both sides of every composition, each scaled to a Frobenius norm of 1.

    Parameters
    ----------
    writers : list of Tensor, each (head, d_head, d_model)
        For each layer: matrices whose products have the norms that products with W_OV have.
    readers : list of Tensor, each (reader, d_model, small)
        For each layer: the same for W_QK or W_OV as the reader's port reads them.
    """

    writers: list[Float[Tensor, "head d_head d_model"]]
    readers: list[Float[Tensor, "reader d_model small"]]

    @classmethod
    def of(cls, model: Model, port: Port) -> _Sides:
        layers = [HeadMatrices.of(model, layer) for layer in range(model.spec.n_layers)]
        return cls([_unit(one.shared(triangle(one.v)) @ one.o) for one in layers], [_unit(_reader(one, port)) for one in layers])


def _unit(matrices: Tensor) -> Tensor:
    norms = matrices.flatten(1).norm(dim=1)[:, None, None]
    return matrices / torch.where(norms == 0, torch.ones_like(norms), norms)


def _reader(heads: HeadMatrices, port: Port) -> Float[Tensor, "reader d_model small"]:
    """What a port reads, on the left of a matrix with the norms of the rest: one for each query head, or key/value head with its group."""
    if port == "q":
        return heads.q @ heads.shared(triangle(heads.k)).transpose(-1, -2)
    rest = heads.q if port == "k" else heads.o.transpose(-1, -2)
    grouped = rest.unflatten(0, (len(heads.k), -1)).flatten(1, 2)  # the group's matrices on top of each other
    return (heads.k if port == "k" else heads.v) @ triangle(grouped).transpose(-1, -2)


@torch.no_grad()
def composition_scores(model: Model, port: Port) -> np.ndarray:
    """Composition of every head with every earlier head, (writer layer, writer head, reader layer, reader).

    ``||W_OV W_read|| / (||W_OV|| ||W_read||)`` in Frobenius norms (Elhage et al. 2021), where ``W_read`` is W_QK as a query (``q``) or a
    key (``k``) reads it, or W_OV (``v``). Readers of keys and values are key/value heads, with the queries or outputs of their whole group.
    NaN where the writer is not in an earlier layer; 0 where a side is 0. Norms are folded as `HeadMatrices` says, so rotary positions are
    left out. Two matrices whose directions have nothing to do with each other give about ``d_model ** -0.5``.

    Parameters
    ----------
    model : Model
        That can be taken apart.
    port : {"q", "k", "v"}
    """
    sides = _Sides.of(model, port)
    n, heads, readers = model.spec.n_layers, model.spec.n_heads, len(sides.readers[0])
    scores = np.full((n, heads, n, readers), np.nan, dtype=np.float32)
    for layer in range(1, n):
        reads = sides.readers[layer].transpose(0, 1).flatten(1)
        for earlier in range(layer):
            met = (sides.writers[earlier] @ reads).unflatten(-1, (readers, -1))
            scores[earlier, :, layer] = met.pow(2).sum((1, 3)).sqrt().cpu().numpy()
    return scores


def strongest(scores: np.ndarray, d_model: int) -> np.ndarray:
    """The strongest composition of each reader with an earlier head, minus what random matrices give; (layer, reader), 0 in layer 0."""
    n, heads, _, readers = scores.shape
    best = np.zeros((n, readers), dtype=np.float32)
    for layer in range(1, n):
        best[layer] = scores[:layer, :, layer].reshape(layer * heads, readers).max(0) - np.float32(d_model**-0.5)
    return best


@torch.no_grad()
def rotated_strongest(model: Model, port: Port, draws: int, seed: int) -> np.ndarray:
    """`strongest` with every reader's reading side turned at random, (draw, layer, reader); writers stay as they are to each other."""
    sides = _Sides.of(model, port)
    spectra = [torch.linalg.svdvals(one).pow(2) for one in sides.readers]
    width = spectra[0].shape[-1]
    best = np.zeros((draws, model.spec.n_layers, len(spectra[0])), dtype=np.float32)
    for some in random_frames(model.spec.d_model, width, draws, seed):
        basis = some.basis.to(spectra[0])
        by_direction = torch.cat([(one @ basis.T).pow(2).sum(1) for one in sides.writers])  # writer, direction
        for start in range(0, len(some.picked), _CHUNK):
            picked = some.picked[start : start + _CHUNK].to(basis.device)
            rows = slice(some.draws.start + start, some.draws.start + start + len(picked))
            best[rows] = _best_of(by_direction[:, picked].transpose(0, 1), spectra, model.spec.n_heads)
    return best - np.float32(model.spec.d_model**-0.5) * (np.arange(model.spec.n_layers) > 0)[:, None]


def _best_of(shares: Float[Tensor, "draw writer direction"], spectra: Sequence[Tensor], heads: int) -> np.ndarray:
    """The strongest composition with earlier writers, (draw, layer, reader), where each column of a reader is one direction."""
    best = np.zeros((len(shares), len(spectra), len(spectra[0])), dtype=np.float32)
    for layer in range(1, len(spectra)):
        met = shares[:, : layer * heads] @ spectra[layer].T
        best[:, layer] = met.amax(1).sqrt().cpu().numpy()
    return best
