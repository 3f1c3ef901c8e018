"""The parts of a model that scores can cover, with the axes and the nodes of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from circuitlab.core.nodes import Attn, Embed, Head, KVHead, Mlp, Node, Resid

__all__ = ["PARTS", "Part"]


@dataclass(frozen=True, slots=True)
class Part:
    """One variable of a `HeadScores` dataset.

    Parameters
    ----------
    name : str
        Name of the variable, for example ``"heads"``.
    axes : tuple of str
        Axes after ``pair`` (and after ``mark``, if scores are resolved by mark).
    node : callable
        Makes the node from the indices along ``axes``.
    title : str
        Name in figures and messages.
    """

    name: str
    axes: tuple[str, ...]
    node: Callable[..., Node]
    title: str


PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        Part("heads", ("layer", "head"), Head, "attention heads"),
        Part("kv_heads", ("layer", "kv_head"), KVHead, "key/value heads"),
        Part("attns", ("layer",), Attn, "attention layers"),
        Part("mlps", ("layer",), Mlp, "MLPs"),
        Part("resid_pre", ("layer",), lambda layer: Resid(layer, "pre"), "residual stream before attention"),
        Part("resid_mid", ("layer",), lambda layer: Resid(layer, "mid"), "residual stream before the MLP"),
        Part("resid_post", ("layer",), lambda layer: Resid(layer, "post"), "residual stream after the layer"),
        Part("embed", (), Embed, "embedding"),
    )
}
"""Every part by name, in the order in which tables and figures list them."""
