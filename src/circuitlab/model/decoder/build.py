"""Build a decoder from the parts of a model. What the parts leave open is found by trying on one run, and the result is checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from circuitlab.core.errors import ModelError
from circuitlab.model.anatomy.build import probe_tokens
from circuitlab.model.decoder.assemble import Assembled, assemble
from circuitlab.model.decoder.decoder import Decoder
from circuitlab.model.decoder.rotary import Geometry
from circuitlab.model.hooks import HookedRun, own_modes
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TOLERANCE", "build_decoder", "site_values"]

# Norms and rotary angles of some families round to float32 even in a float64 model; the functional forward does not.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4}
"""Largest accepted difference from the model's own residual stream, relative to its size."""
_PROBE_LENGTH = 12
_HOOKS = "Use activation_patching with engine='hooks', or logit_attribution: both run the model itself."


def build_decoder(run: HookedRun, name: str) -> Decoder:
    """The functional forward of a model.

    Parameters
    ----------
    run : HookedRun
        The model.
    name : str
        Its name in error messages.

    Raises
    ------
    ModelError
        If a part is of a kind that the decoder does not know, or its residual stream differs from the model's own.
    """
    need = (Site.Q, Site.K, Site.V, Site.Z, Site.PATTERN, Site.ATTN_OUT, Site.MLP_OUT)
    for site in need:
        if site in run.parts.lacks:
            what = f"{name} cannot be taken apart: it has no site {site.value!r} ({run.parts.lacks[site]})."
            raise ModelError(what, _HOOKS)
    geometry_of = _RecordedGeometry(run, name)
    with own_modes(run.root):
        values = site_values(run, geometry_of.tokens(_PROBE_LENGTH))
        recorded = geometry_of.record(_PROBE_LENGTH)
        assembled = list(_assembled(run, values, recorded, name))
    geometry_of.ready(assembled)
    decoder = Decoder([layer.block for layer in assembled], geometry_of.embed, geometry_of)
    geometry_of.decoder = decoder
    decoder.geometry(_PROBE_LENGTH)
    return decoder


def _assembled(run: HookedRun, values: dict[tuple[Site, int], Tensor], geometry: Sequence[Geometry], name: str) -> Iterator[Assembled]:
    for index, (parts, where) in enumerate(zip(run.parts.layers, geometry, strict=True)):
        of_layer = {site: value for (site, layer), value in values.items() if layer == index}
        try:
            yield assemble(parts, of_layer, where)
        except ModelError as error:
            what = f"Layer {index} of {name} cannot be taken apart: {error.what}"
            raise ModelError(what, _HOOKS) from error


def site_values(run: HookedRun, tokens: Tensor) -> dict[tuple[Site, int], Tensor]:
    """Every site of one run."""
    seen: dict[tuple[Site, int], Tensor] = {}

    def tap(site: Site, layer: int, value: Tensor) -> Tensor:
        seen[site, layer] = value.detach().clone()
        return value

    sites = [(site, layer) for site in run.parts.sites for layer in range(len(run.parts.layers))]
    run.logits(tokens, torch.full((len(tokens),), tokens.shape[1] - 1), sites, tap)
    return seen


@dataclass(eq=False)
class _RecordedGeometry:
    """Embedding and geometry of every layer, recorded from the model itself; each new length is checked before it is used.

    If angles depend on the length of the prompt, each length has its own geometry; otherwise the longest serves shorter prompts.
    """

    run: HookedRun
    name: str

    def __post_init__(self) -> None:
        self._by_length: dict[int, list[Geometry]] = {}
        self._assembled: list[Assembled] = []
        self._checking = False
        self.decoder: Decoder | None = None

    def ready(self, assembled: list[Assembled]) -> None:
        """Set each layer's layout of rotary angles, found by `assemble`."""
        self._assembled = assembled

    @property
    def _device(self) -> torch.device:
        return self.run.device

    def tokens(self, length: int) -> Tensor:
        """Two prompts of this length to test on."""
        return probe_tokens(int(self.run.root.get_input_embeddings().weight.shape[0]), 2, length, self._device)

    def __call__(self, length: int) -> Sequence[Geometry]:
        if self.run.parts.length_dependent:
            if length not in self._by_length:
                self._by_length[length] = self._checked(length)
            return self._by_length[length]
        longest = max(self._by_length, default=0)
        if length > longest:
            self._by_length = {length: self._checked(length)}
            longest = length
        return self._by_length[longest]

    def _checked(self, length: int) -> list[Geometry]:
        with own_modes(self.run.root):
            by_layer = self.record(length)
        by_layer = [where.laid_out(layer.rotation, layer.bias_factor) for where, layer in zip(by_layer, self._assembled, strict=True)]
        if self.decoder is not None and not self._checking:
            self._check(replace(self.decoder, geometry=lambda _length: by_layer), length)
        return by_layer

    @torch.no_grad()
    def _check(self, decoder: Decoder, length: int) -> None:
        tokens = self.tokens(length)
        last = (Site.RESID_POST, len(self.run.parts.layers) - 1)
        with own_modes(self.run.root):
            expected = _last(self.run, tokens, last)
            actual = decoder.final(tokens)
        apart, size = float((actual - expected).abs().max()), float(expected.abs().max())
        if not apart <= TOLERANCE.get(expected.dtype, 0.1) * max(1.0, size):
            off = f"{apart:.2g} away from the model's own stream (of size {size:.2g})"
            what = f"The functional forward of {self.name} is {off} at {length} tokens."
            raise ModelError(what, _HOOKS)

    def record(self, length: int) -> list[Geometry]:
        """The rotary angles, masks and biases that the model passes to its layers."""
        calls: list[dict[str, Any]] = []
        self.run.entering(self.tokens(length)[:1], lambda _layer, _resid, named: calls.append(named), len(self.run.parts.layers))
        whole = (Geometry.of_call(named, length) for named in calls)
        return [replace(where, visible=where.visible.to(self._device)) for where in whole]

    def embed(self, tokens: Tensor) -> Tensor:
        """The residual stream entering the first layer."""
        seen: list[Tensor] = []
        with own_modes(self.run.root):
            self.run.entering(
                tokens.clone() if tokens.is_inference() else tokens, lambda _layer, resid, _named: seen.append(resid.detach())
            )
        return seen[0]


def _last(run: HookedRun, tokens: Tensor, place: tuple[Site, int]) -> Tensor:
    seen: list[Tensor] = []

    def record(_site: Site, _layer: int, value: Tensor) -> Tensor:
        seen.append(value.detach().clone())
        return value

    run.logits(tokens, torch.full((len(tokens),), tokens.shape[1] - 1), [place], record)
    return seen[0]
