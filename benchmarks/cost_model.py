"""How many operations a method needs on a Llama-shaped model, from shapes alone: what is measured, predicted and extrapolated."""

from __future__ import annotations

from dataclasses import dataclass

from circuitlab.execute.cost import RunSize, forward_passes
from circuitlab.methods import get_method

__all__ = ["METHODS", "SHAPES", "Prompts", "Shape", "operations"]


@dataclass(frozen=True)
class Shape:
    """Shapes of a decoder with a gated MLP and shared keys."""

    layers: int
    heads: int
    kv_heads: int
    d_model: int
    d_mlp: int
    d_head: int

    @property
    def per_token(self) -> tuple[int, int, int]:
        """Operations of one layer for one token: keys and values, queries and output, MLP."""
        keys = 2 * 2 * self.d_model * self.kv_heads * self.d_head
        return keys, 2 * 2 * self.d_model * self.heads * self.d_head, 3 * 2 * self.d_model * self.d_mlp

    @property
    def weights(self) -> int:
        """Weights of all layers, without embeddings."""
        return self.layers * sum(self.per_token) // 2


@dataclass(frozen=True)
class Prompts:
    """Prompt pairs of one length, which differ from a position on: ``changed`` positions, the last one included."""

    pairs: int
    length: int
    changed: int


SHAPES = {
    "8B": Shape(32, 32, 8, 4096, 14336, 128),
    "70B": Shape(80, 64, 8, 8192, 28672, 128),
}
"""Shapes of Llama 3.1."""

METHODS: dict[str, tuple[str, dict[str, object]]] = {
    "every head": ("activation_patching", {"parts": ("heads",)}),
    "every head at every position": ("activation_patching", {"parts": ("heads",), "positions": ("each",)}),
    "attribution patching": ("attribution_patching", {"parts": ("heads",)}),
    "edge attribution": ("eap", {}),
}
"""Method and parameters of every line."""


def operations(shape: Shape, prompts: Prompts, line: str) -> float:
    """Operations of matrix products that a method cannot avoid.

    Patching: both unedited runs; then for every head (and every position, where each is patched alone) what lies above its layer, from the
    position on, and the rest of its own layer. Gradient methods: the method's own number of forward passes; a backward pass counts as two.
    """
    name, params = METHODS[line]
    forward = shape.layers * (prompts.length * sum(shape.per_token) + _mixing(shape, 0, prompts.length))
    if name != "activation_patching":
        size = RunSize(
            prompts.pairs, prompts.length, prompts.changed / prompts.length, shape.layers, shape.heads, shape.kv_heads, shape.d_model
        )
        return forward * forward_passes(get_method(name, params), size)
    first = prompts.length - prompts.changed
    starts = range(first, prompts.length) if params.get("positions") else [first]
    edited = sum(_edited(shape, start, prompts.length) for start in starts)
    return prompts.pairs * (2 * forward + shape.heads * edited)


def _edited(shape: Shape, start: int, length: int) -> float:
    """One edited run from every layer in turn, of positions from ``start`` on; the last layer is computed at the answer position only."""
    keys, rest, mlp = shape.per_token
    window, layers = length - start, shape.layers
    whole = window * (keys + rest + mlp) + _mixing(shape, start, length)
    last = window * keys + rest + mlp + 4 * shape.heads * shape.d_head * length
    own = (layers - 1) * window * mlp + mlp
    return own + whole * (layers - 1) * (layers - 2) / 2 + last * (layers - 1)


def _mixing(shape: Shape, start: int, length: int) -> float:
    """Scores and sums of attention in one layer, for queries from ``start`` on."""
    return 4 * shape.heads * shape.d_head * sum(position + 1 for position in range(start, length))
