"""A model that can be run and read: all that interventions and evaluation ask of one.

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
    """The running half of a model; an edited model offers just this."""

    def logits(
        self,
        tokens: Int[Tensor, "row pos"],
        at: Int[Tensor, " row"],
        *,
        marks: Mapping[str, Int[Tensor, " row"]] | None = None,
        gradients: bool = False,
    ) -> Float[Tensor, "row vocab"]:
        """Next-token logits at one position of each row (final softcap applied), where its prompt ends.

        Without gradients, unless ``gradients`` is true: then they flow to the values of interventions, never to weights. ``marks`` are the
        named positions of the prompts, for interventions that act at marks.
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

        PATTERN is (row, layer, head, query_pos, key_pos), or (row, layer, head, key_pos) with ``at``. ``layers`` restricts
        the layer axis (in the order given).
        """
        ...


@runtime_checkable
class ReadableModel(Runner, Protocol):
    """A model whose shape is known and whose values can be read; what an intervention is bound to."""

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
        """Sites that it does not have, each with the reason."""
        ...

    def width(self, site: Site) -> int:
        """Numbers of one vector at a site, of a head where it has heads."""
        ...

    @property
    def decoder(self) -> Decoder:
        """The functional forward; raises `ModelError` where the model cannot be taken apart."""
        ...
