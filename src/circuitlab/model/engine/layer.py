"""One layer on a window of positions, for many edited runs of the same prompts at once.

Rows are (edit, prompt, pos), where ``edit`` is the number of an edited run. Keys and values before the window come from the base run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from circuitlab.model.engine.window import REDUCED, Window, Write, write_all
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from circuitlab.model.decoder import Block
    from circuitlab.model.engine.arithmetic import Multiply
    from circuitlab.model.places import Tap

__all__ = ["AttentionOutput", "SiteTap", "added", "attend", "leave", "mixed", "mlp_out"]


@dataclass(frozen=True, eq=False)
class AttentionOutput:
    """A layer between attention and its MLP, at the positions whose output is needed.

    Parameters
    ----------
    mid : Tensor, shape (edit, prompt, query, d_model)
        The residual stream after attention.
    read : Tensor, shape (edit, prompt, query, d_model)
        The input of the MLP's norm: ``mid``, or in parallel blocks the stream that entered the layer.
    keys, values : Tensor, shape (edit, prompt, pos, kv_head, d_head)
        The window's keys, after their norm and rotation, and values.
    """

    mid: Float[Tensor, "edit prompt query d_model"]
    read: Float[Tensor, "edit prompt query d_model"]
    keys: Float[Tensor, "edit prompt pos kv_head d_head"]
    values: Float[Tensor, "edit prompt pos kv_head d_head"]


@dataclass(frozen=True, eq=False)
class SiteTap:
    """Edits and reads of one layer. At every site, standing edits come first, then the value is stored in ``seen``, then writes apply.

    Parameters
    ----------
    place : Window
        The window.
    layer : int
        Number of the layer.
    writes : sequence of Write
        Edits of this layer in some of the runs.
    taps : (Tap or None, Tap or None)
        The standing edits of an edited model: on the window, and at the answer position of each prompt (last layer).
    seen : dict, optional
        Filled with the value of every site, before any writes.
    """

    place: Window
    layer: int
    writes: Sequence[Write] = ()
    taps: tuple[Tap | None, Tap | None] = (None, None)
    seen: dict[Site, Tensor] | None = None

    def __call__(self, site: Site, value: Tensor) -> Tensor:
        """The value of a site with its edits."""
        tap = self.taps[self.place.only is not None and site in REDUCED]
        if tap is not None:
            value = tap(site, self.layer, value)
        if self.seen is not None:
            self.seen[site] = value
        return write_all(value, site, self.writes, self.place.start, self.place.only)


def attend(block: Block, x: Float[Tensor, "edit prompt pos d_model"], multiply: Multiply, at: SiteTap) -> AttentionOutput:
    """Run a layer's attention, given the residual stream that enters the layer."""
    x = at(Site.RESID_PRE, x)
    normed = block.norm_attn.apply(x)
    z, keys, values = mixed(block, (multiply("q", block.q, normed), multiply("k", block.k, normed), multiply("v", block.v, normed)), at)
    x = at.place.wanted(x)
    mid = added(block, x, multiply("o", block.o, z), at)
    return AttentionOutput(mid, x if block.parallel else mid, keys, values)


def mixed(block: Block, projected: tuple[Tensor, Tensor, Tensor], at: SiteTap) -> tuple[Tensor, Tensor, Tensor]:
    """From queries, keys and values as projected, (edit, prompt, pos, all), to what attention mixes, (edit, prompt, query, all).

    The window's keys, after their norm and rotation, and values come second and third.
    """
    q, k, v = projected
    place = at.place
    q = place.wanted(at(Site.Q, block.split(q)))
    k = at(Site.K, block.split(k))
    v = at(Site.V, block.split(v))
    keys = block.rotated_k(k, place.angles)
    pattern = at(Site.PATTERN, _pattern(block, q, keys, place))
    return at(Site.Z, _mix(pattern, v, place)).flatten(-2), keys, v


def added(
    block: Block, x: Float[Tensor, "edit prompt query d_model"], raw: Tensor, at: SiteTap
) -> Float[Tensor, "edit prompt query d_model"]:
    """The residual stream after attention, from the stream that entered and the output projection's ``raw`` output."""
    mid = x + at(Site.ATTN_OUT, raw if block.post_attn is None else block.post_attn.apply(raw))
    return mid if block.parallel else at(Site.RESID_MID, mid)


def mlp_out(block: Block, read: Float[Tensor, "*rows d_model"], multiply: Multiply) -> Float[Tensor, "*rows d_model"]:
    """What the MLP adds to the residual stream. Rows do not interact, so they may come from any runs and positions."""
    normed = block.norm_mlp.apply(read)
    raw = multiply("down", block.down, _neurons(block, normed, multiply)) if block.experts is None else block.experts(normed)
    return raw if block.post_mlp is None else block.post_mlp.apply(raw)


def leave(
    mid: Float[Tensor, "edit prompt query d_model"], written: Float[Tensor, "edit prompt query d_model"], at: SiteTap
) -> Float[Tensor, "edit prompt query d_model"]:
    """The residual stream leaving the layer, from the stream after attention and the MLP's output ``written``."""
    return at(Site.RESID_POST, mid + at(Site.MLP_OUT, written))


def _neurons(block: Block, normed: Tensor, multiply: Multiply) -> Tensor:
    up = multiply("up", block.up, normed)
    return block.activation(up) if block.gate is None else block.activation(multiply("gate", block.gate, normed)).mul_(up)


def _pattern(block: Block, q: Tensor, k: Tensor, place: Window) -> Float[Tensor, "edit prompt head query key"]:
    """Attention weights over the base run's keys and those of the window."""
    q = block.rotated_q(q, _query_angles(place)) * block.scale
    edits, prompts, queries, heads, width = q.shape
    shared = block.n_kv_heads
    grouped = q.unflatten(3, (shared, -1)).permute(1, 3, 0, 4, 2, 5).reshape(prompts, shared, -1, width)
    by_edit = grouped.view(prompts, shared, edits, -1, width)
    scores = [by_edit @ k.permute(1, 3, 0, 4, 2)]
    if place.keys is not None and place.start:
        # One product for all edited runs of a prompt: they share the prefix's keys, so nothing is copied per run.
        scores.insert(0, (grouped @ place.keys.permute(0, 2, 3, 1)).view(*by_edit.shape[:-1], place.start))
    joined = block.capped(torch.cat(scores, -1) if len(scores) > 1 else scores[0])
    joined = joined.view(prompts, shared, edits, heads // shared, queries, -1)
    if place.where.bias is not None:
        joined = joined + place.biased().unflatten(1, (shared, -1))[:, :, None]
    hidden = ~place.visible()[:, None, None, None]
    joined = joined.masked_fill_(hidden, float("-inf"))
    if block.sinks is None:
        pattern = joined.softmax(-1)
    else:
        sink = block.sinks.to(joined.dtype).view(shared, 1, -1, 1, 1).expand(*joined.shape[:-1], 1)
        pattern = torch.cat([joined, sink], dim=-1).softmax(-1)[..., :-1]
    return pattern.permute(2, 0, 1, 3, 4, 5).flatten(2, 3)


def _mix(pattern: Float[Tensor, "edit prompt head query key"], v: Tensor, place: Window) -> Float[Tensor, "edit prompt query head d_head"]:
    """The attention-weighted sum of values."""
    edits, prompts, heads, queries, keys = pattern.shape
    shared = v.shape[3]
    grouped = pattern.unflatten(2, (shared, -1)).permute(1, 2, 0, 3, 4, 5).reshape(prompts, shared, edits, -1, keys)
    start = place.start if place.values is not None else 0
    z = grouped[..., start:] @ v.permute(1, 3, 0, 2, 4)
    if start and place.values is not None:
        flat = grouped[..., :start].reshape(prompts, shared, -1, start)
        z = z + (flat @ place.values.permute(0, 2, 1, 3)).view(z.shape)
    z = z.view(prompts, shared, edits, heads // shared, queries, -1)
    return z.permute(2, 0, 4, 1, 3, 5).flatten(3, 4)


def _query_angles(place: Window) -> tuple[Tensor, Tensor] | None:
    """Rotary angles at the queries' positions; (prompt, 1, d_rotary) if only one position of each prompt is needed."""
    angles = place.where.angles
    if angles is None or place.only is None:
        return place.angles
    return angles[0][place.only][:, None], angles[1][place.only][:, None]
