"""The parts of a model that scores can cover, with the axes and the nodes of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Attn, Embed, Head, KVHead, Mlp, Node, Resid

if TYPE_CHECKING:
    from circuitlab.core.provenance import Provenance

__all__ = ["PARTS", "PER_PAIR", "NodeScore", "Part", "require_no_prompts"]

PER_PAIR = ("total", "clean", "corrupt", "bias")
"""Variables with one value per pair, which say what scores are a share of."""


@dataclass(frozen=True, slots=True)
class NodeScore:
    """The mean score of one node over pairs with its confidence interval, in the units of the scores.

    The limits are NaN if there is none: with a single pair, or for scores from weights alone.
    """

    node: Node
    mean: float
    low: float
    high: float


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


def require_no_prompts(provenance: Provenance, arrays: Mapping[str, np.ndarray], marks: Sequence[str] | None) -> None:
    """Raise if scores from weights alone contain what only prompts can give, or no part."""
    given = [*(name for name in arrays if name in PER_PAIR), *(["marks"] if marks is not None else [])]
    if given:
        what = f"Scores of {provenance.method!r} come from weights alone, and contain {', '.join(given)}, which only prompts can give."
        raise BadParameterError(what, "Leave them out, or say in the provenance which prompts were run.")
    if not arrays:
        what = f"Scores of {provenance.method!r} contain no part."
        raise BadParameterError(what, "Give one value per node, for example heads (layer, head).")
