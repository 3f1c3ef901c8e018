"""What one look at a Hugging Face model found: its parts, its shape and identity, and what is derived from its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from circuitlab.model.anatomy.build import model_parts
from circuitlab.model.hooks import own_modes
from circuitlab.model.identity import Fingerprint, hash_weights
from circuitlab.model.spec_of import spec_of

if TYPE_CHECKING:
    from circuitlab.core.errors import ModelError
    from circuitlab.core.provenance import ModelSpec
    from circuitlab.model.anatomy import ModelParts
    from circuitlab.model.decoder import Decoder
    from circuitlab.model.readout import Readout
    from circuitlab.model.sites import Site

__all__ = ["LoadedModel"]


@dataclass(eq=False)
class LoadedModel:
    """What one look at a Hugging Face model found; shared by the model and its edited variants, and renewed when the weights change."""

    root: Any
    name: str
    weights: str | None
    seen: Fingerprint
    parts: ModelParts
    spec: ModelSpec
    decoder: Decoder | ModelError | None = None
    readout: Readout | None = None
    cache_exact: dict[frozenset[tuple[Site, int]], bool] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Any, name: str, weights: str | None) -> LoadedModel:
        """Look at a model; ``weights`` is the hash of its parameters, where it is known."""
        with own_modes(root):
            known = weights or hash_weights(root)  # first: weights that are no numbers would fail every test of the parts
            parts = model_parts(root)
            spec = spec_of(root, parts, name, known)
        return cls(root, name, weights, Fingerprint.of(root, deep=True), parts, spec)

    def renew(self) -> None:
        """Look again."""
        self.__dict__.update(vars(LoadedModel.of(self.root, self.name, None)))
