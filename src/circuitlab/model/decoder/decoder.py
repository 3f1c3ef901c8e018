"""The decoder as a function of its residual stream: one forward pass that can be read, edited, continued and differentiated."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from circuitlab.core.errors import ModelError
from circuitlab.core.in_step import ByLayer
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
        The residual stream entering layer 0, before any edits of it.
    layers : list of LayerTrace
        The values of each layer that was run.
    places : Places, optional
        The prompts and positions of the run; None if only its values are needed.
    changed : frozenset of (Site, int)
        Sites and layers at which an edited model's edits changed a value; filled only if ``places`` is given.
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
        The layers in order.
    embed : callable
        From token ids to the residual stream entering layer 0, (row, pos, d_model).
    geometry : callable
        From a length to the geometry of every layer, for prompts up to that length.
    standing : callable, optional
        From `Places` to the tap that applies the standing edits of an edited model; see `Decoder.tap`.

    Notes
    -----
    Right-padded rows are exact, because a causal model does not read later positions. Gradients follow grad mode and ``requires_grad``,
    also into parameters that a tap uses.
    """

    blocks: Sequence[Block]
    embed: Callable[[Int[Tensor, "row pos"]], Float[Tensor, "row pos d_model"]]
    geometry: Callable[[int], Sequence[Geometry]]
    standing: Callable[[Places], Tap] | None = field(default=None, kw_only=True)

    def tap(self, places: Places | None, then: Tap | None = None) -> Tap | None:
        """The tap of a run: first the standing edits of this model, then ``then``, which sees the edited values.

        None if there is neither.

        Raises
        ------
        ModelError
            If the model has standing edits and ``places`` is None.
        """
        if self.standing is None:
            return then
        if places is None:
            what = "This computation does not know the prompts and positions that an edited model's edits need."
            raise ModelError(what, "Use the unedited model, or a method that runs edited models.")
        return in_turn(self.standing(places), then)

    def refusing(self, sites: Collection[Site], why: str) -> Decoder:
        """The same decoder, which raises `ModelError` where a standing edit changes a value at one of ``sites``.

        For computations that are not exact under such edits. ``why`` is a clause that follows the name of the edit in the message.
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
            The residual stream entering layer ``start_layer``, for whole prompts or for the positions after those in ``cache``.
        cache : Cache, optional
            Keys and values of earlier positions; those of this run are appended.
        tap : Tap, optional
            Called with every site in forward order (RESID_PRE, Q, K, V, PATTERN, Z, ATTN_OUT, RESID_MID except in parallel blocks,
            MLP_OUT, RESID_POST); the run continues with the value that it returns. An edited model needs one from `Decoder.tap`.
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
        """`forward` with every value kept, in one autograd graph."""
        return self.traced_on(Trace(resid, []), cache=cache, tap=tap)

    def traced_in(self, places: Places) -> Trace:
        """Every value on whole prompts, and where standing edits changed one."""
        watched = Watched(self.tap(places) or untouched)
        return replace(self.trace(self.embed(places.tokens), tap=watched), places=places, changed=frozenset(watched.changed))

    @torch.no_grad()
    def traced_by_layer(self, places: Places, keep: Callable[[LayerTrace], LayerTrace]) -> ByLayer[Trace]:
        """`traced_in` as work that goes through the layers, without gradients; ``keep`` says what is kept of each layer's values."""
        watched = Watched(self.tap(places) or untouched)
        embed = self.embed(places.tokens)
        self.geometry(embed.shape[-2])
        resid, layers = embed, []
        for layer in range(len(self.blocks)):
            yield layer
            values = self.at_layer(layer, resid.shape[-2], tap=watched)(resid)
            resid = values.resid_post
            layers.append(keep(values))
        return Trace(embed, layers, places, frozenset(watched.changed))

    def traced_on(self, done: Trace, *, cache: Cache | None = None, tap: Tap | None = None) -> Trace:
        """Continue a trace of the first layers to the last layer."""
        layers = list(done.layers)
        resid = layers[-1].resid_post if layers else done.embed
        for run in self.layers(resid, cache, tap, len(layers)):
            layers.append(run(resid))
            resid = layers[-1].resid_post
        return Trace(done.embed, layers)

    def prefill(self, resid: Float[Tensor, "row pos d_model"], tap: Tap | None, total: int) -> Cache:
        """Keys and values of the first positions of prompts of ``total`` positions; the last layer computes nothing else.

        If angles depend on the length of the prompt, the first positions are rotated by those of the whole prompt.
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
            what = "The layers of an edited model cannot run without its edits."
            raise ModelError(what, "Pass the tap that Decoder.tap returns.")
        held = Cache() if cache is None else cache
        where = self.geometry(held.length(layer) + length)[layer]
        return LayerRun(self.blocks[layer], layer, where, tap or untouched, held)

    def layers(self, resid: Tensor, cache: Cache | None, tap: Tap | None, start_layer: int = 0) -> Iterator[LayerRun]:
        """Every layer from ``start_layer`` on, ready to run the positions of a stream after those in ``cache``."""
        return (self.at_layer(layer, resid.shape[-2], cache, tap) for layer in range(start_layer, len(self.blocks)))

    @torch.no_grad()
    def final(self, tokens: Int[Tensor, "row pos"], places: Places | None = None) -> Float[Tensor, "row pos d_model"]:
        """The residual stream that leaves the last layer on whole prompts, with no other value kept; an edited model needs ``places``."""
        return self.forward(self.embed(tokens), tap=self.tap(places))
