"""Tiny configurations of the other causal language models of transformers: config class and fields by model type."""

from __future__ import annotations

from typing import Any, TypeAlias

__all__ = ["FURTHER", "REFUSED"]

Entry: TypeAlias = tuple[str, dict[str, Any]]

_T: dict[str, Any] = {"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 64}
_S = _T | {"intermediate_size": 40}
_G = _S | {"num_key_value_heads": 2}
_GH = _G | {"head_dim": 8}
_MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
_WINDOW = {"sliding_window": 4, "layer_types": _MIXED}
_SWA = {"sliding_window_size": 4, "swa_head_dim": 8, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2}
_TOP = {"num_experts_per_tok": 2}
_EXPERTS = _TOP | {"num_experts": 4, "moe_intermediate_size": 24}
_LOCAL = _TOP | {"num_local_experts": 4}
_LOCALS = _LOCAL | {"moe_intermediate_size": 24}
_LATENT = {
    "num_key_value_heads": 4, "head_dim": 4, "q_lora_rank": 16, "kv_lora_rank": 12,
    "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8,
}  # fmt: skip
_INDEX = {"index_n_heads": 16, "index_head_dim": 8, "index_topk": 4}
_BERT = _S | {"is_decoder": True}
_DECODER = {
    "vocab_size": 48, "d_model": 32, "decoder_layers": 3, "decoder_attention_heads": 4, "decoder_ffn_dim": 40, "encoder_layers": 1,
    "encoder_ffn_dim": 40, "max_position_embeddings": 64,
}  # fmt: skip
_LINEAR = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
_RECURRENT = ["linear_attention", "full_attention", "linear_attention"]
_MAMBA = {"mamba_d_state": 8, "mamba_d_head": 8, "mamba_n_heads": 8, "mamba_chunk_size": 8}
_ZAMBA = _S | {"num_key_value_heads": 4, "attention_head_dim": 16, "mamba_d_state": 8, "use_mamba_kernels": False}

_DENSE: dict[str, Entry] = {
    "cohere_compass_text": (
        "CohereCompassTextConfig",
        _G
        | _WINDOW
        | {"rope_parameters": {kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("full_attention", "sliding_attention")}},
    ),
    "cwm": ("CwmConfig", _GH | _WINDOW),
    "emu3": ("Emu3Config", {"text_config": _G | {"pad_token_id": 0}}),
    "gemma4_text": (
        "Gemma4TextConfig",
        _GH | _WINDOW | {"global_head_dim": 8, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 48}
        | {"num_kv_shared_layers": 0, "layer_types": [*_MIXED[:2], "full_attention"]},
    ),
    "gemma4_unified_text": (
        "Gemma4UnifiedTextConfig", _GH | _WINDOW | {"global_head_dim": 8, "layer_types": [*_MIXED[:2], "full_attention"]}
    ),
    "gpt_sw3": ("GPT2Config", {"vocab_size": 48, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "n_inner": 64}),
    "gpt_neox_japanese": ("GPTNeoXJapaneseConfig", _T),
    "granite_swa": ("GraniteSWAConfig", _G | _WINDOW | {"residual_multiplier": 0.22, "logits_scaling": 2.0}),
    "hyperclovax": ("HyperCLOVAXConfig", _GH),
    "internlm3": ("InternLM3Config", _GH),
    "iquestcoder": ("IQuestCoderConfig", _GH),
    "jais2": ("Jais2Config", _GH),
    "minicpm3": ("MiniCPM3Config", _S | _LATENT),
    "mllama": ("MllamaConfig", {"text_config": _G | {"cross_attention_layers": [], "pad_token_id": 0}}),
    "ministral": ("MinistralConfig", _GH | _WINDOW),
    "modernbert_decoder": ("ModernBertDecoderConfig", _S),
    "moshi": ("MoshiConfig", _T | {"num_key_value_heads": 2, "head_dim": 8, "ffn_dim": 40, "sliding_window": 4}),
    "nanochat": ("NanoChatConfig", _G),
    "vaultgemma": ("VaultGemmaConfig", _GH | _WINDOW),
    "youtu": ("YoutuConfig", _S | _LATENT),
}  # fmt: skip

_MIXTURES: dict[str, Entry] = {
    "afmoe": ("AfmoeConfig", _GH | _EXPERTS | _WINDOW),
    "aria_text": ("AriaTextConfig", _GH),
    "axk1": ("AXK1Config", _S | _LATENT | _LOCALS | {"n_group": 1, "topk_group": 1}),
    "axk2": ("AXK2Config", _S | _LATENT | _LOCALS | _INDEX | {"n_group": 1, "topk_group": 1}),
    "beam": ("BeamConfig", _GH | _EXPERTS | {"sliding_window": 4, "n_group": 1, "topk_group": 1}),
    "cohere2_moe": ("Cohere2MoeConfig", _GH | _WINDOW | {"num_experts": 4}),
    "dbrx": (
        "DbrxConfig",
        {"vocab_size": 48, "d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 64}
        | {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}}
        | {"ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2}},
    ),
    "deepseek_v2": ("DeepseekV2Config", _S | _LATENT | _EXPERTS | {"n_group": 1, "topk_group": 1, "n_shared_experts": 1}),
    "deepseek_v32": ("DeepseekV32Config", _S | _LATENT | _LOCALS | _INDEX | {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}),
    "doge": ("DogeConfig", _G | {"num_experts": 4, "sliding_window": 4}),
    "dots1": ("Dots1Config", _G | _LOCALS | {"sliding_window": 4, "n_shared_experts": 1, "first_k_dense_replace": 1}),
    "dots3_note_text": (
        "Dots3NoteTextConfig",
        _S | _LATENT | _LOCALS | _INDEX | {"head_dim": 12, "n_shared_experts": 1, "shared_experts_intermediate_size": 24}
        | {"layer_types": ["full_attention"] * 3},
    ),
    "ernie4_5_moe": ("Ernie4_5_MoeConfig", _G | _EXPERTS),
    "exaone_moe": ("ExaoneMoeConfig", _G | _EXPERTS | _WINDOW),
    "flex_olmo": ("FlexOlmoConfig", _G | _LOCAL),
    "flint": ("FlintConfig", _GH | _EXPERTS | _WINDOW | {"shared_expert_intermediate_size": 24}),
    "glm4_moe": ("Glm4MoeConfig", _G | _LOCALS),
    "glm4_moe_lite": ("Glm4MoeLiteConfig", _S | _LATENT | _LOCALS),
    "glm_moe_dsa": ("GlmMoeDsaConfig", _S | _LATENT | _LOCALS | _INDEX | {"first_k_dense_replace": 1}),
    "granitemoe_swa": ("GraniteMoeSWAConfig", _G | _WINDOW | {"num_local_experts": 4, "residual_multiplier": 0.22}),
    "granitemoeshared": ("GraniteMoeSharedConfig", _G | {"num_local_experts": 4, "shared_intermediate_size": 24}),
    "hunyuan_v1_moe": ("HunYuanMoEV1Config", _GH | _LOCAL),
    "hy_v3": ("HYV3Config", _GH | _LOCALS),
    "inkling2_text": ("Inkling2TextConfig", _GH | _LOCAL | _SWA),
    "inkling_text": ("InklingTextConfig", _GH | _LOCALS | _SWA | {"n_shared_experts": 1}),
    "jetmoe": (
        "JetMoeConfig",
        {"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 40, "max_position_embeddings": 64}
        | {"num_key_value_heads": 2, "kv_channels": 8, "num_local_experts": 4},
    ),
    "kolibri1": (
        "Kolibri1Config", _T | _EXPERTS | _WINDOW | {"num_key_value_heads": 2, "head_dim": 8, "shared_expert_intermediate_size": 24}
    ),
    "laguna": ("LagunaConfig", _GH | _EXPERTS | _WINDOW | {"shared_expert_intermediate_size": 24}),
    "longcat_flash": (
        "LongcatFlashConfig",
        {key: value for key, value in _T.items() if key != "num_hidden_layers"} | _LATENT
        | {"num_layers": 3, "n_routed_experts": 4, "zero_expert_num": 2, "moe_topk": 2}
        | {"ffn_hidden_size": 40, "expert_ffn_hidden_size": 24},
    ),
    "mellum": ("MellumConfig", _GH | _EXPERTS | _WINDOW),
    "mimo_v2_flash": ("MiMoV2FlashConfig", _GH | _LOCALS | _WINDOW | {"v_head_dim": 8}),
    "minimax_m2": ("MiniMaxM2Config", _GH | _TOP | {"num_experts": 4}),
    "minimax_m3_vl_text": (
        "MiniMaxM3VLTextConfig",
        _GH | _TOP | {"num_experts": 4, "rotary_dim": 4, "dense_intermediate_size": 40, "shared_intermediate_size": 24}
        | {"index_n_heads": 2, "index_head_dim": 8, "index_block_size": 2, "index_topk_blocks": 2}
        | {"layer_types": ["minimax_m3_sparse", "full_attention", "minimax_m3_sparse"], "mlp_layer_types": ["dense", "sparse", "sparse"]},
    ),
    "phimoe": ("PhimoeConfig", _G | {"num_local_experts": 4, "sliding_window": 4}),
    "solar_open": ("SolarOpenConfig", _T | _LOCALS | {"num_key_value_heads": 2, "head_dim": 8}),
    "zaya": ("ZayaConfig", _T | _EXPERTS | {"num_experts_per_tok": 1, "head_dim": 8, "num_key_value_heads": 2, "sliding_window": 4}),
}  # fmt: skip

_HALVES: dict[str, Entry] = {
    "bart": ("BartConfig", _DECODER),
    "bigbird_pegasus": ("BigBirdPegasusConfig", _DECODER),
    "blenderbot": ("BlenderbotConfig", _DECODER),
    "blenderbot_small": ("BlenderbotSmallConfig", _DECODER),
    "marian": ("MarianConfig", _DECODER),
    "mbart": ("MBartConfig", _DECODER),
    "mvp": ("MvpConfig", _DECODER),
    "pegasus": ("PegasusConfig", _DECODER),
    "plbart": ("PLBartConfig", _DECODER),
    "trocr": ("TrOCRConfig", {key: value for key, value in _DECODER.items() if not key.startswith("encoder")}),
    "whisper": ("WhisperConfig", {key: value for key, value in _DECODER.items() if key != "max_position_embeddings"}),
    "bert": ("BertConfig", _BERT),
    "bert_generation": ("BertGenerationConfig", _BERT),
    "big_bird": ("BigBirdConfig", _BERT),
    "camembert": ("CamembertConfig", _BERT),
    "data2vec_text": ("Data2VecTextConfig", _BERT),
    "electra": ("ElectraConfig", _BERT | {"embedding_size": 32}),
    "ernie": ("ErnieConfig", _BERT),
    "git": ("GitConfig", _S | {"vision_config": _S | {"num_hidden_layers": 1, "image_size": 16, "patch_size": 8}}),
    "megatron_bert": ("MegatronBertConfig", _BERT),
    "rembert": ("RemBertConfig", _BERT | {"input_embedding_size": 32, "output_embedding_size": 32}),
    "roberta": ("RobertaConfig", _BERT),
    "roberta_prelayernorm": ("RobertaPreLayerNormConfig", _BERT),
    "roc_bert": (
        "RoCBertConfig",
        _BERT | {"pronunciation_vocab_size": 48, "shape_vocab_size": 48, "pronunciation_embed_dim": 8, "shape_embed_dim": 8},
    ),
    "roformer": ("RoFormerConfig", _BERT | {"embedding_size": 32}),
    "xlm_roberta": ("XLMRobertaConfig", _BERT),
    "xlm_roberta_xl": ("XLMRobertaXLConfig", _BERT),
}

_WITHOUT_KEYS: dict[str, Entry] = {
    "bailing_hybrid": (
        "BailingHybridConfig",
        _GH | _LOCALS | {"n_group": 1, "topk_group": 1, "kv_lora_rank": 12, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8},
    ),
    "bamba": ("BambaConfig", _G | _MAMBA | {"attn_layer_indices": [1]}),
    "falcon_mamba": ("FalconMambaConfig", {"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 8}),
    "granitemoehybrid": (
        "GraniteMoeHybridConfig",
        _G | _MAMBA | {"num_local_experts": 4, "shared_intermediate_size": 24, "layer_types": ["mamba", "attention", "mamba"]},
    ),
    "kimi_linear": (
        "KimiLinearConfig",
        _S | _LATENT | _LOCALS | {"head_dim": 12, "linear_head_dim": 8, "linear_num_heads": 4, "layer_types": _RECURRENT},
    ),
    "lfm2_moe": ("Lfm2MoeConfig", _G | _EXPERTS | {"layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1}),
    "lfm3": ("Lfm3Config", _GH | {"sliding_window": 4}),
    "mamba2": (
        "Mamba2Config",
        {"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 3, "head_dim": 8, "num_heads": 8, "state_size": 8, "chunk_size": 8}
        | {"n_groups": 1},
    ),
    "minimax": ("MiniMaxConfig", _GH | {"num_experts": 4, "sliding_window": 4}),
    "nemotron_h": (
        "NemotronHConfig",
        {key: value for key, value in _GH.items() if key != "num_hidden_layers"}
        | {"layers_block_type": ["mamba", "attention", "mlp"], "use_mamba_kernels": False, "ssm_state_size": 8, "chunk_size": 8}
        | {"mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 1},
    ),
    "olmo_hybrid": ("OlmoHybridConfig", _G | _LINEAR | {"layer_types": _RECURRENT}),
    "qwen3_5_moe_text": ("Qwen3_5MoeTextConfig", _T | _EXPERTS | _LINEAR | {"head_dim": 8, "shared_expert_intermediate_size": 24}),
    "qwen3_5_text": ("Qwen3_5TextConfig", _GH | _LINEAR),
    "qwen4_exp_text": ("Qwen4ExpTextConfig", _T | _EXPERTS | _LINEAR | {"head_dim": 8, "shared_expert_intermediate_size": 24}),
    "rwkv": ("RwkvConfig", {"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 40, "context_length": 64}),
    "xlstm": ("xLSTMConfig", {"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 3, "num_heads": 4, "chunk_size": 8}),
    "zamba": ("ZambaConfig", _ZAMBA | {"num_hidden_layers": 6, "mamba_dt_rank": 4, "attn_layer_period": 2, "attn_layer_offset": 1}),
    "zamba2": (
        "Zamba2Config",
        _ZAMBA | {"num_hidden_layers": 4, "chunk_size": 8, "num_mem_blocks": 1, "adapter_rank": 4, "attention_hidden_size": 64}
        | {"layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]},
    ),
}  # fmt: skip

FURTHER: dict[str, Entry] = _DENSE | _MIXTURES | _HALVES | _WITHOUT_KEYS
"""Dense models; mixtures of experts; decoders of encoder-decoder models, and encoders used as decoders; models with layers without
attention."""

REFUSED: dict[str, Entry] = {
    "cpmant": (
        "CpmAntConfig",
        {"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "dim_head": 8, "dim_ff": 40}
        | {"prompt_types": 32, "prompt_length": 2, "segment_types": 32, "position_bias_num_buckets": 32, "position_bias_max_distance": 64},
    ),
    "deepseek_v4": (
        "DeepseekV4Config",
        _GH | _LOCALS | _INDEX | {"sliding_window": 4, "q_lora_rank": 16, "o_groups": 2, "o_lora_rank": 8},
    ),
    "gemma3n_text": (
        "Gemma3nTextConfig",
        _GH | _WINDOW | {"num_kv_shared_layers": 1, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 48, "laurel_rank": 4}
        | {"activation_sparsity_pattern": [0.5, 0.0, 0.0], "layer_types": [*_MIXED[:2], "full_attention"]},
    ),
    "hrm_text": ("HrmTextConfig", _S | {"head_dim": 8}),
    "hy_v4": ("HYV4Config", _G | _LATENT | _LOCALS | {"num_key_value_heads": 2, "head_dim": 8}),
    "prophetnet": (
        "ProphetNetConfig",
        {"vocab_size": 48, "hidden_size": 32, "num_decoder_layers": 3, "num_decoder_attention_heads": 4, "decoder_ffn_dim": 40}
        | {"num_encoder_layers": 1, "encoder_ffn_dim": 40, "max_position_embeddings": 64},
    ),
    "reformer": (
        "ReformerConfig",
        {"vocab_size": 48, "hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 64, "attention_head_size": 8}
        | {"axial_pos_embds_dim": (16, 16), "axial_pos_shape": (8, 8), "attn_layers": ["local", "lsh", "local"], "feed_forward_size": 40}
        | {"num_hashes": 1, "local_attn_chunk_length": 8, "lsh_attn_chunk_length": 8, "num_buckets": 2, "is_decoder": True},
    ),
    "xlm": ("XLMConfig", {"vocab_size": 48, "emb_dim": 32, "n_layers": 3, "n_heads": 4, "max_position_embeddings": 64}),
    "xlnet": ("XLNetConfig", {"vocab_size": 48, "d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 40}),
    "xmod": ("XmodConfig", _BERT),
}  # fmt: skip
"""Models that `load_model` refuses: they have no single residual stream, or attend to later tokens."""
