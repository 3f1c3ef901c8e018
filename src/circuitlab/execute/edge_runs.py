"""Runs of a few pairs on the positions that attribution needs: from the first position at which clean and corrupt differ.

Before that position both runs, and every mixture of their embeddings, are the same: senders write no difference there, and nothing can
change. Those positions are run once, and their keys and values are cached.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from circuitlab.execute.gradients import GradientRun
from circuitlab.model.decoder import Trace
from circuitlab.model.places import Places

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.decoder import Cache, Decoder
    from circuitlab.model.decoder.layer import LayerRun
    from circuitlab.model.places import Tap
    from circuitlab.model.protocol import Model

__all__ = ["WindowedRunner"]


@dataclass(frozen=True, eq=False)
class WindowedRunner:
    """A few pairs, ready to be run from their first difference on. Traces hold only the positions of that window.

    Parameters
    ----------
    model, metric, batch : Model, Metric, ContrastBatch
        The model, the metric and the pairs.
    start : int
        First position of the window: before it no pair differs, and no answer position lies there.
    past : Cache
        Keys and values of the positions before the window.
    forward : Decoder, optional
        Another functional forward with the same values, for example with another backward pass or one that refuses some edits. If it has
        an ``unembed``, that computes the logits.
    """

    model: Model
    metric: Metric
    batch: ContrastBatch
    start: int
    past: Cache
    forward: Decoder | None = None

    @classmethod
    def of(
        cls,
        model: Model,
        metric: Metric,
        batch: ContrastBatch,
        forward: Decoder | None = None,
        *,
        start: int | None = None,
    ) -> WindowedRunner:
        """Run the positions before the first difference (or before ``start``), and keep their keys and values."""
        first = int(torch.minimum(batch.first_difference(), batch.end).min()) if start is None else start
        decoder = model.decoder
        with torch.no_grad():
            tap = decoder.tap(Places.of(batch).window(0, first))
            past = decoder.prefill(decoder.embed(batch.clean)[:, :first], tap, batch.clean.shape[1])
        return cls(model, metric, batch, first, past, forward)

    @property
    def decoder(self) -> Decoder:
        """The functional forward."""
        return self.forward or self.model.decoder

    def embed(self, tokens: Int[Tensor, "pair pos"]) -> Float[Tensor, "pair pos d_model"]:
        """The residual stream entering layer 0, on the window."""
        return self.decoder.embed(tokens)[:, self.start :]

    def tap(self, tokens: Int[Tensor, "pair pos"] | None = None) -> Tap | None:
        """The standing edits of an edited model on the window of prompts (the clean ones by default)."""
        places = Places.of(self.batch, tokens).window(self.start, self.batch.clean.shape[1])
        return self.decoder.tap(places)

    @torch.no_grad()
    def plain(self, tokens: Int[Tensor, "pair pos"]) -> GradientRun:
        """Run prompts without a graph."""
        return self._on(Trace(self.embed(tokens), []), self.tap(tokens))

    @torch.enable_grad()
    def from_embed(
        self,
        embed: Float[Tensor, "pair pos d_model"],
        flat: str = "",
        tokens: Int[Tensor, "pair pos"] | None = None,
    ) -> GradientRun:
        """Run from a residual stream entering layer 0 on the window, in an autograd graph; ``flat`` as in `GradientRun`.

        ``tokens`` are the prompts that the edits of an edited model see, the clean ones by default.
        """
        leaf = embed.detach().clone().requires_grad_(True)
        return replace(self._on(Trace(leaf, []), self.tap(tokens)), flat=flat)

    @torch.enable_grad()
    def from_heads(self, base: Trace, layer: int, z: Float[Tensor, "pair pos head d_head"]) -> GradientRun:
        """Continue a clean run with this z of one layer, in an autograd graph; earlier layers are not run again."""
        leaf, tap = z.detach().clone().requires_grad_(True), self.tap()
        new = self._layer(base, layer, tap).written(replace(base.layers[layer], z=leaf))
        return replace(self._on(Trace(base.embed, [*base.layers[:layer], new]), tap), embed=leaf)

    @torch.enable_grad()
    def from_mlp(self, base: Trace, layer: int, mlp_out: Float[Tensor, "pair pos d_model"]) -> GradientRun:
        """Continue a clean run with this output of one MLP, in an autograd graph."""
        leaf, tap = mlp_out.detach().clone().requires_grad_(True), self.tap()
        old = base.layers[layer]
        new = replace(old, mlp_out=leaf, resid_post=self._layer(base, layer, tap).left(old.resid_mid, leaf))
        return replace(self._on(Trace(base.embed, [*base.layers[:layer], new]), tap), embed=leaf)

    def _layer(self, base: Trace, layer: int, tap: Tap | None) -> LayerRun:
        return self.decoder.at_layer(layer, base.embed.shape[1], self.past, tap)

    def _on(self, done: Trace, tap: Tap | None) -> GradientRun:
        """Run the remaining layers, and compute the metric."""
        trace = self.decoder.traced_on(done, cache=self.past.copy(), tap=tap)
        return GradientRun(done.embed, trace, self._value(trace))

    def _value(self, trace: Trace) -> Float[Tensor, " pair"]:
        """The metric at the answer positions."""
        batch = self.batch
        last = trace.final[torch.arange(batch.n_pairs), (batch.end - self.start).to(trace.final.device)]
        ids, token_batch = (None, batch) if self.metric.whole_vocabulary else batch.over_tokens()
        unembed = getattr(self.forward, "unembed", self.model.unembed)
        return self.metric(unembed(last, ids), token_batch)
