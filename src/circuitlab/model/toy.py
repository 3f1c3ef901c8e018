"""A hand-wired grouped-query model whose circuit is known: one head helps, one hinders, one is loud and read by nobody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from circuitlab.model.batch import ContrastBatch
from circuitlab.model.load import load_model
from circuitlab.nodes import Head

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["PlantedModel", "planted_model"]

_FILLER, _QUERY, _FIRST_CONTENT, _CONTENTS = 0, 1, 2, 8
_VOCAB = _FIRST_CONTENT + _CONTENTS
_CONTENT_FLAG, _QUERY_FLAG, _OUT, _UNREAD = 12, 13, 16, 28
_WIDTH, _D_HEAD, _SLOWEST = 32, 8, 3
"""_SLOWEST is the rotary dimension that hardly turns: attention by content must not depend on distance."""


@dataclass(frozen=True)
class PlantedModel:
    """A model together with the truth about it.

    Parameters
    ----------
    model : Model
        2 layers, 4 query heads, 2 key/value heads, RMSNorm, rotary positions, MLPs that write nothing.
    helpers, hinderers, distractors : frozenset of Head
        Heads that raise the answer's logit, lower it, or attend to the answer and write where nothing reads.
    """

    model: Model
    helpers: frozenset[Head]
    hinderers: frozenset[Head]
    distractors: frozenset[Head]

    def batch(self, n: int = 4, *, seed: int = 0) -> ContrastBatch:
        """Prompts of fillers with one content token and a query at the end; the corrupt prompt holds another content token."""
        generator = torch.Generator().manual_seed(seed)
        clean, corrupt, answers, foils, place = [], [], [], [], []
        for i in range(n):
            first, second = (torch.randperm(_CONTENTS, generator=generator)[:2] + _FIRST_CONTENT).tolist()
            at = 1 + i % 3
            rows = [[_FILLER] * 5 + [_QUERY] for _ in range(2)]
            rows[0][at], rows[1][at] = first, second
            clean.append(rows[0])
            corrupt.append(rows[1])
            answers.append(first)
            foils.append(second)
            place.append(at)
        return ContrastBatch.from_tokens(clean, corrupt, answers, foils, marks={"CONTENT": place})


def planted_model() -> PlantedModel:
    """Build the model: deterministic, in milliseconds.

    Every head that is wired attends from the query token to the one content token. ``a1.h1`` copies the content token's identity
    to its logit, ``a1.h2`` writes two fifths of it with the opposite sign, and ``a0.h0`` copies it to a direction that no
    later part reads. All other heads have a zero output projection.
    """
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    config = LlamaConfig(
        vocab_size=_VOCAB,
        hidden_size=_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=_D_HEAD,
        intermediate_size=8,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 1e8},
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    state = torch.get_rng_state()
    hf = LlamaForCausalLM(config).float().eval()
    torch.set_rng_state(state)
    with torch.no_grad():
        for name, value in hf.named_parameters():
            value.fill_(1.0 if "norm" in name else 0.0)
        _wire_ends(hf)
        for layer in hf.model.layers:
            _wire_attention(layer.self_attn)
        _wire_output(hf, Head(0, 0), _UNREAD, 0.8, wrap=4)
        _wire_output(hf, Head(1, 1), _OUT + _FIRST_CONTENT, 0.5)
        _wire_output(hf, Head(1, 2), _OUT + _FIRST_CONTENT, -0.2)
    return PlantedModel(
        model=load_model(hf, name="planted-copy"),
        helpers=frozenset({Head(1, 1)}),
        hinderers=frozenset({Head(1, 2)}),
        distractors=frozenset({Head(0, 0)}),
    )


def _wire_ends(hf: Any) -> None:
    """Tokens are one-hot, content and query tokens carry a flag, and the unembedding reads a separate block."""
    embed = hf.model.embed_tokens.weight
    for token in range(_VOCAB):
        embed[token, token] = 1.0
        hf.lm_head.weight[token, _OUT + token] = 1.0
    embed[_FIRST_CONTENT:, _CONTENT_FLAG] = 1.0
    embed[_QUERY, _QUERY_FLAG] = 1.0


def _wire_attention(attention: Any) -> None:
    """Every head: queries from the query flag, keys from the content flag, values are the content token's identity."""
    for head in range(4):
        attention.q_proj.weight[head * _D_HEAD + _SLOWEST, _QUERY_FLAG] = 3.0
    for group in range(2):
        attention.k_proj.weight[group * _D_HEAD + _SLOWEST, _CONTENT_FLAG] = 3.0
        for content in range(_CONTENTS):
            attention.v_proj.weight[group * _D_HEAD + content, _FIRST_CONTENT + content] = 1.0


def _wire_output(hf: Any, head: Head, start: int, gain: float, wrap: int = _CONTENTS) -> None:
    """Copy a head's value to the directions from ``start`` on."""
    weight = hf.model.layers[head.layer].self_attn.o_proj.weight
    for content in range(_CONTENTS):
        weight[start + content % wrap, head.head * _D_HEAD + content] = gain
