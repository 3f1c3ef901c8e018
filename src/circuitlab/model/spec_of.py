"""The `ModelSpec` of a loaded model: shapes from its parts, identity from its weights, configuration and state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from circuitlab.core.errors import ModelError
from circuitlab.core.provenance import ModelSpec, digest
from circuitlab.model.identity import config_digest, state_digest
from circuitlab.model.norms import FrozenNorm

if TYPE_CHECKING:
    from circuitlab.model.anatomy import ModelParts

__all__ = ["spec_of"]


def spec_of(root: Any, parts: ModelParts, name: str, weights: str) -> ModelSpec:
    """Everything about a model that a score depends on; ``weights`` is the hash of its parameters."""
    config = root.config.get_text_config()
    width = parts.d_model
    heads = parts.n_heads or int(getattr(config, "num_attention_heads", 0) or 1)
    return ModelSpec(
        name=name,
        family=config.model_type,
        n_layers=len(parts.layers),
        n_heads=heads,
        n_kv_heads=parts.n_kv_heads or heads,
        d_model=width,
        d_head=parts.d_head or width // heads,
        d_vocab=int(root.get_output_embeddings().weight.shape[0]),
        norm=_kind(parts, width),
        post_norm=any(layer.attn_post for layer in parts.layers),
        parallel=any(layer.parallel for layer in parts.layers),
        dtype=str(root.dtype).removeprefix("torch."),
        weights=weights,
        config=digest([config_digest(root.config), state_digest(root)]),
        n_ctx=_positions(root, config),
    )


def _kind(parts: ModelParts, width: int) -> str:
    try:
        return "layer" if FrozenNorm.of(parts.final_norm, width).kind == "layer" else "rms"
    except ModelError:
        return "other"


def _positions(root: Any, config: Any) -> int | None:
    """Number of positions of a model with learned positions; None for other models."""
    n_positions = next(
        (int(getattr(config, name)) for name in ("n_positions", "max_position_embeddings") if getattr(config, name, None)), None
    )
    tables = [m.num_embeddings for m in root.modules() if isinstance(m, torch.nn.Embedding) and m is not root.get_input_embeddings()]
    return n_positions if n_positions is not None and any(n_positions <= size <= n_positions + 2 for size in tables) else None
