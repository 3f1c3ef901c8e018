"""The forward pass of a decomposition: sources join at their layers and pass through the later layers together."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from circuitlab.core.nodes import Embed, Head, KVHead, Mlp
from circuitlab.methods.decomposition.known import KnownLayer
from circuitlab.methods.decomposition.layer import LayerParts, blocks_of, decompose_inputs, decompose_mixing, decompose_output
from circuitlab.methods.decomposition.parts import Parts
from circuitlab.methods.decomposition.source import Source, ordered

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

    from circuitlab.methods.decomposition.prompts import Prompts
    from circuitlab.methods.decomposition.rule import Rule

__all__ = ["Seen", "left_range", "passes", "run_layers"]

_RANGE = 4.0
"""Largest size of an irrelevant part relative to the activation. In released models, parts that stay in range are at most two to three
times as large, and parts that leave it grow without limit within a few layers."""

Seen: TypeAlias = Callable[[int, str, Parts], None]
"""Called with a layer, a field (``"q"``, ``"k"``, ``"v"``, ``"z"``, ``"resid_post"``) and the parts of all sources that have joined."""


def passes(sources: Sequence[Source], size: int) -> Iterator[list[int]]:
    """Indices of the sources in each pass: at most ``size``, sorted by the layer at which they join."""
    order = ordered(sources)
    return (order[first : first + size] for first in range(0, len(order), size))


@torch.no_grad()
def run_layers(
    rule: Rule,
    prompts: Prompts,
    sources: Sequence[Source],
    *,
    seen: Seen | None = None,
    last: int | None = None,
    carry: bool = False,
) -> Parts:
    """Decompose the clean run for every source.

    Parameters
    ----------
    rule : Rule
        How each step divides its output.
    prompts : Prompts
        The unedited runs.
    sources : sequence of Source
        Sources in the order in which they join (`passes`).
    seen : callable, optional
        Called with activations, each for the sources that have joined so far.
    last : int, optional
        Stop when z of this layer is known.
    carry : bool
        Whether the irrelevant part is carried through every equation, too; otherwise it is the activation minus the relevant part.

    Returns
    -------
    Parts
        The final residual stream of the window, (source, pair, window, d_model); with ``last``, the one that enters that layer.
    """
    watch = seen or _nothing
    first, stop = sources[0].layer, len(prompts.clean.layers) if last is None else last + 1
    resid = _empty(prompts, first, carry=carry)
    geometry = prompts.decoder.geometry(prompts.batch.clean.shape[1])
    for layer in range(first, stop):
        known = KnownLayer.of(prompts.decoder.blocks[layer], prompts.clean.layers[layer], geometry[layer], prompts.start)
        here = _Here(prompts, sources, layer)
        resid = here.given(resid.grown(here.joining(early=True)), "resid_pre")
        z = _mixed(rule, known, resid, here, watch)
        more = here.joining(early=False)
        resid, z = resid.grown(more), here.given(z.grown(more), "z")
        watch(layer, "z", z)
        if layer == last:
            return resid
        resid = _output(rule, known, resid, z, here)
        watch(layer, "resid_post", resid)
    return resid


@torch.no_grad()
def left_range(prompts: Prompts, resid: Parts) -> Bool[np.ndarray, "source pair"]:
    """Whether a residual stream's irrelevant part is far larger than the stream, or not finite, at some position of the prompt.

    The irrelevant part represents a run without the source. Where it is that large, no norm has rescaled it, and it means nothing.
    """
    real = prompts.batch.mask[:, prompts.start :].to(resid.true.device)
    sizes = (torch.linalg.vector_norm(part, dim=-1) for part in (resid.irrelevant, resid.true))
    irrelevant_size, true_size = sizes
    inside = irrelevant_size <= _RANGE * true_size.clamp(min=1e-30)  # false for what is not a number
    return np.asarray((~inside & real).any(-1).cpu())


def _nothing(_layer: int, _field: str, _parts: Parts) -> None:
    """Ignore activations."""


def _empty(prompts: Prompts, layer: int, *, carry: bool) -> Parts:
    true = prompts.clean.layers[layer].resid_pre[:, prompts.start :]
    none = true.new_zeros(0, *true.shape)
    return Parts(none, true, none if carry else None)


def _mixed(rule: Rule, known: KnownLayer, resid: Parts, here: _Here, watch: Seen) -> Parts:
    """Attention of the sources that have joined, up to z."""
    inputs: list[LayerParts] = []
    mixed = []
    for rows in blocks_of(len(resid.relevant), resid.true.shape[0] * resid.true.shape[1]):
        projected = decompose_inputs(rule, known, resid.rows(rows))
        k, v = (here.given(part, name, rows.start) for part, name in ((projected.k, "k"), (projected.v, "v")))
        projected = replace(projected, k=k, v=v)
        mixed.append(decompose_mixing(rule, known, projected))
        if watch is not _nothing:
            inputs.append(projected)
    if not mixed:
        none = known.base.z.new_zeros(0, *known.base.z.shape)
        return Parts(none, known.base.z, None if resid.carried is None else none)
    for name in ("q", "k", "v") if inputs else ():
        watch(here.layer, name, Parts.joined([getattr(projected, name) for projected in inputs]))
    return Parts.joined(mixed)


def _output(rule: Rule, known: KnownLayer, resid: Parts, z: Parts, here: _Here) -> Parts:
    n, tokens = len(resid.relevant), resid.true.shape[0] * resid.true.shape[1]
    done = []
    for rows in blocks_of(n, tokens):

        def written(out: Parts, first: int = rows.start) -> Parts:
            return here.given(out, "mlp_out", first)

        done.append(decompose_output(rule, known, resid.rows(rows), z.rows(rows), written))
    return Parts.joined(done)


class _Here:
    """The sources that join at a layer, and their values there."""

    def __init__(self, prompts: Prompts, sources: Sequence[Source], layer: int) -> None:
        self._prompts, self.layer = prompts, layer
        self._early = sum(source.layer == layer and source.early for source in sources)
        self._late = sum(source.layer == layer and not source.early for source in sources)
        pairs = itertools.chain.from_iterable(((row, node, source) for node in source.nodes) for row, source in enumerate(sources))
        self._given: dict[str, list[tuple[int, int | None, Source]]] = {}
        for row, node, source in pairs:
            if isinstance(node, Embed):
                if layer == 0:
                    self._given.setdefault("resid_pre", []).append((row, None, source))
            elif isinstance(node, Head | KVHead | Mlp) and node.layer == layer:
                fields = {Head: ("z",), KVHead: ("k", "v"), Mlp: ("mlp_out",)}[type(node)]
                for field in fields:
                    self._given.setdefault(field, []).append((row, getattr(node, "head", None), source))

    def joining(self, *, early: bool) -> int:
        """Number of sources that join before attention (``early``), or after it."""
        return self._early if early else self._late

    def given(self, x: Parts, field: str, first: int = 0) -> Parts:
        """The activation with the outputs of sources set: the difference from the baseline is relevant, the baseline is irrelevant.

        ``first`` is the number of the first source in ``x``; ``x`` is changed in place.
        """
        inputs = [entry for entry in self._given.get(field, ()) if first <= entry[0] < first + len(x.relevant)]
        if not inputs:
            return x
        irrelevant = self._prompts.irrelevant(field, self.layer)
        for row, head, source in inputs:
            places = self._prompts.places(source)[..., None]
            _put(x.relevant[row - first], x.true - irrelevant, places, head)
            if x.carried is not None:
                _put(x.carried[row - first], irrelevant, places, head)
        return x


def _put(into: Tensor, value: Tensor, places: Tensor, head: int | None) -> None:
    """Write a value (of one head, if given) at some positions, in place."""
    target, source = (into, value) if head is None else (into[..., head, :], value[..., head, :])
    target.copy_(torch.where(places, source, target))
