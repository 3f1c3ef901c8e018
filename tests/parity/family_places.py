"""Where each family keeps its layers, its heads and what it writes: the hand-written table that plain hooks are set by."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

__all__ = ["FAMILIES", "FURTHER", "READ_OUT", "Names"]


@dataclass(frozen=True)
class Names:
    """Where a family keeps what; ``q``, ``k`` and ``v`` give the module and the first number of a head's slice of its output.

    ``lacks`` names what may be refused; everything else has to be served.
    """

    layers: str = "model.layers"
    attn: str = "self_attn"
    o: str = "o_proj"
    mlp: str = "mlp"
    norm: str = "model.norm"
    q: Callable[[int], tuple[str, int]] | None = lambda h: ("q_proj", 8 * h)
    k: Callable[[int], tuple[str, int]] | None = lambda h: ("k_proj", 8 * h)
    v: Callable[[int], tuple[str, int]] | None = lambda h: ("v_proj", 8 * h)
    kv: int = 2
    d_value: int = 8
    attn_post: str = ""
    factor: float = 1.0
    attn_out: str = ""
    lacks: tuple[str, ...] = ("resid_mid",)


def fused(module: str, place: Callable[[int, int], int], heads: tuple[int, int, int] = (0, 1, 2)) -> dict:
    return {name: (lambda h, i=i: (module, place(h, i))) for name, i in zip("qkv", heads, strict=True)}


GPT2 = Names("transformer.h", "attn", "c_proj", "mlp", "transformer.ln_f", **fused("c_attn", lambda h, i: 32 * i + 8 * h), kv=4)
NEOX = Names(
    "gpt_neox.layers",
    "attention",
    "dense",
    "mlp",
    "gpt_neox.final_layer_norm",
    **fused("query_key_value", lambda h, i: 24 * h + 8 * i),
    kv=4,
)
BLOOM = Names(
    "transformer.h",
    "self_attention",
    "dense",
    "mlp.dense_4h_to_h",
    "transformer.ln_f",
    **fused("query_key_value", lambda h, i: 24 * h + 8 * i),
    kv=4,
    attn_out="self_attention.dense",
)
FALCON = functools.partial(Names, "transformer.h", "self_attention", "dense", "mlp", "transformer.ln_f")
LLAMA = Names()
LATENT = Names(q=None, k=None, v=None, kv=4, lacks=("k",))
NO_WRITES = ("attns", "mlps", "resid_mid")
HALF = Names("model.decoder.layers", "self_attn", "out_proj", "fc2", "model.decoder.layer_norm", kv=4)
HEADS_ONLY = Names(lacks=NO_WRITES)
STREAM = Names(lacks=("z", "q", "k", "v", "pattern", *NO_WRITES))


def bert(root: str) -> Names:
    """A BERT-like encoder made a decoder: heads lie plainly, but norms stand on the stream."""
    q, k, v = ((lambda h, name=name: (f"self.{name}", 8 * h)) for name in ("query", "key", "value"))
    return Names(f"{root}.encoder.layer", "attention", "output.dense", q=q, k=k, v=v, kv=4, lacks=NO_WRITES)


FAMILIES: dict[str, Names] = {
    **dict.fromkeys(
        [
            "llama",
            "llama_linear",
            "llama_llama3",
            "llama_yarn",
            "llama_dynamic",
            "llama_longrope",
            "mistral",
            "qwen2",
            "qwen3",
            "cohere",
            "smollm3",
            "mixtral",
            "qwen2_moe",
            "gpt_oss",
            "stablelm",
        ],
        LLAMA,
    ),
    **dict.fromkeys(["gemma2", "gemma3", "olmo2"], Names(attn_post="post_attention_layernorm")),
    "glm4": Names(attn_post="post_self_attn_layernorm"),
    "granite": Names(factor=0.22),
    "gpt2": GPT2,
    "gpt_neox": NEOX,
    "gptj": Names("transformer.h", "attn", "out_proj", "mlp", "transformer.ln_f", kv=4),
    "opt": Names("model.decoder.layers", "self_attn", "out_proj", "fc2", "model.decoder.final_layer_norm", kv=4),
    "bloom": BLOOM,
    "falcon_mq": FALCON(
        q=lambda h: ("query_key_value", 8 * h), k=lambda _h: ("query_key_value", 32), v=lambda _h: ("query_key_value", 40), kv=1
    ),
    "falcon_new": FALCON(
        q=lambda h: ("query_key_value", 32 * (h // 2) + 8 * (h % 2)),
        k=lambda h: ("query_key_value", 32 * h + 16),
        v=lambda h: ("query_key_value", 32 * h + 24),
    ),
    "falcon_alibi": FALCON(**fused("query_key_value", lambda h, i: 24 * h + 8 * i), kv=4),
    "phi": Names(o="dense", norm="model.final_layernorm", kv=4),
    "phi3": Names(q=lambda h: ("qkv_proj", 8 * h), k=lambda h: ("qkv_proj", 32 + 8 * h), v=lambda h: ("qkv_proj", 48 + 8 * h)),
    "deepseek_v3": replace(LATENT, d_value=6),
}

FURTHER: dict[str, Names] = {
    **dict.fromkeys(["olmo", "nemotron", "cohere2_moe", "vaultgemma"], LLAMA),
    **dict.fromkeys(["exaone_moe", "flint", "hunyuan_v1_moe", "laguna", "minimax_m2", "nanochat"], LLAMA),
    "afmoe": Names(attn_post="post_attention_layernorm"),
    "axk2": replace(LATENT, lacks=("q", "k", "v", *NO_WRITES)),
    "bart": replace(HALF, lacks=NO_WRITES),
    "beam": HEADS_ONLY,
    "bert": bert("bert"),
    "bigbird_pegasus": replace(HALF, norm="model.decoder.layernorm_embedding"),
    "bitnet": Names(lacks=("pattern",)),
    "dbrx": Names(
        "transformer.blocks",
        "norm_attn_norm.attn",
        "out_proj",
        "ffn",
        "transformer.norm_f",
        q=lambda h: ("Wqkv", 8 * h),
        k=lambda h: ("Wqkv", 32 + 8 * h),
        v=lambda h: ("Wqkv", 48 + 8 * h),
    ),
    "deepseek_v32": LATENT,
    "doge": replace(HEADS_ONLY, lacks=("v", *NO_WRITES)),
    "falcon_h1": HEADS_ONLY,
    "flex_olmo": Names(attn_post="post_attention_layernorm"),
    "gemma4_text": HEADS_ONLY,
    "gemma4_unified_text": Names(attn_post="post_attention_layernorm"),
    "gpt1": replace(GPT2, lacks=NO_WRITES),
    "gpt_neox_japanese": Names(
        "gpt_neox_japanese.layers", "attention", "dense", **fused("query_key_value", lambda h, i: 24 * h + 8 * i), kv=4, lacks=NO_WRITES
    ),
    "granite_swa": Names(factor=0.22),
    "hyperclovax": Names(attn_post="post_norm1"),
    "kolibri1": Names(attn_post="post_self_attn_layernorm"),
    "llama4": Names(mlp="feed_forward"),
    "mimo_v2_flash": Names(k=None, v=None, lacks=("k", "v")),
    "minicpm3": LATENT,
    "minimax_m3_vl_text": Names(q=None, k=None, v=None, lacks=("q", "k", "v")),
    "modernbert_decoder": Names(attn="attn", o="Wo", kv=4),
    "moshi": Names(o="o_proj.linear", lacks=("q", "k", "v")),
    "mpt": Names(
        "transformer.blocks", "attn", "out_proj", "ffn.down_proj", "transformer.norm_f", **fused("Wqkv", lambda h, i: 32 * i + 8 * h), kv=4
    ),
    "phimoe": LLAMA,
    "roberta_prelayernorm": bert("roberta_prelayernorm"),
    "trocr": replace(HALF, lacks=NO_WRITES),
    "whisper": HALF,
    "zaya": replace(HEADS_ONLY, lacks=("q", "k", "v", *NO_WRITES)),
    **dict.fromkeys(
        ["diffllama", "granitemoehybrid", "jamba", "kimi_linear", "lfm2", "longcat_flash", "minimax", "qwen3_next", "zamba2"], STREAM
    ),
    **dict.fromkeys(["mamba", "mamba2"], replace(STREAM, layers="backbone.layers")),
    "rwkv": replace(STREAM, layers="rwkv.blocks"),
}
FAMILIES |= FURTHER
READ_OUT = [
    family
    for family, names in FAMILIES.items()
    if not {"attns", "z"} & set(names.lacks) and family not in {"minicpm3", "modernbert_decoder"}  # their logits read more than one norm
]
