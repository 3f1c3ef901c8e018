"""Edge attribution on a Hugging Face model through plain hooks, one explicit edge in every row of a batch.

For an edge from a sender to a receiver, a multiple of what the sender wrote differently is added to the residual stream that this
receiver's input alone reads: its norm and projection are computed again from the changed stream, and nothing else sees the change.
The edge's score is the derivative of the metric by that one number, at 0: by autograd, or by differences of two runs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch

STEP = 1e-4


@dataclass
class Layer:
    """The modules of one layer, whatever the family calls them."""

    block: Any
    norm_attn: Any
    norm_mlp: Any
    attention: Any
    mlp: Any
    out: Any
    post_attn: Any = None
    post_mlp: Any = None


def layers_of(hf: Any) -> list[Layer]:
    """Every layer's modules."""
    if hasattr(hf, "transformer"):
        return [Layer(b, b.ln_1, b.ln_2, b.attn, b.mlp, b.attn.c_proj) for b in hf.transformer.h]
    if hasattr(hf, "gpt_neox"):
        return [Layer(b, b.input_layernorm, b.post_attention_layernorm, b.attention, b.mlp, b.attention.dense) for b in hf.gpt_neox.layers]
    found = []
    for b in hf.model.layers:
        if hasattr(b, "pre_feedforward_layernorm"):
            norms = (b.input_layernorm, b.pre_feedforward_layernorm)
            found.append(Layer(b, *norms, b.self_attn, b.mlp, b.self_attn.o_proj, b.post_attention_layernorm, b.post_feedforward_layernorm))
        else:
            found.append(Layer(b, b.input_layernorm, b.post_attention_layernorm, b.self_attn, b.mlp, b.self_attn.o_proj))
    return found


def final_norm(hf: Any) -> Any:
    """The norm before the unembedding."""
    if hasattr(hf, "transformer"):
        return hf.transformer.ln_f
    return hf.gpt_neox.final_layer_norm if hasattr(hf, "gpt_neox") else hf.model.norm


def projection(layer: Layer, port: str, head: int, d_head: int) -> tuple[Any, slice]:
    """The module that makes a head's q, k or v, and which of its outputs they are."""
    attention = layer.attention
    if hasattr(attention, "c_attn"):  # GPT-2: all queries, all keys, all values
        start = "qkv".index(port) * attention.embed_dim + head * d_head
        return attention.c_attn, slice(start, start + d_head)
    if hasattr(attention, "query_key_value"):  # GPT-NeoX: query, key and value of each head in turn
        start = (3 * head + "qkv".index(port)) * d_head
        return attention.query_key_value, slice(start, start + d_head)
    return getattr(attention, f"{port}_proj"), slice(head * d_head, (head + 1) * d_head)


class Hooks:
    """Hooks that are gone after the block."""

    def __init__(self) -> None:
        self.handles: list[Any] = []

    def before(self, module: Any, function: Any) -> None:
        def call(_module: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
            value = args[0] if args else named["hidden_states"]
            changed = function(value)
            if changed is None:
                return None
            return ((changed, *args[1:]), named) if args else (args, {**named, "hidden_states": changed})

        self.handles.append(module.register_forward_pre_hook(call, with_kwargs=True))

    def after(self, module: Any, function: Any) -> None:
        self.handles.append(module.register_forward_hook(lambda _m, _a, out: function(out)))

    def __enter__(self) -> Hooks:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()


@dataclass
class Outputs:
    """What every node put out in one run of one prompt."""

    embed: torch.Tensor
    z: list[torch.Tensor]
    raw: list[torch.Tensor]
    mlp: list[torch.Tensor]


@torch.no_grad()
def outputs(hf: Any, tokens: torch.Tensor, embed: torch.Tensor | None = None) -> Outputs:
    """Run one prompt, from the residual stream entering layer 0 if one is given."""
    found = Outputs(torch.empty(0), [], [], [])
    layers = layers_of(hf)
    with Hooks() as hooks:

        def enter(x: torch.Tensor) -> torch.Tensor | None:
            found.embed = x if embed is None else embed
            return embed

        hooks.before(layers[0].block, enter)
        for layer in layers:
            hooks.before(layer.out, found.z.append)
            hooks.after(layer.out, found.raw.append)
            hooks.after(layer.post_mlp or layer.mlp, found.mlp.append)
        hf(tokens)
    return found


@torch.no_grad()
def writes(hf: Any, clean: Outputs, corrupt: Outputs, here: Outputs) -> dict[str, torch.Tensor]:
    """By sender name: clean minus corrupt, as it reaches the residual stream of the run that is differentiated, (1, pos, d_model)."""
    layers, n_heads = layers_of(hf), hf.config.num_attention_heads
    found = {"embed": clean.embed - corrupt.embed}
    for n, layer in enumerate(layers):
        weight = layer.out.weight if type(layer.out).__name__ == "Conv1D" else layer.out.weight.T
        width = weight.shape[0] // n_heads
        for head in range(n_heads):
            part = slice(head * width, (head + 1) * width)
            share = (clean.z[n] - corrupt.z[n])[..., part] @ weight[part]
            if layer.post_attn is not None:
                _, share = torch.func.jvp(layer.post_attn.forward, (here.raw[n],), (share,))
            found[f"a{n}.h{head}"] = share
        found[f"m{n}"] = clean.mlp[n] - corrupt.mlp[n]
    return found


def run_edges(hf: Any, tokens: torch.Tensor, embed: torch.Tensor, receivers: list[str], extra: torch.Tensor) -> torch.Tensor:
    """Logits at the last position, (row, vocab); row i reads ``extra[i]``, (pos, d_model), beside the stream at ``receivers[i]`` only."""
    layers = layers_of(hf)
    rows: dict[str, list[int]] = {}
    for i, receiver in enumerate(receivers):
        rows.setdefault(receiver, []).append(i)
    d_head = getattr(hf.config, "head_dim", None) or hf.config.hidden_size // hf.config.num_attention_heads
    stream: dict[int, torch.Tensor] = {}
    with Hooks() as hooks:
        hooks.before(layers[0].block, lambda x: embed.expand(len(receivers), -1, -1))
        for receiver, mine in rows.items():
            if receiver == "logits":

                def at_end(x: torch.Tensor, mine: list[int] = mine) -> torch.Tensor:
                    x = x.clone()
                    x[mine] += extra[mine]
                    return x

                hooks.before(final_norm(hf), at_end)
                continue
            n = int(re.findall(r"\d+", receiver)[0])
            norm = layers[n].norm_mlp if receiver[0] == "m" else layers[n].norm_attn

            def remember(x: torch.Tensor, norm: Any = norm) -> None:
                stream[id(norm)] = x

            hooks.before(norm, remember)

            def again(mine: list[int] = mine, norm: Any = norm) -> torch.Tensor:
                return norm.forward(stream[id(norm)][mine] + extra[mine])

            if receiver[0] == "m":

                def into_mlp(x: torch.Tensor, mine: list[int] = mine, again: Any = again) -> torch.Tensor:
                    x = x.clone()
                    x[mine] = again()
                    return x

                hooks.before(layers[n].mlp, into_mlp)
                continue
            head, port = re.fullmatch(r"a\d+\.(?:h|kv)(\d+)<([qkv])>", receiver).groups()
            module, part = projection(layers[n], port, int(head), d_head)

            def out_of_projection(out: Any, mine: list[int] = mine, again: Any = again, module: Any = module, part: slice = part) -> Any:
                out = out.clone()
                out[mine, :, part] = module.forward(again())[..., part]
                return out

            hooks.after(module, out_of_projection)
        return hf(tokens.expand(len(receivers), -1)).logits[:, -1]


def edge_effects(
    hf: Any,
    pair: tuple[torch.Tensor, torch.Tensor],
    names: list[str],
    value: Any,
    at: str | list[float],
    *,
    by: str = "autograd",
) -> torch.Tensor:
    """First-order effect of every named edge on one pair of prompts, each (1, pos).

    ``value`` maps logits (row, vocab) to (row,). ``at`` is "clean" or "corrupt", or the places between corrupt (0) and clean (1)
    embeddings over which to average.
    """
    clean, corrupt = (outputs(hf, tokens) for tokens in pair)
    places = {"clean": [1.0], "corrupt": [0.0]}.get(at, at) if isinstance(at, str) else at
    total = torch.zeros(len(names), dtype=clean.embed.dtype)
    for place in places:
        embed = corrupt.embed + place * (clean.embed - corrupt.embed)
        written = writes(hf, clean, corrupt, outputs(hf, pair[0], embed))
        ends = [name.split("->") for name in names]
        receivers, extra = [receiver for _, receiver in ends], torch.cat([written[sender] for sender, _ in ends])
        if by == "autograd":
            amount = torch.zeros(len(names), 1, 1, dtype=extra.dtype, requires_grad=True)
            (found,) = torch.autograd.grad(value(run_edges(hf, pair[0], embed, receivers, amount * extra)).sum(), amount)
            found = found.flatten()
        else:
            with torch.no_grad():
                up, down = (value(run_edges(hf, pair[0], embed, receivers, sign * STEP * extra)) for sign in (1, -1))
            found = (up - down) / (2 * STEP)
        total += found / len(places)
    return total
