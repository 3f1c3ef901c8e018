"""Build a wiring as a tiny Llama or GPT-2, and load it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from circuitlab.model.load import load_model
from circuitlab.model.toy.wiring import D_HEAD, HEADS, WIDTH, Wiring

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["serve"]

_THETA = 1e20
"""Base of the rotary frequencies: one pair of dimensions rotates by one radian per token, and all but one other barely rotate."""


def serve(wiring: Wiring, name: str) -> Model:
    """Build the Hugging Face model of a wiring and load it; deterministic, and the global random state is restored."""
    state = torch.get_rng_state()
    try:
        # Loading is included, because its tests draw random numbers, too.
        return load_model(_llama(wiring) if wiring.form == "gqa" else _gpt2(wiring), name=name)
    finally:
        torch.set_rng_state(state)


def _mlps(wiring: Wiring) -> tuple[torch.Tensor, torch.Tensor]:
    """Incoming weights (layer, unit, feature) and outgoing weights (layer, feature, unit), padded to one size."""
    size = max(1, *map(len, wiring.units))
    incoming, outgoing = torch.zeros(wiring.n_layers, size, WIDTH), torch.zeros(wiring.n_layers, WIDTH, size)
    for layer, units in enumerate(wiring.units):
        for unit, (read, write) in enumerate(units):
            incoming[layer, unit], outgoing[layer, :, unit] = read, write
    return incoming, outgoing


@torch.no_grad()
def _llama(wiring: Wiring) -> Any:
    """Each feature is one coordinate. The gate reads the features; the gated value reads the ballast, so that it is 1."""
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    incoming, outgoing = _mlps(wiring)
    config = LlamaConfig(
        vocab_size=len(wiring.embed),
        hidden_size=WIDTH,
        num_hidden_layers=wiring.n_layers,
        num_attention_heads=HEADS,
        num_key_value_heads=wiring.n_kv_heads,
        head_dim=D_HEAD,
        intermediate_size=incoming.shape[1],
        max_position_embeddings=len(wiring.position),
        rope_parameters={"rope_type": "default", "rope_theta": _THETA},
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    hf = LlamaForCausalLM(config).float().eval()
    for name, parameter in hf.named_parameters():
        parameter.fill_(wiring.ballast / WIDTH**0.5 if "norm" in name else 0.0)
    hf.model.embed_tokens.weight.copy_(wiring.embed)
    hf.lm_head.weight.copy_(wiring.unembed)
    for layer, block in enumerate(hf.model.layers):
        attention, mlp = block.self_attn, block.mlp
        attention.q_proj.weight.copy_(wiring.query[layer].flatten(0, 1))
        attention.k_proj.weight.copy_(wiring.key[layer].flatten(0, 1))
        attention.v_proj.weight.copy_(wiring.value[layer].flatten(0, 1))
        attention.o_proj.weight.copy_(wiring.output[layer].transpose(0, 1).flatten(1))
        mlp.gate_proj.weight.copy_(incoming[layer])
        mlp.up_proj.weight[:, 0] = 1.0 / wiring.ballast
        mlp.down_proj.weight.copy_(outgoing[layer])
    return hf


@torch.no_grad()
def _gpt2(wiring: Wiring) -> Any:
    """Each feature is two coordinates of opposite sign, so that the mean that LayerNorm subtracts is always 0."""
    from transformers import GPT2Config, GPT2LMHeadModel  # noqa: PLC0415

    incoming, outgoing = _mlps(wiring)
    config = GPT2Config(
        vocab_size=len(wiring.embed),
        n_positions=len(wiring.position),
        n_embd=2 * WIDTH,
        n_layer=wiring.n_layers,
        n_head=HEADS,
        n_inner=incoming.shape[1],
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    hf = GPT2LMHeadModel(config).float().eval()
    for name, parameter in hf.named_parameters():
        parameter.fill_(wiring.ballast / WIDTH**0.5 if "ln_" in name and name.endswith("weight") else 0.0)
    hf.transformer.wte.weight.copy_(_written(wiring.embed))
    hf.transformer.wpe.weight.copy_(_written(wiring.position))
    hf.lm_head.weight.copy_(_read(wiring.unembed))
    for layer, block in enumerate(hf.transformer.h):
        projections = [_read(part[layer].flatten(0, 1)) for part in (wiring.query, wiring.key, wiring.value)]
        block.attn.c_attn.weight.copy_(torch.cat(projections).T)
        block.attn.c_proj.weight.copy_(_written(wiring.output[layer].transpose(1, 2).flatten(0, 1)))
        block.mlp.c_fc.weight.copy_(_read(incoming[layer]).T)
        block.mlp.c_proj.weight.copy_(_written(outgoing[layer].T))
    return hf


def _written(features: torch.Tensor) -> torch.Tensor:
    """Features (row, feature) as coordinates (row, 2 feature) of the stream."""
    return torch.cat([features, -features], dim=1)


def _read(weights: torch.Tensor) -> torch.Tensor:
    """Weights on features (row, feature) as weights on coordinates (row, 2 feature) that read the same value."""
    return torch.cat([weights, -weights], dim=1) / 2
