"""Every family against plain hooks on an untouched Hugging Face model, written down here module by module."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from circuitlab.methods import get_method
from circuitlab.metrics import LogitDiff
from circuitlab.model import load_model
from circuitlab.model.batch import ContrastBatch
from circuitlab.testing.doctor import diagnose
from circuitlab.testing.tiny import tiny_hf

HEADS, D_HEAD = 4, 8


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


class Reference:
    """One Hugging Face model and what plain hooks find on it."""

    def __init__(self, family: str) -> None:
        self.names, self.hf = FAMILIES[family], tiny_hf(family)
        self.layers = self.hf.get_submodule(self.names.layers)
        self.rotary = copy.deepcopy(getattr(getattr(self.hf, "model", None), "rotary_emb", None))

    def module(self, layer: int, path: str) -> torch.nn.Module:
        return self.layers[layer].get_submodule(path)

    def place(self, kind: str, layer: int, head: int | None) -> tuple[torch.nn.Module, bool, slice]:
        """Module, whether its input is meant, and which numbers."""
        names = self.names
        if kind == "z":
            return self.module(layer, f"{names.attn}.{names.o}"), True, slice(head * names.d_value, (head + 1) * names.d_value)
        if kind in {"q", "k", "v"}:
            path, start = getattr(names, kind)(head)
            return self.module(layer, f"{names.attn}.{path}"), False, slice(start, start + D_HEAD)
        whole = {"attns": names.attn_out or names.attn, "mlps": names.mlp}
        if kind in whole:
            return self.module(layer, whole[kind]), False, slice(None)
        return self.layers[layer], kind == "resid_pre", slice(None)

    @contextmanager
    def hooked(self, places: list, act: Callable):
        handles = []
        for index, (module, reads_input, numbers) in enumerate(places):

            def write(value, index=index, numbers=numbers):
                new = value.clone()
                new[..., numbers] = act(index, value[..., numbers])
                return new

            if reads_input:

                def before(_m, args, named, write=write):
                    if args:
                        return (write(args[0]), *args[1:]), named
                    return args, {**named, "hidden_states": write(named["hidden_states"])}

                handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            else:

                def after(_m, _a, out, write=write):
                    return write(out) if isinstance(out, torch.Tensor) else (write(out[0]), *out[1:])

                handles.append(module.register_forward_hook(after))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def run(self, tokens: list[int], places: list, act: Callable = lambda _i, value: value) -> torch.Tensor:
        if self.rotary is not None:  # tables that grew with a longer prompt would stay grown
            self.hf.model.rotary_emb = copy.deepcopy(self.rotary)
        with self.hooked(places, act):
            return self.hf(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]

    def seen(self, tokens: list[int], places: list) -> list[torch.Tensor]:
        found: dict[int, torch.Tensor] = {}

        def keep(index, value):
            found[index] = value.clone()
            return value

        self.run(tokens, places, keep)
        return [found[i] for i in range(len(places))]

    def patched(self, pair, kind: str, layer: int, head: int | None = None) -> float:
        """metric(patched) - metric(corrupt): one activation of the corrupt run taken from the clean run."""
        clean, corrupt, answer, foil = pair
        if kind == "pattern":
            after = self.with_patterns(corrupt, {(layer, head): self.patterns(clean)[layer]})
        else:
            mid = kind == "resid_mid"  # the stream between attention and MLP is what entered and what attention added
            places = [self.place(one, layer, head) for one in (("resid_pre", "attns") if mid else (kind,))]
            values = self.seen(clean, places)
            after = self.run(corrupt, places, lambda i, _value: values[i])
        before = self.run(corrupt, [])
        return float((after[answer] - after[foil]) - (before[answer] - before[foil]))

    @contextmanager
    def softmax(self, change: Callable):
        """Every softmax that runs inside an attention module, by layer."""
        now: list[int] = []
        handles = []
        for layer in range(len(self.layers)):
            attention = self.module(layer, self.names.attn)
            handles.append(attention.register_forward_pre_hook(lambda _m, _a, layer=layer: now.append(layer)))
            handles.append(attention.register_forward_hook(lambda _m, _a, _o: now.clear()))
        originals = torch.nn.functional.softmax, torch.softmax

        def wrap(function):
            def inside(*args, **named):
                out = function(*args, **named)
                return change(now[-1], out) if now else out

            return inside

        torch.nn.functional.softmax, torch.softmax = (wrap(one) for one in originals)
        try:
            yield
        finally:
            torch.nn.functional.softmax, torch.softmax = originals
            for handle in handles:
                handle.remove()

    def patterns(self, tokens: list[int]) -> dict[int, torch.Tensor]:
        found: dict[int, torch.Tensor] = {}

        def keep(layer, out):
            found[layer] = out.clone()
            return out

        with self.softmax(keep):
            self.run(tokens, [])
        return found

    def with_patterns(self, tokens: list[int], values: dict) -> torch.Tensor:
        keys = len(tokens)  # not the sink, where there is one

        def write(layer, out):
            new = out.clone()
            for (place, head), value in values.items():
                if place == layer:
                    new[..., head, :, :keys] = value[..., head, :, :keys]  # also where prompts and heads share an axis: one prompt here
            return new

        with self.softmax(write):
            return self.run(tokens, [])

    def shares(self, tokens: list[int], answer: int, foil: int) -> np.ndarray:
        """Direct contribution of each head to the logit difference, (layer, head), norm scales as in the run."""
        names, norm = self.names, self.hf.get_submodule(self.names.norm)
        z_places = [(self.module(layer, f"{names.attn}.{names.o}"), True, slice(None)) for layer in range(len(self.layers))]
        *z, final, normed = self.seen(tokens, [*z_places, (norm, True, slice(None)), (norm, False, slice(None))])
        unembed = self.hf.get_output_embeddings()
        plain, logits = unembed(normed)[0, -1], self.run(tokens, [])
        out = np.zeros((len(self.layers), HEADS))
        for layer, head in np.ndindex(len(self.layers), HEADS):
            o = self.module(layer, f"{names.attn}.{names.o}")
            kept = torch.zeros_like(z[layer])
            kept[..., head * names.d_value : (head + 1) * names.d_value] = z[layer][..., head * names.d_value : (head + 1) * names.d_value]
            written = o(kept) - o(torch.zeros_like(kept))
            if names.attn_post:
                written = frozen(self.module(layer, names.attn_post), o(z[layer]), written)
            direct = unembed(frozen(norm, final, written * names.factor)) - unembed(torch.zeros_like(final))
            by_token = direct[0, -1] * logits / plain
            out[layer, head] = float(by_token[answer] - by_token[foil])
        return out


def frozen(norm: torch.nn.Module, whole: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """What a norm makes of a part of its input, with the scale that the whole has."""
    zero = norm(torch.zeros_like(whole))  # the bias
    subtracts_mean = "LayerNorm" in type(norm).__name__
    centre = (lambda x: x - x.mean(-1, keepdim=True)) if subtracts_mean else (lambda x: x)
    return centre(part) * (norm(whole) - zero) / centre(whole)


def prompts(family: str) -> tuple[list, ContrastBatch]:
    """Pairs of three lengths, one of them longer than every window; of two lengths for the families that came later."""
    generator = torch.Generator().manual_seed(3)
    pairs = []
    for length, place in ((7, 2), (16, 5), (11, 1))[: 2 if family in FURTHER else 3]:
        row = torch.randint(1, 48, (length,), generator=generator).tolist()
        other = [*row[:place], (row[place] + 7) % 47 + 1, *row[place + 1 :]]
        pairs.append((row, other, 5 + place, 30 + place))
    clean, corrupt, answers, foils = zip(*pairs, strict=True)
    return pairs, ContrastBatch.from_tokens(list(clean), list(corrupt), [[a] for a in answers], [[f] for f in foils])


@functools.cache
def loaded(family: str):
    model = load_model(tiny_hf(family), name=family)
    return Reference(family), model, diagnose(model, laws=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_patching_equals_plain_hooks(family: str) -> None:
    reference, model, verdict = loaded(family)
    pairs, batch = prompts(family)
    names = reference.names
    assert verdict.logits_ok
    counts = {"z": HEADS, "q": HEADS, "k": names.kv, "v": names.kv, "pattern": HEADS}
    sites = {"attns": "attn_out", "mlps": "mlp_out"}
    kinds = [*counts, "attns", "mlps", "resid_pre", "resid_mid", "resid_post"]
    served = [kind for kind in kinds if verdict.sites[sites.get(kind, kind)].state != "refused"]
    assert set(kinds) - set(served) <= set(names.lacks)
    for kind in served:
        per_head = kind in counts
        wanted = np.array(
            [
                [
                    [reference.patched(pair, kind, layer, head) for head in range(counts.get(kind, 1))]
                    for layer in range(len(reference.layers))
                ]
                for pair in pairs
            ]
            if not (kind in "qkv" and getattr(names, kind) is None)
            else np.nan
        )
        if np.isnan(wanted).any():
            continue
        part = "kv_heads" if kind in {"k", "v"} else "heads" if per_head else kind
        params = {"parts": ("heads",), "site": kind} if per_head else {"parts": (kind,)}
        exact = verdict.sites[sites.get(kind, kind)].state == "exact"
        for engine in ("exact", "hooks") if exact and kind in {"z", "resid_post"} else ("exact",) if exact else ("hooks",):
            found = get_method("activation_patching", {**params, "engine": engine})(model, batch, LogitDiff()).values(part)
            np.testing.assert_allclose(
                found.reshape(wanted.shape), wanted, atol=1e-4 * max(1, np.abs(wanted).max()), err_msg=f"{kind} {engine}"
            )
        assert np.abs(wanted).max() > 1e-3, kind


@pytest.mark.parametrize("family", READ_OUT)
def test_logit_attribution_equals_plain_hooks(family: str) -> None:
    reference, model, verdict = loaded(family)
    assert verdict.methods["logit_attribution"].state != "refused"
    pairs, batch = prompts(family)
    with torch.no_grad():
        wanted = np.array([reference.shares(clean, answer, foil) for clean, _, answer, foil in pairs])
    found = get_method("logit_attribution")(model, batch, LogitDiff()).values("heads")
    np.testing.assert_allclose(found, wanted, atol=2e-4 * max(1, np.abs(wanted).max()))
