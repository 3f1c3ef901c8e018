"""Contextual decomposition of a GPT-2 straight from the equations (Hsu et al. 2024): numpy, float64, one prompt, one source at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Choice:
    """``eps`` is None for the exact bias split, 1e-8 for the published one; ``clip`` is the published treatment of signs. ``ablation``
    computes the irrelevant part of every step from the irrelevant parts alone, with all biases, and calls the rest relevant."""

    eps: float | None = None
    clip: bool = False
    ablation: bool = False


def array(parameter: Any) -> np.ndarray:
    return parameter.detach().double().numpy()


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def split_bias(beta, gamma, bias, of_beta, of_gamma, choice: Choice):
    if choice.ablation:
        return beta, gamma + bias
    one, other = np.abs(of_beta), np.abs(of_gamma)
    if choice.eps is not None:
        whole = one + other + choice.eps
        return beta + bias * one / whole, gamma + bias * other / whole
    share = np.zeros_like(one)
    np.divide(one, one + other, out=share, where=one > 0)
    return beta + bias * share, gamma + bias - bias * share


def linear(pair, weight, bias, choice: Choice):
    beta, gamma = (part @ weight for part in pair)
    return split_bias(beta, gamma, bias, beta, gamma, choice)


def layer_norm(pair, module: Any, choice: Choice):
    whole = pair[0] + pair[1]
    scale = np.sqrt((whole**2).mean(-1, keepdims=True) - whole.mean(-1, keepdims=True) ** 2 + module.eps)
    beta, gamma = (array(module.weight) * (part - part.mean(-1, keepdims=True)) / scale for part in pair)
    return split_bias(beta, gamma, array(module.bias), *pair, choice)


def signs(pair, choice: Choice):
    if not choice.clip:
        return pair
    beta, gamma = pair
    whole, differ, larger = beta + gamma, beta * gamma < 0, np.abs(beta) > np.abs(gamma)
    return (
        np.where(differ, np.where(larger, whole, 0), beta),
        np.where(differ, np.where(larger, 0, whole), gamma),
    )


def softmax(scores: np.ndarray) -> np.ndarray:
    length = len(scores)
    hidden = np.where(np.tril(np.ones((length, length), bool)), scores, -np.inf)
    weights = np.exp(hidden - hidden.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def attention(pair, block: Any, n_heads: int, choice: Choice):
    """z as (beta, gamma), each (pos, head, d_head)."""
    weight, bias = array(block.attn.c_attn.weight), array(block.attn.c_attn.bias)
    width = weight.shape[0]
    qkv = linear(layer_norm(pair, block.ln_1, choice), weight, bias, choice)
    q, k, v = ([part[:, i * width : (i + 1) * width].reshape(len(part), n_heads, -1) for part in qkv] for i in range(3))
    beta, gamma = np.zeros_like(v[0]), np.zeros_like(v[0])
    for head in range(n_heads):
        (bq, gq), (bk, gk), (bv, gv) = ((part[0][:, head], part[1][:, head]) for part in (q, k, v))
        root = np.sqrt(bq.shape[-1])
        relevant, whole = softmax(bq @ bk.T / root), softmax((bq + gq) @ (bk + gk).T / root)
        if choice.ablation:
            gamma[:, head] = softmax(gq @ gk.T / root) @ gv
            beta[:, head] = whole @ (bv + gv) - gamma[:, head]
            continue
        beta[:, head] = relevant @ bv
        gamma[:, head] = whole @ (bv + gv) - beta[:, head]
    return beta, gamma


def mlp(pair, block: Any, choice: Choice):
    read = layer_norm(pair, block.ln_2, choice)
    beta, gamma = signs(linear(read, array(block.mlp.c_fc.weight), array(block.mlp.c_fc.bias), choice), choice)
    hidden = (gelu(beta + gamma) - gelu(gamma), gelu(gamma))
    return signs(linear(hidden, array(block.mlp.c_proj.weight), array(block.mlp.c_proj.bias), choice), choice)


def embedded(hf: Any, tokens: list[int]) -> np.ndarray:
    return array(hf.transformer.wte.weight)[tokens] + array(hf.transformer.wpe.weight)[: len(tokens)]


def outputs(hf: Any, tokens: list[int]) -> dict[str, np.ndarray]:
    """Every head's z and every MLP's output in a plain run, by node; and the embedding."""
    seen: dict[str, np.ndarray] = {"embed": embedded(hf, tokens)}
    decompose(hf, tokens, {}, Choice(), seen)
    return seen


def decompose(hf: Any, tokens: list[int], baseline: dict[str, np.ndarray], choice: Choice, seen: dict[str, np.ndarray] | None = None):
    """Final logits at the last position as (beta, gamma).

    ``baseline`` gives the irrelevant part of each source, by node name: a head's z (pos, d_head), an MLP's output or the embedding
    (pos, d_model).
    """
    n_heads = hf.config.n_head
    true = {} if seen is not None else outputs(hf, tokens)
    start = embedded(hf, tokens)
    pair = (start - baseline["embed"], baseline["embed"]) if "embed" in baseline else (np.zeros_like(start), start)
    for number, block in enumerate(hf.transformer.h):
        beta, gamma = attention(pair, block, n_heads, choice)
        for head in range(n_heads):
            name = f"a{number}.h{head}"
            if seen is not None:
                seen[name] = beta[:, head] + gamma[:, head]
            if name in baseline:
                beta[:, head], gamma[:, head] = true[name] - baseline[name], baseline[name]
        flat = tuple(part.reshape(len(part), -1) for part in (beta, gamma))
        written = linear(flat, array(block.attn.c_proj.weight), array(block.attn.c_proj.bias), choice)
        pair = (pair[0] + written[0], pair[1] + written[1])
        added = mlp(pair, block, choice)
        name = f"m{number}"
        if seen is not None:
            seen[name] = added[0] + added[1]
        if name in baseline:
            added = (true[name] - baseline[name], baseline[name])
        pair = signs((pair[0] + added[0], pair[1] + added[1]), choice)
    normed = layer_norm(pair, hf.transformer.ln_f, choice)
    return tuple((part @ array(hf.lm_head.weight).T)[-1] for part in normed)
