"""A model of which one layer at a time is in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from circuitlab.core.errors import StreamedModelError
from circuitlab.core.html import html_table
from circuitlab.model.decoder import Decoder
from circuitlab.model.hooks import own_modes
from circuitlab.model.inside import require_tokens, token_grid
from circuitlab.model.norms import FrozenNorm
from circuitlab.model.sites import Edit, EditSet, Site
from circuitlab.model.spec_of import spec_of
from circuitlab.model.streaming.blocks import StreamedBlocks
from circuitlab.model.streaming.geometry import StreamedGeometry
from circuitlab.model.streaming.readout import StreamedReadout
from circuitlab.model.streaming.skeleton import layer_kind

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from circuitlab.core.nodes import Head
    from circuitlab.core.provenance import ModelSpec
    from circuitlab.model.decoder.block import Block
    from circuitlab.model.generate import Generation
    from circuitlab.model.interventions import Intervention
    from circuitlab.model.prompts import PromptLike
    from circuitlab.model.runner import Runner
    from circuitlab.model.streaming.laws import FirstReading
    from circuitlab.model.streaming.skeleton import Skeleton
    from circuitlab.model.streaming.source import LayerSource
    from circuitlab.scores.attention import AttentionPattern

__all__ = ["Opened", "StreamedModel"]


@dataclass(frozen=True, eq=False)
class Opened:
    """A folder of weights after its first reading: the model without its layers, the layers, and what is known of them."""

    skeleton: Skeleton
    source: LayerSource
    first: FirstReading


class StreamedModel:
    """A model of which one layer at a time is in memory. ``load_model(..., stream=True)`` returns one.

    Methods that go through the layers in order run on it, with the same arithmetic as on a model in memory; everything else raises
    `StreamedModelError` before it begins.

    Parameters
    ----------
    opened : Opened
        The folder after its first reading.
    tokenizer : PreTrainedTokenizerBase or None
        Its tokenizer.
    name : str
        Its name in results and messages.
    sha256 : str
        Hash of its weights.
    """

    streamed = True

    def __init__(self, opened: Opened, tokenizer: PreTrainedTokenizerBase | None, name: str, sha256: str) -> None:
        self.tokenizer = tokenizer
        self._opened, first, skeleton = opened, opened.first, opened.skeleton
        self._spec = spec_of(skeleton.root, first.parts, name, sha256)
        self._geometry = StreamedGeometry(skeleton, first.ones, first.layouts, first.outline, first.weights)
        self._readout = StreamedReadout(skeleton, FrozenNorm.of(skeleton.decoder.norm, self._spec.d_model), first.parts.softcap)

    def __repr__(self) -> str:
        spec = self._spec
        return f"StreamedModel({spec.name}: {spec.family}, {spec.n_layers} layers x {spec.n_heads} heads, one layer in memory)"

    def _repr_html_(self) -> str:
        spec = self._spec
        rows = [["family", spec.family], ["layers x heads", f"{spec.n_layers} x {spec.n_heads} ({spec.n_kv_heads} for keys and values)"]]
        rows += [["dtype", spec.dtype], ["in memory", f"one layer of {self.source.layer_bytes / 2**20:.0f} MiB, and the next"]]
        return html_table(f"Streamed model {spec.name}", ["", ""], rows)

    @property
    def spec(self) -> ModelSpec:
        """Shapes, family and identity: those of the same model in memory, because it gives the same numbers."""
        return self._spec

    @property
    def source(self) -> LayerSource:
        """Where layers are read, and what was read so far."""
        return self._opened.source

    @property
    def outline(self) -> Sequence[Block]:
        """The layers without the weights of their linear maps, which are on the meta device."""
        return self._opened.first.outline

    @property
    def by_layer(self) -> Decoder:
        """The functional forward for work that goes through the layers in order; a block is valid until another one is asked for."""
        return self._decoder(self.source.dtype)

    @property
    def by_layer_in_bf16(self) -> Decoder:
        """`by_layer` with weights in bfloat16, for `circuitlab.model.engine.Difference`."""
        return self._decoder(torch.bfloat16)

    def _decoder(self, dtype: torch.dtype) -> Decoder:
        blocks = StreamedBlocks(self.source, self.outline, self._opened.first.weights, dtype)
        return Decoder(blocks, self._geometry.embed, self._geometry)

    @property
    def sites(self) -> frozenset[Site]:
        """The sites that work by layer can edit: all of them, because a model that lacks one is refused at loading."""
        return frozenset(Site)

    @property
    def lacks(self) -> Mapping[Site, str]:
        """Nothing."""
        return {}

    def width(self, site: Site) -> int:
        """Width of one vector at a site, of one head where the site has heads."""
        return self._opened.first.parts.width(site)

    @property
    def length_dependent(self) -> bool:
        """Never: such a model is refused at loading."""
        return False

    @property
    def weights(self) -> StreamedReadout:
        """The final norm and rows of the unembedding."""
        return self._readout

    def refresh(self) -> None:
        """Raise `WeightsError` if a file has changed since the model was loaded."""
        self._opened.skeleton.shards.require_unchanged()

    @torch.no_grad()
    def logits(
        self,
        tokens: Int[Tensor, "row pos"],
        at: Int[Tensor, " row"],
        *,
        marks: Mapping[str, Int[Tensor, " row"]] | None = None,  # noqa: ARG002 - the signature of the protocol; there are no edits to place
        gradients: bool = False,
    ) -> Float[Tensor, "row vocab"]:
        """Next-token logits at one position of each row, by the model's own layers, each read once."""
        if gradients:
            self._refuse("Gradients of whole forward passes")
        tokens, at = token_grid(tokens, at)
        require_tokens(tokens, at, self.spec)
        skeleton, source, first = self._opened.skeleton, self.source, self._opened.first

        def layer(index: int, resid: Tensor, named: dict[str, Any]) -> Tensor:
            source.load(index)
            one = first.ones[layer_kind(skeleton.config, index)]
            one.fill(source.tensor)
            with own_modes(one.root):
                out: Tensor = one.layer(resid, **named)
            return out

        try:
            with own_modes(skeleton.root):
                normed = skeleton.watched(tokens, layer)
        finally:
            source.settle()
            for one in first.ones.values():
                one.empty()
        return self._capped(skeleton.unembedded(normed[torch.arange(len(at)), at]))

    def _capped(self, logits: Tensor) -> Tensor:
        cap = self._readout.softcap
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def unembed(self, resid: Float[Tensor, "... d_model"], ids: Int[Tensor, " token"] | None = None) -> Float[Tensor, "... token"]:
        """Logits from the residual stream leaving the last layer; with ``ids``, of these tokens only. Gradients flow to ``resid``."""
        normed = self._readout.final_norm.apply(resid)
        if ids is None:
            return self._capped(self._opened.skeleton.unembedded(normed))
        return self._capped(torch.nn.functional.linear(normed, self._readout.unembed(ids)))

    def _refuse(self, what: str) -> NoReturn:
        text = f"{what} cannot be had of {self.spec.name}, which is streamed: one layer at a time is in memory."
        can = "activation_patching, screened_patching, attribution_patching, path_patching and circuits of nodes run"
        raise StreamedModelError(text, f"{can}; for everything else load it without stream=True.")

    @property
    def decoder(self) -> Decoder:
        """Refused: it would give any layer at any time. Work that goes through the layers in order takes `by_layer`."""
        self._refuse("The whole functional forward")

    def capture(
        self,
        tokens: Int[Tensor, "row pos"],  # noqa: ARG002 - the signature of the protocol, here and below
        sites: Sequence[Site],  # noqa: ARG002
        *,
        layers: Sequence[int] | None = None,  # noqa: ARG002
        at: Int[Tensor, " row"] | None = None,  # noqa: ARG002
        marks: Mapping[str, Int[Tensor, " row"]] | None = None,  # noqa: ARG002
    ) -> dict[Site, Float[Tensor, ...]]:
        """Refused."""
        self._refuse("Activations")

    def sweep(
        self,
        tokens: Int[Tensor, "row pos"],  # noqa: ARG002
        at: Int[Tensor, " row"],  # noqa: ARG002
        edit_sets: Sequence[EditSet],  # noqa: ARG002
        ids: Int[Tensor, " token"] | None = None,  # noqa: ARG002
        marks: Mapping[str, Int[Tensor, " row"]] | None = None,  # noqa: ARG002
    ) -> Float[Tensor, "edit_set row token"]:
        """Refused: `circuitlab.methods.ActivationPatching` sweeps a streamed model."""
        self._refuse("A sweep of given edits")

    def with_edits(self, edits: Sequence[Edit]) -> Runner:  # noqa: ARG002
        """Refused."""
        self._refuse("A run with edits")

    def edited(self, *interventions: Intervention) -> NoReturn:  # noqa: ARG002
        """Refused."""
        self._refuse("An edited model")

    def generate(
        self,
        prompts: PromptLike,  # noqa: ARG002
        max_new_tokens: int,  # noqa: ARG002
        temperature: float = 0.0,  # noqa: ARG002
        seed: int = 0,  # noqa: ARG002
        stop: str | Sequence[str] | None = None,  # noqa: ARG002
    ) -> Generation | tuple[Generation, ...]:
        """Refused: every token would read the whole model."""
        self._refuse("Generated text")

    def attention(self, head: Head | str, prompts: PromptLike) -> AttentionPattern | tuple[AttentionPattern, ...]:  # noqa: ARG002
        """Refused."""
        self._refuse("An attention pattern")
