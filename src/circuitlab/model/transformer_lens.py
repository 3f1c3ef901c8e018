"""The one adapter to TransformerLens: serves the `Model` protocol through the hooks of a TransformerBridge.

General and exact: every model the bridge serves works, grouped-query heads included; the price is one whole forward pass for
every edited run.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from transformer_lens.model_bridge import TransformerBridge

from circuitlab.errors import BadParameterError, ModelError
from circuitlab.model.bridge_sites import Hook, SiteMap, edit_hooks
from circuitlab.model.bridge_tokenizer import tokenizer_for_bridge
from circuitlab.model.decoder.build import build_decoder
from circuitlab.model.engine import Engine
from circuitlab.model.protocol import Edit, Site
from circuitlab.model.readout import Readout, source

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from circuitlab.model.decoder import Decoder
    from circuitlab.model.protocol import EditSet, Runner
    from circuitlab.provenance import ModelSpec

__all__ = ["BridgeModel", "bridge_of", "is_bridge"]


def is_bridge(value: object) -> bool:
    """Whether a value is a TransformerBridge."""
    return isinstance(value, TransformerBridge)


def bridge_of(hf_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> TransformerBridge:
    """Wrap a loaded Hugging Face model. The model is changed in place: its layers become bridge components."""
    config = hf_model.config
    if not getattr(config, "architectures", None):
        config.architectures = [type(hf_model).__name__]
    hf_model.eval()

    own = tokenizer_for_bridge(tokenizer)
    with _quiet():
        return TransformerBridge.boot_transformers("local/model", hf_model=hf_model, tokenizer=own, dtype=hf_model.dtype)


class BridgeModel:
    """A TransformerBridge as a circuitlab model.

    Parameters
    ----------
    bridge : TransformerBridge
        The wrapped model, without compatibility mode (weights as released).
    spec : ModelSpec
        Its identity and shapes.
    tokenizer : PreTrainedTokenizerBase or None
        Used by `encode`; None for a model that is only fed token ids.
    """

    def __init__(self, bridge: TransformerBridge, spec: ModelSpec, tokenizer: PreTrainedTokenizerBase | None) -> None:
        self.bridge = bridge
        self.spec = spec
        self.tokenizer = tokenizer
        self.probe: tuple[Tensor, Tensor] | None = None
        self.site_map = SiteMap(spec)
        config = bridge.original_model.config
        softcap = getattr(config, "final_logit_softcapping", None)
        self.weights = Readout(bridge.blocks, source(bridge.ln_final), source(bridge.unembed), spec, softcap)

    @property
    def sites(self) -> frozenset[Site]:
        """The sites this model has."""
        return self.site_map.sites

    def logits(self, tokens: Int[Tensor, "row pos"], at: Int[Tensor, " row"]) -> Float[Tensor, "row vocab"]:
        """Next-token logits at one position of each row; only that position is unembedded."""
        return self._run(tokens, at, [], ())

    def capture(
        self,
        tokens: Int[Tensor, "row pos"],
        sites: Sequence[Site],
        *,
        layers: Sequence[int] | None = None,
        at: Int[Tensor, " row"] | None = None,
    ) -> dict[Site, Float[Tensor, ...]]:
        """Activations at sites, (row, layer, pos, ...), or (row, layer, ...) with ``at``."""
        return self._capture(tokens, sites, layers, at, ())

    def unembed(self, resid: Float[Tensor, "... d_model"], ids: Int[Tensor, " token"] | None = None) -> Float[Tensor, "... token"]:
        """Logits of a residual stream that left the last layer; of some tokens only where ``ids`` are given.

        Gradients flow to ``resid`` if it asks for them, never to weights.
        """
        weights = self.weights
        every = slice(None) if ids is None else ids
        normed = weights.final_norm.apply(resid)
        logits = torch.nn.functional.linear(normed, weights.unembed(every), weights.unembed_bias(every))
        return logits if weights.softcap is None else torch.tanh(logits / weights.softcap) * weights.softcap

    @cached_property
    def decoder(self) -> Decoder:
        """The functional forward, built on first use and checked against the model's logits."""
        return build_decoder(self)

    def sweep(
        self,
        tokens: Int[Tensor, "row pos"],
        at: Int[Tensor, " row"],
        edit_sets: Sequence[EditSet],
        ids: Int[Tensor, " token"] | None = None,
    ) -> Float[Tensor, "edit_set row token"]:
        """Logits of many edited runs of the same prompts; only what each edit set can reach is computed."""
        _check_tokens(tokens, at, self.spec)
        for one in edit_sets:
            edit_hooks(self.site_map, one.edits)  # refuse sites, layers and heads that do not exist
        engine = Engine(self.decoder)
        with torch.no_grad():
            return self.unembed(engine.sweep(engine.base_run(tokens, at), edit_sets), ids)

    def edited(self, edits: Sequence[Edit]) -> Runner:
        """The same model with edits in place."""
        edit_hooks(self.site_map, edits)  # refuse bad edits here, where the caller made them
        return _Edited(self, tuple(edits))

    def _capture(
        self,
        tokens: Tensor,
        sites: Sequence[Site],
        layers: Sequence[int] | None,
        at: Tensor | None,
        edits: Sequence[Edit],
    ) -> dict[Site, Tensor]:
        wanted = list(range(self.spec.n_layers)) if layers is None else list(layers)
        seen: dict[tuple[Site, int], Tensor] = {}
        hooks: list[Hook] = []
        for site in sites:
            for layer in wanted:
                self.site_map.check(site, layer)
                hooks.append((self.site_map.name(site, layer), _reader(seen, site, layer, at)))
        end = torch.full((tokens.shape[0],), tokens.shape[1] - 1) if at is None else at
        self._run(tokens, end, hooks, edits)
        if missed := [key for key in ((s, n) for s in sites for n in wanted) if key not in seen]:
            what = f"{self.spec.name} never computed {missed[0][0].value!r} of layer {missed[0][1]}."
            raise ModelError(what, "Run `circuitlab doctor` on this model; its family may not be supported.")
        return {site: torch.stack([seen[site, layer] for layer in wanted], dim=1) for site in sites}

    def _run(self, tokens: Tensor, at: Tensor, readers: Sequence[Hook], edits: Sequence[Edit]) -> Tensor:
        """One forward pass: edits first, then reads (which see edited values), the answer position unembedded."""
        _check_tokens(tokens, at, self.spec)
        device = self.bridge.W_E.device if tokens.device.type != "cpu" else tokens.device
        writers, check_fired = edit_hooks(self.site_map, edits)
        rows = torch.arange(tokens.shape[0], device=device)

        def only_answer(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            return activation[rows, at.to(device)][:, None]

        hooks = [*writers, *readers, ("unembed.hook_in", only_answer)]
        with torch.no_grad(), _quiet():
            logits: Tensor = self.bridge.run_with_hooks(tokens, fwd_hooks=hooks, return_type="logits")
        check_fired()
        return logits[:, -1]


class _Edited:
    """A model with edits; offers only runs."""

    def __init__(self, model: BridgeModel, edits: tuple[Edit, ...]) -> None:
        self._model, self._edits = model, edits

    def logits(self, tokens: Tensor, at: Tensor) -> Tensor:
        """Next-token logits of the edited run."""
        return self._model._run(tokens, at, [], self._edits)  # noqa: SLF001 - one unit in two classes

    def capture(
        self,
        tokens: Tensor,
        sites: Sequence[Site],
        *,
        layers: Sequence[int] | None = None,
        at: Tensor | None = None,
    ) -> dict[Site, Tensor]:
        """Activations of the edited run."""
        return self._model._capture(tokens, sites, layers, at, self._edits)  # noqa: SLF001


def _reader(seen: dict[tuple[Site, int], Tensor], site: Site, layer: int, at: Tensor | None) -> Any:
    def read(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        value = activation.detach()
        if at is not None:
            rows = torch.arange(len(at), device=value.device)
            value = value[rows, :, at] if site is Site.PATTERN else value[rows, at]
        seen[site, layer] = value.clone()
        return activation

    return read


def _check_tokens(tokens: Tensor, at: Tensor, spec: ModelSpec) -> None:
    square = tokens.ndim == 2 and at.shape == tokens.shape[:1]  # noqa: PLR2004 - rows and positions
    if not square or bool(((at < 0) | (at >= tokens.shape[1])).any()):
        what = f"Tokens of shape {tuple(tokens.shape)} cannot be read at positions {at.tolist()[:8]}."
        raise BadParameterError(what, "Give (row, pos) token ids and one position inside each row.")
    if int(tokens.max()) >= spec.d_vocab or int(tokens.min()) < 0:
        what = f"Token ids run from {int(tokens.min())} to {int(tokens.max())}; {spec.name} has {spec.d_vocab} tokens."
        raise BadParameterError(what, "Encode prompts with this model's own tokenizer.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' advice about model names and caches out of a user's terminal; errors still raise."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
