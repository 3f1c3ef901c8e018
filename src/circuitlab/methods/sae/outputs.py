"""What every head writes to the residual stream, averaged over positions or at marked positions."""

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
"""Tokens in one pass; their z takes tokens x layers x heads x d_head numbers of memory."""


def nodes_of(spec: ModelSpec, *, mlps: bool = False) -> tuple[Node, ...]:
    """Nodes along the node axis: layer by layer, every query head and then, with ``mlps``, the MLP."""
    nodes: list[Node] = []
    for layer in range(spec.n_layers):
        nodes += [Head(layer, head) for head in range(spec.n_heads)]
        nodes += [Mlp(layer)] * mlps
    return tuple(nodes)


def node_outputs(
    model: Model,
    tokens: Int[Tensor, "row pos"],
    end: Int[Tensor, " row"],
    places: Sequence[Int[Tensor, " row"] | None] = (None,),
    *,
    mlps: bool = False,
) -> Float[Tensor, "row place node d_model"]:
    """Each node's contribution to the residual stream, in float32.

    A head's contribution is ``z @ W_O``, without the attention layer's output bias. If a norm follows (Gemma 2 and 3), its gain and its
    scale in this run are applied, so that contributions are what is actually added.

    Parameters
    ----------
    model : Model
        The model.
    tokens : Tensor of int, shape (row, pos)
        Right-padded prompts.
    end : Tensor of int, shape (row,)
        Last real position of each prompt; padding is not used.
    places : sequence of None or Tensor of int, shape (row,)
        None is the mean over all real positions, as published; a tensor is one position of each prompt.
    mlps : bool
        Whether to include MLPs, after the heads of their layer.

    Notes
    -----
    One forward pass per prompt. The result has rows x places x nodes x d_model numbers (about 20 MB for 32 prompts of SmolLM2-135M).
    """
    import torch  # noqa: PLC0415 - listing methods must not load torch

    rows = max(1, _TOKENS // tokens.shape[1])
    parts = []
    for start in range(0, len(tokens), rows):
        group = slice(start, start + rows)
        longest = int(end[group].max()) + 1
        pooling = _pooling(end[group], [None if place is None else place[group] for place in places], longest)
        parts.append(_contributions(model, tokens[group, :longest], pooling, mlps=mlps))
    return torch.cat(parts)


def _pooling(end: Tensor, places: Sequence[Tensor | None], length: int) -> Float[Tensor, "row place pos"]:
    """Weights of the positions: equal over a prompt for its mean, and 1 at a single position for a mark."""
    import torch  # noqa: PLC0415 - listing methods must not load torch

    position = torch.arange(length, device=end.device)
    weights = []
    for place in places:
        chosen = position <= end[:, None] if place is None else position == place.to(end.device)[:, None]
        weights.append(chosen.float() / chosen.sum(1, keepdim=True))
    return torch.stack(weights, dim=1)


def _contributions(model: Model, tokens: Tensor, pooling: Tensor, *, mlps: bool) -> Float[Tensor, "row place node d_model"]:
    """Pooled contributions of a few prompts. Pooling comes before the output projection, because that is linear."""
    import torch  # noqa: PLC0415 - listing methods must not load torch

    weights = model.weights
    sites = [Site.Z, Site.MLP_OUT] if mlps else [Site.Z]
    captured = model.capture(tokens, sites)
    pooling = pooling.to(captured[Site.Z].device)
    outputs = []
    for layer in range(model.spec.n_layers):
        z, w_out = captured[Site.Z][:, layer].float(), weights.output(layer).float()
        post = weights.post_attention_norm(layer)
        layer_pooling = pooling
        if post is not None:
            raw, bias = torch.einsum("rphd,hdm->rpm", z, w_out), weights.output_bias(layer)
            layer_pooling = pooling / post.scale(raw if bias is None else raw + bias.float())[:, None, :, 0]
        heads = torch.einsum("rqp,rphd->rqhd", layer_pooling, z)
        written = torch.einsum("rqhd,hdm->rqhm", heads, w_out)
        if post is not None:
            centred = written - written.mean(-1, keepdim=True) if post.kind == "layer" else written
            written = centred * post.gain.float()
        outputs.append(written)
        if mlps:
            outputs.append(torch.einsum("rqp,rpm->rqm", pooling, captured[Site.MLP_OUT][:, layer].float())[:, :, None])
    return torch.cat(outputs, dim=2)
