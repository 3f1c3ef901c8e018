"""The whole decoder as a function of its residual stream: one forward pass that can be read, edited, continued and differentiated."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from circuitlab.core.errors import ModelError
from circuitlab.model.decoder.block import Block
from circuitlab.model.decoder.cache import Cache
from circuitlab.model.decoder.layer import LayerRun, LayerTrace
from circuitlab.model.decoder.rotary import Geometry
from circuitlab.model.decoder.taps import Refusing, Watched, in_turn, untouched

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.places import Places, Tap
    from circuitlab.model.sites import Site

__all__ = ["Decoder", "Trace"]


@dataclass(frozen=True, eq=False)
class Trace:
    """Every value of a run.

    Parameters
    ----------
    embed : Tensor, shape (row, pos, d_model)
        What the run began with: the residual stream entering layer 0, before any edits of it.
    layers : list of LayerTrace
    places : Places, optional
        The prompts and positions that the values belong to, where more than the values is asked of the run.
    changed : frozenset of (Site, int)
        Sites and layers at which standing edits changed something; known with ``places``.
    """

    embed: Float[Tensor, "row pos d_model"]
    layers: list[LayerTrace]
    places: Places | None = None
    changed: frozenset[tuple[Site, int]] = frozenset()

    @property
    def final(self) -> Float[Tensor, "row pos d_model"]:
        """The residual stream that leaves the last layer."""
        return self.layers[-1].resid_post

    def entering(self, layer: int) -> Float[Tensor, "row pos d_model"]:
        """The residual stream entering a layer, before any edits of it there."""
        return self.layers[layer - 1].resid_post if layer else self.embed


@dataclass(frozen=True, eq=False)
class Decoder:
    """A model as blocks and the geometry of their attention.

    Parameters
    ----------
    blocks : sequence of Block
    embed : callable
        Token ids -> the residual stream entering layer 0, (row, pos, d_model).
    geometry : callable
        Length -> the geometry of every layer for prompts up to that length.
    standing : callable, optional
        Places -> the tap that makes the edits of an edited model; see `Decoder.tap`.

    Notes
    -----
    Right-padded rows are exact: a causal model never looks right. Gradients flow where grad mode and ``requires_grad`` say, also to
    parameters that a tap uses.
    """

    blocks: Sequence[Block]
    embed: Callable[[Int[Tensor, "row pos"]], Float[Tensor, "row pos d_model"]]
    geometry: Callable[[int], Sequence[Geometry]]
    standing: Callable[[Places], Tap] | None = field(default=None, kw_only=True)

    def tap(self, places: Places | None, then: Tap | None = None) -> Tap | None:
        """The tap of a run: the standing edits of this model on the positions that it computes, and ``then`` another tap.

        None where there is nothing to do. A value that ``then`` is shown has its standing edits already.

        Raises
        ------
        ModelError
            If the model has standing edits and the places are not known.
        """
        if self.standing is None:
            return then
        if places is None:
            what = "This computation does not know the prompts and positions that an edited model's edits need."
            raise ModelError(what, "Use the unedited model, or a method that runs edited models.")
        return in_turn(self.standing(places), then)

    def refusing(self, sites: Collection[Site], why: str) -> Decoder:
        """The same decoder for a computation that cannot follow standing edits of some sites.

        It raises `ModelError` where a standing edit changes a value there.
        ``why`` is a clause that follows the name of the edit.
        """
        standing = self.standing
        if standing is None:
            return self
        return replace(self, standing=lambda places: Refusing(standing(places), sites, why))

    def forward(
        self,
        resid: Float[Tensor, "row pos d_model"],
        *,
        cache: Cache | None = None,
        tap: Tap | None = None,
        start_layer: int = 0,
    ) -> Float[Tensor, "row pos d_model"]:
        """The residual stream that leaves the last layer.

        Parameters
        ----------
        resid : Tensor, shape (row, pos, d_model)
            The residual stream entering layer ``start_layer``: of whole prompts, or of the positions that follow those in ``cache``.
        cache : Cache, optional
            Keys and values of the positions before; those of this run are appended.
        tap : Tap, optional
            Is shown every site in forward order (RESID_PRE, Q, K, V, PATTERN, Z, ATTN_OUT, RESID_MID but in parallel blocks, MLP_OUT,
            RESID_POST), and the run goes on with what it gives back. An edited model's run needs one from `Decoder.tap`.
        start_layer : int
            First layer that is run.
        """
        for run in self.layers(resid, cache, tap, start_layer):
            resid = run(resid).resid_post
        return resid

    def trace(
        self,
        resid: Float[Tensor, "row pos d_model"],
        *,
        cache: Cache | None = None,
        tap: Tap | None = None,
    ) -> Trace:
        """`forward` with every value kept, in one graph."""
        return self.traced_on(Trace(resid, []), cache=cache, tap=tap)

    def traced_in(self, places: Places) -> Trace:
        """Every value of some whole prompts, and where standing edits changed one."""
        watched = Watched(self.tap(places) or untouched)
        return replace(self.trace(self.embed(places.tokens), tap=watched), places=places, changed=frozenset(watched.changed))

    def traced_on(self, done: Trace, *, cache: Cache | None = None, tap: Tap | None = None) -> Trace:
        """Go on from a trace of the first layers."""
        layers = list(done.layers)
        resid = layers[-1].resid_post if layers else done.embed
        for run in self.layers(resid, cache, tap, len(layers)):
            layers.append(run(resid))
            resid = layers[-1].resid_post
        return Trace(done.embed, layers)

    def prefill(self, resid: Float[Tensor, "row pos d_model"], tap: Tap | None, total: int) -> Cache:
        """Keys and values of the first positions of prompts of ``total`` positions, to go on from; the last layer computes nothing else.

        Where angles depend on the length of the prompt, those of the whole prompt turn its first positions, too.
        """
        cache = Cache()
        if resid.shape[-2]:
            *early, last = replace(self, geometry=lambda _length: self.geometry(total)).layers(resid, cache, tap)
            for run in early:
                resid = run(resid).resid_post
            last.keys_only(resid)
        return cache

    def at_layer(self, layer: int, length: int, cache: Cache | None = None, tap: Tap | None = None) -> LayerRun:
        """One layer, ready to run ``length`` positions after those in ``cache``."""
        if self.standing is not None and tap is None:
            what = "An edited model's layers were to be run without its edits."
            raise ModelError(what, "Give the tap of Decoder.tap.")
        held = Cache() if cache is None else cache
        where = self.geometry(held.length(layer) + length)[layer]
        return LayerRun(self.blocks[layer], layer, where, tap or untouched, held)

    def layers(self, resid: Tensor, cache: Cache | None, tap: Tap | None, start_layer: int = 0) -> Iterator[LayerRun]:
        """Every layer from one on, ready to run the positions of a stream after those in ``cache``."""
        return (self.at_layer(layer, resid.shape[-2], cache, tap) for layer in range(start_layer, len(self.blocks)))

    @torch.no_grad()
    def final(self, tokens: Int[Tensor, "row pos"], places: Places | None = None) -> Float[Tensor, "row pos d_model"]:
        """The residual stream that leaves the last layer on whole prompts, nothing kept on the way; an edited model needs ``places``."""
        return self.forward(self.embed(tokens), tap=self.tap(places))
