"""Set weights by hand: features of the residual stream, and heads that match one feature with another and copy a third."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import torch

from circuitlab.core.errors import BadParameterError

__all__ = ["D_HEAD", "HEADS", "WIDTH", "Form", "Wiring"]

Form: TypeAlias = Literal["gqa", "mha"]
"""``"gqa"``: Llama, RMSNorm, rotary positions, 2 key/value heads for 4 heads. ``"mha"``: GPT-2, LayerNorm, learned positions."""

HEADS, D_HEAD, WIDTH = 4, 24, 48
"""Query heads per layer, their width, and number of features of the residual stream."""

_ROTATED = 2
"""Number of rotary frequencies that rotate noticeably; attention by content does not use their dimensions."""
_STILL = (*range(_ROTATED, D_HEAD // 2), *range(D_HEAD // 2 + _ROTATED, D_HEAD))
_POSITIONS = 8
_KEY_GAIN = 8.0
_BACKGROUND_UNITS = 4


class Wiring:
    """The weights of a transformer whose residual stream has one basis vector for each feature.

    Feature 0 is the *ballast*: the same large constant in every token's embedding. It keeps the norm of the residual stream, and with it
    the scale of every norm layer, nearly constant, and constants (a bias, a rotary query) are read from it. The gain of the norm layers is
    set such that a normalised feature is close to the feature itself.

    Parameters
    ----------
    form : {"gqa", "mha"}
        The kind of model.
    n_layers, n_tokens : int
        Number of layers, and of tokens in the vocabulary.
    ballast : float
        Size of the constant; with a small value a loud head changes the norms.
    """

    def __init__(self, form: Form, n_layers: int, n_tokens: int, *, ballast: float = 8.0) -> None:
        self.form, self.n_layers, self.ballast = form, n_layers, ballast
        self.n_kv_heads = 2 if form == "gqa" else HEADS
        self.embed = torch.zeros(n_tokens, WIDTH)
        self.unembed = torch.zeros(n_tokens, WIDTH)
        self.position = torch.zeros(64, WIDTH)
        self.query = torch.zeros(n_layers, HEADS, D_HEAD, WIDTH)
        self.key = torch.zeros(n_layers, self.n_kv_heads, D_HEAD, WIDTH)
        self.value = torch.zeros(n_layers, self.n_kv_heads, D_HEAD, WIDTH)
        self.output = torch.zeros(n_layers, HEADS, WIDTH, D_HEAD)
        self.units: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in range(n_layers)]
        self._taken = 1
        self._dims: dict[tuple[int, int], dict[tuple[int, ...], range]] = {}
        self._rows: dict[tuple[int, int], dict[tuple[int, ...], range]] = {}
        self._wired: set[tuple[int, int]] = set()
        self.embed[:, 0] = ballast
        self._places = self.block(_POSITIONS) if form == "mha" else range(0)
        for place, feature in enumerate(self._places):
            self.position[place, feature] = 1.0

    def block(self, size: int = 1) -> range:
        """Reserve the next free features of the residual stream; raises `BadParameterError` if too few are left."""
        features = range(self._taken, self._taken + size)
        if features.stop > WIDTH:
            what = f"{features.stop} features do not fit a residual stream of {WIDTH}."
            raise BadParameterError(what, "Use fewer tokens, or share features.")
        self._taken = features.stop
        return features

    def kv_head(self, head: int) -> int:
        """The key/value head that a query head reads."""
        return head // (HEADS // self.n_kv_heads)

    def match(self, layer: int, head: int, queries: Sequence[int], keys: Sequence[int], score: float) -> None:
        """Add ``score`` to the attention score if the query has feature ``queries[i]`` and the key has ``keys[i]``; calls add up."""
        kv = self.kv_head(head)
        for dim, query, key in zip(_place(self._dims, (layer, kv), keys), queries, keys, strict=True):
            self.key[layer, kv, _STILL[dim], key] = _KEY_GAIN
            self.query[layer, head, _STILL[dim], query] += score * math.sqrt(D_HEAD) / _KEY_GAIN

    def previous(self, layer: int, head: int, score: float) -> None:
        """Attend to the previous token: by learned positions, or by the fastest rotary pair, whose score peaks at a distance of one.

        The rotary form holds for up to 7 tokens: at a distance of 7 the fastest pair has made a full rotation.
        """
        if self.form == "mha":
            self.match(layer, head, self._places[1:], self._places[:-1], score)
            return
        gain = score * math.sqrt(D_HEAD) / _KEY_GAIN / self.ballast
        self.key[layer, self.kv_head(head), 0, 0] = _KEY_GAIN / self.ballast
        self.query[layer, head, 0, 0] = gain * math.cos(1.0)
        self.query[layer, head, D_HEAD // 2, 0] = -gain * math.sin(1.0)

    def carry(self, layer: int, head: int, source: Sequence[int], target: Sequence[int], gain: float) -> None:
        """Copy feature ``source[i]`` of the attended token, times ``gain``, to feature ``target[i]``."""
        kv = self.kv_head(head)
        self._wired.add((layer, head))
        for row, read, write in zip(_place(self._rows, (layer, kv), source), source, target, strict=True):
            self.value[layer, kv, row, read] = 1.0
            self.output[layer, head, write, row] += gain

    def unit(self, layer: int, reads: Mapping[int, float], threshold: float, write: int, gain: float) -> None:
        """Add a hidden unit to an MLP: it writes ``gain * activation(reads . features - threshold)`` to feature ``write``."""
        incoming, outgoing = torch.zeros(WIDTH), torch.zeros(WIDTH)
        for feature, weight in reads.items():
            incoming[feature] = weight
        incoming[0] = -threshold / self.ballast
        outgoing[write] = gain
        self.units[layer].append((incoming, outgoing))

    def background(self, loudness: float, seed: int = 0) -> None:
        """Give every head and MLP outside the circuit random weights with small outputs.

        They read features of tokens and positions only; if they read what the circuit writes, they would become part of it.

        Parameters
        ----------
        loudness : float
            Size of what they write to each feature; 0 leaves their weights at zero.
        seed : int
            Seed of the weights.
        """
        if loudness <= 0:
            return
        generator = torch.Generator().manual_seed(seed)
        written = torch.ones(WIDTH)
        written[0] = 0.0
        read = written * ((self.embed != 0).any(0) | (self.position != 0).any(0))

        def noise(rows: int, features: torch.Tensor) -> torch.Tensor:
            return torch.randn(rows, WIDTH, generator=generator) * features

        for layer in range(self.n_layers):
            for kv in range(self.n_kv_heads):
                if (layer, kv) not in self._dims and (layer, kv) not in self._rows:
                    self.key[layer, kv] = noise(D_HEAD, read) / D_HEAD**0.5
                    self.value[layer, kv] = noise(D_HEAD, read) / D_HEAD**0.5
            for head in range(HEADS):
                if (layer, head) not in self._wired:
                    self.query[layer, head] = noise(D_HEAD, read) / D_HEAD**0.5
                    self.output[layer, head] = loudness * noise(D_HEAD, written).T
            if not self.units[layer]:
                incoming, outgoing = noise(_BACKGROUND_UNITS, read), noise(_BACKGROUND_UNITS, written)
                self.units[layer] = list(zip(incoming, outgoing * loudness / _BACKGROUND_UNITS, strict=True))


def _place(taken: dict[tuple[int, int], dict[tuple[int, ...], range]], where: tuple[int, int], features: Sequence[int]) -> range:
    """Dimensions of a key/value head for these features; query heads that use the same features share the dimensions."""
    dimensions = taken.setdefault(where, {})
    start = max((used.stop for used in dimensions.values()), default=0)
    return dimensions.setdefault(tuple(features), range(start, start + len(features)))
