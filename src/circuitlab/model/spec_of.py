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

_TABLE = 2
"""Dimensions of a table of positions."""


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
    """Number of positions that a model has; None where it takes prompts of any length.

    That is what its tables of positions hold: learned ones, of which some begin after the padding token's own row (RoBERTa); fixed ones
    that are computed once (GPT-J, CTRL), also where a longer one would be computed and make it another model (XGLM); or biases of attention
    that are laid out for a longest prompt (MPT).
    """
    names = ("n_positions", "max_position_embeddings")
    n_positions = next((int(getattr(config, name)) for name in names if getattr(config, name, None)), None)
    if n_positions is None:
        return getattr(config, "max_seq_len", None)
    for table in root.modules():
        if isinstance(table, torch.nn.Embedding) and table is not root.get_input_embeddings():
            taken = 0 if table.padding_idx is None else table.padding_idx + 1
            if n_positions <= table.num_embeddings <= n_positions + 2:
                return min(n_positions, table.num_embeddings - taken)
    fixed = any(buffer.ndim == _TABLE and n_positions <= len(buffer) <= n_positions + 2 for buffer in root.buffers())
    return n_positions if fixed else None
