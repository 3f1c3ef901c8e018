"""The parts of a loaded model: which module holds what, and how its output is divided among heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

__all__ = ["HeadMap", "LayerParts", "ModelParts", "Write", "out_width"]


@dataclass(frozen=True, eq=False)
class HeadMap:
    """Which columns of a projection's output belong to which head.

    Parameters
    ----------
    module : Module
        The projection; several maps share a fused projection.
    index : Tensor of int, shape (head, d_head)
        Columns of its output (last axis).
    """

    module: Any
    index: Int[Tensor, "head d_head"]

    @property
    def whole(self) -> bool:
        """Whether the heads are the whole output, in order."""
        flat = self.index.flatten()
        return len(flat) == int(flat[-1]) + 1 and bool((flat == torch.arange(len(flat))).all()) and self._width == len(flat)

    @property
    def _width(self) -> int:
        return out_width(self.module)

    def read(self, out: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows head d_head"]:
        """The heads' vectors in an output of the module."""
        if self.whole:
            return out.unflatten(-1, tuple(self.index.shape))
        return out[..., self.index.to(out.device)]

    def write(self, out: Float[Tensor, "*rows width"], value: Float[Tensor, "*rows head d_head"]) -> Float[Tensor, "*rows width"]:
        """A copy of the output with the heads' vectors replaced."""
        if self.whole:
            return value.flatten(-2).to(out.dtype)
        new = out.clone()
        new[..., self.index.flatten().to(out.device)] = value.flatten(-2).to(out.dtype)
        return new


@dataclass(frozen=True, eq=False)
class Write:
    """What attention or an MLP adds to the residual stream: ``scale`` times the output of a module.

    Parameters
    ----------
    module : Module
        The module whose output is added.
    scale : float
        Factor between the module's output and what is added (Granite's residual multiplier); 1 for most families.
    """

    module: Any
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class LayerParts:
    """The parts of one layer. A part that was not found, or failed its test, is None.

    Parameters
    ----------
    layer : Module
        The whole layer.
    attention : Module or None
        The module in which the softmax runs.
    n_heads, d_value : int
        Number of query heads, and the width of each head's z.
    q, k, v : HeadMap or None
        Queries, keys and values in the outputs of their projections.
    q_norm, k_norm : Module or None
        Norms of queries and keys right after their projections.
    o : Module or None
        The projection that reads z.
    attn_out, mlp_out : Write or None
        What attention and the MLP add to the residual stream.
    attn_norm, mlp_norm : Module or None
        Norms that attention and the MLP read the stream through.
    attn_post, mlp_post : tuple of Module
        Norms of their outputs.
    mlp : Module or None
        The MLP, where it is one module.
    mlp_maps : tuple of Module
        Linear maps of the MLP in order of use; empty for mixtures of experts.
    parallel : bool
        Whether the MLP reads the stream that enters the layer, as attention does.
    sink : bool
        Whether the softmax has an extra column for an attention sink: weight that goes to no key (gpt-oss).
    """

    layer: Any
    attention: Any = None
    n_heads: int = 0
    d_value: int = 0
    q: HeadMap | None = None
    k: HeadMap | None = None
    v: HeadMap | None = None
    q_norm: Any = None
    k_norm: Any = None
    o: Any = None
    attn_out: Write | None = None
    mlp_out: Write | None = None
    attn_norm: Any = None
    mlp_norm: Any = None
    attn_post: tuple[Any, ...] = ()
    mlp_post: tuple[Any, ...] = ()
    mlp: Any = None
    mlp_maps: tuple[Any, ...] = ()
    parallel: bool = False
    sink: bool = False


@dataclass(frozen=True, eq=False)
class ModelParts:
    """The parts of a model.

    Parameters
    ----------
    layers : sequence of LayerParts
        The layers in order.
    d_model : int
        Width of the residual stream; embedding and unembedding may be narrower (OPT).
    final_norm : Module or None
        The norm between the last layer and the unembedding.
    unembed : Module or None
        The unembedding.
    softcap : float or None
        Softcap of the final logits.
    logit_scale : float
        Factor of the final logits (Cohere, Granite).
    length_dependent : bool
        Whether rotary angles depend on the length of the prompt.
    lacks : dict of Site to str
        Sites that the model does not have, with the reason.
    readout_lacks : str
        Why logits cannot be computed from the stream that leaves the last layer; empty if they can.
    embed : Module or None
        The embedding of tokens.
    """

    layers: Sequence[LayerParts]
    d_model: int = 0
    final_norm: Any = None
    unembed: Any = None
    softcap: float | None = None
    logit_scale: float = 1.0
    length_dependent: bool = False
    lacks: dict[Site, str] = field(default_factory=dict)
    readout_lacks: str = ""
    embed: Any = None

    @property
    def sites(self) -> frozenset[Site]:
        """The sites that the model has."""
        return frozenset(Site) - frozenset(self.lacks)

    @property
    def n_heads(self) -> int:
        """Number of query heads in every layer."""
        return max((layer.n_heads for layer in self.layers), default=0)

    @property
    def n_kv_heads(self) -> int:
        """Number of key/value heads in every layer; the number of query heads where it is not known."""
        counts = {len(heads.index) for layer in self.layers for heads in (layer.k, layer.v) if heads is not None}
        return counts.pop() if len(counts) == 1 else self.n_heads

    @property
    def d_head(self) -> int:
        """Width of a head's z."""
        return max((layer.d_value for layer in self.layers), default=0)

    def width(self, site: Site) -> int:
        """Width of one vector at a site, 0 where there are no heads; queries may be wider than values (DeepSeek)."""
        maps = {Site.Q: self.layers[0].q, Site.K: self.layers[0].k, Site.V: self.layers[0].v}
        if (heads := maps.get(site)) is not None:
            return int(heads.index.shape[1])
        return self.d_head if site.per_head else self.d_model


def out_width(module: Any) -> int:
    """Width of a linear map's output; Conv1D stores its weight as (in, out)."""
    base = getattr(module, "base_layer", module)
    weight = base.weight
    return int(weight.shape[1] if type(base).__name__ == "Conv1D" else weight.shape[0])
