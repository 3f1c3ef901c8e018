"""Runs of a few pairs on the positions that attribution needs: those from the first place where clean and corrupt differ.

Before that place both runs, and every mixture of their embeddings, are the same: senders write no difference there, and nothing there
can change. Those positions are run once, and hand on their keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from circuitlab.methods.base.gradients import GradientRun
from circuitlab.model.decoder import LayerTrace, Trace

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.decoder import Decoder
    from circuitlab.model.decoder.rotary import Geometry
    from circuitlab.model.protocol import Model

__all__ = ["EdgeRuns"]


@dataclass(frozen=True, eq=False)
class EdgeRuns:
    """A few pairs, ready to be run from their first difference on. Traces hold only the positions of that window.

    Parameters
    ----------
    model, metric, batch
        What is run and read.
    start : int
        First position of the window: no clean and corrupt prompt differ before it, and no answer position lies before it.
    where : sequence of Geometry
        Rotary angles and mask of every layer, for whole prompts.
    past : sequence of (Tensor, Tensor)
        Turned keys and values of the positions before the window, (pair, start, kv_head, d_head), by layer.
    forward : Decoder, optional
        A forward with the model's values and another backward pass; if it has an ``unembed``, that makes the logits.
    """

    model: Model
    metric: Metric
    batch: ContrastBatch
    start: int
    where: Sequence[Geometry]
    past: Sequence[tuple[Tensor, Tensor]]
    forward: Decoder | None = None

    @classmethod
    def of(cls, model: Model, metric: Metric, batch: ContrastBatch, forward: Decoder | None = None) -> EdgeRuns:
        """Run the positions that clean and corrupt share."""
        start = int(torch.minimum(batch.first_difference(), batch.end).min())
        decoder, where = model.decoder, model.decoder.measure(batch.clean.shape[1])
        return cls(model, metric, batch, start, where, _past(decoder, decoder.embed(batch.clean)[:, :start], where), forward)

    @property
    def decoder(self) -> Decoder:
        """The functional forward."""
        return self.forward or self.model.decoder

    def embed(self, tokens: Int[Tensor, "pair pos"]) -> Float[Tensor, "pair pos d_model"]:
        """The residual stream entering layer 0, on the window."""
        return self.decoder.embed(tokens)[:, self.start :]

    @torch.no_grad()
    def plain(self, tokens: Int[Tensor, "pair pos"]) -> GradientRun:
        """Run prompts without a graph."""
        embed = self.embed(tokens)
        trace = self._on([], embed)
        return GradientRun(embed, trace, self._value(trace))

    @torch.enable_grad()
    def from_embed(self, embed: Float[Tensor, "pair pos d_model"], flat: str = "") -> GradientRun:
        """Run from a residual stream entering layer 0 on the window, in a graph; ``flat`` as in `GradientRun`."""
        leaf = embed.detach().clone().requires_grad_(True)
        trace = self._on([], leaf)
        return GradientRun(leaf, trace, self._value(trace), flat)

    @torch.enable_grad()
    def from_heads(self, base: Trace, layer: int, z: Float[Tensor, "pair pos head d_head"]) -> GradientRun:
        """Go on from a run in which every head of one layer has this output, in a graph; what comes before is not run again."""
        leaf = z.detach().clone().requires_grad_(True)
        block, old = self.decoder.blocks[layer], base.layers[layer]
        attn_out = block.write(leaf)
        resid_mid = old.resid_pre + attn_out
        mlp_in, mlp_out = old.mlp_in, old.mlp_out
        if not block.parallel:
            mlp_in = block.norm_mlp.apply(resid_mid)
            mlp_out = block.mlp(mlp_in)
        new = LayerTrace(
            old.resid_pre, old.attn_in, old.q, old.k, old.v, old.pattern, leaf, attn_out, resid_mid, mlp_in, mlp_out
        )  # fmt: skip - in the order of LayerTrace
        trace = self._on([*base.layers[:layer], new], resid_mid + mlp_out)
        return GradientRun(leaf, trace, self._value(trace))

    @torch.enable_grad()
    def from_mlp(self, base: Trace, layer: int, mlp_out: Float[Tensor, "pair pos d_model"]) -> GradientRun:
        """Go on from a run in which one MLP has this output, in a graph."""
        leaf = mlp_out.detach().clone().requires_grad_(True)
        trace = self._on(base.layers[: layer + 1], base.layers[layer].resid_mid + leaf)
        return GradientRun(leaf, trace, self._value(trace))

    def _on(self, done: list[LayerTrace], resid: Tensor) -> Trace:
        """Run the layers that are not done yet."""
        layers = list(done)
        for index in range(len(done), len(self.decoder.blocks)):
            layers.append(_layer(self.decoder, index, resid, self.where[index], self.past[index]))
            resid = layers[-1].resid_mid + layers[-1].mlp_out
        return Trace(layers, resid)

    def _value(self, trace: Trace) -> Float[Tensor, " pair"]:
        """The metric at the answer positions."""
        batch = self.batch
        last = trace.final[torch.arange(batch.n_pairs), (batch.end - self.start).to(trace.final.device)]
        ids, placed = (None, batch) if self.metric.whole_vocabulary else batch.over_tokens()
        unembed = getattr(self.forward, "unembed", self.model.unembed)
        return self.metric(unembed(last, ids), placed)


@torch.no_grad()
def _past(decoder: Decoder, resid: Tensor, where: Sequence[Geometry]) -> list[tuple[Tensor, Tensor]]:
    """Turned keys and values of every layer on the first positions of some prompts."""
    found = []
    for index, geometry in enumerate(where):
        block, length = decoder.blocks[index], resid.shape[1]
        angles = None if geometry.angles is None else (geometry.angles[0][:length], geometry.angles[1][:length])
        if length and index + 1 < len(decoder.blocks):
            layer = decoder.layer(index, resid, geometry)
            resid, k, v = layer.resid_mid + layer.mlp_out, layer.k, layer.v
        else:
            normed = block.norm_attn.apply(resid)
            k, v = block.split(block.k(normed)), block.split(block.v(normed))
        found.append((block.turned_k(k, angles), v))
    return found


def _layer(decoder: Decoder, index: int, resid: Tensor, where: Geometry, past: tuple[Tensor, Tensor]) -> LayerTrace:
    """One layer on the window; queries see the past's keys and the window's own."""
    block = decoder.blocks[index]
    attn_in = block.norm_attn.apply(resid)
    q, k, v = (block.split(part(attn_in)) for part in (block.q, block.k, block.v))
    pattern, z = block.attend(q, k, v, where, past)
    attn_out = block.write(z)
    resid_mid = resid + attn_out
    mlp_in = block.norm_mlp.apply(resid if block.parallel else resid_mid)
    return LayerTrace(resid, attn_in, q, k, v, pattern, z, attn_out, resid_mid, mlp_in, block.mlp(mlp_in))
