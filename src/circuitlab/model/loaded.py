"""What is known of a loaded Hugging Face model: its parts, shape and identity, and what is derived from its weights."""

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
    """What is known of a loaded Hugging Face model; shared by the model and its edited variants.

    Parameters
    ----------
    root : PreTrainedModel
        The model.
    name : str
        Its name in results and messages.
    weights : str or None
        SHA-256 of its parameters, if it was known at loading.
    seen : Fingerprint
        Fingerprint of the weights that everything here was derived from.
    parts : ModelParts
        Its parts, and the sites that it has.
    spec : ModelSpec
        Its shape and identity.
    decoder : Decoder or ModelError, optional
        The functional forward, or the reason why there is none; None until first use.
    readout : Readout, optional
        Weights of the readout; None until first use.
    cache_exact : dict of frozenset of (Site, int) to bool
        Whether a key/value cache is exact when these sites are edited.
    """

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
        """Find the parts and the identity of a model; ``weights`` is the hash of its parameters, if it is known."""
        with own_modes(root):
            weights_hash = weights or hash_weights(root)  # first: weights that are not finite would fail every test of the parts
            parts = model_parts(root)
            spec = spec_of(root, parts, name, weights_hash)
        return cls(root, name, weights, Fingerprint.of(root, deep=True), parts, spec)

    def renew(self) -> None:
        """Find everything again, after the weights have changed."""
        self.__dict__.update(vars(LoadedModel.of(self.root, self.name, None)))
