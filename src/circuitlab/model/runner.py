"""A model that can be run and read: the protocol that interventions and evaluation need.

Importing this module does not import torch; tensors appear in annotations only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.core.provenance import ModelSpec
    from circuitlab.model.decoder import Decoder
    from circuitlab.model.sites import Site

__all__ = ["ReadableModel", "Runner"]


@runtime_checkable
class Runner(Protocol):
    """A model that can be run: logits and activations. `Model.with_edits` returns one."""

    def logits(
        self,
        tokens: Int[Tensor, "row pos"],
        at: Int[Tensor, " row"],
        *,
        marks: Mapping[str, Int[Tensor, " row"]] | None = None,
        gradients: bool = False,
    ) -> Float[Tensor, "row vocab"]:
        """Next-token logits (after the final softcap) at one position of each row, where its prompt ends.

        With ``gradients``, gradients flow to the values of interventions, never to weights; otherwise there are none. ``marks`` are named
        positions of the prompts, for interventions that act at marks.
        """
        ...

    def capture(
        self,
        tokens: Int[Tensor, "row pos"],
        sites: Sequence[Site],
        *,
        layers: Sequence[int] | None = None,
        at: Int[Tensor, " row"] | None = None,
        marks: Mapping[str, Int[Tensor, " row"]] | None = None,
    ) -> dict[Site, Float[Tensor, ...]]:
        """Activations at sites, shape (row, layer, pos, ...), or (row, layer, ...) with ``at``, without gradients.

        PATTERN is (row, layer, head, query_pos, key_pos), or (row, layer, head, key_pos) with ``at``. ``layers`` are the layers to
        capture, in this order; all layers if omitted.
        """
        ...


@runtime_checkable
class ReadableModel(Runner, Protocol):
    """A runnable model whose shape and sites are known; interventions are bound to one."""

    @property
    def spec(self) -> ModelSpec:
        """Shapes, family and identity."""
        ...

    @property
    def sites(self) -> frozenset[Site]:
        """The sites this model has."""
        ...

    @property
    def lacks(self) -> Mapping[Site, str]:
        """Sites that this model does not have, each with the reason."""
        ...

    def width(self, site: Site) -> int:
        """Width of one vector at a site, of one head where the site has heads."""
        ...

    @property
    def decoder(self) -> Decoder:
        """The functional forward; raises `ModelError` if it cannot be built for this model."""
        ...
