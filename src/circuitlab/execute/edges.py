"""Edge attribution: the change of each sender's output, the gradient at each receiver's input, and their products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from circuitlab.core.progress import step
from circuitlab.execute.contract import provenance_of
from circuitlab.execute.edge_runs import WindowedRunner
from circuitlab.execute.gradients import refuse_zero_gradient
from circuitlab.execute.memory import PassSizes, fits_in
from circuitlab.execute.reference import with_reference
from circuitlab.execute.sweeps import batch_by_length
from circuitlab.model.decoder.taps import NO_SUM, STREAM
from circuitlab.scores.edge_layout import EdgeLayout
from circuitlab.scores.edge_scores import EdgeScores

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from circuitlab.execute.contract import Method
    from circuitlab.execute.gradients import GradientRun
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.decoder import Block, LayerTrace, Trace
    from circuitlab.model.protocol import Model

__all__ = ["EdgeChunk", "NodeChange", "change_between", "edge_products", "score_edges", "sender_writes"]


class EdgeChunk(NamedTuple):
    """Edge scores of a few pairs, (pair, sender, receiver), the metric of both runs, and whether any gradient was not zero."""

    edges: Float[Tensor, "pair sender receiver"]
    clean: Float[Tensor, " pair"]
    corrupt: Float[Tensor, " pair"]
    live: bool


@dataclass(frozen=True, eq=False)
class NodeChange:
    """Clean minus corrupt output of every node, by layer.

    Parameters
    ----------
    embed : Tensor, shape (pair, pos, d_model)
        Change of the residual stream entering layer 0.
    z : list of Tensor, shape (pair, pos, head, d_head)
        Change of every head's z.
    mlp : list of Tensor, shape (pair, pos, d_model)
        Change of every MLP's output.
    """

    embed: Float[Tensor, "pair pos d_model"]
    z: list[Float[Tensor, "pair pos head d_head"]]
    mlp: list[Float[Tensor, "pair pos d_model"]]


def change_between(clean: Trace, corrupt: Trace) -> NodeChange:
    """The change of every node's output from the corrupt run to the clean run."""
    both = list(zip(clean.layers, corrupt.layers, strict=True))
    return NodeChange(
        (clean.embed - corrupt.embed).detach(),
        [(in_clean.z - in_corrupt.z).detach() for in_clean, in_corrupt in both],
        [(in_clean.mlp_out - in_corrupt.mlp_out).detach() for in_clean, in_corrupt in both],
    )


@torch.no_grad()
def sender_writes(
    blocks: Sequence[Block],
    layout: EdgeLayout,
    change: NodeChange,
    trace: Trace,
    rows: slice | None = None,
) -> Float[Tensor, "sender pair pos d_model"]:
    """What the change of each sender (of those in ``rows``, if given) adds to the residual stream.

    With a post-norm of attention (Gemma 2 and 3), a head's part passes linearly through that norm's Jacobian at the run of ``trace``, so
    that a head's edges sum to the gradient at its z times the change of z.
    """
    senders = rows or slice(0, layout.shape[0])
    writes = change.embed.new_empty(layout.shape[0], *change.embed.shape)
    writes[0] = change.embed
    for layer, block in enumerate(blocks):
        if layout.mlp(layer) < senders.start or layout.heads(layer).start >= senders.stop:
            continue
        heads = writes[layout.heads(layer)]
        z = change.z[layer].permute(2, 0, 1, 3).flatten(1, 2)
        torch.bmm(z, block.o.weight.unflatten(0, (-1, block.d_head)), out=heads.flatten(1, 2))
        if block.post_attn is not None:
            raw = block.o(trace.layers[layer].z.flatten(-2))
            writes[layout.heads(layer)] = block.post_attn.jvp(heads, raw)
        writes[layout.mlp(layer)] = change.mlp[layer]
    return writes[senders]


def edge_products(
    blocks: Sequence[Block],
    layout: EdgeLayout,
    run: GradientRun,
    writes: Float[Tensor, "sender pair pos d_model"],
    rows: slice | None = None,
) -> tuple[Float[Tensor, "pair sender receiver"], bool]:
    """Each sender's write times the metric's gradient at each receiver's input, and whether any gradient was not zero.

    Parameters
    ----------
    blocks : sequence of Block
        The layers.
    layout : EdgeLayout
        The edges that exist.
    run : GradientRun
        The run that is differentiated; its graph is freed. Receivers outside the graph get 0.
    writes : Tensor, shape (sender, pair, pos, d_model)
        Change of the residual stream by each sender in ``rows``.
    rows : slice, optional
        The senders; all by default.

    Notes
    -----
    For each layer and pair there is one matrix product, (sender, pos x d_model) by (pos x d_model, receiver).
    """
    first, stop = (0, layout.shape[0]) if rows is None else (rows.start, rows.stop)
    layers = run.trace.layers
    inputs = [value for layer in layers for value in (*layer.projected, layer.mlp_in)] + [run.trace.final]
    tracked = [i for i, value in enumerate(inputs) if value.requires_grad]
    gradients = dict(zip(tracked, run.gradients([inputs[i] for i in tracked], allow_zero=True), strict=True))
    out = writes.new_zeros(writes.shape[1], stop - first, layout.shape[1])
    with torch.no_grad():
        for layer, block in enumerate(blocks):
            stop_row = min(layout.heads(layer).stop, stop) - first
            of_layer = [gradients.get(4 * layer + part) for part in range(4)]
            if stop_row > 0 and any(gradient is not None for gradient in of_layer):
                out[:, :stop_row, layout.inputs(layer)] = _product(writes[:stop_row], _pull_back(block, layers[layer], of_layer))
        out[:, :, -1:] = _product(writes, gradients[len(inputs) - 1][None])
        exists = torch.from_numpy(layout.mask[first:stop]).to(out.device)
        return out.masked_fill_(~exists, 0.0), any(bool(gradient.any()) for gradient in gradients.values())


def _product(writes: Float[Tensor, "sender pair pos d_model"], pulled: Float[Tensor, "receiver pair pos d_model"]) -> Tensor:
    """Sum over positions and d_model, (pair, sender, receiver)."""
    return torch.bmm(writes.flatten(2).transpose(0, 1), pulled.flatten(2).permute(1, 2, 0))


def _pull_back(block: Block, layer: LayerTrace, gradients: Sequence[Tensor | None]) -> Float[Tensor, "receiver pair pos d_model"]:
    """Gradients at the inputs of one layer (q, k, v, mlp_in), carried back through the norms to the residual stream, head by head."""
    parts = []
    for gradient, value, linear in zip(gradients[:3], layer.projected, (block.q, block.k, block.v), strict=True):
        at_input = torch.zeros_like(value) if gradient is None else gradient
        weight = linear.weight.unflatten(1, (-1, block.d_head)).permute(1, 2, 0)
        parts.append(torch.bmm(at_input.permute(2, 0, 1, 3).flatten(1, 2), weight))
    heads = torch.cat(parts).unflatten(1, layer.resid_pre.shape[:2])
    at_mlp = torch.zeros_like(layer.mlp_in) if gradients[3] is None else gradients[3]
    mlp = block.norm_mlp.vjp(at_mlp, layer.resid_pre if block.parallel else layer.resid_mid)
    return torch.cat([block.norm_attn.vjp(heads, layer.resid_pre), mlp[None]])


def score_edges(
    method: Method,
    model: Model,
    batch: ContrastBatch,
    metric: Metric,
    pairs_per_pass: int,
    chunk: Callable[[WindowedRunner, EdgeLayout], EdgeChunk],
) -> EdgeScores:
    """Score a few pairs at a time with ``chunk``, and join the results.

    A pass holds as many pairs as ``pairs_per_pass`` and the memory of a pass (`memory_budget`) allow.

    Raises
    ------
    BadParameterError
        If every gradient of every pair is zero; pairs without a gradient among others score 0.
    """
    batch = with_reference(model, metric, batch)
    layout = EdgeLayout.of(model.spec)
    arrays: dict[str, np.ndarray] = {"edges": np.zeros((batch.n_pairs, *layout.shape), dtype=np.float32)}
    arrays |= {name: np.zeros(batch.n_pairs) for name in ("clean", "corrupt")}
    live, done = False, 0
    decoder, sizes = model.decoder.refusing(STREAM, NO_SUM), PassSizes.of(model)
    fits = fits_in(lambda window, length: sizes.edges(window, length, runs=3), method.name)
    for pairs in batch_by_length(batch, pairs_per_pass, fits=fits):
        edge_chunk = chunk(WindowedRunner.of(model, metric, batch.select(pairs), decoder), layout)
        for name, values in (("edges", edge_chunk.edges), ("clean", edge_chunk.clean), ("corrupt", edge_chunk.corrupt)):
            arrays[name][pairs] = values.detach().to(torch.float64 if name != "edges" else torch.float32).cpu().numpy()
        live |= edge_chunk.live
        done += len(pairs)
        step(done, batch.n_pairs)
    if not live:
        refuse_zero_gradient()
    return EdgeScores.build(arrays | {"total": arrays["clean"] - arrays["corrupt"]}, provenance_of(method, model, batch, metric))
