"""The forward pass of circuits of edges: one residual stream for every input, many circuits at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from circuitlab.core.errors import ModelError
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from circuitlab.execute.edge_runs import WindowedRunner
    from circuitlab.model.decoder import Block, Linear
    from circuitlab.model.decoder.layer import LayerRun
    from circuitlab.scores.edge_layout import EdgeLayout

__all__ = ["AblatedWrites", "forward", "head_shares"]


def head_shares(block: Block, z: Float[Tensor, "*rows head d_head"]) -> Float[Tensor, "*rows head d_model"]:
    """What each head adds to the residual stream, at the post-norm's scale in this run where there is one; biases left out."""
    writes = block.head_writes(z)
    if block.post_attn is None:
        return writes
    if block.o.bias is not None:
        what = "This model has a bias and a norm after attention, so that the bias has no share of its own in the residual stream."
        raise ModelError(what, "Evaluate a circuit of nodes instead.")
    norm = block.post_attn
    centred = writes - writes.mean(-1, keepdim=True) if norm.kind == "layer" else writes
    return centred / norm.scale(writes.sum(-2, keepdim=True)) * norm.gain.to(writes.dtype)


@dataclass(frozen=True, eq=False)
class AblatedWrites:
    """What every sender writes along ablated edges, and the residual streams that these writes make.

    Parameters
    ----------
    embed : Tensor, shape (pair, pos, d_model)
    heads : list of Tensor, shape (pair, pos, head, d_model)
    mlps : list of Tensor, shape (pair, pos, d_model)
    pre, mid : list of Tensor, shape (pair, pos, d_model)
        The sum of all writes before attention and before the MLP of each layer, biases of attention included; ``pre`` holds one more, the
        stream that leaves the last layer.
    """

    embed: Float[Tensor, "pair pos d_model"]
    heads: list[Float[Tensor, "pair pos head d_model"]]
    mlps: list[Float[Tensor, "pair pos d_model"]]
    pre: list[Float[Tensor, "pair pos d_model"]]
    mid: list[Float[Tensor, "pair pos d_model"]]

    @classmethod
    def of(cls, blocks: Sequence[Block], embed: Tensor, z: Sequence[Tensor], mlps: Sequence[Tensor]) -> AblatedWrites:
        """From the ablated embedding, z (pair, pos, head, d_head) and MLP output of every layer."""
        heads = [head_shares(block, one) for block, one in zip(blocks, z, strict=True)]
        pre, mid = [embed], []
        for block, share, mlp in zip(blocks, heads, mlps, strict=True):
            # A constant of the layer, not a write of any head: it belongs to every circuit.
            bias = block.o.bias if block.post_attn is None else block.post_attn.bias
            mid.append(pre[-1] + share.sum(-2) + (0.0 if bias is None else bias.to(share.dtype)))
            pre.append(mid[-1] + mlp)
        return cls(embed, heads, list(mlps), pre, mid)


@torch.no_grad()
def forward(
    runs: WindowedRunner,
    layout: EdgeLayout,
    ablated: AblatedWrites,
    embed: Float[Tensor, "pair pos d_model"],
    circuits: Sequence[tuple[Float[Tensor, "circuit sender receiver"], Float[Tensor, "pair pos"] | None]],
) -> Float[Tensor, "circuit pair d_model"]:
    """The residual stream that the logits read at the answer positions, for every circuit.

    Parameters
    ----------
    runs : WindowedRunner
        Gives the layers, the window of positions, the keys and values before it, and the edits of an edited model.
    layout : EdgeLayout
    ablated : AblatedWrites
        On the window.
    embed : Tensor, shape (pair, pos, d_model)
        Embedding of the clean prompts on the window.
    circuits : sequence of (Tensor, Tensor or None)
        Parts of every circuit, (circuit, sender, receiver), 1 where an edge is in the part and 0 elsewhere; each with the positions of the
        window at which its edges are kept, (pair, pos), or None for all.

    Notes
    -----
    A receiver's stream is that of the ablated writes plus, along circuit edges, what each sender writes more in this run than ablated.
    """
    count, (pairs, length, width) = len(circuits[0][0]), embed.shape
    more = embed.new_zeros(count, layout.shape[0], pairs, length, width)
    more[:, 0] = embed - ablated.embed
    ports = layout.n_heads + 2 * layout.n_kv_heads
    tap = runs.tap()
    for index, block in enumerate(runs.decoder.blocks):
        run = runs.decoder.at_layer(index, length, runs.past, tap)
        inputs, heads = layout.inputs(index), layout.heads(index)
        streams = ablated.pre[index] + _arriving(circuits, slice(inputs.start, inputs.start + ports), more[:, : heads.start])
        z = _attend(run, block.norm_attn.apply(streams), layout)
        more[:, heads] = (head_shares(block, z) - ablated.heads[index]).permute(0, 3, 1, 2, 4)
        seen = heads.start if block.parallel else heads.stop
        stream = (ablated.pre if block.parallel else ablated.mid)[index] + _arriving(
            circuits, slice(inputs.stop - 1, inputs.stop), more[:, :seen]
        )[:, 0]
        mlp_out = run.tap(Site.MLP_OUT, index, block.mlp(block.norm_mlp.apply(stream)))
        more[:, layout.mlp(index)] = mlp_out - ablated.mlps[index]
    rows, at = torch.arange(pairs), (runs.batch.end - runs.start).to(embed.device)
    final = ablated.pre[-1][rows, at]
    for asked, kept in circuits:
        arriving = torch.einsum("cs,cspd->cpd", asked[:, :, -1], more[:, :, rows, at])
        final = final + (arriving if kept is None else arriving * kept[rows, at][:, None])
    return final


def _arriving(
    circuits: Sequence[tuple[Tensor, Tensor | None]], receivers: slice, sent: Float[Tensor, "circuit sender pair pos d_model"]
) -> Float[Tensor, "circuit receiver pair pos d_model"]:
    """What reaches some receivers along circuit edges, beyond the ablated writes."""
    found = sent.new_zeros(())
    for part, kept in circuits:
        asked = part[:, : sent.shape[1], receivers]
        arriving = torch.bmm(asked.transpose(1, 2), sent.flatten(2)).unflatten(2, sent.shape[2:])
        found = found + (arriving if kept is None else arriving * kept[:, :, None])
    return found


def _attend(
    run: LayerRun, normed: Float[Tensor, "circuit receiver pair pos d_model"], layout: EdgeLayout
) -> Float[Tensor, "circuit pair pos head d_head"]:
    """Attention in which every query head, key head and value head has an input of its own."""
    block, index, tap = run.block, run.index, run.tap
    inputs = normed.split([layout.n_heads, layout.n_kv_heads, layout.n_kv_heads], dim=1)
    sites = zip((Site.Q, Site.K, Site.V), (block.q, block.k, block.v), inputs, strict=True)
    q, k, v = (tap(site, index, _project(linear, x)) for site, linear, x in sites)
    start, stop = run.cache.length(index), run.cache.length(index) + q.shape[-3]
    keys = block.rotated_k(k, run.where.angles_of(start, stop))
    if start:
        before = (part.expand(len(q), *part.shape) for part in run.cache.held[index])
        keys, v = (torch.cat([old, new], dim=-3) for old, new in zip(before, (keys, v), strict=True))
    pattern = tap(Site.PATTERN, index, block.weigh(q, keys, run.where))
    return tap(Site.Z, index, block.mix(pattern, v))


def _project(linear: Linear, x: Float[Tensor, "circuit n pair pos d_model"]) -> Float[Tensor, "circuit pair pos n d_head"]:
    """Each head's own columns of a projection, applied to that head's own input."""
    heads = x.shape[1]
    out = torch.einsum("cnptd,dnk->cptnk", x, linear.weight.unflatten(1, (heads, -1)))
    return out if linear.bias is None else out + linear.bias.unflatten(0, (heads, -1))
