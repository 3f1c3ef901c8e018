"""Build a decoder from a bridge, and check that it computes what the model computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from circuitlab.errors import ModelError
from circuitlab.model.decoder.block import Block
from circuitlab.model.decoder.decoder import Decoder
from circuitlab.model.decoder.rotary import Geometry

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.model.transformer_lens import BridgeModel

__all__ = ["build_decoder"]

# Norms and rotary angles of some families round to float32 inside also when the model is float64; the functional forward does not.
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 2e-3}
_PROBE_LENGTH = 12


def build_decoder(model: BridgeModel) -> Decoder:
    """The functional forward of a model.

    Raises
    ------
    ModelError
        If a part cannot be found under the bridge's canonical names, or the logits differ from the model's own.
    """
    try:
        blocks = [Block.of(block, model.spec) for block in model.bridge.blocks]
    except (AttributeError, KeyError, ModelError) as error:
        what = f"{model.spec.name} ({model.spec.family}) has layers that circuitlab cannot take apart: {error}."
        raise ModelError(what, "Use engine='hooks', which needs only TransformerLens.") from error
    decoder = Decoder(blocks, lambda tokens: _embed(model, tokens), _Measure(model))
    _check(model, decoder)
    return decoder


class _ReachedError(Exception):
    """Raised by a hook to leave a forward pass at the first layer."""


def _embed(model: BridgeModel, tokens: Tensor) -> Tensor:
    """Run the model up to its first layer and keep what enters it."""
    seen: list[Tensor] = []

    def stop(_module: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.append(args[0] if args else named["hidden_states"])
        raise _ReachedError

    handle = model.bridge.blocks[0].register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with torch.no_grad():
            model.logits(tokens, torch.zeros(len(tokens), dtype=torch.long))
    except _ReachedError:
        return seen[0].detach()
    finally:
        handle.remove()
    what = f"{model.spec.name} finished a forward pass without calling its first layer."
    raise ModelError(what, "Use engine='hooks'.")


class _Measure:
    """Geometry of every layer up to a length; measured once for the longest prompt seen."""

    def __init__(self, model: BridgeModel) -> None:
        self._model, self._length = model, 0
        self._found: list[Geometry] = []

    def __call__(self, length: int) -> Sequence[Geometry]:
        if length > self._length:
            self._found, self._length = self._record(length), length
        return self._found

    def _record(self, length: int) -> list[Geometry]:
        calls: list[dict[str, Any]] = []

        def keep(_module: Any, _args: Any, named: dict[str, Any]) -> None:
            calls.append(named)

        blocks = self._model.bridge.blocks
        handles = [block.register_forward_pre_hook(keep, with_kwargs=True) for block in blocks]
        try:
            tokens = torch.zeros(1, length, dtype=torch.long, device=self._model.bridge.W_E.device)
            self._model.logits(tokens, torch.tensor([length - 1]))
        finally:
            for handle in handles:
                handle.remove()
        return [Geometry.of_call(named, length) for named in calls]


def _check(model: BridgeModel, decoder: Decoder) -> None:
    tokens = (torch.arange(_PROBE_LENGTH)[None] * 11 + 5) % model.spec.d_vocab
    at = torch.tensor([_PROBE_LENGTH - 1])
    expected = model.logits(tokens, at)
    found = model.unembed(decoder.final(tokens)[:, -1])
    apart = float((found - expected).abs().max())
    if not apart <= _TOLERANCE.get(expected.dtype, 0.5):
        what = f"The functional forward of {model.spec.name} ({model.spec.family}) is {apart:.2g} logits away from the model's own."
        raise ModelError(what, "Use engine='hooks', and report the family.")
