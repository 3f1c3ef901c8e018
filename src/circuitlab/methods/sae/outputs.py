"""What every head writes to the residual stream, averaged over positions or at marked ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from circuitlab.core.nodes import Head, Mlp, Node
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.core.provenance import ModelSpec
    from circuitlab.model.protocol import Model

__all__ = ["node_outputs", "nodes_of"]

_TOKENS = 1024
"""Tokens that are run together: memory for their z is tokens x layers x heads x d_head numbers."""


def nodes_of(spec: ModelSpec, *, mlps: bool = False) -> tuple[Node, ...]:
    """Nodes along the node axis: layer by layer, every query head and then, if asked for, the MLP."""
    found: list[Node] = []
    for layer in range(spec.n_layers):
        found += [Head(layer, head) for head in range(spec.n_heads)]
        found += [Mlp(layer)] * mlps
    return tuple(found)


def node_outputs(
    model: Model,
    tokens: Int[Tensor, "row pos"],
    end: Int[Tensor, " row"],
    places: Sequence[Int[Tensor, " row"] | None] = (None,),
    *,
    mlps: bool = False,
) -> Float[Tensor, "row place node d_model"]:
    """Each node's contribution to the residual stream, float32.

    A head's contribution is ``z @ W_O``, without the attention layer's output bias; where a norm follows (Gemma 2 and 3), its gain and
    the scale it had in this run are applied, so that the contributions are what is really added.

    Parameters
    ----------
    model : Model
    tokens : Tensor of int, shape (row, pos)
        Right-padded prompts.
    end : Tensor of int, shape (row,)
        Last real position of each prompt; padding never enters.
    places : sequence of None or Tensor of int, shape (row,)
        None is the mean over all real positions, as published; a tensor is one position of each prompt.
    mlps : bool
        Also the MLPs, after the heads of their layer.

    Notes
    -----
    One forward pass per prompt; rows x places x nodes x d_model numbers are held (about 20 MB for 32 prompts of SmolLM2-135M).
    """
    import torch  # noqa: PLC0415 - listing methods must not load torch

    rows = max(1, _TOKENS // tokens.shape[1])
    parts = []
    for start in range(0, len(tokens), rows):
        few = slice(start, start + rows)
        longest = int(end[few].max()) + 1
        here = _pooling(end[few], [None if place is None else place[few] for place in places], longest)
        parts.append(_contributions(model, tokens[few, :longest], here, mlps=mlps))
    return torch.cat(parts)


def _pooling(end: Tensor, places: Sequence[Tensor | None], length: int) -> Float[Tensor, "row place pos"]:
    """Weights of the positions: equal over a prompt for its mean, all on one position for a mark."""
    import torch  # noqa: PLC0415 - listing methods must not load torch

    position = torch.arange(length, device=end.device)
    weights = []
    for place in places:
        chosen = position <= end[:, None] if place is None else position == place.to(end.device)[:, None]
        weights.append(chosen.float() / chosen.sum(1, keepdim=True))
    return torch.stack(weights, dim=1)


def _contributions(model: Model, tokens: Tensor, pooling: Tensor, *, mlps: bool) -> Float[Tensor, "row place node d_model"]:
    """Pooled contributions of a few prompts; pooling comes before the output projection, which is linear."""
    import torch  # noqa: PLC0415 - listing methods must not load torch

    weights = model.weights
    sites = [Site.Z, Site.MLP_OUT] if mlps else [Site.Z]
    read = model.capture(tokens, sites)
    pooling = pooling.to(read[Site.Z].device)
    found = []
    for layer in range(model.spec.n_layers):
        z, w_out = read[Site.Z][:, layer].float(), weights.output(layer).float()
        post = weights.post_attention_norm(layer)
        here = pooling
        if post is not None:
            raw, bias = torch.einsum("rphd,hdm->rpm", z, w_out), weights.output_bias(layer)
            here = pooling / post.scale(raw if bias is None else raw + bias.float())[:, None, :, 0]
        heads = torch.einsum("rqp,rphd->rqhd", here, z)
        written = torch.einsum("rqhd,hdm->rqhm", heads, w_out)
        if post is not None:
            centred = written - written.mean(-1, keepdim=True) if post.kind == "layer" else written
            written = centred * post.gain.float()
        found.append(written)
        if mlps:
            found.append(torch.einsum("rqp,rpm->rqm", pooling, read[Site.MLP_OUT][:, layer].float())[:, :, None])
    return torch.cat(found, dim=2)
