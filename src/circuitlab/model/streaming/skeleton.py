"""Hugging Face models without the memory of their weights: the whole model as a skeleton, and models of one layer whose weights change."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from circuitlab.core.errors import ModelError, WeightsError
from circuitlab.model.weights.folder import quiet_transformers

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.anatomy import ModelParts
    from circuitlab.model.streaming.shards import Shards

__all__ = ["FAMILIES", "OneLayer", "Skeleton", "layer_kind", "require_family"]

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
"""Families whose layers are known to read nothing but the stream, the mask and the rotary angles that the model gives them."""

_VOCABULARY = 48
"""Tokens of a model of one layer."""

_ROWS = 1 << 14
"""Rows of the unembedding that are in memory together."""


def require_family(config: Any, name: str) -> None:
    """Raise `ModelError` for a family that cannot be streamed, with the reason."""
    if config.model_type not in FAMILIES:
        why = "its projections are fused or its layers have not been shown to work one at a time"
        what = f"{name} cannot be streamed: {config.model_type!r} is not among {', '.join(FAMILIES)} ({why})."
        raise ModelError(what, "Load it without stream=True, on a machine whose memory holds it.")


def layer_kind(config: Any, layer: int) -> str:
    """The kind of a layer, such as ``"sliding_attention"``; the empty string where a family has only one."""
    kinds = getattr(config, "layer_types", None)
    return kinds[layer] if kinds else ""


class _EmptyOnMeta(TorchFunctionMode):
    """Uninitialised tensors take no memory; everything else (gains, rotary angles, embedding scales) is made as usual."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _empty_model(config: Any, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    with quiet_transformers(), _EmptyOnMeta():
        root = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager")
    for value in root.parameters():
        value.requires_grad_(False)
    return root.eval()


def _unchanged(hidden_states: Tensor) -> Tensor:
    return hidden_states


def _assign(root: Any, name: str, value: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    root.get_submodule(owner)._parameters[leaf] = torch.nn.Parameter(value, requires_grad=False)  # noqa: SLF001 - weights of another layer


class OneLayer:
    """A model of one layer of a kind, with the embedding, final norm and unembedding of a few tokens. Any layer's weights can be put in.

    Parameters
    ----------
    config : PreTrainedConfig
        Of the whole model.
    kind : str
        From `layer_kind`.
    dtype : torch.dtype
        Dtype in which it runs.

    Notes
    -----
    ``parts`` are set by `circuitlab.model.streaming.laws` once they are found and tested.
    """

    parts: ModelParts

    def __init__(self, config: Any, kind: str, dtype: torch.dtype) -> None:
        small = copy.deepcopy(config)
        self.vocabulary = min(_VOCABULARY, config.vocab_size)
        small.num_hidden_layers, small.vocab_size = 1, self.vocabulary
        small.pad_token_id = small.bos_token_id = small.eos_token_id = None
        if kind:
            small.layer_types = [kind]
        self.root = _empty_model(small, dtype)
        (self.layer,) = self.root.get_decoder().layers
        self.names = [name for name, _ in self.layer.named_parameters()]

    def fill(self, tensors: Callable[[str], Tensor]) -> None:
        """Put in a layer's weights, from a function of their names."""
        for name in self.names:
            _assign(self.layer, name, tensors(name))

    def empty(self) -> None:
        """Take a layer's weights out again, so that their memory is given back."""
        for name, value in [*self.layer.named_parameters()]:
            _assign(self.layer, name, torch.empty_like(value, device="meta"))

    def fill_ends(self, shards: Shards, outer: Mapping[str, str], dtype: torch.dtype) -> None:
        """Put in what lies outside the layers: some rows of embedding and unembedding, and the final norm."""
        inside = {id(value) for value in self.layer.parameters()}
        for name, value in [*self.root.named_parameters()]:
            if id(value) in inside:
                continue
            place = shards.places[outer[name]]
            if value.shape == place.shape:
                _assign(self.root, name, shards.read(outer[name], dtype))
            else:
                ids = torch.linspace(0, place.shape[0] - 1, self.vocabulary).long()
                _assign(self.root, name, shards.rows(outer[name], ids, dtype))
        self.root.tie_weights()


class Skeleton:
    """The whole model: its modules, with the weights of norms outside the layers, and without any other.

    Parameters
    ----------
    config : PreTrainedConfig
        Its configuration.
    shards : Shards
        Its files.
    dtype : torch.dtype
        Dtype in which it runs.

    Raises
    ------
    WeightsError
        If the files lack one of its weights, hold others, or hold one of another shape.
    """

    def __init__(self, config: Any, shards: Shards, dtype: torch.dtype) -> None:
        self.config, self.shards, self.dtype = config, shards, dtype
        self.root = _empty_model(config, dtype)
        self.decoder = self.root.get_decoder()
        self.shapes = {name: tuple(value.shape) for name, value in self.root.named_parameters()}
        self._require_stored()
        prefix = next(name for name, module in self.root.named_modules() if module is self.decoder.layers)
        self.layers = [
            {name.removeprefix(f"{prefix}.{i}."): name for name in self.shapes if name.startswith(f"{prefix}.{i}.")}
            for i in range(len(self.decoder.layers))
        ]
        self.outer = {name: name for name in self.shapes if not name.startswith(f"{prefix}.")}
        self._seen: Callable[[int, Tensor, dict[str, Any]], Any] | None = None
        self.embedding = next(name for name, value in self.root.named_parameters() if value is self.root.get_input_embeddings().weight)
        tied = self.root.get_output_embeddings().weight is self.root.get_input_embeddings().weight
        outputs = (name for name, value in self.root.named_parameters() if value is self.root.get_output_embeddings().weight)
        self.unembedding = self.embedding if tied else next(outputs)
        self._replace_forwards()
        for name, value in [*self.root.named_parameters()]:
            if name in self.outer and value.device.type != "meta":
                _assign(self.root, name, shards.read(name, dtype))

    def _require_stored(self) -> None:
        places = self.shards.places
        folder = self.shards.files[0].parent
        fix = "Config and weights do not belong together, or the folder is incomplete; copy it again."
        if missing := sorted(self.shapes.keys() - places.keys()):
            what = f"{folder} lacks {len(missing)} of the weights of {type(self.root).__name__}: {', '.join(missing[:3])}."
            raise WeightsError(what, fix)
        others = sorted(name for name in places.keys() - self.shapes.keys() if not name.endswith("rotary_emb.inv_freq"))
        if others:
            what = f"{folder} holds {len(others)} weights that {type(self.root).__name__} does not have: {', '.join(others[:3])}."
            raise WeightsError(what, fix)
        for name, shape in self.shapes.items():
            if places[name].shape != shape:
                what = f"{folder} holds {name!r} of shape {places[name].shape}, not {shape} as its config says."
                raise WeightsError(what, fix)

    def _replace_forwards(self) -> None:
        """Layers pass their input on and show their arguments; embedding and unembedding read rows."""
        for index, layer in enumerate(self.decoder.layers):
            layer.register_forward_pre_hook(self._entering(index), with_kwargs=True)
            layer.forward = _unchanged
        embedding = self.root.get_input_embeddings()
        embedding.padding_idx = None  # rows get other numbers while they are looked up
        embedding.forward = self._embedding_forward(embedding, embedding.forward)
        self.root.get_output_embeddings().forward = self.unembedded

    def _entering(self, index: int) -> Callable[..., Any]:
        def enter(_module: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
            stream = args[0] if args else named["hidden_states"]
            others = {name: value for name, value in named.items() if name != "hidden_states"}
            new = None if self._seen is None else self._seen(index, stream, others)
            return (stream if new is None else new,), {}

        return enter

    def _embedding_forward(self, module: Any, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def rows(input_ids: Int[Tensor, "row pos"]) -> Tensor:
            empty, (ids, back) = module.weight, input_ids.unique(return_inverse=True)
            _assign(module, "weight", self.shards.rows(self.embedding, ids, self.dtype))
            try:
                return forward(back)
            finally:
                module._parameters["weight"] = empty  # noqa: SLF001

        return rows

    def unembedded(self, normed: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows vocab"]:
        """Every token's logit before any softcap, some rows of the unembedding at a time."""
        total = self.shapes[self.unembedding][0]
        blocks = (
            self.shards.block(self.unembedding, first, min(first + _ROWS, total), self.dtype).to(normed.dtype)
            for first in range(0, total, _ROWS)
        )
        return torch.cat([torch.nn.functional.linear(normed, block) for block in blocks], dim=-1)

    @torch.no_grad()
    def watched(
        self, tokens: Int[Tensor, "row pos"], seen: Callable[[int, Tensor, dict[str, Any]], Tensor | None]
    ) -> Float[Tensor, "row pos d_model"]:
        """Run the model with a function of (layer, stream, arguments) in place of its layers; returns the stream after the final norm.

        Where the function returns None, the stream passes unchanged.
        """
        self._seen = seen
        try:
            with torch.inference_mode(mode=False):
                out: Tensor = self.decoder(input_ids=tokens.clone(), use_cache=False).last_hidden_state
            return out
        finally:
            self._seen = None
