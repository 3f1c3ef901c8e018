"""The forward pass of circuits of edges: every input reads a residual stream of its own, for many circuits at once."""

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
    """What each head adds to the residual stream, without biases; after a post-norm, at the scale that this norm has in the same run.

    Raises
    ------
    ModelError
        If there is both a bias and a norm after attention, because no share of the bias belongs to a head then.
    """
    writes = block.head_writes(z)
    if block.post_attn is None:
        return writes
    if block.o.bias is not None:
        what = "This model has both a bias and a norm after attention, so the bias has no separate share in the residual stream."
        raise ModelError(what, "Evaluate a circuit of nodes instead.")
    norm = block.post_attn
    centred = writes - writes.mean(-1, keepdim=True) if norm.kind == "layer" else writes
    return centred / norm.scale(writes.sum(-2, keepdim=True)) * norm.gain.to(writes.dtype)


@dataclass(frozen=True, eq=False)
class AblatedWrites:
    """What every sender writes along ablated edges, and the residual streams that are the sums of these writes.

    Parameters
    ----------
    embed : Tensor, shape (pair, pos, d_model)
        Write of the embedding.
    heads : list of Tensor, shape (pair, pos, head, d_model)
        Writes of the heads of each layer.
    mlps : list of Tensor, shape (pair, pos, d_model)
        Write of the MLP of each layer.
    pre, mid : list of Tensor, shape (pair, pos, d_model)
        The sum of all writes before attention and before the MLP of each layer, biases of attention included. ``pre`` has one entry more:
        the stream that leaves the last layer.
    """

    embed: Float[Tensor, "pair pos d_model"]
    heads: list[Float[Tensor, "pair pos head d_model"]]
    mlps: list[Float[Tensor, "pair pos d_model"]]
    pre: list[Float[Tensor, "pair pos d_model"]]
    mid: list[Float[Tensor, "pair pos d_model"]]

    @classmethod
    def of(cls, blocks: Sequence[Block], embed: Tensor, z: Sequence[Tensor], mlps: Sequence[Tensor]) -> AblatedWrites:
        """Make the writes from the ablated embedding and, for every layer, z (pair, pos, head, d_head) and the MLP output."""
        heads = [head_shares(block, layer_z) for block, layer_z in zip(blocks, z, strict=True)]
        pre, mid = [embed], []
        for block, share, mlp in zip(blocks, heads, mlps, strict=True):
            # The bias is a constant of the layer and not written by a head, so it belongs to every circuit.
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
        Has the layers, the window of positions, the keys and values before it, and the edits of an edited model.
    layout : EdgeLayout
        Senders and receivers.
    ablated : AblatedWrites
        Ablated writes on the window.
    embed : Tensor, shape (pair, pos, d_model)
        Embedding of the clean prompts on the window.
    circuits : sequence of (Tensor, Tensor or None)
        The edges of every circuit in parts: each part is (circuit, sender, receiver), 1 for its edges and 0 elsewhere, with the positions
        of the window at which they are kept, (pair, pos), or None if they are kept at all positions.

    Notes
    -----
    The stream of a receiver is the sum of the ablated writes plus, along circuit edges, the excess of each sender: its write in this run
    minus its ablated write.
    """
    count, (pairs, length, width) = len(circuits[0][0]), embed.shape
    excess = embed.new_zeros(count, layout.shape[0], pairs, length, width)
    excess[:, 0] = embed - ablated.embed
    ports = layout.n_heads + 2 * layout.n_kv_heads
    tap = runs.tap()
    for index, block in enumerate(runs.decoder.blocks):
        run = runs.decoder.at_layer(index, length, runs.past, tap)
        inputs, heads = layout.inputs(index), layout.heads(index)
        streams = ablated.pre[index] + _received(circuits, slice(inputs.start, inputs.start + ports), excess[:, : heads.start])
        z = _attend(run, block.norm_attn.apply(streams), layout)
        excess[:, heads] = (head_shares(block, z) - ablated.heads[index]).permute(0, 3, 1, 2, 4)
        senders = heads.start if block.parallel else heads.stop
        stream = (ablated.pre if block.parallel else ablated.mid)[index] + _received(
            circuits, slice(inputs.stop - 1, inputs.stop), excess[:, :senders]
        )[:, 0]
        mlp_out = run.tap(Site.MLP_OUT, index, block.mlp(block.norm_mlp.apply(stream)))
        excess[:, layout.mlp(index)] = mlp_out - ablated.mlps[index]
    rows, at = torch.arange(pairs), (runs.batch.end - runs.start).to(embed.device)
    final = ablated.pre[-1][rows, at]
    for edges, kept_at in circuits:
        received = torch.einsum("cs,cspd->cpd", edges[:, :, -1], excess[:, :, rows, at])
        final = final + (received if kept_at is None else received * kept_at[rows, at][:, None])
    return final


def _received(
    circuits: Sequence[tuple[Tensor, Tensor | None]], receivers: slice, excess: Float[Tensor, "circuit sender pair pos d_model"]
) -> Float[Tensor, "circuit receiver pair pos d_model"]:
    """The sum of the excess that some receivers get along circuit edges."""
    total = excess.new_zeros(())
    for edges, kept_at in circuits:
        weights = edges[:, : excess.shape[1], receivers]
        received = torch.bmm(weights.transpose(1, 2), excess.flatten(2)).unflatten(2, excess.shape[2:])
        total = total + (received if kept_at is None else received * kept_at[:, :, None])
    return total


def _attend(
    run: LayerRun, normed: Float[Tensor, "circuit receiver pair pos d_model"], layout: EdgeLayout
) -> Float[Tensor, "circuit pair pos head d_head"]:
    """Attention in which every query head, key head and value head reads its own input."""
    block, index, tap = run.block, run.index, run.tap
    inputs = normed.split([layout.n_heads, layout.n_kv_heads, layout.n_kv_heads], dim=1)
    sites = zip((Site.Q, Site.K, Site.V), (block.q, block.k, block.v), inputs, strict=True)
    q, k, v = (tap(site, index, _project(linear, x)) for site, linear, x in sites)
    start, stop = run.cache.length(index), run.cache.length(index) + q.shape[-3]
    keys = block.rotated_k(k, run.where.angles_of(start, stop))
    if start:
        earlier = (part.expand(len(q), *part.shape) for part in run.cache.held[index])
        keys, v = (torch.cat([old, new], dim=-3) for old, new in zip(earlier, (keys, v), strict=True))
    pattern = tap(Site.PATTERN, index, block.weigh(q, keys, run.where))
    return tap(Site.Z, index, block.mix(pattern, v))


def _project(linear: Linear, x: Float[Tensor, "circuit n pair pos d_model"]) -> Float[Tensor, "circuit pair pos n d_head"]:
    """The columns of a projection that belong to each head, applied to the input of that head."""
    heads = x.shape[1]
    out = torch.einsum("cnptd,dnk->cptnk", x, linear.weight.unflatten(1, (heads, -1)))
    return out if linear.bias is None else out + linear.bias.unflatten(0, (heads, -1))
