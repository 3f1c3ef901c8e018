"""The weights a linear readout needs, read from the Hugging Face modules inside a bridge."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from circuitlab.model.norms import FrozenNorm

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.provenance import ModelSpec

__all__ = ["Readout", "source"]


class Readout:
    """Implements `circuitlab.model.protocol.Weights`.

    Parameters
    ----------
    blocks : sequence
        Bridge blocks with ``attn.o`` and, with post-norms, ``ln1_post``.
    final_norm, unembed : module
        Source modules at the end of the model.
    spec : ModelSpec
        Shapes.
    softcap : float or None
        Final logit softcap.
    """

    def __init__(self, blocks: Any, final_norm: Any, unembed: Any, spec: ModelSpec, softcap: float | None) -> None:
        self._blocks, self._norm, self._unembed, self._spec = blocks, final_norm, unembed, spec
        self.softcap = softcap

    @cached_property
    def final_norm(self) -> FrozenNorm:
        """Norm before the unembedding."""
        return FrozenNorm.of(self._norm)

    def output(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """Output projection W_O of each query head."""
        module = source(self._blocks[layer].attn.o)
        weight = module.weight.detach()
        by_input = weight if type(module).__name__ == "Conv1D" else weight.T  # GPT-2's Conv1D stores (in, out)
        return by_input.reshape(self._spec.n_heads, self._spec.d_head, self._spec.d_model)

    def output_bias(self, layer: int) -> Float[Tensor, " d_model"] | None:
        """Output bias b_O, or None."""
        bias = source(self._blocks[layer].attn.o).bias
        return None if bias is None else bias.detach()

    def post_attention_norm(self, layer: int) -> FrozenNorm | None:
        """Norm between the output projection and the residual stream, or None."""
        return FrozenNorm.of(source(self._blocks[layer].ln1_post)) if self._spec.post_norm else None

    def unembed(self, ids: Int[Tensor, ...] | slice) -> Float[Tensor, "... d_model"]:
        """Unembedding column of each token id."""
        weight: Tensor = self._unembed.weight.detach()
        return weight[ids if isinstance(ids, slice) else ids.to(weight.device)]

    def unembed_bias(self, ids: Int[Tensor, ...] | slice) -> Float[Tensor, ...] | None:
        """Unembedding bias of each token id, or None."""
        bias: Tensor | None = getattr(self._unembed, "bias", None)
        return None if bias is None else bias.detach()[ids if isinstance(ids, slice) else ids.to(bias.device)]


def source(component: Any) -> Any:
    """The Hugging Face module inside a bridge component."""
    return getattr(component, "original_component", component)
