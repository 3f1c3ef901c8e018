"""Tiny configurations of decoder families by name, for the table of families (docs/models.md) and the tests of families."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from circuitlab.testing.further_families import FURTHER, REFUSED

__all__ = ["ALL_FAMILIES", "REFUSED_FAMILIES", "configuration"]

_S: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
}
_G = _S | {"num_key_value_heads": 2}
_MIXED = ["sliding_attention", "full_attention", "sliding_attention"]


def _rope(kind: str, numbers: dict[str, Any]) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0} | numbers}


_CONFIGS: dict[str, Callable[[Any], Any]] = {
    "llama": lambda hf: hf.LlamaConfig(**_G, head_dim=8),
    "llama_linear": lambda hf: hf.LlamaConfig(**_G, **_rope("linear", {"factor": 2.0})),
    "llama_llama3": lambda hf: hf.LlamaConfig(
        **_G, **_rope("llama3", {"factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8})
    ),
    "llama_yarn": lambda hf: hf.LlamaConfig(**_G, **_rope("yarn", {"factor": 2.0, "original_max_position_embeddings": 8})),
    "llama_dynamic": lambda hf: hf.LlamaConfig(**(_G | {"max_position_embeddings": 8}), **_rope("dynamic", {"factor": 2.0})),
    "llama_longrope": lambda hf: hf.LlamaConfig(
        **_G,
        **_rope(
            "longrope",
            {"factor": 2.0, "short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 4.0, 5.0], "original_max_position_embeddings": 8},
        ),
    ),
    "mistral": lambda hf: hf.MistralConfig(**_G, sliding_window=4),
    "qwen2": lambda hf: hf.Qwen2Config(**_G),
    "qwen3": lambda hf: hf.Qwen3Config(**_G, head_dim=8),
    "gemma": lambda hf: hf.GemmaConfig(**_G, head_dim=8),
    "gemma2": lambda hf: hf.Gemma2Config(
        **_G,
        head_dim=8,
        sliding_window=4,
        query_pre_attn_scalar=8,
        layer_types=_MIXED,
        final_logit_softcapping=5.0,
        attn_logit_softcapping=20.0,
    ),
    "gemma3": lambda hf: hf.Gemma3TextConfig(**_G, head_dim=8, sliding_window=4, query_pre_attn_scalar=8, layer_types=_MIXED),
    "gpt2": lambda hf: hf.GPT2Config(vocab_size=48, n_embd=32, n_layer=3, n_head=4, n_positions=64),
    "gpt_neox": lambda hf: hf.GPTNeoXConfig(**_S, rotary_pct=0.5),
    "gpt_neox_seq": lambda hf: hf.GPTNeoXConfig(**_S, use_parallel_residual=False),
    "gptj": lambda hf: hf.GPTJConfig(vocab_size=48, n_embd=32, n_layer=3, n_head=4, n_positions=64, rotary_dim=4),
    "opt": lambda hf: hf.OPTConfig(
        vocab_size=48,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        ffn_dim=40,
        max_position_embeddings=64,
        word_embed_proj_dim=32,
    ),
    "opt_post": lambda hf: hf.OPTConfig(
        vocab_size=48,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        ffn_dim=40,
        max_position_embeddings=64,
        word_embed_proj_dim=16,
        do_layer_norm_before=False,
    ),
    "bloom": lambda hf: hf.BloomConfig(vocab_size=48, hidden_size=32, n_layer=3, n_head=4),
    "falcon_mq": lambda hf: hf.FalconConfig(
        vocab_size=48, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, multi_query=True, parallel_attn=True, bias=False
    ),
    "falcon_new": lambda hf: hf.FalconConfig(
        vocab_size=48, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_kv_heads=2, new_decoder_architecture=True, bias=False
    ),
    "falcon_alibi": lambda hf: hf.FalconConfig(
        vocab_size=48,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        multi_query=False,
        parallel_attn=False,
        alibi=True,
        bias=True,
    ),
    "phi": lambda hf: hf.PhiConfig(**_S),
    "phi_qk": lambda hf: hf.PhiConfig(**_S, qk_layernorm=True),
    "phi3": lambda hf: hf.Phi3Config(**_G, pad_token_id=0),
    "stablelm": lambda hf: hf.StableLmConfig(**_G),
    "stablelm_par": lambda hf: hf.StableLmConfig(**_G, use_parallel_residual=True, qk_layernorm=True),
    "olmo": lambda hf: hf.OlmoConfig(**_G),
    "olmo2": lambda hf: hf.Olmo2Config(**_G),
    "olmo3": lambda hf: hf.Olmo3Config(**_G, sliding_window=4),
    "granite": lambda hf: hf.GraniteConfig(
        **_G, residual_multiplier=0.22, embedding_multiplier=3.0, logits_scaling=2.0, attention_multiplier=0.3
    ),
    "cohere": lambda hf: hf.CohereConfig(**_G, logit_scale=0.25),
    "cohere2": lambda hf: hf.Cohere2Config(**_G, logit_scale=0.25, sliding_window=4),
    "glm": lambda hf: hf.GlmConfig(**_G, head_dim=8, pad_token_id=0),
    "glm4": lambda hf: hf.Glm4Config(**_G, head_dim=8, pad_token_id=0),
    "smollm3": lambda hf: hf.SmolLM3Config(**_G, pad_token_id=0),
    "mixtral": lambda hf: hf.MixtralConfig(**_G, num_local_experts=4, num_experts_per_tok=2),
    "qwen2_moe": lambda hf: hf.Qwen2MoeConfig(
        **_G, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, shared_expert_intermediate_size=24
    ),
    "qwen3_moe": lambda hf: hf.Qwen3MoeConfig(**_G, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24),
    "deepseek_v3": lambda hf: hf.DeepseekV3Config(
        **_S,
        num_key_value_heads=4,
        q_lora_rank=16,
        kv_lora_rank=12,
        qk_rope_head_dim=4,
        qk_nope_head_dim=8,
        v_head_dim=6,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        moe_intermediate_size=24,
        first_k_dense_replace=1,
        n_shared_experts=1,
    ),
    "gpt_oss": lambda hf: hf.GptOssConfig(
        **_G, head_dim=8, sliding_window=4, num_local_experts=4, num_experts_per_tok=2, layer_types=_MIXED
    ),
    "starcoder2": lambda hf: hf.Starcoder2Config(**_G),
    "gpt_bigcode": lambda hf: hf.GPTBigCodeConfig(vocab_size=48, n_embd=32, n_layer=3, n_head=4, n_positions=64),
    "gpt_neo": lambda hf: hf.GPTNeoConfig(
        vocab_size=48,
        hidden_size=32,
        num_layers=3,
        num_heads=4,
        attention_types=[[["global", "local", "global"], 1]],
        max_position_embeddings=64,
        window_size=4,
        intermediate_size=40,
    ),
    "codegen": lambda hf: hf.CodeGenConfig(vocab_size=48, n_embd=32, n_layer=3, n_head=4, n_positions=64, rotary_dim=4),
    "mpt": lambda hf: hf.MptConfig(vocab_size=48, d_model=32, n_layers=3, n_heads=4, max_seq_len=64, expansion_ratio=2),
    "nemotron": lambda hf: hf.NemotronConfig(**_G, head_dim=8),
    "exaone4": lambda hf: hf.Exaone4Config(**_G, head_dim=8, sliding_window=4, layer_types=_MIXED),
    "helium": lambda hf: hf.HeliumConfig(**_G, head_dim=8),
    "ernie4_5": lambda hf: hf.Ernie4_5Config(**_G, head_dim=8),
    "ministral3": lambda hf: hf.Ministral3Config(
        **_G,
        head_dim=8,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 2.0,
            "original_max_position_embeddings": 8,
            "llama_4_scaling_beta": 0.1,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        },
    ),
    "seed_oss": lambda hf: hf.SeedOssConfig(**_G, head_dim=8),
    "apertus": lambda hf: hf.ApertusConfig(**_G),
    "arcee": lambda hf: hf.ArceeConfig(**_G, head_dim=8),
    "hunyuan": lambda hf: hf.HunYuanDenseV1Config(**_G, head_dim=8),
    "persimmon": lambda hf: hf.PersimmonConfig(**_S),
    "xglm": lambda hf: hf.XGLMConfig(vocab_size=48, d_model=32, num_layers=3, attention_heads=4, ffn_dim=40, max_position_embeddings=64),
    "biogpt": lambda hf: hf.BioGptConfig(**_S),
    "llama4": lambda hf: hf.Llama4TextConfig(
        **_G, head_dim=8, intermediate_size_mlp=40, num_local_experts=4, attention_chunk_size=4, no_rope_layers=[1, 0, 1]
    ),
    "olmoe": lambda hf: hf.OlmoeConfig(**_G, num_experts=4, num_experts_per_tok=2),
    "granitemoe": lambda hf: hf.GraniteMoeConfig(**_G, num_local_experts=4, num_experts_per_tok=2, residual_multiplier=0.22),
    "diffllama": lambda hf: hf.DiffLlamaConfig(**_G, head_dim=8),
    "recurrent_gemma": lambda hf: hf.RecurrentGemmaConfig(
        **(_S | {"num_key_value_heads": 1}), head_dim=8, lru_width=32, attention_window_size=4
    ),
    "mamba": lambda hf: hf.MambaConfig(vocab_size=48, hidden_size=32, num_hidden_layers=3),
    "jamba": lambda hf: hf.JambaConfig(
        **_G, num_experts=4, attn_layer_period=2, attn_layer_offset=1, use_mamba_kernels=False, mamba_dt_rank=4
    ),
    "lfm2": lambda hf: hf.Lfm2Config(**_G, layer_types=["conv", "full_attention", "conv"]),
    "qwen3_next": lambda hf: hf.Qwen3NextConfig(
        **_G,
        head_dim=8,
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=24,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
    ),
    "bitnet": lambda hf: hf.BitNetConfig(**_G),
    "falcon_h1": lambda hf: hf.FalconH1Config(**_G, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, mamba_chunk_size=8),
    "ctrl": lambda hf: hf.CTRLConfig(vocab_size=48, n_embd=32, n_layer=3, n_head=4, n_positions=64, dff=40),
    "gpt1": lambda hf: hf.OpenAIGPTConfig(vocab_size=48, n_embd=32, n_layer=3, n_head=4, n_positions=64),
}

ALL_FAMILIES = (*_CONFIGS, *FURTHER)
"""Families that are supported, at least in part. The laws of methods run on the seven of `circuitlab.testing.tiny.FAMILIES`."""

REFUSED_FAMILIES = tuple(REFUSED)
"""Families that `circuitlab.load_model` refuses; `configuration` has them too."""


def configuration(family: str) -> Any:
    """The tiny configuration of a family: 3 layers, 4 query heads, a vocabulary of 48, windows of 4 tokens, shorter than test prompts.

    Raises
    ------
    UnknownNameError
        If there is no such family.
    """
    import transformers

    from circuitlab.core.errors import UnknownNameError

    further = FURTHER | REFUSED
    if family in _CONFIGS:
        config = _CONFIGS[family](transformers)
    elif family in further:
        kind, fields = further[family]
        config = getattr(transformers, kind)(**copy.deepcopy(fields))
    else:
        raise UnknownNameError("family", family, [*_CONFIGS, *further])
    config.bos_token_id = config.eos_token_id = config.pad_token_id = 0
    return config
